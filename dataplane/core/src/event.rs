//! What happened to flows, as fixed-size records: no strings, no allocation. Names are added by whoever reads them.

use crate::flow_key::FlowKey;
use crate::tables::record::RuleId;
use crate::time::Now;
use crate::verdict::DropReason;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum EventKind {
    /// A flow was admitted.
    New,
    /// A flow was judged again after a change, or goes on (one per interval and on TCP flag changes).
    Update,
    /// A flow ended: closed, expired, cut by policy, or evicted.
    End,
    /// A packet was dropped.
    Drop(DropReason),
    /// A packet was handled; only emitted to sinks with [`EventSink::EVERY_PACKET`].
    Packet,
}

/// One event. Keys are as the packet that caused it had them; `translated` is the key it left with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FlowEvent {
    pub at: Now,
    pub kind: EventKind,
    pub key: FlowKey,
    pub translated: FlowKey,
    /// Goes from the destination of the flow's first packet to its source.
    pub is_reply: bool,
    /// Would have been denied; audit mode forwarded it.
    pub audit: bool,
    pub tcp_flags: u8,
    /// ICMP type, if the packet was ICMP.
    pub icmp_type: u8,
    /// Identity numbers (not slots).
    pub source: u32,
    pub destination: u32,
    /// The rule that decided, or `RuleId(0)`.
    pub egress_rule: RuleId,
    pub ingress_rule: RuleId,
    /// Which direction's policy denied, when the reason is a policy's.
    pub denied_egress: bool,
    pub generation: u32,
    /// Totals of the flow so far in this direction of view: original, reply.
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
}

impl FlowEvent {
    /// One of which nothing else is known. It is inlined so that its 150 bytes are written once, where they are to be.
    #[inline(always)]
    pub const fn of(at: Now, kind: EventKind, key: FlowKey, translated: FlowKey) -> Self {
        Self {
            at,
            kind,
            key,
            translated,
            is_reply: false,
            audit: false,
            tcp_flags: 0,
            icmp_type: 0,
            source: 0,
            destination: 0,
            egress_rule: RuleId(0),
            ingress_rule: RuleId(0),
            denied_egress: false,
            generation: 0,
            packets: [0; 2],
            bytes: [0; 2],
        }
    }
}

/// Takes events; must not block. A sink that is full counts what it lost.
pub trait EventSink {
    /// Ask for an event for every packet (replay, trace). A constant, so that it costs the live path nothing.
    const EVERY_PACKET: bool = false;

    fn emit(&mut self, event: &FlowEvent);
}

/// Forgets everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ignore;

impl EventSink for Ignore {
    fn emit(&mut self, _event: &FlowEvent) {}
}
