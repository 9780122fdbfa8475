//! Where packets went on their way through a lane: what the gateway says of itself, and what its cables count.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::lab::{self, Lane};
use super::peers::Gateway;
use super::trial::inside;
use crate::args::Peer;

/// Counts by where they were taken and what they are of.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Words in the names of what counts losses, or says why there were some.
const TELLING: [&str; 11] = [
    "dropped",
    "drops",
    "errors",
    "expired",
    "failed",
    "full",
    "hypervisor",
    "invalid",
    "lost",
    "overflow",
    "passed",
];
/// The sink takes packets in by dropping them.
const TAKEN_IN: &str = "to rx_queue_0_xdp_drops";

/// All that counts packets between a generator and a sink, now; and what kept the gateway from its core.
pub(crate) fn read(gateway: &Gateway) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    let Lane { gateway: inner, outside, front, back, from, to, .. } = &gateway.lane;
    let devices =
        [(outside, from, "from"), (inner, front, "front"), (inner, back, "back"), (outside, to, "to")];
    if gateway.peer == Peer::Sluice {
        let status = gateway.status()?;
        for part in ["workers", "devices"] {
            numbers(part, &status["dataplane"][part], &mut counts);
        }
        for (_, device, role) in devices {
            counts = counts.into_iter().map(|(name, count)| (name.replace(device, role), count)).collect();
        }
    }
    for (namespace, device, role) in devices {
        let said = lab::run(inside(namespace, "ethtool".as_ref()).args(["-S", device]))?;
        for line in String::from_utf8_lossy(&said.stdout).lines() {
            if let Some((name, Ok(count))) = line.split_once(": ").map(|(name, n)| (name, n.trim().parse())) {
                counts.insert(format!("{role} {}", name.trim()), count);
            }
        }
    }
    for (thread, nanoseconds) in gateway.waits()? {
        *counts.entry(format!("{thread} waited for a core, us")).or_default() += nanoseconds / 1000;
    }
    stolen(&fs::read_to_string("/proc/stat")?, &mut counts);
    Ok(counts)
}

/// Time in which a core was not ours.
fn stolen(stat: &str, counts: &mut Counts) {
    for line in stat.lines().filter(|line| line.starts_with("cpu")) {
        let mut words = line.split_whitespace();
        if let (Some(core), Some(Ok(ticks))) = (words.next(), words.nth(7).map(str::parse::<u64>)) {
            counts.insert(format!("{core} taken by the hypervisor, ms"), ticks * 10);
        }
    }
}

/// Every number in a JSON value, by the way to it.
fn numbers(at: &str, value: &Value, counts: &mut Counts) {
    match value {
        Value::Number(number) => drop(number.as_u64().map(|number| counts.insert(at.to_owned(), number))),
        Value::Array(values) => {
            for (n, value) in values.iter().enumerate() {
                let name = value["name"].as_str().map_or_else(|| n.to_string(), str::to_owned);
                numbers(&format!("{at} {name}"), value, counts);
            }
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| numbers(&format!("{at} {name}"), value, counts));
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// What was counted between two looks.
pub(crate) fn between(before: &Counts, after: &Counts) -> Counts {
    let grown = |(name, count): (&String, &u64)| {
        let growth = count.saturating_sub(before.get(name).copied().unwrap_or(0));
        (growth > 0).then(|| (name.clone(), growth))
    };
    after.iter().filter_map(grown).collect()
}

/// Of these, what says where packets were lost.
pub(crate) fn telling(counts: &Counts) -> String {
    let tells = |name: &str| name != TAKEN_IN && TELLING.iter().any(|word| name.contains(word));
    let told = counts.iter().filter(|(name, _)| tells(name)).map(|(name, count)| format!("{name} {count}"));
    told.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_is_told_by_the_way_to_it() {
        let status = |full: u64| serde_json::json!([{"name": "front", "mode": "native", "sockets": [{"rx_ring_full": full, "sent": 7}]}]);
        let (mut before, mut after) = (Counts::new(), Counts::new());
        numbers("devices", &status(1), &mut before);
        numbers("devices", &status(9), &mut after);
        stolen("cpu  1 2 3 4 5 6 7 0 0 0\ncpu1 1 2 3 4 5 6 7 8 0 0\nintr 5", &mut after);
        after.insert(TAKEN_IN.to_owned(), 1000);
        let counts = between(&before, &after);
        assert_eq!(counts.len(), 3);
        assert_eq!(
            telling(&counts),
            "cpu1 taken by the hypervisor, ms 80; devices front sockets 0 rx_ring_full 8"
        );
    }
}
