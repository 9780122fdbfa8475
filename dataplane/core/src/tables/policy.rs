//! (class, peer, protocol, port) → what policy says, and by which rule.

use alloc::vec::Vec;

use super::ipcache::Row;
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

/// All ranges of a class, sorted by (protocol, first port); entries of all ranges in one piece.
#[derive(Clone, Debug, Default)]
struct Class {
    default_deny: bool,
    audit: bool,
    /// `proto << 16 | first`, for the search.
    starts: Vec<u32>,
    /// Last port, and where the range's entries lie.
    ranges: Vec<(u16, u32, u32)>,
    entries: Vec<PolicyEntry>,
}

impl Class {
    fn new(record: &PolicyClass) -> Self {
        let mut class = Self { default_deny: record.default_deny, audit: record.audit, ..Self::default() };
        let mut ranges: Vec<&PortRange> = record.ranges.iter().collect();
        ranges.sort_by_key(|range| (range.proto, range.first));
        for range in ranges {
            let start = u32::try_from(class.entries.len()).unwrap_or(u32::MAX);
            class.entries.extend(&range.entries);
            let end = u32::try_from(class.entries.len()).unwrap_or(u32::MAX);
            class.starts.push(u32::from(range.proto) << 16 | u32::from(range.first));
            class.ranges.push((range.last, start, end));
        }
        class
    }

    /// Entries for this protocol and port, or for any protocol.
    #[inline]
    fn entries(&self, proto: u8, port: u16) -> &[PolicyEntry] {
        self.find(u16::from(proto), port)
            .or_else(|| self.find(PortRange::ANY_PROTO, port))
            .unwrap_or_default()
    }

    #[inline]
    fn find(&self, proto: u16, port: u16) -> Option<&[PolicyEntry]> {
        let wanted = u32::from(proto) << 16 | u32::from(port);
        let index = self.starts.partition_point(|start| *start <= wanted).checked_sub(1)?;
        let (last, start, end) = *self.ranges.get(index)?;
        if self.starts[index] >> 16 != u32::from(proto) || port > last {
            return None;
        }
        self.entries.get(start as usize..end as usize)
    }
}

/// The classes of one generation.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    classes: Vec<Option<Class>>,
}

impl Policies {
    /// What the class says about this peer on this port (for ICMP: the type).
    #[inline]
    pub fn decide(&self, class: Option<ClassId>, peer: &Row, proto: u8, port: u16) -> Decision {
        let Some(id) = class else { return Decision::FREE };
        let Some(Some(class)) = self.classes.get(id.0 as usize) else {
            // A class that is named but not there is a mistake; mistakes do not open doors.
            return Decision { action: None, rule: RuleId(0), audit: false };
        };
        match class.entries(proto, port).iter().find(|entry| peer.in_set(entry.peers)) {
            Some(entry) => Decision { action: Some(entry.action), rule: entry.rule, audit: class.audit },
            None => Decision {
                action: (!class.default_deny).then_some(Action::Allow),
                rule: RuleId(0),
                audit: class.audit,
            },
        }
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
        self.classes.iter().flatten().map(|class| class.entries.len()).sum()
    }
}
