//! What Prometheus is told: every family under its name, from what control knows and what the dataplane says.

use std::collections::BTreeMap;

use serde_json::Value;
use sluice_policy::policy::Direction;

use crate::metrics::{Family, Measured, exposition};
use crate::reconcile::Control;
use crate::views::dataplane;

/// Everything for Prometheus.
pub async fn metrics(control: &Control) -> String {
    let dataplane = dataplane(control).await;
    exposition(
        families(control, &dataplane),
        is_told(&dataplane).then(|| dns_hold(&dataplane)).into_iter().collect(),
        vec![(
            "sluice_publish_seconds",
            "From the moment that a change of objects is read until it is live on every worker.",
            control.latency.clone(),
        )],
    )
}

/// Did the dataplane answer? What it counts is left out where it did not: a counter that is nothing for a while and then what it
/// was would look like that many packets at once.
fn is_told(dataplane: &Value) -> bool {
    dataplane["workers"].is_array()
}

fn families(control: &Control, dataplane: &Value) -> Vec<Family> {
    let ready = Family::gauge("sluice_ready", "Objects read, dataplane connected, generation live.")
        .with(&[], u64::from(control.ready().is_ok()));
    let mut families = vec![ready];
    {
        let world = control.world();
        for (name, help, value) in [
            ("sluice_generation", "Generation of objects.", world.generation),
            ("sluice_generation_live", "Generation that every worker sees.", world.acknowledged),
            ("sluice_generation_read_microseconds", "Reading the objects, latest.", world.took_to_read),
            (
                "sluice_generation_compiled_microseconds",
                "From read to compiled, latest.",
                world.took_to_compile,
            ),
            ("sluice_generation_live_microseconds", "From told to live, latest.", world.took),
            ("sluice_object_problems", "Mistakes in the latest set of objects.", world.problems.len() as u64),
            ("sluice_object_warnings", "What is odd in the objects.", world.compiled.warnings.len() as u64),
        ] {
            families.push(Family::gauge(name, help).with(&[], value));
        }
        objects(&world, &mut families);
    }
    let (_, lost) = control.history.counts();
    families.push(
        Family::counter("hubble_lost_events", "Events lost.")
            .with(&[("source", "OBSERVER_EVENTS_QUEUE")], lost),
    );
    families.extend(control.tally.families());
    if !is_told(dataplane) {
        return families;
    }
    workers(dataplane, &mut families);
    pressure(dataplane, &mut families);
    devices(dataplane, &mut families);
    announced(dataplane, &mut families);
    health(dataplane, &mut families);
    dns(dataplane, &mut families);
    families
}

/// Under Cilium's names.
fn objects(world: &crate::reconcile::World, families: &mut Vec<Family>) {
    let (engine, objects) = (&world.compiled.engine, &world.compiled.objects);
    families.push(Family::gauge("cilium_policy", "Policies.").with(&[], objects.policies.len() as u64));
    families.push(
        Family::gauge("cilium_policy_max_revision", "Newest generation of policies.")
            .with(&[], world.generation),
    );
    families.push(
        Family::gauge("cilium_endpoint_state", "Endpoints.")
            .with(&[("endpoint_state", "ready")], objects.endpoints.len() as u64),
    );
    let mut kinds = BTreeMap::from([("cluster_local", 0), ("node_local", 0), ("reserved", 0)]);
    for party in engine.identities() {
        let kind = match party.number {
            0..256 => "reserved",
            256..65_536 => "cluster_local",
            _ => "node_local",
        };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    let identities =
        kinds.iter().fold(Family::gauge("cilium_identity", "Identities."), |family, (kind, count)| {
            family.with(&[("type", kind)], *count)
        });
    families.push(identities);
    let mut enforcement = BTreeMap::from([("both", 0), ("egress", 0), ("ingress", 0), ("none", 0)]);
    for endpoint in objects.endpoints.values() {
        let slot = endpoint.addresses.first().and_then(|ip| engine.slot_of(*ip));
        let on = |direction| slot.is_some_and(|slot| engine.is_enforced(slot, direction));
        let kind = match (on(Direction::Egress), on(Direction::Ingress)) {
            (true, true) => "both",
            (true, false) => "egress",
            (false, true) => "ingress",
            (false, false) => "none",
        };
        *enforcement.entry(kind).or_insert(0) += 1;
    }
    let family =
        Family::gauge("cilium_policy_endpoint_enforcement_status", "Endpoints by what is enforced for them.");
    families.push(
        enforcement
            .iter()
            .fold(family, |family, (kind, count)| family.with(&[("enforcement", kind)], *count)),
    );
}

/// What DNS rules heard and names were learned.
fn dns(dataplane: &Value, families: &mut Vec<Family>) {
    let empty = Vec::new();
    let workers = dataplane["workers"].as_array().unwrap_or(&empty);
    let sum = |field: &str| workers.iter().filter_map(|worker| worker["dns"][field].as_u64()).sum::<u64>();
    for (name, help, field) in [
        ("sluice_dns_queries", "DNS queries that rules judged.", "queries"),
        ("sluice_dns_refused", "DNS queries that rules refused.", "refused"),
        ("sluice_dns_answers", "DNS answers to queries that passed.", "answers"),
        ("sluice_dns_malformed", "Queries and answers under DNS rules that could not be read.", "malformed"),
        ("sluice_dns_unasked", "DNS answers that nobody had asked for.", "unasked"),
        ("sluice_dns_forgotten", "DNS queries that others had to make room for.", "forgotten"),
        ("sluice_dns_lost", "DNS answers dropped because their addresses were not known in time.", "lost"),
    ] {
        families.push(Family::counter(name, help).with(&[], sum(field)));
    }
    let names = &dataplane["names"];
    for (name, help, field) in [
        ("sluice_dns_names", "Names with addresses.", "names"),
        ("sluice_dns_addresses", "Addresses of names.", "addresses"),
        (
            "sluice_dns_addresses_lingering",
            "Addresses whose time is over, kept for their flows.",
            "lingering",
        ),
    ] {
        families.push(Family::gauge(name, help).with(&[], names[field].as_u64().unwrap_or(0)));
    }
    let evicted = names["evicted"].as_u64().unwrap_or(0);
    let evicted = Family::counter("sluice_dns_evicted", "Addresses that made room.").with(&[], evicted);
    families.push(evicted);
}

/// How long DNS answers were kept until their addresses were known: seconds in all, and counts by upper bound.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no integers")]
fn dns_hold(dataplane: &Value) -> Measured {
    let mut counts: Vec<(f64, u64)> = Vec::new();
    let mut nanoseconds = 0;
    for dns in dataplane["workers"].as_array().into_iter().flatten().map(|worker| &worker["dns"]) {
        nanoseconds += dns["waited_nanoseconds"].as_u64().unwrap_or(0);
        // Upper bounds in microseconds, none for the last, each with how many waited so long.
        for (n, waited) in dns["waited"].as_array().into_iter().flatten().enumerate() {
            let bound = waited[0].as_f64().map_or(f64::INFINITY, |bound| bound / 1e6);
            let count = waited[1].as_u64().unwrap_or(0);
            match counts.get_mut(n) {
                Some((_, sum)) => *sum += count,
                None => counts.push((bound, count)),
            }
        }
    }
    let help = "How long DNS answers were kept until every worker knew their addresses.";
    Measured { name: "sluice_dns_hold_seconds", help, sum: nanoseconds as f64 / 1e9, counts }
}

/// How full everything bounded is; README says what happens when it is.
fn pressure(dataplane: &Value, families: &mut Vec<Family>) {
    let empty = Vec::new();
    let workers = dataplane["workers"].as_array().unwrap_or(&empty);
    let mut used = Family::gauge(
        "sluice_table_entries",
        "Entries in use of a bounded table or queue, of the fullest worker.",
    );
    let mut room = Family::gauge("sluice_table_capacity", "Entries that it has room for.");
    let mut share = Family::gauge(
        "cilium_bpf_map_pressure",
        "The share of a table that is in use, of the fullest worker.",
    );
    for (table, now, most) in [
        ("flows", "flows", "flows_max"),
        ("fragments", "fragments", "fragments_max"),
        ("hold", "hold_now", "hold_max"),
        ("rows", "rows_waiting", "hold_max"),
        ("events", "events_waiting", "events_max"),
        ("dns_answers", "dns_waiting", "dns_waiting_max"),
    ] {
        let number = |worker: &Value, field: &str| worker[field].as_f64().unwrap_or(0.0);
        let fullest = workers.iter().max_by(|a, b| number(a, now).total_cmp(&number(b, now)));
        let Some(worker) = fullest.filter(|worker| number(worker, most) > 0.0) else { continue };
        used.add(&[("table", table)], number(worker, now));
        room.add(&[("table", table)], number(worker, most));
        share.add(&[("map_name", table)], number(worker, now) / number(worker, most));
    }
    // One table for all workers.
    if let (Some(now), Some(most)) =
        (dataplane["names"]["pairs"].as_f64(), dataplane["names"]["pairs_max"].as_f64())
    {
        used.add(&[("table", "names")], now);
        room.add(&[("table", "names")], most);
        share.add(&[("map_name", "names")], now / most);
    }
    families.extend([used, room, share]);
}

fn workers(dataplane: &Value, families: &mut Vec<Family>) {
    let empty = Vec::new();
    let workers = dataplane["workers"].as_array().unwrap_or(&empty);
    let sum = |field: &str| workers.iter().filter_map(|worker| worker[field].as_u64()).sum::<u64>();
    families.push(Family::counter("cilium_forward_count", "Packets forwarded.").with(&[], sum("forwarded")));
    families
        .push(Family::counter("cilium_forward_bytes", "Bytes forwarded.").with(&[], sum("forwarded_bytes")));
    let mut drops: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for worker in workers {
        for (reason, count) in worker["dropped"].as_object().into_iter().flatten() {
            let egress = worker["denied_egress"][reason].as_u64().unwrap_or(0);
            let [out, into] = drops.entry(reason).or_default();
            *out += egress;
            *into += count.as_u64().unwrap_or(0).saturating_sub(egress);
        }
    }
    let dropped = drops.iter().fold(
        Family::counter("cilium_drop_count", "Packets dropped; by egress policy, or on their way in."),
        |family, (reason, [out, into])| {
            let family = family.with(&[("reason", reason), ("direction", "INGRESS")], *into);
            if *out == 0 { family } else { family.with(&[("reason", reason), ("direction", "EGRESS")], *out) }
        },
    );
    families.push(dropped);
    for (name, help, field) in [
        ("sluice_packets_received", "Packets that workers received.", "received"),
        ("sluice_packets_passed", "Packets that were the kernel's.", "passed"),
        ("sluice_packets_held", "Packets that waited for a neighbour.", "held"),
        ("sluice_packets_handed_over", "Packets given to the worker that owns their flow.", "handed_over"),
        ("sluice_packets_cut", "Packets cut into pieces that fit their way.", "cut"),
        ("sluice_packets_answered", "Packets answered with an error of ours.", "answered"),
        ("sluice_flows_created", "Flows admitted.", "flows_created"),
        ("sluice_flows_ended", "Flows ended.", "flows_ended"),
        ("sluice_flows_evicted", "Half-open flows that made room.", "flows_evicted"),
        ("sluice_flows_cut", "Flows cut by a change.", "flows_cut"),
        ("sluice_nat_exhausted", "Flows that found no source port.", "nat_exhausted"),
        ("sluice_affinity_evicted", "Clients whose backend was forgotten to make room.", "affinity_evicted"),
        ("sluice_hold_overflow", "Packets that found no room to wait.", "hold_overflow"),
        ("sluice_handover_overflow", "Packets lost between workers.", "handover_overflow"),
        ("sluice_events_lost", "Events lost between a worker and the daemon.", "events_lost"),
    ] {
        families.push(Family::counter(name, help).with(&[], sum(field)));
    }
    let unheard = dataplane["events_unheard"].as_u64().unwrap_or(0);
    let help = "Events thrown away while no control process was connected.";
    families.push(Family::counter("sluice_events_unheard", help).with(&[], unheard));
    let rows = dataplane["tables"]["maglev_rows_pending"].as_u64().unwrap_or(0);
    families
        .push(Family::gauge("sluice_maglev_rows_pending", "Maglev rows still to be built.").with(&[], rows));
    families.push(Family::gauge("sluice_flows", "Flows in the tables.").with(&[], sum("flows")));
    families.push(Family::gauge("sluice_flows_max", "Room for flows.").with(&[], sum("flows_max")));
}

fn devices(dataplane: &Value, families: &mut Vec<Family>) {
    let mut steered = Family::counter("sluice_steering", "Packets by what the XDP program did.");
    for device in dataplane["devices"].as_array().into_iter().flatten() {
        let name = device["name"].as_str().unwrap_or_default();
        for outcome in ["steered", "passed", "failed_closed", "failed_open"] {
            let count = device[outcome].as_u64().unwrap_or(0);
            steered = steered.with(&[("device", name), ("outcome", outcome)], count);
        }
    }
    families.push(steered);
    for (name, field, help) in SOCKETS {
        let mut family = Family::counter(name, help);
        for device in dataplane["devices"].as_array().into_iter().flatten() {
            for socket in device["sockets"].as_array().into_iter().flatten() {
                let queue = socket["queue"].to_string();
                let labels = [("device", device["name"].as_str().unwrap_or_default()), ("queue", &*queue)];
                family = family.with(&labels, socket[field].as_u64().unwrap_or(0));
            }
        }
        families.push(family);
    }
}

/// What probes found.
fn health(dataplane: &Value, families: &mut Vec<Family>) {
    let health = &dataplane["health"];
    let targets = health["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let count = |healthy: bool| targets.iter().filter(|target| target["healthy"] == healthy).count() as u64;
    families.push(
        Family::gauge("sluice_health_targets", "Backends that are asked, by whether they answer.")
            .with(&[("healthy", "true")], count(true))
            .with(&[("healthy", "false")], count(false)),
    );
    let fallen = health["fallen_back"].as_array().map_or(0, Vec::len) as u64;
    families.push(
        Family::gauge(
            "sluice_health_fallen_back",
            "Services of which no backend answers, so that all are used.",
        )
        .with(&[], fallen),
    );
    let probes = |result: &str| health["probes"][result].as_u64().unwrap_or(0);
    families.push(
        Family::counter("sluice_health_probes", "Probes by how they went.")
            .with(&[("result", "good")], probes("good"))
            .with(&[("result", "bad")], probes("bad")),
    );
}

/// Service addresses on each link, by where we stand with them.
fn announced(dataplane: &Value, families: &mut Vec<Family>) {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for one in dataplane["announced"].as_array().into_iter().flatten() {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        *counts.entry((text("device"), text("standing"))).or_default() += 1;
    }
    let family = Family::gauge("sluice_announced_addresses", "Service addresses by link and standing.");
    families.push(counts.into_iter().fold(family, |family, ((device, standing), count)| {
        family.with(&[("device", device), ("standing", standing)], count)
    }));
}

/// Counters of AF_XDP sockets: name, field in the status, help. The last six are the kernel's own.
const SOCKETS: [(&str, &str, &str); 9] = [
    ("sluice_socket_sent", "sent", "Frames put into the transmit ring."),
    ("sluice_socket_send_failed", "send_failed", "Frames that found no room in the transmit ring."),
    ("sluice_socket_large_lost", "large_lost", "Frames in several pieces that found no buffer."),
    ("sluice_socket_rx_dropped", "rx_dropped", "Received frames that the kernel could not deliver."),
    ("sluice_socket_rx_invalid_descs", "rx_invalid_descs", "Wrong descriptors in the fill ring."),
    ("sluice_socket_tx_invalid_descs", "tx_invalid_descs", "Wrong descriptors in the transmit ring."),
    ("sluice_socket_rx_ring_full", "rx_ring_full", "Received frames that found the receive ring full."),
    ("sluice_socket_rx_fill_ring_empty", "rx_fill_ring_empty_descs", "Times that the fill ring was empty."),
    ("sluice_socket_tx_ring_empty", "tx_ring_empty_descs", "Times that the transmit ring was empty."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn control() -> Control {
        let (gateway, problems) = sluice_policy::config::load(std::path::Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../configs/minimal.yaml"
        )));
        Control::new(gateway.unwrap_or_else(|| panic!("{problems}")))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_dataplane_nothing_is_said_of_it_rather_than_nothing_counted() {
        let text = metrics(&control()).await;
        crate::metrics::tests::assert_sound(&text);
        assert!(text.contains("sluice_ready 0"), "{text}");
        assert!(!text.contains("cilium_forward") && !text.contains("sluice_dns"), "{text}");
    }

    #[test]
    fn every_line_of_the_metrics_is_sound() {
        let control = control();
        let worker = json!({
            "flows": 3, "flows_max": 10, "fragments": 0, "fragments_max": 8, "forwarded": 7, "received": 9,
            "dropped": {"POLICY_DENIED": 5, "NO_SUCH": 1}, "denied_egress": {"POLICY_DENIED": 2},
        });
        let dataplane =
            json!({"workers": [worker.clone(), worker], "devices": [{"name": "eth0", "steered": 4}]});
        let text = exposition(
            families(&control, &dataplane),
            vec![dns_hold(&dataplane)],
            vec![("sluice_publish_seconds", "s", control.latency.clone())],
        );
        crate::metrics::tests::assert_sound(&text);
        for line in [
            "cilium_drop_count_total{reason=\"POLICY_DENIED\",direction=\"INGRESS\"} 6.0",
            "cilium_drop_count_total{reason=\"POLICY_DENIED\",direction=\"EGRESS\"} 4.0",
            "sluice_table_capacity{table=\"flows\"} 10.0",
            "cilium_bpf_map_pressure{map_name=\"flows\"} 0.3",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
