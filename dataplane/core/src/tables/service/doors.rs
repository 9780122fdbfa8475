//! What the path looks up of services: one line says which service an address, port and protocol stand for, and another one
//! where that service is.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use hashbrown::HashMap;

use super::Balanced;
use crate::tables::lpm::{Hashing, hashing};
use crate::tables::open::{Held, Key, Open, fold};
use crate::tables::record::ServiceId;

/// What stands behind an address, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// The service in this seat, for everybody.
    Open(Seat),
    /// The record says what, and for whom.
    Kept,
}

/// Where a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat(u32);

/// An address in halves, and port and protocol, or [`ADDRESS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sign(u64, u64, u64);

/// In the place of port and protocol: how many frontends the address has.
const ADDRESS: u64 = 1 << 32;

impl Sign {
    #[inline]
    fn new(ip: Ipv6Addr, port: u16, proto: u8) -> Self {
        Self::with(ip, u64::from(port) << 8 | u64::from(proto))
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "splits 128 bits into halves")]
    const fn with(ip: Ipv6Addr, rest: u64) -> Self {
        let bits = ip.to_bits();
        Self((bits >> 64) as u64, bits as u64, rest)
    }
}

impl Key for Sign {
    #[inline]
    fn mixed(self) -> u64 {
        fold(self.0 ^ self.2.wrapping_mul(0xa076_1d64_78bd_642f), self.1)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Behind {
    /// [`OPEN`], [`KEPT`], [`COUNT`], or nothing.
    kind: u32,
    /// Of the seat, or how many.
    number: u32,
}

const OPEN: u32 = 1;
const KEPT: u32 = 2;
const COUNT: u32 = 3;

impl Held for Behind {
    #[inline]
    fn is_nothing(&self) -> bool {
        self.kind == 0
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Doors {
    signs: Open<Sign, Behind>,
}

impl Doors {
    #[inline]
    pub(super) fn find(&self, ip: Ipv6Addr, port: u16, proto: u8) -> Option<Door> {
        self.signs.find(Sign::new(ip, port, proto)).map(read)
    }

    #[inline]
    pub(super) fn prefetch(&self, ip: Ipv6Addr, port: u16, proto: u8) {
        self.signs.prefetch(Sign::new(ip, port, proto));
    }

    #[inline]
    pub(super) fn has_address(&self, ip: Ipv6Addr) -> bool {
        self.signs.find(Sign::with(ip, ADDRESS)).is_some()
    }

    #[inline]
    pub(super) fn prefetch_address(&self, ip: Ipv6Addr) {
        self.signs.prefetch(Sign::with(ip, ADDRESS));
    }

    /// What was there before.
    pub(super) fn set(&mut self, ip: Ipv6Addr, port: u16, proto: u8, door: Option<Door>) -> Option<Door> {
        let (sign, address) = (Sign::new(ip, port, proto), Sign::with(ip, ADDRESS));
        let old = self.signs.find(sign).map(read);
        match door {
            Some(door) => {
                *self.signs.make(sign) = match door {
                    Door::Open(seat) => Behind { kind: OPEN, number: seat.0 },
                    Door::Kept => Behind { kind: KEPT, number: 0 },
                };
                if old.is_none() {
                    let count = self.signs.make(address);
                    *count = Behind { kind: COUNT, number: count.number + 1 };
                }
            }
            None if old.is_some() => {
                self.clear(sign);
                let last = self.signs.find_mut(address).is_none_or(|count| {
                    count.number -= 1;
                    count.number == 0
                });
                if last {
                    self.clear(address);
                }
            }
            None => {}
        }
        old
    }

    fn clear(&mut self, sign: Sign) {
        if let Some(held) = self.signs.find_mut(sign) {
            *held = Behind::default();
            self.signs.remove(sign);
        }
    }
}

#[inline]
const fn read(held: &Behind) -> Door {
    if held.kind == OPEN { Door::Open(Seat(held.number)) } else { Door::Kept }
}

/// Services by seat. A seat is its service's as long as that is there or a door leads to it.
#[derive(Clone, Debug)]
pub(super) struct Seats {
    seats: Vec<Taken>,
    free: Vec<u32>,
    numbers: HashMap<ServiceId, u32, Hashing>,
    len: usize,
}

#[derive(Clone, Debug, Default)]
struct Taken {
    service: Option<Arc<Balanced>>,
    id: ServiceId,
    doors: u32,
}

impl Default for Seats {
    fn default() -> Self {
        Self { seats: Vec::new(), free: Vec::new(), numbers: HashMap::with_hasher(hashing()), len: 0 }
    }
}

impl Seats {
    #[inline]
    pub(super) fn get(&self, seat: Seat) -> Option<(ServiceId, &Balanced)> {
        let taken = self.seats.get(seat.0 as usize)?;
        Some((taken.id, taken.service.as_deref()?))
    }

    pub(super) fn of(&self, id: ServiceId) -> Option<&Arc<Balanced>> {
        let number = *self.numbers.get(&id)?;
        self.seats[number as usize].service.as_ref()
    }

    pub(super) fn of_mut(&mut self, id: ServiceId) -> Option<&mut Arc<Balanced>> {
        let number = *self.numbers.get(&id)?;
        self.seats[number as usize].service.as_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ServiceId, &Arc<Balanced>)> {
        self.seats.iter().filter_map(|taken| Some((taken.id, taken.service.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ServiceId, &mut Arc<Balanced>)> {
        self.seats.iter_mut().filter_map(|taken| Some((taken.id, taken.service.as_mut()?)))
    }

    /// A door leads to this service; which may come later.
    pub(super) fn take(&mut self, id: ServiceId) -> Seat {
        let number = self.number(id);
        self.seats[number as usize].doors += 1;
        Seat(number)
    }

    pub(super) fn release(&mut self, seat: Seat) {
        self.seats[seat.0 as usize].doors -= 1;
        self.clear(seat.0);
    }

    pub(super) fn set(&mut self, id: ServiceId, service: Option<Arc<Balanced>>) {
        let number = self.number(id);
        let before = core::mem::replace(&mut self.seats[number as usize].service, service);
        self.len += usize::from(self.seats[number as usize].service.is_some());
        self.len -= usize::from(before.is_some());
        self.clear(number);
    }

    fn number(&mut self, id: ServiceId) -> u32 {
        if let Some(number) = self.numbers.get(&id) {
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Taken::default());
            u32::try_from(self.seats.len() - 1).unwrap_or(0)
        });
        self.seats[number as usize].id = id;
        self.numbers.insert(id, number);
        number
    }

    /// Give the seat to whoever comes next, if nobody needs it.
    fn clear(&mut self, number: u32) {
        let taken = &self.seats[number as usize];
        if taken.service.is_none() && taken.doors == 0 {
            self.numbers.remove(&taken.id);
            self.free.push(number);
        }
    }
}
