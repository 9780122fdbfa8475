//! IPv6: a hash table for each of six anchor lengths. All but the first (hosts) ask for no more than half an address, so that
//! a line holds five keys. A lookup begins in the middle: a site (/48) says whether there is anything longer in it, so that
//! most addresses ask for one or two keys.
//!
//! Most prefixes are as long as an anchor (/128 hosts, /64 links, /48 sites, /32 providers): their word in the table is what
//! they have. What is longer than an anchor and shorter than the next one is behind the anchor's key: where there are few,
//! in one line ([`few`]), where there are many, in a trie ([`trie`]).

mod few;
mod trie;

use core::array;
use core::hint::select_unpredictable;

use hashbrown::HashMap;

use self::few::Few;
use self::trie::{Blocks, Trie};
use super::Hashing;
use crate::intrinsics::Seed;
use crate::lines::Lines;

/// Longest first; the last one holds everything. Hosts (/128) are apart: only their keys need all of an address.
const ANCHORS: [u8; 5] = [64, 48, 32, 16, 0];
const HOST: u8 = 128;

/// Places among the anchors of the one whose keys say whether anything longer is there, and of the next two.
const LINKS: usize = 0;
const SITES: usize = 1;
const PROVIDERS: usize = 2;

/// What is held for a key: [`LONGER`] or not, and one of: nothing; what the prefix of the anchor's length has, plus one; the
/// place of several prefixes, with [`FEW`] or [`MANY`].
type Held = u32;

/// There is a longer key below this site.
const LONGER: Held = 1 << 31;
/// All that is behind the key is in a line of its own, …
const FEW: Held = 1 << 30;
/// … or in a trie.
const MANY: Held = 1 << 29;

const _: () = assert!(super::MAX_VALUE + 1 < MANY);

#[derive(Clone, Debug)]
pub(super) struct V6 {
    hosts: Lines<Halves, 3>,
    networks: [Class; ANCHORS.len()],
    /// How many keys of hosts and of /64s each site has: those with any say so in what is held for them.
    below: HashMap<u64, u32, Hashing>,
}

impl V6 {
    pub(super) fn keyed(seed: Seed) -> Self {
        Self {
            hosts: Lines::with_room(0, seed),
            networks: array::from_fn(|_| Class::keyed(seed)),
            below: HashMap::with_hasher(seed.hashing()),
        }
    }
}

/// An address's key at an anchor, and what lies behind it as far as the next one, from the top.
#[inline(always)]
const fn key(high: u64, anchor: u8) -> u64 {
    if anchor == 0 { 0 } else { high >> (64 - anchor) }
}

#[inline(always)]
const fn behind([high, low]: Halves, anchor: u8) -> u64 {
    if anchor == 64 { low } else { high << anchor }
}

impl V6 {
    #[inline(always)]
    pub(super) fn lookup(&self, ip: u128) -> Option<u32> {
        let [high, low] = halves(ip);
        self.held_for(high, low).checked_sub(1)
    }

    /// Its value plus one; 0: none. Hosts and what lies behind sites, which is what a cluster has, need so little that no
    /// register is to be kept safe for it; all else is behind a call. (Halves are handed over in registers: written as
    /// halves and read as a whole, they would stall.)
    #[inline(never)]
    fn held_for(&self, high: u64, low: u64) -> u32 {
        let sites = &self.networks[SITES];
        let Some(site) = sites.keys.find_at_once(key(high, ANCHORS[SITES])) else {
            return self.slowly(high, low);
        };
        if site & LONGER != 0 {
            match self.hosts.find_at_once([high, low]) {
                Some(0) => {}
                Some(host) => return host,
                None => return self.slowly(high, low),
            }
        } else if site & (FEW | MANY) != 0 {
            let held = sites.under(site, behind([high, low], ANCHORS[SITES]));
            if held != 0 {
                return held;
            }
        }
        self.no_host(high, low, site)
    }

    /// The same for keys that went past their line.
    #[cold]
    #[inline(never)]
    fn slowly(&self, high: u64, low: u64) -> u32 {
        let site = self.networks[SITES].find([high, low], SITES);
        let host = if site & LONGER != 0 { self.hosts.find([high, low]) } else { 0 };
        if host != 0 { host } else { self.no_host(high, low, site) }
    }

    /// The same for an address that is no host, with what is held for its site.
    #[inline(never)]
    fn no_host(&self, high: u64, low: u64, site: Held) -> u32 {
        let ip = [high, low];
        let [links, sites, providers] = [LINKS, SITES, PROVIDERS].map(|n| &self.networks[n]);
        if site & (LONGER | FEW | MANY) != 0 {
            let link = if site & LONGER != 0 { links.find(ip, LINKS) } else { 0 };
            let mut held = links.under(link, behind(ip, ANCHORS[LINKS]));
            if held == 0 {
                held = sites.under(site & !LONGER, behind(ip, ANCHORS[SITES]));
            }
            if held != 0 {
                return held;
            }
        }
        let provider = providers.find(ip, PROVIDERS);
        // (Of a site with more than a value of its own, all was asked.)
        let site = select_unpredictable(site & (LONGER | FEW | MANY) == 0, site, 0);
        if provider & (FEW | MANY) == 0 {
            let held = select_unpredictable(site != 0, site, provider);
            return if held != 0 { held } else { self.shorter(ip) };
        }
        if site != 0 {
            return site;
        }
        let held = providers.under(provider, behind(ip, ANCHORS[PROVIDERS]));
        if held != 0 { held } else { self.shorter(ip) }
    }

    /// What is shorter than a provider.
    #[inline(always)]
    fn shorter(&self, ip: Halves) -> u32 {
        let held = |n: usize| self.networks[n].under(self.networks[n].find(ip, n), behind(ip, ANCHORS[n]));
        (PROVIDERS + 1..ANCHORS.len()).map(held).find(|held| *held != 0).unwrap_or(0)
    }

    /// (Not part of its callers: IPv4 would pay for it with registers.)
    #[inline(never)]
    pub(super) fn prefetch(&self, ip: u128) {
        let ip = halves(ip);
        self.hosts.prefetch(ip);
        for n in [LINKS, SITES, PROVIDERS] {
            self.networks[n].keys.prefetch(key(ip[0], ANCHORS[n]));
        }
    }

    pub(super) fn get(&self, ip: u128, len: u8) -> Option<u32> {
        let ip = halves(ip);
        if len == HOST {
            return self.hosts.find(ip).checked_sub(1);
        }
        let (n, anchor) = class_of(len);
        self.networks[n].get(key(ip[0], anchor), behind(ip, anchor), len - anchor).checked_sub(1)
    }

    pub(super) fn insert(&mut self, ip: u128, len: u8, value: u32) -> Option<u32> {
        let (ip, before) = (halves(ip), self.keys_below());
        let old = if len == HOST {
            let old = self.hosts.find(ip);
            self.hosts.set(ip, value + 1);
            old
        } else {
            let (n, anchor) = class_of(len);
            self.networks[n].insert(key(ip[0], anchor), behind(ip, anchor), len - anchor, value + 1)
        };
        self.tell_site(ip, before);
        old.checked_sub(1)
    }

    pub(super) fn remove(&mut self, ip: u128, len: u8) -> Option<u32> {
        let (ip, before) = (halves(ip), self.keys_below());
        let old = if len == HOST {
            let old = self.hosts.find(ip);
            self.hosts.set(ip, 0);
            old
        } else {
            let (n, anchor) = class_of(len);
            self.networks[n].remove(key(ip[0], anchor), behind(ip, anchor), len - anchor)
        };
        self.tell_site(ip, before);
        old.checked_sub(1)
    }

    const fn keys_below(&self) -> usize {
        self.hosts.len() + self.networks[LINKS].keys.len()
    }

    /// A key below this address's site may have come or gone.
    fn tell_site(&mut self, ip: Halves, before: usize) {
        let (now, key) = (self.keys_below(), key(ip[0], ANCHORS[SITES]));
        let sites = &mut self.networks[SITES].keys;
        if now > before {
            *self.below.entry(key).or_insert(0) += 1;
            sites.set(key, sites.find(key) | LONGER);
        } else if now < before
            && let Some(count) = self.below.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.below.remove(&key);
                sites.set(key, sites.find(key) & !LONGER);
            }
        }
    }
}

fn class_of(len: u8) -> (usize, u8) {
    let n = ANCHORS.iter().position(|anchor| *anchor <= len).unwrap_or(ANCHORS.len() - 1);
    (n, ANCHORS[n])
}

/// The prefixes from one anchor up to the next.
#[derive(Clone, Debug)]
struct Class {
    keys: Lines<u64, 5>,
    few: Blocks<Few>,
    trie: Trie,
}

/// In these, `rest` is what follows the anchor, and `len` how much longer than the anchor the prefix is. Values are one more
/// than they are outside.
impl Class {
    fn keyed(seed: Seed) -> Self {
        Self { keys: Lines::with_room(0, seed), few: Blocks::default(), trie: Trie::default() }
    }

    /// What is held for the anchor that is this address's in the class with this number.
    #[inline(always)]
    fn find(&self, ip: Halves, n: usize) -> Held {
        self.keys.find(key(ip[0], ANCHORS[n]))
    }

    /// What an address that goes on like this has by what is held for its anchor; 0: nothing.
    #[inline(always)]
    fn under(&self, held: Held, rest: u64) -> u32 {
        if held & FEW != 0 {
            return self.few.items[place(held)].lookup(top(rest));
        }
        if held & MANY != 0 { self.trie.lookup(held & !MANY, rest) } else { held }
    }

    fn get(&self, key: u64, rest: u64, len: u8) -> u32 {
        let held = self.keys.find(key) & !LONGER;
        if held & FEW != 0 {
            return self.few.items[place(held)].get(top(rest), len);
        }
        if held & MANY != 0 {
            return self.trie.get(held & !MANY, rest, len);
        }
        if len == 0 { held } else { 0 }
    }

    fn insert(&mut self, key: u64, rest: u64, len: u8, value: u32) -> u32 {
        let held = self.keys.find(key);
        let (longer, mut held) = (held & LONGER, held & !LONGER);
        if held & MANY != 0 {
            return self.trie.insert(held & !MANY, rest, len, value);
        }
        if held & FEW == 0 {
            if len == 0 {
                self.keys.set(key, longer | value);
                return held;
            }
            // The first that is longer than the anchor; what the anchor itself has goes with it.
            let at = self.few.allocate(1);
            if held != 0 {
                self.few.items[at as usize].insert(0, 0, held);
            }
            held = FEW | at;
            self.keys.set(key, longer | held);
        }
        let few = &mut self.few.items[place(held)];
        if let Some(old) = few.insert(top(rest), len, value) {
            return old;
        }
        let root = self.trie.nodes.allocate(1);
        for (bits, len, value) in few.iter() {
            self.trie.insert(root, u64::from(bits) << 48, len, value);
        }
        self.few.release(held & !FEW, 1);
        self.keys.set(key, longer | MANY | root);
        self.trie.insert(root, rest, len, value)
    }

    fn remove(&mut self, key: u64, rest: u64, len: u8) -> u32 {
        let held = self.keys.find(key);
        let (longer, held) = (held & LONGER, held & !LONGER);
        if held & (FEW | MANY) == 0 {
            if len > 0 {
                return 0;
            }
            self.keys.set(key, longer);
            return held;
        }
        // Where nothing is longer than the anchor any more, what it has itself takes the place of all.
        let (old, own) = if held & FEW != 0 {
            let few = &mut self.few.items[place(held)];
            (few.remove(top(rest), len), few.own())
        } else {
            (self.trie.remove(held & !MANY, rest, len), self.trie.own(held & !MANY))
        };
        if let Some(own) = own {
            if held & FEW != 0 {
                self.few.release(held & !FEW, 1);
            } else {
                self.trie.remove(held & !MANY, 0, 0);
                self.trie.nodes.release(held & !MANY, 1);
            }
            self.keys.set(key, longer | own);
        }
        old
    }
}

const fn place(held: Held) -> usize {
    (held & !(FEW | MANY)) as usize
}

/// The first sixteen bits.
#[inline(always)]
const fn top(rest: u64) -> u16 {
    (rest >> 48) as u16
}

/// An address's upper and lower half.
type Halves = [u64; 2];

#[expect(clippy::cast_possible_truncation, reason = "splits 128 bits into halves")]
const fn halves(ip: u128) -> Halves {
    [(ip >> 64) as u64, ip as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn what_is_removed_leaves_its_room_to_others() {
        let mut table = V6::keyed(Seed::default());
        let prefixes: Vec<(u128, u8)> = (0..2000_u32)
            .map(|n| {
                let len = u8::try_from(n % 129).unwrap();
                let host = u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                (u128::from(n.wrapping_mul(0x9e37_79b1)).rotate_left(96 - n % 90) & !host, len)
            })
            .collect();
        let mut sizes = Vec::new();
        for _ in 0..3 {
            for (ip, len) in &prefixes {
                table.insert(*ip, *len, 7);
            }
            for (ip, len) in &prefixes {
                table.remove(*ip, *len);
            }
            let room = |class: &Class| {
                assert!(class.keys.is_empty());
                let few = class.few.items.len();
                [class.keys.room(), few, class.trie.nodes.items.len(), class.trie.values.items.len()]
            };
            assert!(table.hosts.is_empty() && table.below.is_empty());
            let hosts = [table.hosts.room(), 0, 0, 0];
            sizes.push(table.networks.iter().map(room).chain([hosts]).collect::<Vec<_>>());
        }
        assert_eq!(sizes[1], sizes[0]);
        assert_eq!(sizes[2], sizes[0]);
        let needed = |kind: usize| sizes[0].iter().any(|room| room[kind] > 20);
        assert!(needed(1) && needed(2), "lines and tries were needed: {sizes:?}");
    }
}
