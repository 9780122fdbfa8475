//! `sluice trace` and `sluice capture`: packets of the running gateway, stage by stage or as a file for Wireshark.

use std::fs::File;
use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sluice_run::io::pcapng::{Direction, Noted, Writer};

use crate::args::{Capture, Side, Trace, WatchFilter};
use crate::client::{Client, encoded};
use crate::output::{self, Form};

fn path(filter: &WatchFilter, packets: u64, seconds: u64, frames: bool) -> String {
    let wanted = json!({
        "ip": filter.ip, "from": filter.from, "to": filter.to, "port": filter.port, "protocol": filter.protocol,
        "identity": filter.identity, "verdict": filter.verdict, "drop_reason": filter.drop_reason,
    });
    let filter = encoded(&wanted.to_string());
    format!("/v1/watch?packets={packets}&seconds={seconds}&frames={frames}&filter={filter}")
}

/// Call `each` with every packet; what was seen and lost at the end goes to standard error.
fn watch(client: &Client, path: &str, mut each: impl FnMut(&Value) -> Result<()>) -> Result<()> {
    let mut end = None;
    client.lines(path, |line| {
        let told: Value = serde_json::from_str(line)?;
        if told["done"] == true {
            end = Some((told["seen"].as_u64().unwrap_or(0), told["lost"].as_u64().unwrap_or(0)));
            return Ok(false);
        }
        each(&told).map(|()| true)
    })?;
    match end {
        Some((seen, lost)) => {
            say(&format!("{seen} packet(s) seen, {lost} lost"));
            Ok(())
        }
        None => bail!("the gateway went away before this was over"),
    }
}

#[expect(clippy::print_stderr, reason = "standard output is for the packets")]
fn say(text: &str) {
    eprintln!("sluice: {text}");
}

pub fn trace(client: &Client, args: &Trace) -> Result<()> {
    let path = path(&args.filter, args.packets, args.seconds, false);
    watch(client, &path, |told| match args.output {
        Form::Json => output::line(&format!("{told}\n")),
        Form::Yaml => output::yaml(told),
        Form::Table => output::line(&stages(told)),
    })
}

/// One packet for a person, a stage a line.
fn stages(told: &Value) -> String {
    let text = |at: &str| told.pointer(at).map(plain).unwrap_or_default();
    let mut out = format!(
        "#{} {} worker {} generation {}\n",
        text("/n"),
        text("/time"),
        text("/worker"),
        text("/generation")
    );
    let mut stage = |name: &str, what: String| {
        if !what.is_empty() {
            out.push_str(&format!("  {name:<11} {what}\n"));
        }
    };
    let handed = told.pointer("/received/handed_over_before").and_then(Value::as_u64).unwrap_or(0);
    stage(
        "received",
        format!(
            "{} {} > {} {} bytes{}",
            text("/received/interface"),
            text("/received/source_mac"),
            text("/received/destination_mac"),
            text("/received/length"),
            if handed > 0 { ", handed over by another worker" } else { "" }
        ),
    );
    stage("parsed", parsed(told));
    stage("flow", flow(told));
    if !text("/service").is_empty() {
        stage("service", format!("{} backend {}", text("/service"), text("/backend")));
    }
    for side in ["source", "destination"] {
        if let Some(identity) = told.get(side) {
            let labels = telling(&identity["labels"]);
            stage(
                side,
                format!(
                    "{} identity {} {labels}",
                    text(if side == "source" { "/from" } else { "/to" }),
                    plain(&identity["identity"])
                ),
            );
        }
    }
    stage("policy", policy(told));
    if told.get("translated").is_some() {
        stage("translated", format!("{} > {}", text("/translated/source"), text("/translated/destination")));
    }
    stage("verdict", format!("{} {}", text("/verdict"), text("/drop_reason_desc")).trim_end().to_owned());
    stage("next hop", next_hop(told));
    out
}

/// Labels as a person looks at them: without those that Cilium derives from the namespace.
fn telling(labels: &Value) -> String {
    let labels = labels.as_array().into_iter().flatten().filter_map(Value::as_str);
    labels.filter(|label| !label.starts_with("k8s:io.")).collect::<Vec<_>>().join(" ")
}

fn parsed(told: &Value) -> String {
    let text = |at: &str| told.pointer(&format!("/parsed/{at}")).map(plain).unwrap_or_default();
    if !text("error").is_empty() {
        return format!("not possible: {}", text("error"));
    }
    let mut line = format!(
        "IPv{} {} {} > {} ttl {}",
        text("ip_version"),
        text("protocol"),
        text("source"),
        text("destination"),
        text("ttl")
    );
    for (label, at) in [
        ("", "tcp_flags"),
        ("type ", "icmp/type"),
        ("code ", "icmp/code"),
        ("vlan ", "vlan"),
        ("fragment at ", "fragment/offset"),
    ] {
        if !text(at).is_empty() {
            line.push_str(&format!(" {label}{}", text(at)));
        }
    }
    line
}

fn flow(told: &Value) -> String {
    let Some(flow) = told.get("flow") else { return String::new() };
    if flow["known"] == true {
        let again = if flow["judged_again"] == true { ", judged again" } else { "" };
        return format!(
            "known, {}, {} direction, admitted by generation {}{again}",
            plain(&flow["state"]),
            plain(&flow["direction"]),
            plain(&flow["admitted_by_generation"])
        );
    }
    if flow["admitted"] == true { "new, remembered".to_owned() } else { "none".to_owned() }
}

fn policy(told: &Value) -> String {
    let rules = told["rule_text"].as_str().unwrap_or_default();
    let lists = told["rules"].as_array().into_iter().flatten();
    let places: Vec<String> =
        lists.map(|rule| format!("{}[{}]", plain(&rule["list"]), plain(&rule["index"]))).collect();
    match (told["denied_direction"].as_str(), rules.is_empty()) {
        (Some(direction), _) => {
            format!("{direction} denied by {rules} {}", places.join(", ")).trim_end().to_owned()
        }
        (None, false) => format!("by {rules} {}", places.join(", ")).trim_end().to_owned(),
        (None, true) if told.get("rules").is_some() => "no rule decided".to_owned(),
        (None, true) => String::new(),
    }
}

fn next_hop(told: &Value) -> String {
    let text = |at: &str| told.pointer(&format!("/next_hop/{at}")).map(plain).unwrap_or_default();
    let Some(_) = told.get("next_hop") else {
        return match (told.get("handed_over_to_worker"), told.get("cut_into_pieces_of")) {
            (Some(worker), _) => format!("worker {}", plain(worker)),
            (None, Some(room)) => format!("pieces of {} bytes, each of which comes again", plain(room)),
            (None, None) => String::new(),
        };
    };
    if !text("waits_for_neighbour").is_empty() {
        return format!("{} waits for the address of {}", text("interface"), text("waits_for_neighbour"));
    }
    format!(
        "{} {} > {} {} bytes",
        text("interface"),
        text("source_mac"),
        text("destination_mac"),
        text("length")
    )
}

fn plain(value: &Value) -> String {
    output::cell(Some(value))
}

pub fn capture(client: &Client, args: &Capture) -> Result<()> {
    let target: Box<dyn Write> = if args.write.as_os_str() == "-" {
        Box::new(io::stdout().lock())
    } else {
        Box::new(File::create(&args.write).with_context(|| format!("cannot write {}", args.write.display()))?)
    };
    let mut writer = Writer::new(io::BufWriter::new(target))?;
    let path = path(&args.filter, args.packets, args.seconds, true);
    watch(client, &path, |told| match write(&mut writer, told, args.side) {
        // A reader that went away (`| tshark -c 1`) has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => Ok(done?),
    })
}

fn write<W: Write>(writer: &mut Writer<W>, told: &Value, side: Side) -> io::Result<()> {
    let bytes = |at: &str| unhex(told.pointer(at).and_then(Value::as_str).unwrap_or_default());
    let (came, went) = (bytes("/frames/came"), bytes("/frames/went"));
    let sides = [
        (Direction::In, "/received/interface", came, side != Side::Out),
        (Direction::Out, "/next_hop/interface", went, side != Side::In),
    ];
    for (direction, interface, bytes, wanted) in sides {
        let interface = told.pointer(interface).and_then(Value::as_str);
        if let Some(interface) = interface.filter(|_| wanted && !bytes.is_empty()) {
            writer.write(&Noted {
                at: told["nanoseconds"].as_u64().unwrap_or(0),
                interface,
                direction,
                number: told["n"].as_u64().unwrap_or(0),
                comment: told["comment"].as_str().unwrap_or_default(),
                length: bytes.len(),
                bytes: &bytes,
            })?;
        }
    }
    Ok(())
}

fn unhex(text: &str) -> Vec<u8> {
    let digit =
        |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Value {
        json!({
            "n": 3, "time": "2026-11-24T12:30:01.250Z", "worker": 0, "generation": 4, "nanoseconds": 1_000_000_000_u64,
            "received": {"interface": "eth0", "length": 74, "source_mac": "02:00:00:00:00:0b", "destination_mac": "02:00:00:00:00:01", "handed_over_before": 0},
            "parsed": {"ip_version": 4, "protocol": "TCP", "source": "192.0.2.12:40000", "destination": "203.0.113.80:80", "ttl": 64, "tcp_flags": "SYN"},
            "flow": {"known": false, "admitted": false},
            "from": "shop/c2:40000", "to": "203.0.113.80:80",
            "source": {"identity": 4711, "labels": ["k8s:app=stranger"]}, "destination": {"identity": 4712, "labels": ["k8s:app=web"]},
            "service": "shop/web", "backend": "shop/b1:8080", "rules": [], "rule_text": "default deny of shop/web-for-customers",
            "denied_direction": "ingress", "verdict": "DROPPED", "drop_reason_desc": "POLICY_DENIED",
            "frames": {"came": "0200", "went": ""}, "comment": "DROPPED POLICY_DENIED",
        })
    }

    #[test]
    fn a_packet_is_told_stage_by_stage() {
        let text = stages(&told());
        for line in [
            "received    eth0 02:00:00:00:00:0b > 02:00:00:00:00:01 74 bytes",
            "parsed      IPv4 TCP 192.0.2.12:40000 > 203.0.113.80:80 ttl 64 SYN",
            "flow        none",
            "service     shop/web backend shop/b1:8080",
            "source      shop/c2:40000 identity 4711 k8s:app=stranger",
            "policy      ingress denied by default deny of shop/web-for-customers",
            "verdict     DROPPED POLICY_DENIED",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("next hop"), "{text}");
    }

    #[test]
    fn what_was_dropped_is_captured_as_it_came() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        write(&mut writer, &told(), Side::Both).unwrap();
        write(&mut writer, &told(), Side::Out).unwrap();
        let (names, frames) = sluice_run::io::pcap::read(file.as_slice()).unwrap();
        assert_eq!((names.as_slice(), frames.len()), (["eth0".to_owned()].as_slice(), 1));
        assert_eq!(frames[0].bytes, [2, 0]);
    }
}
