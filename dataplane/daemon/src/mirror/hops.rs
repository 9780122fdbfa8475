//! Numbers of next hops: each stays with its neighbour for as long as the kernel knows it, and is used again after.

use std::collections::HashMap;
use std::net::IpAddr;

use sluice_core::packet::PortId;
use sluice_core::verdict::NextHopId;

/// The last number says "none".
const MOST: u16 = u16::MAX;

#[derive(Debug, Default)]
pub struct Hops {
    /// With the reading that last saw it.
    known: HashMap<(PortId, IpAddr), (NextHopId, u64)>,
    free: Vec<NextHopId>,
    given: u16,
    reading: u64,
    full: bool,
}

impl Hops {
    /// `None`: all numbers are in use; this neighbour is done without.
    pub fn number(&mut self, port: PortId, ip: IpAddr) -> Option<NextHopId> {
        if let Some((id, seen)) = self.known.get_mut(&(port, ip)) {
            *seen = self.reading;
            return Some(*id);
        }
        let fresh = || {
            (self.given < MOST).then(|| {
                self.given += 1;
                NextHopId(self.given - 1)
            })
        };
        let Some(id) = self.free.pop().or_else(fresh) else {
            if !std::mem::replace(&mut self.full, true) {
                tracing::error!("more than {MOST} neighbours and gateways: what is beyond is not reached");
            }
            return None;
        };
        self.known.insert((port, ip), (id, self.reading));
        Some(id)
    }

    /// The tables were read: what was not asked for meanwhile is gone, and its number free from the next reading on. Routes
    /// by it went with it, so that flows look for another way before the number means somebody else.
    pub fn end_reading(&mut self) {
        let (reading, free) = (self.reading, &mut self.free);
        self.known.retain(|_, (id, seen)| {
            let stays = *seen == reading;
            if !stays {
                free.push(*id);
            }
            stays
        });
        self.full &= self.free.is_empty();
        self.reading += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_with_their_neighbours_and_are_used_again_when_those_are_gone() {
        let mut hops = Hops::default();
        let ip = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(n));
        let (one, two) = (hops.number(PortId(0), ip(1)).unwrap(), hops.number(PortId(0), ip(2)).unwrap());
        assert_ne!(one, two);
        hops.end_reading();
        assert_eq!(hops.number(PortId(0), ip(2)), Some(two));
        hops.end_reading();
        assert_eq!(hops.number(PortId(1), ip(3)), Some(one), "the first neighbour is gone");
        assert_eq!(hops.number(PortId(0), ip(2)), Some(two));
        // A year of guests, a few at a time, never runs out.
        for n in 10..200_000 {
            hops.end_reading();
            assert!(hops.number(PortId(0), ip(n)).is_some());
        }
    }

    #[test]
    fn beyond_the_last_number_there_is_none_rather_than_somebody_elses() {
        let mut hops = Hops::default();
        for n in 0..u32::from(MOST) {
            assert!(hops.number(PortId(0), std::net::Ipv4Addr::from(n).into()).is_some());
        }
        assert_eq!(hops.number(PortId(1), std::net::Ipv4Addr::LOCALHOST.into()), None);
    }
}
