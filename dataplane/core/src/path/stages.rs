//! The stages of the short way, each for itself, and how admission puts flows into the table: what `forward` does in one go,
//! in pieces that the rig can time.

use arrayvec::ArrayVec;

use super::short::Glance;
use super::{classify, look_up};
use crate::flow_key::FlowKey;
use crate::packet::{BURST, Packet};
use crate::parse::TCP;
use crate::state::conntrack::{FlowRef, FlowTable, NewFlow, Place};
use crate::state::flow::{self, Cold, Hot, Keys};
use crate::time::Now;

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

    /// Make a flow like `hot` for each packet that the second phase found none for: what all of them will write to is fetched
    /// before the first is made. How many were made.
    pub fn admit(&self, flows: &mut FlowTable, keys: &[Keys], hot: &Hot, now: Now) -> usize {
        let expected =
            keys.iter().zip(0..BURST).map(|(keys, before)| flows.expect(&keys.translated.reverse(), before));
        let replies: ArrayVec<Place, BURST> = expected.collect();
        let mut made = 0;
        for ((keys, reply), work) in keys.iter().zip(&replies).zip(&self.works) {
            let new = NewFlow { keys: *keys, hot: *hot, cold: Cold::default() };
            let is_new = flows.find_at(&keys.original, &work.place).is_none();
            made += usize::from(is_new && flows.insert_at(&new, &[work.place, *reply], now).is_ok());
        }
        made
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
