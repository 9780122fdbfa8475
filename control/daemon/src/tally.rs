//! Events counted as Hubble's metrics count flows. What was lost before it reached us is counted by others
//! (`hubble_lost_events_total`), and is missing here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use sluice_core::event::{EventKind, FlowEvent};
use sluice_core::verdict::DropReason;
use sluice_policy::hubble;
use sluice_policy::observed::{Naming, protocol, verdict};
use sluice_policy::sighted::tcp_flags;

use crate::metrics::Family;

/// Ports that are told apart; others are counted together, so that a port scan cannot fill the metrics.
const MOST_PORTS: usize = 512;

#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Type, sub-type, verdict.
    processed: BTreeMap<(&'static str, String, &'static str), u64>,
    drops: BTreeMap<(&'static str, String), u64>,
    flags: BTreeMap<(String, &'static str), u64>,
    ports: BTreeMap<(String, Option<u16>), u64>,
    icmp: BTreeMap<(&'static str, u8), u64>,
    /// Direction, match, action.
    verdicts: BTreeMap<(&'static str, &'static str, &'static str), u64>,
}

impl Tally {
    pub fn add(&self, event: &FlowEvent, names: &impl Naming) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(event, names);
    }

    pub fn families(&self) -> Vec<Family> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).families()
    }
}

impl Counts {
    fn add(&mut self, event: &FlowEvent, names: &impl Naming) {
        let family = if event.key.v4 { "IPv4" } else { "IPv6" };
        let proto = protocol(event.key.proto);
        for flag in
            tcp_flags(event.tcp_flags).split(", ").filter(|_| event.key.proto == 6 && event.tcp_flags != 0)
        {
            *self.flags.entry((flag.to_owned(), family)).or_default() += 1;
        }
        // The end of a flow is no flow of Hubble's; only its flags are news.
        if event.kind == EventKind::End {
            return;
        }
        let (kind, sub) = match hubble::event_type(event, names) {
            (1, sub) => (
                "Drop",
                DropReason::from_number(sub).map_or_else(String::new, |reason| reason.name().to_owned()),
            ),
            (5, _) => ("PolicyVerdict", String::new()),
            (_, 0) => ("Trace", "to-endpoint".to_owned()),
            _ => ("Trace", "to-network".to_owned()),
        };
        *self.processed.entry((kind, sub, verdict(event))).or_default() += 1;
        if let EventKind::Drop(reason) = event.kind {
            *self.drops.entry((reason.name(), proto.clone())).or_default() += 1;
        }
        if event.key.proto == 1 || event.key.proto == 58 {
            *self.icmp.entry((family, event.icmp_type)).or_default() += 1;
        } else if event.kind == EventKind::New && event.key.dport != 0 {
            self.port(proto, event.translated.dport);
        }
        self.policy(event);
    }

    fn port(&mut self, proto: String, port: u16) {
        let full = self.ports.len() >= MOST_PORTS;
        let key = (proto, Some(port));
        let known = !full || self.ports.contains_key(&key);
        *self.ports.entry(if known { key } else { (key.0, None) }).or_default() += 1;
    }

    /// What policy said, for each direction that said something.
    fn policy(&mut self, event: &FlowEvent) {
        let audit = event.audit;
        match event.kind {
            EventKind::Drop(DropReason::PolicyDenied | DropReason::PolicyDeny | DropReason::AuthRequired) => {
                let direction = if event.denied_egress { "egress" } else { "ingress" };
                let by_rule =
                    if event.kind == EventKind::Drop(DropReason::PolicyDenied) { "none" } else { "rule" };
                *self.verdicts.entry((direction, by_rule, "dropped")).or_default() += 1;
            }
            EventKind::New => {
                for (rule, direction) in [(event.egress_rule, "egress"), (event.ingress_rule, "ingress")] {
                    if rule.0 != 0 {
                        let action = if audit { "audit" } else { "forwarded" };
                        *self.verdicts.entry((direction, "rule", action)).or_default() += 1;
                    }
                }
            }
            EventKind::Drop(_) | EventKind::Update | EventKind::End | EventKind::Packet => {}
        }
    }

    fn families(&self) -> Vec<Family> {
        let mut processed = Family::counter("hubble_flows_processed", "Flow events, as Hubble sorts them.");
        for ((kind, sub, verdict), count) in &self.processed {
            processed = processed.with(&[("type", kind), ("subtype", sub), ("verdict", verdict)], *count);
        }
        let mut drops = Family::counter("hubble_drop", "Drop events.");
        for ((reason, proto), count) in &self.drops {
            drops = drops.with(&[("reason", reason), ("protocol", proto)], *count);
        }
        let mut flags = Family::counter("hubble_tcp_flags", "TCP flags that began, refused and ended flows.");
        for ((flag, family), count) in &self.flags {
            flags = flags.with(&[("flag", flag), ("family", family)], *count);
        }
        let mut ports = Family::counter(
            "hubble_port_distribution",
            "New flows by destination port; beyond 512 ports the rest is counted as port other.",
        );
        for ((proto, port), count) in &self.ports {
            let port = port.map_or_else(|| "other".to_owned(), |port| port.to_string());
            ports = ports.with(&[("protocol", proto), ("port", &port)], *count);
        }
        let mut icmp = Family::counter("hubble_icmp", "ICMP flows and drops by type.");
        for ((family, kind), count) in &self.icmp {
            icmp = icmp.with(&[("family", family), ("type", &kind.to_string())], *count);
        }
        let mut verdicts = Family::counter("hubble_policy_verdicts", "What policy said of new flows.");
        for ((direction, by, action), count) in &self.verdicts {
            verdicts = verdicts.with(&[("direction", direction), ("match", by), ("action", action)], *count);
        }
        vec![processed, drops, flags, ports, icmp, verdicts]
    }
}
