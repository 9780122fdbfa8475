//! Flow events in a form that can be sent.

use serde::{Deserialize, Serialize};
use sluice_core::event::{EventKind, FlowEvent};
use sluice_core::flow_key::FlowKey;
use sluice_core::tables::record::RuleId;
use sluice_core::time::Now;
use sluice_core::verdict::DropReason;

/// As [`EventKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    New,
    Update,
    End,
    Drop(DropReason),
    Packet,
}

/// As [`FlowEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentEvent {
    pub at: Now,
    pub kind: Kind,
    pub key: FlowKey,
    pub translated: FlowKey,
    pub is_reply: bool,
    pub audit: bool,
    pub tcp_flags: u8,
    pub icmp_type: u8,
    pub source: u32,
    pub destination: u32,
    pub egress_rule: u32,
    pub ingress_rule: u32,
    pub denied_egress: bool,
    pub generation: u32,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
}

impl From<FlowEvent> for SentEvent {
    fn from(event: FlowEvent) -> Self {
        Self {
            at: event.at,
            kind: match event.kind {
                EventKind::New => Kind::New,
                EventKind::Update => Kind::Update,
                EventKind::End => Kind::End,
                EventKind::Drop(reason) => Kind::Drop(reason),
                EventKind::Packet => Kind::Packet,
            },
            key: event.key,
            translated: event.translated,
            is_reply: event.is_reply,
            audit: event.audit,
            tcp_flags: event.tcp_flags,
            icmp_type: event.icmp_type,
            source: event.source,
            destination: event.destination,
            egress_rule: event.egress_rule.0,
            ingress_rule: event.ingress_rule.0,
            denied_egress: event.denied_egress,
            generation: event.generation,
            packets: event.packets,
            bytes: event.bytes,
        }
    }
}

impl From<SentEvent> for FlowEvent {
    fn from(event: SentEvent) -> Self {
        Self {
            at: event.at,
            kind: match event.kind {
                Kind::New => EventKind::New,
                Kind::Update => EventKind::Update,
                Kind::End => EventKind::End,
                Kind::Drop(reason) => EventKind::Drop(reason),
                Kind::Packet => EventKind::Packet,
            },
            key: event.key,
            translated: event.translated,
            is_reply: event.is_reply,
            audit: event.audit,
            tcp_flags: event.tcp_flags,
            icmp_type: event.icmp_type,
            source: event.source,
            destination: event.destination,
            egress_rule: RuleId(event.egress_rule),
            ingress_rule: RuleId(event.ingress_rule),
            denied_egress: event.denied_egress,
            generation: event.generation,
            packets: event.packets,
            bytes: event.bytes,
        }
    }
}
