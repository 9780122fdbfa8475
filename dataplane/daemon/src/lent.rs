//! Service addresses on a device of the kernel, usually `lo`, where BIRD or FRR find them and tell routers of them.
//!
//! They are lent: each lives for some seconds and is renewed as long as this process is there and somebody stands behind the
//! address. When the process dies, the kernel takes its addresses away, and with them go the routes. Addresses that
//! somebody else has put somewhere for good are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_core::tables::record::Records;
use sluice_core::time::Now;

use crate::announce::exposed;
use crate::mirror::Mirror;

/// Between two looks at what is due, and how many are renewed in one.
const LOOK: u64 = Now::SECOND / 10;
const A_LOOK: usize = 256;
/// Every address is renewed this often; with many, at most so many a second are.
const RENEW: u64 = 2 * Now::SECOND;
const RATE: u64 = 1000;
/// How many renewals may fail before an address is gone.
const LIVES: u64 = 3;

#[derive(Debug)]
pub struct Lent {
    device: Option<String>,
    /// With the time of the next renewal.
    addresses: BTreeMap<IpAddr, Now>,
    looked_at: Now,
    /// What the mirror has read is not true any more: what seemed the kernel's own is lent.
    pub mirror_is_old: bool,
    /// The last thing that went wrong is said once.
    trouble: Option<String>,
}

impl Lent {
    pub const fn new(device: Option<String>) -> Self {
        Self { device, addresses: BTreeMap::new(), looked_at: Now(0), mirror_is_old: false, trouble: None }
    }

    /// What control exposes, and what the kernel has for good, as of now.
    pub fn refresh(&mut self, told: &Records, mirror: &mut Mirror, now: Now) {
        let Some(device) = &self.device else { return };
        let wanted: BTreeSet<IpAddr> = exposed(told).filter(|ip| !mirror.is_fixed_address(*ip)).collect();
        let index = mirror.index_named(device);
        let gone = self.addresses.keys().filter(|ip| !wanted.contains(ip)).copied().collect::<Vec<_>>();
        for ip in gone {
            self.addresses.remove(&ip);
            if let Some(Err(error)) = index.map(|index| mirror.take_back(index, ip)) {
                tracing::warn!("{ip} stays on {device} for some seconds: {error}");
            }
        }
        for ip in &wanted {
            self.addresses.entry(*ip).or_insert(now);
        }
        self.mirror_is_old |= mirror.lent != wanted;
        mirror.lent = wanted;
        self.renew(mirror, now);
    }

    pub fn turn(&mut self, mirror: &Mirror, now: Now) {
        if !self.addresses.is_empty() && now.0.saturating_sub(self.looked_at.0) > LOOK {
            self.renew(mirror, now);
        }
    }

    fn renew(&mut self, mirror: &Mirror, now: Now) {
        self.looked_at = now;
        let Some(device) = &self.device else { return };
        let pause = RENEW.max(self.addresses.len() as u64 * Now::SECOND / RATE);
        let lives = u32::try_from(pause * LIVES / Now::SECOND).unwrap_or(u32::MAX);
        let mut trouble = None;
        let due = self.addresses.iter_mut().filter(|(_, next)| **next <= now).take(A_LOOK);
        for (ip, next) in due {
            next.0 = now.0 + pause;
            match mirror.index_named(device).map(|index| mirror.lend(index, *ip, lives)) {
                None => trouble = Some(format!("there is no device {device}")),
                Some(Err(error)) => trouble = Some(format!("{ip} cannot be put on {device}: {error}")),
                Some(Ok(())) => {}
            }
        }
        if let Some(what) = trouble.filter(|what| self.trouble.as_ref() != Some(what)) {
            tracing::error!("addresses of services are not announced: {what}");
            self.trouble = Some(what);
        }
    }

    /// Nobody is here any more: routers hear of it now and not when the time is over.
    pub fn withdraw(&mut self, mirror: &Mirror) {
        let index = self.device.as_ref().and_then(|device| mirror.index_named(device));
        for (ip, _) in std::mem::take(&mut self.addresses) {
            if let Some(index) = index {
                drop(mirror.take_back(index, ip));
            }
        }
    }

    /// In the form of what is announced on links.
    pub fn show(&self) -> impl Iterator<Item = Value> {
        let device = self.device.as_deref();
        let each = self.addresses.keys();
        each.map(move |ip| json!({"device": device, "address": ip, "standing": "held", "holder": null}))
    }
}
