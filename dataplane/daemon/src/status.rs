//! How the dataplane is, as JSON: for `sluice status` and for metrics.

use serde_json::{Value, json};
use sluice_core::tables::Tables;
use sluice_run::answers::BOUNDS;
use sluice_run::worker::Shown;
use sluice_steer::Steer;
use sluice_xsk::Copy;
use sluice_xsk::io::Report;

use crate::devices::Devices;
use crate::workers::Running;

pub fn status(
    seconds: u64,
    generation: u64,
    tables: &Tables,
    workers: &[Running],
    devices: &Devices,
) -> Value {
    let reports: Vec<Report> = workers.iter().flat_map(Running::reports).collect();
    let device = |(name, steer)| device(name, steer, workers, &reports);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": seconds,
        "generation": generation,
        "tables": {
            "generation": tables.generation,
            "identities": tables.ipcache.identities(),
            "addresses": tables.ipcache.addresses(),
            "classes": tables.policies.classes(),
            "policy_entries": tables.policies.entries(),
            "services": tables.services.len(),
            "maglev_rows_pending": tables.services.rows_pending(),
            "routes": tables.routing.routes(),
        },
        "devices": devices.programs().map(device).collect::<Vec<_>>(),
        "workers": workers.iter().map(worker).collect::<Vec<_>>(),
    })
}

fn device(name: &str, steer: Option<&Steer>, workers: &[Running], reports: &[Report]) -> Value {
    let sockets: Vec<_> = workers.iter().flat_map(|w| &w.attached).filter(|a| a.name == name).collect();
    let Some(steer) = steer else { return json!({"name": name, "mode": "absent", "queues": 0}) };
    let (mode, reason) = steer.mode();
    let outcomes = steer.outcomes().unwrap_or_default();
    let zero = sockets.iter().all(|socket| socket.copy == Copy::Zero);
    json!({
        "name": name,
        "mode": mode.name(),
        "mode_reason": reason,
        "copy": if zero { "zero-copy" } else { "copy" },
        "copy_reason": sockets.iter().find_map(|socket| socket.reason.clone()),
        "queues": sockets.len(),
        "steered": outcomes.steered,
        "passed": outcomes.passed,
        "failed_closed": outcomes.failed_closed,
        "failed_open": outcomes.failed_open,
        "sockets": reports.iter().filter(|report| report.name == name).map(socket).collect::<Vec<_>>(),
    })
}

/// What a socket sent and lost, by our own count and by the kernel's six.
fn socket(report: &Report) -> Value {
    let kernel = report.kernel.unwrap_or_default();
    json!({
        "queue": report.queue,
        "sent": report.sent,
        "send_failed": report.send_failed,
        "large_lost": report.large_lost,
        "rx_dropped": kernel.rx_dropped,
        "rx_invalid_descs": kernel.rx_invalid_descs,
        "tx_invalid_descs": kernel.tx_invalid_descs,
        "rx_ring_full": kernel.rx_ring_full,
        "rx_fill_ring_empty_descs": kernel.rx_fill_ring_empty_descs,
        "tx_ring_empty_descs": kernel.tx_ring_empty_descs,
    })
}

fn worker(running: &Running) -> Value {
    let Shown {
        counters,
        flows,
        fragments,
        held,
        hold_overflow,
        hold_expired,
        handover_overflow,
        turns,
        naps,
        dns_waiting,
        dns_waited,
    } = running.handle.shown();
    let drops: serde_json::Map<String, Value> = counters
        .drops()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
        .collect();
    let mut told = json!({
        "flows": flows.0,
        "flows_max": flows.1,
        "flows_created": counters.flows_created,
        "flows_ended": counters.flows_ended,
        "flows_evicted": counters.flows_evicted,
        "flows_cut": counters.flows_cut,
        "flows_rejudged": counters.flows_rejudged,
        "fragments": fragments,
        "received": counters.received,
        "received_bytes": counters.received_bytes,
        "forwarded": counters.forwarded,
        "forwarded_bytes": counters.forwarded_bytes,
        "passed": counters.passed,
        "held": counters.held,
        "handed_over": counters.handed_over,
        "cut": counters.cut,
        "answered": counters.answered,
        "echoed": counters.echoed,
        "audited": counters.audited,
        "nat_exhausted": counters.nat_exhausted,
        "affinity_evicted": counters.affinity_evicted,
        "dropped": drops,
        "hold_now": held[0],
        "hold_overflow": hold_overflow,
        "hold_expired": hold_expired,
        "dns_waiting": dns_waiting,
        "handover_overflow": handover_overflow,
        "events_lost": running.events.lost(),
        "turns": turns,
        "naps": naps,
        "huge_pages": running.huge_pages,
        "dns": {
            "queries": counters.dns.queries,
            "refused": counters.dns.refused,
            "answers": counters.dns.answers,
            "malformed": counters.dns.malformed,
            "unasked": counters.dns.unasked,
            "forgotten": counters.dns.forgotten,
            "lost": dns_waited.lost,
            "waited": BOUNDS.iter().map(Some).chain([None]).zip(dns_waited.counts).collect::<Vec<_>>(),
            "waited_nanoseconds": dns_waited.nanoseconds,
        },
    });
    rooms(running, &mut told);
    let egress: serde_json::Map<String, Value> =
        counters.denied_egress().map(|(reason, count)| (reason.name().to_owned(), json!(count))).collect();
    told["denied_egress"] = egress.into();
    told["rows_waiting"] = held[1].into();
    told
}

/// How full what is bounded may become.
fn rooms(running: &Running, told: &mut Value) {
    told["fragments_max"] = running.fragments_max.into();
    told["dns_waiting_max"] = sluice_run::answers::MOST.into();
    told["hold_max"] = sluice_run::hold::MOST.into();
    told["events_waiting"] = running.events.waiting().into();
    told["events_max"] = crate::workers::EVENT_RING.into();
}
