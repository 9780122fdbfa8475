//! `sluice observe`: Hubble's flags, filters and output forms over the events of the running gateway.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use serde_json::{Map, Value, json};
use sluice_policy::identity::RESERVED;

use crate::client::{Client, encoded};
use crate::output;

#[derive(Debug, Args)]
pub struct Observe {
    /// The latest so many (20, unless something else says which).
    #[arg(long)]
    pub last: Option<u32>,
    /// The first so many of those that are kept.
    #[arg(long, conflicts_with_all = ["last", "follow"])]
    pub first: Option<u32>,
    /// All that are kept.
    #[arg(long)]
    pub all: bool,
    /// Go on as things happen; without --last or --since only with what is new.
    #[arg(short, long)]
    pub follow: bool,
    /// Not before: a time (2026-11-24T12:30:00Z) or how long ago (90s, 5m, 1h30m).
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub since: Option<u64>,
    /// Not after.
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub until: Option<u64>,
    #[command(flatten)]
    pub filters: Filters,
    /// compact; dict; json (Hubble's flow and all that we know beside); jsonpb (what `hubble observe --input-file` reads);
    /// table; yaml.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Shape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    #[default]
    Compact,
    Dict,
    Json,
    Jsonpb,
    Table,
    Yaml,
}

/// What a flag may be said of: either side, the source (`--from-`), the destination (`--to-`). Name, short form, help.
const SIDED: [([&str; 3], Option<char>, &str); 7] = [
    (["ip", "from-ip", "to-ip"], None, "Address or prefix"),
    (["pod", "from-pod", "to-pod"], None, "[NAMESPACE/]start of a pod's name; NAMESPACE/ is all of it"),
    (["namespace", "from-namespace", "to-namespace"], Some('n'), "Namespace"),
    (
        ["label", "from-label", "to-label"],
        Some('l'),
        "Label selector: app=web, k8s:app in (a, b), !x, reserved:world",
    ),
    (["service", "from-service", "to-service"], None, "[NAMESPACE/]start of a service's name"),
    (["identity", "from-identity", "to-identity"], None, "Identity: a number, or a reserved one's name"),
    (["port", "from-port", "to-port"], None, "Port"),
];
/// Flags without a side, with the field that they fill.
const PLAIN: [(&str, Option<char>, &str, &str); 9] = [
    ("verdict", None, "verdict", "FORWARDED, DROPPED, AUDIT"),
    ("drop-reason-desc", None, "drop_reason_desc", "POLICY_DENIED, POLICY_DENY, … (Cilium's names)"),
    ("protocol", None, "protocol", "tcp, udp, sctp, icmp, icmpv4, icmpv6"),
    ("type", Some('t'), "event_type", "drop, policy-verdict, trace, trace:to-endpoint, trace:to-network"),
    ("tcp-flags", None, "tcp_flags", "Flags that are all set: SYN,ACK"),
    ("traffic-direction", None, "traffic_direction", "ingress, egress"),
    ("ip-version", None, "ip_version", "4, 6"),
    ("snat-ip", None, "source_ip_xlated", "Address or prefix that the source was translated to"),
    ("node-name", None, "node_name", "[CLUSTER/]NODE, with * for anything"),
];
const NOT: &str = "not";

/// The filters as they were typed, in Hubble's shape: `{"allow": […], "deny": […]}`.
#[derive(Debug, Default)]
pub struct Filters(pub Value);

impl Args for Filters {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flag = |name: &'static str, help: String| {
            Arg::new(name)
                .long(name)
                .action(ArgAction::Append)
                .value_name("X")
                .help(help)
                .help_heading("Filters")
        };
        let mut command = command.arg(
            Arg::new(NOT)
                .long(NOT)
                .action(ArgAction::Append)
                .num_args(0)
                .default_missing_value("true")
                .help("The next filter must not match")
                .help_heading("Filters"),
        );
        for ([name, from, to], short, help) in SIDED {
            let either = flag(name, format!("{help}, either side"));
            command = command.arg(match short {
                Some(short) => either.short(short),
                None => either,
            });
            command = command.arg(flag(from, format!("{help}, as source")));
            command = command.arg(flag(to, format!("{help}, as destination")));
        }
        for (name, short, _, help) in PLAIN {
            let plain = flag(name, help.to_owned());
            command = command.arg(match short {
                Some(short) => plain.short(short),
                None => plain,
            });
        }
        for list in ["allowlist", "denylist"] {
            let help = "A whole filter as JSON, in the shape of Hubble's FlowFilter".to_owned();
            command = command.arg(flag(list, help));
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Filters {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        read(matches)
            .map(Self)
            .map_err(|why| clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{why}\n")))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Two filters that a flag of either side tells apart, and one where none does.
#[derive(Default)]
struct Pair {
    left: Map<String, Value>,
    right: Map<String, Value>,
}

impl Pair {
    fn add(&mut self, left: &str, right: &str, value: &Value) {
        for (filter, field) in [(&mut self.left, left), (&mut self.right, right)] {
            if let Some(list) = filter.entry(field).or_insert_with(|| json!([])).as_array_mut() {
                list.push(value.clone());
            }
        }
    }

    fn list(self) -> Vec<Value> {
        match (self.left.is_empty(), self.left == self.right) {
            (true, _) => Vec::new(),
            (false, true) => vec![Value::Object(self.left)],
            (false, false) => vec![Value::Object(self.left), Value::Object(self.right)],
        }
    }
}

fn read(matches: &ArgMatches) -> Result<Value, String> {
    let (mut allow, mut deny) = (Pair::default(), Pair::default());
    let mut negated = false;
    for (name, value) in typed(matches) {
        if name == NOT {
            negated = true;
            continue;
        }
        put(if negated { &mut deny } else { &mut allow }, name, &value)?;
        negated = false;
    }
    let whole = |name: &str| -> Result<Vec<Value>, String> {
        let texts = matches.get_many::<String>(name).into_iter().flatten();
        texts.map(|text| serde_json::from_str(text).map_err(|error| format!("--{name}: {error}"))).collect()
    };
    let allow = [allow.list(), whole("allowlist")?].concat();
    let deny = [deny.list(), whole("denylist")?].concat();
    let filters = json!({"allow": allow, "deny": deny});
    let read: sluice_policy::hubble::filter::Filters =
        serde_json::from_value(filters.clone()).map_err(|error| error.to_string())?;
    read.check()?;
    Ok(filters)
}

/// Flags and their values in the order in which they were typed.
fn typed(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let sided = SIDED.iter().flat_map(|(names, ..)| *names);
    let plain = PLAIN.iter().map(|(name, ..)| *name);
    let mut all = Vec::new();
    for name in sided.chain(plain).chain([NOT]) {
        let indices = matches.indices_of(name).into_iter().flatten();
        let values = matches.get_many::<String>(name).into_iter().flatten();
        all.extend(indices.zip(values).map(|(index, value)| (index, name, value.clone())));
    }
    all.sort();
    all.into_iter().map(|(_, name, value)| (name, value)).collect()
}

fn put(filter: &mut Pair, name: &str, text: &str) -> Result<(), String> {
    if let Some((_, _, field, _)) = PLAIN.iter().find(|(plain, ..)| *plain == name) {
        filter.add(field, field, &plain_value(name, text)?);
        return Ok(());
    }
    let (side, base) = match name.split_once('-') {
        Some((side, base)) => (side, base),
        None => ("", name),
    };
    let (field, value) = match base {
        "identity" => ("identity", json!(identity(text)?)),
        "namespace" => ("pod", json!(format!("{text}/"))),
        other => (other, json!(text)),
    };
    let (source, destination) = (format!("source_{field}"), format!("destination_{field}"));
    match side {
        "from" => filter.add(&source, &source, &value),
        "to" => filter.add(&destination, &destination, &value),
        _ => filter.add(&source, &destination, &value),
    }
    Ok(())
}

fn plain_value(name: &str, text: &str) -> Result<Value, String> {
    Ok(match name {
        "verdict" | "drop-reason-desc" | "traffic-direction" => json!(text.to_ascii_uppercase()),
        "ip-version" => json!(format!("IPv{}", text.trim_start_matches(['v', 'V']))),
        "tcp-flags" => {
            let flags = text.split(',').map(|flag| (flag.trim().to_ascii_uppercase(), json!(true)));
            Value::Object(flags.collect())
        }
        "type" => event_type(text).ok_or_else(|| format!("{text} is no type of events here"))?,
        _ => json!(text),
    })
}

fn event_type(text: &str) -> Option<Value> {
    let (kind, sub) = text.split_once(':').map_or((text, None), |(kind, sub)| (kind, Some(sub)));
    let number = match kind {
        "drop" => 1,
        "capture" => 3,
        "trace" => 4,
        "policy-verdict" => 5,
        "trace-sock" => 7,
        "l7" => 129,
        _ => return None,
    };
    let points = [
        ("to-endpoint", 0),
        ("to-proxy", 1),
        ("to-host", 2),
        ("to-stack", 3),
        ("to-overlay", 4),
        ("from-endpoint", 5),
        ("from-proxy", 6),
        ("from-host", 7),
        ("from-stack", 8),
        ("from-overlay", 9),
        ("from-network", 10),
        ("to-network", 11),
        ("from-crypto", 12),
        ("to-crypto", 13),
    ];
    match sub {
        None => Some(json!({"type": number})),
        Some(sub) => {
            let (_, point) = points.iter().find(|(name, _)| *name == sub && number == 4)?;
            Some(json!({"type": number, "match_sub_type": true, "sub_type": point}))
        }
    }
}

fn identity(text: &str) -> Result<u32, String> {
    let name = text.strip_prefix("reserved:").unwrap_or(text);
    let reserved = RESERVED.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
    reserved
        .or_else(|| text.parse().ok())
        .ok_or_else(|| format!("{text} is no identity: a number or reserved:NAME"))
}

/// A time, or how long ago, as milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a time that a person gives is a time of day")]
fn when(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is no time: 2026-11-24T12:30:00Z, or how long ago: 90s, 5m, 1h30m");
    if text.contains('T') {
        return moment(text).ok_or_else(wrong);
    }
    let ago = ago(text).ok_or_else(wrong)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(ago))
}

/// `1h30m` in milliseconds.
fn ago(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let each = match &rest[digits..unit] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(each)?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

/// RFC 3339 in milliseconds since 1970.
fn moment(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once('T')?;
    let zone = rest.find(['Z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone);
    let date: Vec<i64> = date.split('-').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [year, month, day] = *date.as_slice() else { return None };
    let mut parts = clock.split(':');
    let (hour, minute): (i64, i64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let second: f64 = parts.next().unwrap_or("0").parse().ok()?;
    let fair = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && second < 61.0;
    if !fair || parts.next().is_some() {
        return None;
    }
    let offset: i64 = match zone.split_at(1) {
        ("Z", "") => 0,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let seconds =
                i64::from(hours.parse::<u8>().ok()?) * 3600 + i64::from(minutes.parse::<u8>().ok()?) * 60;
            if sign == "-" { -seconds } else { seconds }
        }
    };
    // Days since 1970, counting years from March.
    let shifted = if month > 2 { year } else { year - 1 };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let whole = days * 86_400 + hour * 3600 + minute * 60 - offset;
    let milliseconds = std::time::Duration::try_from_secs_f64(second).ok()?.as_millis();
    u64::try_from(whole * 1000).ok()?.checked_add(u64::try_from(milliseconds).ok()?)
}

pub fn observe(client: &Client, args: &Observe) -> Result<()> {
    let mut path = format!("/v1/events?follow={}", args.follow);
    let unsaid = !args.all && args.first.is_none() && args.since.is_none() && args.until.is_none();
    // Following begins now, unless something else says from where.
    let last = args.last.or(match (unsaid, args.follow) {
        (true, true) => Some(0),
        (true, false) => Some(20),
        (false, _) => None,
    });
    for (name, value) in [
        ("last", last.map(u64::from)),
        ("first", args.first.map(u64::from)),
        ("since", args.since),
        ("until", args.until),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={value}"));
        }
    }
    path.push_str(&format!("&filter={}", encoded(&args.filters.0.to_string())));
    if args.output == Shape::Jsonpb {
        path.push_str("&form=jsonpb");
    }
    if args.output == Shape::Table {
        output::line(&row(["TIMESTAMP", "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"]))?;
    }
    client.lines(&path, |line| tell(line, args.output).map(|()| true))
}

fn tell(line: &str, shape: Shape) -> Result<()> {
    if matches!(shape, Shape::Json | Shape::Jsonpb) {
        return output::line(&format!("{line}\n"));
    }
    let event: Value = serde_json::from_str(line).context("the gateway said something that is not JSON")?;
    if let Some(lost) = event.get("lost_events") {
        let count = lost["num_events_lost"].as_str().unwrap_or("some");
        let why = match lost["source"].as_str() {
            Some("HUBBLE_RING_BUFFER") => "this reader was too slow",
            _ => "the gateway had more to tell than could be taken",
        };
        return output::line(&format!("EVENTS LOST: {count} ({why})\n"));
    }
    match shape {
        Shape::Yaml => output::yaml(&event),
        Shape::Dict => output::line(&dict(&event)),
        Shape::Table => output::line(&table(&event)),
        Shape::Compact | Shape::Json | Shape::Jsonpb => output::line(&compact(&event)),
    }
}

fn text<'a>(event: &'a Value, at: &str) -> &'a str {
    event.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

/// `shop/web:80 (ID:4711)`.
fn side(event: &Value, name: &str, end: &str) -> String {
    format!(
        "{} (ID:{})",
        text(event, name),
        event.pointer(&format!("/{end}/identity")).unwrap_or(&Value::Null)
    )
}

/// `policy-verdict INGRESS`, `to-endpoint`, or why it was dropped.
fn kind(event: &Value) -> String {
    match event.pointer("/event_type/type").and_then(Value::as_u64) {
        Some(1) => text(event, "/drop_reason_desc").to_owned(),
        Some(5) => format!("policy-verdict {}", text(event, "/traffic_direction")),
        _ => text(event, "/trace_observation_point").to_ascii_lowercase().replace('_', "-"),
    }
}

/// One event as a line in the manner of `hubble observe`: time, who to whom, what came of it, by which rules.
fn compact(event: &Value) -> String {
    let mut line = format!(
        "{}: {} -> {} {} {} ({})",
        text(event, "/time"),
        side(event, "/from", "source"),
        side(event, "/to", "destination"),
        kind(event).trim_end(),
        text(event, "/verdict"),
        text(event, "/Summary")
    );
    for (label, at) in [(" via ", "/backend"), (" by ", "/rule_text")] {
        if !text(event, at).is_empty() {
            line.push_str(label);
            line.push_str(text(event, at));
        }
    }
    line.push('\n');
    line
}

fn dict(event: &Value) -> String {
    let mut out = "------------\n".to_owned();
    for (name, value) in [
        ("TIMESTAMP", text(event, "/time").to_owned()),
        ("SOURCE", side(event, "/from", "source")),
        ("DESTINATION", side(event, "/to", "destination")),
        ("BACKEND", text(event, "/backend").to_owned()),
        ("TYPE", kind(event)),
        ("VERDICT", text(event, "/verdict").to_owned()),
        ("SUMMARY", text(event, "/Summary").to_owned()),
        ("RULES", text(event, "/rule_text").to_owned()),
    ] {
        if !value.is_empty() {
            out.push_str(&format!("{name:>11}: {value}\n"));
        }
    }
    out
}

fn table(event: &Value) -> String {
    let (from, to) = (side(event, "/from", "source"), side(event, "/to", "destination"));
    row([text(event, "/time"), &from, &to, &kind(event), text(event, "/verdict"), text(event, "/Summary")])
}

/// Columns of a width that most values have; a stream cannot wait for the widest.
fn row([time, from, to, kind, verdict, summary]: [&str; 6]) -> String {
    let line = format!("{time:<24}   {from:<40}   {to:<40}   {kind:<24}   {verdict:<9}   {summary}");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        observe: Observe,
    }

    fn filters(typed: &str) -> Value {
        let words = std::iter::once("observe").chain(typed.split_whitespace());
        Line::try_parse_from(words).unwrap().observe.filters.0
    }

    #[test]
    fn flags_of_either_side_make_two_filters_and_others_one() {
        assert_eq!(
            filters("--pod shop/web --port 80 --verdict dropped"),
            json!({"allow": [
                {"source_pod": ["shop/web"], "source_port": ["80"], "verdict": ["DROPPED"]},
                {"destination_pod": ["shop/web"], "destination_port": ["80"], "verdict": ["DROPPED"]},
            ], "deny": []})
        );
        assert_eq!(
            filters("--from-namespace shop --to-identity world --to-identity 4711 -t drop"),
            json!({"allow": [
                {"source_pod": ["shop/"], "destination_identity": [2, 4711], "event_type": [{"type": 1}]},
            ], "deny": []})
        );
        assert_eq!(filters(""), json!({"allow": [], "deny": []}));
    }

    #[test]
    fn not_is_said_of_the_next_filter_alone() {
        assert_eq!(
            filters("--verdict DROPPED --not --drop-reason-desc POLICY_DENIED --protocol tcp"),
            json!({"allow": [{"verdict": ["DROPPED"], "protocol": ["tcp"]}], "deny": [{"drop_reason_desc": ["POLICY_DENIED"]}]})
        );
    }

    #[test]
    fn mistakes_are_refused_before_anybody_is_asked() {
        for typed in [
            "--verdict MAYBE",
            "--ip 10.0.0.0/40",
            "--identity nobody",
            "--type sometimes",
            "--since tomorrow",
            "--denylist {\"x\":1}",
            "--first 3 --follow",
        ] {
            let words = std::iter::once("observe").chain(typed.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{typed}");
        }
    }

    #[test]
    fn times_are_read_as_hubble_reads_them() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Some(1000));
        assert_eq!(moment("2026-11-24T12:30:01.250Z"), Some(1_795_523_401_250));
        assert_eq!(moment("2026-11-24T14:30:01.250+02:00"), Some(1_795_523_401_250));
        for odd in [
            "9223372036854775807-01-01T00:00:00Z",
            "2026-01-01T00:00:00+9223372036854775807:00",
            "0000-01-01T00:00:00Z",
        ] {
            assert_eq!(moment(odd), None, "{odd}");
        }
        assert_eq!((moment("2026-13-24T12:30:01Z"), moment("2026-11-24T12:30Z x")), (None, None));
        assert_eq!(
            (ago("1h30m"), ago("90s"), ago("5"), ago("")),
            (Some(5_400_000), Some(90_000), None, None)
        );
    }

    #[test]
    fn a_drop_reads_like_hubbles() {
        let event = json!({
            "time": "2026-11-24T12:30:01.250Z", "from": "shop/c2:40000", "to": "203.0.113.80:80", "verdict": "DROPPED",
            "drop_reason_desc": "POLICY_DENIED", "source": {"identity": 7}, "destination": {"identity": 8},
            "event_type": {"type": 1, "sub_type": 133}, "Summary": "TCP Flags: SYN", "rule_text": "default deny of shop/p",
        });
        assert_eq!(
            compact(&event),
            "2026-11-24T12:30:01.250Z: shop/c2:40000 (ID:7) -> 203.0.113.80:80 (ID:8) POLICY_DENIED DROPPED (TCP Flags: SYN) \
             by default deny of shop/p\n"
        );
        assert!(dict(&event).contains("SOURCE: shop/c2:40000 (ID:7)"));
        assert!(table(&event).contains("POLICY_DENIED"));
    }
}
