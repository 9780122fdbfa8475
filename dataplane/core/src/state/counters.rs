//! Where every packet of a worker went: one number per way to end, so that in = the sum of the ends.

use crate::verdict::DropReason;

const REASONS: usize = DropReason::ALL.len();

/// Plain numbers of one worker; others read copies that it publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    pub received: u64,
    pub received_bytes: u64,
    pub forwarded: u64,
    pub forwarded_bytes: u64,
    pub passed: u64,
    /// Waited for a neighbour; those that waited in vain count as dropped instead.
    pub held: u64,
    pub handed_over: u64,
    /// Cut into pieces, each of which is received in its place; and how many those were.
    pub cut: u64,
    pub pieces: u64,
    /// Packets turned into an answer; they count as dropped, too.
    pub answered: u64,
    /// Echo requests to service addresses that we answered: neither dropped nor forwarded.
    pub echoed: u64,
    drops: [u64; REASONS],
    /// Of these, what egress policy denied.
    denied_egress: [u64; REASONS],
    pub flows_created: u64,
    pub flows_ended: u64,
    /// Half-open flows that made room for others.
    pub flows_evicted: u64,
    /// Flows cut because policy or a backend went.
    pub flows_cut: u64,
    pub flows_rejudged: u64,
    pub nat_exhausted: u64,
    /// Clients whose backend was forgotten to make room for others.
    pub affinity_evicted: u64,
    pub audited: u64,
    /// DNS answers kept until every worker knows their addresses: an end like [`Self::held`].
    pub dns_held: u64,
    /// Queries and answers under DNS rules, as they were judged.
    pub dns: Dns,
}

/// What passed under DNS rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub queries: u64,
    /// Refused by the rules; those that got an answer of ours saying so count as answered, too.
    pub refused: u64,
    pub answers: u64,
    /// No messages, or in fragments.
    pub malformed: u64,
    /// Answers to what nobody asked.
    pub unasked: u64,
    /// Queries whose answers will not be believed, to make room for others.
    pub forgotten: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: 0,
            received_bytes: 0,
            forwarded: 0,
            forwarded_bytes: 0,
            passed: 0,
            held: 0,
            handed_over: 0,
            cut: 0,
            pieces: 0,
            answered: 0,
            echoed: 0,
            drops: [0; REASONS],
            denied_egress: [0; REASONS],
            flows_created: 0,
            flows_ended: 0,
            flows_evicted: 0,
            flows_cut: 0,
            flows_rejudged: 0,
            nat_exhausted: 0,
            affinity_evicted: 0,
            audited: 0,
            dns_held: 0,
            dns: Dns::default(),
        }
    }
}

impl Counters {
    pub fn drop(&mut self, reason: DropReason) {
        if let Some(index) = DropReason::ALL.iter().position(|r| *r == reason) {
            self.drops[index] += 1;
        }
    }

    /// Policy said no, to what leaves (`egress`) or to what comes.
    pub fn deny(&mut self, reason: DropReason, egress: bool) {
        self.drop(reason);
        if let Some(index) = DropReason::ALL.iter().position(|r| *r == reason).filter(|_| egress) {
            self.denied_egress[index] += 1;
        }
    }

    /// Reasons for which egress policy dropped, with their counts.
    pub fn denied_egress(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .copied()
            .zip(self.denied_egress.iter().copied())
            .filter(|(_, count)| *count > 0)
    }

    /// Every reason with its count.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().copied().zip(self.drops.iter().copied())
    }

    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.drops().find(|(r, _)| *r == reason).map_or(0, |(_, count)| count)
    }

    /// All ends together; equal to `received` between bursts.
    pub fn ends(&self) -> u64 {
        self.forwarded
            + self.passed
            + self.held
            + self.handed_over
            + self.cut
            + self.echoed
            + self.dns_held
            + self.dropped()
    }
}
