//! Annotations that say how a service's backends are asked whether they are alive.

use sluice_core::tables::record::{Probe, ProbeKind};

use crate::decode::{Place, Problems};
use crate::objects::Metadata;
use crate::tree::Node;

const PREFIX: &str = "sluice.dev/health";
const MINUTE: u32 = 60_000;

/// `sluice.dev/health: tcp|http|icmp`, and with `-path`, `-interval`, `-timeout`, `-rise` and `-fall` behind it the rest.
pub(super) fn read(
    node: &Node,
    place: &Place,
    metadata: &Metadata,
    problems: &mut Problems,
) -> Option<Probe> {
    let kind = metadata.annotation(PREFIX)?;
    let mut wrong = |name: &str, what: String| {
        let place = place.key("metadata.annotations");
        problems.errors.push(place.problem(node, format!("the annotation {name} {what}")));
    };
    let said = |part: &str| metadata.annotation(&format!("{PREFIX}-{part}"));
    let path = said("path").unwrap_or("/");
    let kind = match kind {
        "tcp" => ProbeKind::Tcp,
        "icmp" => ProbeKind::Icmp,
        "http" => ProbeKind::Http(path.to_owned()),
        other => {
            wrong(PREFIX, format!("must be tcp, http or icmp, not {other}"));
            return None;
        }
    };
    if !path.starts_with('/') || path.len() > 256 || path.bytes().any(|byte| !byte.is_ascii_graphic()) {
        wrong("sluice.dev/health-path", "must be a path of at most 256 plain characters".to_owned());
        return None;
    }
    let mut probe = Probe { kind, interval: 2000, timeout: 1000, rise: 2, fall: 3 };
    for (part, value, least) in [("interval", &mut probe.interval, 100), ("timeout", &mut probe.timeout, 10)]
    {
        let Some(text) = said(part) else { continue };
        match milliseconds(text).filter(|time| (least..=60 * MINUTE).contains(time)) {
            Some(time) => *value = time,
            None => wrong(
                &format!("{PREFIX}-{part}"),
                format!("must be a time from {least}ms to 1h, like 2s or 500ms, not {text}"),
            ),
        }
    }
    for (part, value) in [("rise", &mut probe.rise), ("fall", &mut probe.fall)] {
        let Some(text) = said(part) else { continue };
        match text.parse().ok().filter(|count| (1..=100).contains(count)) {
            Some(count) => *value = count,
            None => wrong(&format!("{PREFIX}-{part}"), format!("must be a number from 1 to 100, not {text}")),
        }
    }
    // An answer after the next question would be nobody's.
    probe.timeout = probe.timeout.min(probe.interval);
    Some(probe)
}

/// `500ms`, `2s`, `1m`, `1h`.
fn milliseconds(text: &str) -> Option<u32> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => MINUTE,
        "h" => 60 * MINUTE,
        _ => return None,
    };
    digits.parse::<u32>().ok()?.checked_mul(unit)
}
