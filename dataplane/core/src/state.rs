//! Everything that packets of one worker may change: no lock, no sharing.

pub mod affinity;
pub mod asked;
pub mod conntrack;
pub mod counters;
pub mod flow;
pub mod fragments;
pub mod nat;
pub mod snapshot;
pub mod tcp;

use alloc::vec;
use alloc::vec::Vec;

use crate::intrinsics::Seed;
use crate::packet::BURST;
use crate::path::short::Glance;
use crate::time::Now;
use crate::verdict::WorkerId;
use affinity::Affinity;
use asked::Asked;
use conntrack::FlowTable;
use counters::Counters;
use fragments::Fragments;

/// What a worker's state is made for.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub worker: WorkerId,
    /// Flows at most; memory for them is taken at start.
    pub max_flows: u32,
    /// Datagrams in fragments at most.
    pub max_fragments: u32,
    /// Key of all hashes.
    pub seed: Seed,
    /// Take TCP connections up in their middle when policy allows them (after a restart without their table).
    pub pickup: bool,
    pub timeouts: flow::Timeouts,
    /// Let ordinary packets go the short way. Off only to compare it with the long one.
    pub short: bool,
}

impl Config {
    pub fn new(max_flows: u32, seed: [u64; 4]) -> Self {
        Self {
            worker: WorkerId(0),
            max_flows,
            max_fragments: 8192,
            seed: Seed(seed),
            pickup: false,
            timeouts: flow::Timeouts::default(),
            short: true,
        }
    }
}

/// One worker's own.
#[derive(Debug)]
pub struct State {
    pub config: Config,
    pub flows: FlowTable,
    pub fragments: Fragments,
    pub counters: Counters,
    pub affinity: Affinity,
    pub nat_exhausted: nat::Exhausted,
    pub asked: Asked,
    answers: TokenBucket,
    /// What is known of each packet of a burst between the phases. It lives here so that it is not made anew each time.
    pub(crate) glances: Vec<Glance>,
}

impl State {
    pub fn new(config: Config) -> Self {
        Self {
            flows: FlowTable::new(config.max_flows, config.seed),
            fragments: Fragments::new(config.max_fragments, config.seed),
            counters: Counters::default(),
            affinity: Affinity::new(config.max_flows, config.seed),
            nat_exhausted: nat::Exhausted::default(),
            asked: Asked::new(config.seed),
            answers: TokenBucket { tokens: ANSWER_BURST, refilled: Now(0) },
            config,
            glances: vec![Glance::BLANK; BURST],
        }
    }

    /// May another packet of our own (ICMP error, reset) be sent now?
    pub fn may_answer(&mut self, now: Now) -> bool {
        self.answers.take(now)
    }
}

/// Answers a second, and at once after a silence. Linux allows 1000 ICMP messages a second in bursts of 50; resets for
/// refused connections need more room.
const ANSWERS_PER_SECOND: u64 = 10_000;
const ANSWER_BURST: u64 = 1_000;

#[derive(Debug)]
struct TokenBucket {
    tokens: u64,
    refilled: Now,
}

impl TokenBucket {
    fn take(&mut self, now: Now) -> bool {
        let due = now.0.saturating_sub(self.refilled.0) / (Now::SECOND / ANSWERS_PER_SECOND);
        if due > 0 {
            self.tokens = self.tokens.saturating_add(due).min(ANSWER_BURST);
            self.refilled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}
