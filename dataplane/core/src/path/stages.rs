//! The stages of the short way, each for itself: what `forward` does in one go, in pieces that the rig can time.

use arrayvec::ArrayVec;

use super::short::Glance;
use super::{classify, look_up};
use crate::flow_key::FlowKey;
use crate::packet::{BURST, Packet};
use crate::parse::TCP;
use crate::state::conntrack::{FlowRef, FlowTable};
use crate::state::flow;

/// A burst between its phases.
#[derive(Debug)]
pub struct Stages {
    works: [Glance; BURST],
    count: usize,
}

/// What an IPv4 TCP packet has of its key, as it stands in it.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    addresses: u64,
    ports: u32,
}

impl Words {
    pub fn of(key: &FlowKey) -> Self {
        Self { addresses: flow::pair(key.src, key.dst), ports: flow::ports(key.sport, key.dport) }
    }
}

impl Stages {
    pub const fn new() -> Self {
        Self { works: [Glance::BLANK; BURST], count: 0 }
    }

    /// The first phase: read and check each packet, hash its key, start fetching.
    pub fn classify(&mut self, flows: &FlowTable, burst: &[Packet<'_>]) {
        for (packet, work) in burst.iter().zip(&mut self.works) {
            classify(flows, packet, work);
        }
        self.count = burst.len().min(BURST);
    }

    /// What the first phase does for the tables alone, in packets of connections in their midst.
    pub fn ask(&mut self, flows: &FlowTable, keys: &[Words]) {
        for (key, work) in keys.iter().zip(&mut self.works) {
            *work = Glance::in_midst(key.addresses, key.ports, TCP, flows);
            flows.prefetch_bucket(&work.place);
        }
        self.count = keys.len().min(BURST);
    }

    /// The second phase.
    pub fn look_up(&mut self, flows: &FlowTable) {
        look_up(flows, &mut self.works[..self.count], &mut ArrayVec::new());
    }

    /// How many of the packets are ordinary.
    pub fn ordinary(&self) -> usize {
        self.works[..self.count].iter().filter(|work| work.ordinary).count()
    }

    /// How many have a flow, by the comparison of the third phase.
    #[inline]
    pub fn found(&self, flows: &FlowTable) -> usize {
        let is_known = |work: &&Glance| {
            let (hot, side) = (flows.hot(work.candidate), usize::from(work.candidate.is_reply()));
            work.candidate != FlowRef::NONE && work.strange(hot, side) | work.strange_v4(hot, side) == 0
        };
        self.works[..self.count].iter().filter(is_known).count()
    }

    /// The change that the third phase makes to a packet of IPv4, the link header excepted. `None`: it is no ordinary one.
    #[inline]
    pub fn leave(&self, flows: &FlowTable, packet: &mut Packet<'_>, of: usize) -> Option<()> {
        let work = &self.works[of];
        work.leave_v4(packet, flows.hot(work.candidate), usize::from(work.candidate.is_reply()))
    }
}

impl Default for Stages {
    fn default() -> Self {
        Self::new()
    }
}
