//! Flows as they outlive their process: everything that cannot be found out again, in a form that can be written down.

use super::State;
use super::conntrack::{FlowRef, InsertError, NewFlow};
use super::flow::{
    AUDIT, Cold, DNS, Hot, IN_GENEVE, IN_IP, Keys, REPLIED, SERVICE, SOURCE, TOLD, TRANSLATED, WRAPPED,
};
use crate::flow_key::FlowKey;
use crate::time::Now;

/// One flow. Times are ages, because clocks start anew; its generation is not kept: the first packet is judged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FlowRecord {
    pub original: FlowKey,
    pub translated: FlowKey,
    pub tcp: u8,
    pub flags: u16,
    pub idle_seconds: u32,
    pub age_seconds: u32,
    pub egress_rule: u32,
    pub ingress_rule: u32,
    pub service: u32,
    pub backend: u32,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
}

/// Flags that mean the same in another process.
const LASTING: u16 =
    DNS | TRANSLATED | REPLIED | AUDIT | SERVICE | SOURCE | WRAPPED | IN_GENEVE | IN_IP | TOLD;

impl State {
    pub fn export(&self, flow: FlowRef, now: Now) -> FlowRecord {
        let (hot, cold, keys) = (self.flows.hot(flow), self.flows.cold(flow), self.flows.keys(flow));
        let (packets, bytes) = hot.counts(cold);
        FlowRecord {
            original: keys.original,
            translated: keys.translated,
            tcp: hot.tcp,
            flags: hot.flags & LASTING,
            idle_seconds: now.seconds().saturating_sub(hot.seen),
            age_seconds: now.seconds().saturating_sub(cold.created),
            egress_rule: cold.egress_rule,
            ingress_rule: cold.ingress_rule,
            service: cold.service,
            backend: cold.backend,
            packets,
            bytes,
        }
    }

    /// Take a flow over. Its generation is 0, so that its first packet is judged and routed anew.
    pub fn import(&mut self, record: &FlowRecord, now: Now) -> Result<FlowRef, InsertError> {
        let hot = Hot { tcp: record.tcp.min(6), flags: record.flags & LASTING, ..Hot::default() };
        let cold = Cold {
            egress_rule: record.egress_rule,
            ingress_rule: record.ingress_rule,
            service: record.service,
            backend: record.backend,
            ..Cold::default()
        };
        let keys = Keys { original: record.original, translated: record.translated };
        let flow = self.flows.insert(&NewFlow { keys, hot, cold }, now)?;
        let (hot, cold) = self.flows.parts(flow);
        hot.seen = now.seconds().saturating_sub(record.idle_seconds);
        cold.created = now.seconds().saturating_sub(record.age_seconds);
        hot.set_counts(cold, record.packets, record.bytes);
        Ok(flow)
    }
}
