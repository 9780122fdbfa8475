//! (class, peer, protocol, port) → what policy says, and by which rule.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::select_unpredictable;

use super::ipcache::{NOBODY, Row, bit};
use super::record::{ClassId, PolicyClass, PolicyEntry, PortRange, RuleId};
use crate::verdict::Action;

/// What one direction's policy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// `None`: no entry matched and the direction is enforced.
    pub action: Option<Action>,
    pub rule: RuleId,
    /// Denials of this class are forwarded and reported.
    pub audit: bool,
}

impl Decision {
    /// Nobody judges.
    pub const FREE: Self = Self { action: Some(Action::Allow), rule: RuleId(0), audit: false };
}

/// What a class says, laid out so that a decision goes the same way whatever it comes to: which range a port is in, and which
/// entry of that has the peer, changes from packet to packet, and a branch on it would be foreseen wrongly as often as not.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Class {
    /// Of whom no entry has.
    otherwise: Verdict,
    audit: bool,
    /// Some range holds for any protocol.
    any_proto: bool,
    /// `proto << 16 | first` of each range, sorted; the last group is filled up with what no packet has.
    starts: Box<[[u32; GROUP]]>,
    ranges: Box<[Range]>,
    /// Entries of all ranges.
    blocks: Box<[Block]>,
}

/// Starts that are compared at once.
const GROUP: usize = 8;
/// So many groups are looked at one by one; of more, the one that counts is searched.
const FEW: usize = 4;

/// A range, and where its entries lie.
#[derive(Clone, Copy, Debug)]
struct Range {
    /// As in [`Class::starts`].
    start: u32,
    /// Its last port.
    last: u16,
    first: u32,
    count: u32,
}

/// Some entries of a range, filled up with such that nobody matches: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Block {
    /// As bits of a [`Row`].
    peers: [u32; ENTRIES],
    verdicts: [Verdict; ENTRIES],
}

/// As in a [`Decision`].
type Verdict = (Option<Action>, RuleId);

const ENTRIES: usize = 4;
/// Blocks whose entries fit the bits of a word.
const AT_ONCE: usize = 32 / ENTRIES;

const _: () = assert!(size_of::<Block>() == 64 && size_of::<Class>() == 64);

impl Class {
    fn new(record: &PolicyClass) -> Self {
        let mut ranges: Vec<&PortRange> = record.ranges.iter().collect();
        ranges.sort_by_key(|range| (range.proto, range.first));
        let (mut places, mut blocks) = (Vec::new(), Vec::new());
        for range in &ranges {
            let first = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            blocks.extend(range.entries.chunks(ENTRIES).map(Block::new));
            let end = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            let start = u32::from(range.proto) << 16 | u32::from(range.first);
            places.push(Range { start, last: range.last, first, count: end - first });
        }
        let mut starts: Vec<[u32; GROUP]> = Vec::new();
        for group in places.chunks(GROUP) {
            let mut filled = [u32::MAX; GROUP];
            filled.iter_mut().zip(group).for_each(|(start, range)| *start = range.start);
            starts.push(filled);
        }
        Self {
            otherwise: ((!record.default_deny).then_some(Action::Allow), RuleId(0)),
            audit: record.audit,
            any_proto: ranges.iter().any(|range| range.proto == PortRange::ANY_PROTO),
            starts: starts.into(),
            ranges: places.into(),
            blocks: blocks.into(),
        }
    }

    /// What the first entry for this protocol and port, or for any protocol, that has the peer says.
    #[inline(always)]
    fn says(&self, peer: &Row, proto: u8, port: u16) -> Verdict {
        let (mut blocks, mut holds) = self.nearest(u16::from(proto), port);
        if self.any_proto && !holds {
            (blocks, holds) = self.nearest(PortRange::ANY_PROTO, port);
        }
        let words = peer.words();
        loop {
            let (these, others) = blocks.split_at(blocks.len().min(AT_ONCE));
            let Some(most) = (these.len() * ENTRIES).checked_sub(1) else { return self.otherwise };
            let mut having = 0;
            for (block, n) in these.iter().zip(0..) {
                having |= peer.which(words, &block.peers) << (n * ENTRIES);
            }
            if others.is_empty() || having != 0 {
                let at = (having.trailing_zeros() as usize).min(most);
                let first = &these[at / ENTRIES].verdicts[at % ENTRIES];
                return *select_unpredictable(holds && having != 0, first, &self.otherwise);
            }
            blocks = others;
        }
    }

    /// The entries of the last range that starts no later, and whether it holds this protocol and port.
    #[inline(always)]
    fn nearest(&self, proto: u16, port: u16) -> (&[Block], bool) {
        let wanted = u32::from(proto) << 16 | u32::from(port);
        let index = self.not_after(wanted).saturating_sub(1);
        let Some(range) = self.ranges.get(index) else { return (&[], false) };
        let holds = (range.start <= wanted) & (range.start >> 16 == u32::from(proto)) & (port <= range.last);
        let blocks = self.blocks.get(range.first as usize..(range.first + range.count) as usize);
        (blocks.unwrap_or_default(), holds)
    }

    /// How many ranges start here or before.
    #[inline(always)]
    fn not_after(&self, wanted: u32) -> usize {
        let count = |group: &[u32; GROUP]| group.iter().map(|start| u32::from(*start <= wanted)).sum::<u32>();
        if self.starts.len() <= FEW {
            return self.starts.iter().map(count).sum::<u32>() as usize;
        }
        let behind = self.starts.partition_point(|group| group[0] <= wanted);
        let last = behind.checked_sub(1).map(|last| last * GROUP + count(&self.starts[last]) as usize);
        last.unwrap_or(0)
    }
}

impl Class {
    fn entries(&self) -> usize {
        let entries = |block: &Block| block.verdicts.iter().filter(|(action, _)| action.is_some()).count();
        self.blocks.iter().map(entries).sum()
    }
}

impl Block {
    fn new(entries: &[PolicyEntry]) -> Self {
        let mut block = Self { peers: [NOBODY; ENTRIES], verdicts: [(None, RuleId(0)); ENTRIES] };
        for (entry, n) in entries.iter().zip(0..ENTRIES) {
            block.peers[n] = bit(entry.peers);
            block.verdicts[n] = (Some(entry.action), entry.rule);
        }
        block
    }
}

/// The classes of one generation.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    classes: Vec<Option<Class>>,
}

impl Policies {
    /// What the class says about this peer on this port (for ICMP: the type).
    #[inline(always)]
    pub fn decide(&self, class: Option<ClassId>, peer: &Row, proto: u8, port: u16) -> Decision {
        let Some(id) = class else { return Decision::FREE };
        let Some(Some(class)) = self.classes.get(id.0 as usize) else {
            // A class that is named but not there is a mistake; mistakes do not open doors.
            return Decision { action: None, rule: RuleId(0), audit: false };
        };
        let (action, rule) = class.says(peer, proto, port);
        Decision { action, rule, audit: class.audit }
    }

    pub(super) fn set(&mut self, id: ClassId, record: Option<&PolicyClass>) {
        let index = id.0 as usize;
        if index >= self.classes.len() {
            self.classes.resize_with(index + 1, || None);
        }
        self.classes[index] = record.map(Class::new);
    }

    pub(super) fn has(&self, id: ClassId) -> bool {
        matches!(self.classes.get(id.0 as usize), Some(Some(_)))
    }

    pub fn classes(&self) -> usize {
        self.classes.iter().flatten().count()
    }

    pub fn entries(&self) -> usize {
        self.classes.iter().flatten().map(Class::entries).sum()
    }
}
