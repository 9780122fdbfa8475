//! What traffic is wanted, and the words in which the generator is told.

use std::net::IpAddr;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;

use super::programs::layout;

/// Bytes behind a frame on the wire that nobody sees (the check sequence), counted in sizes as RFC 2544 does.
pub(crate) const CHECK_SEQUENCE: u16 = 4;
/// Seven small, four middling, one large, in an order that spreads them.
const IMIX: [u16; 12] = [64, 594, 64, 64, 1518, 64, 594, 64, 594, 64, 594, 64];

/// Traffic as a person would say it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub interface: String,
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    /// The first source and target; further ones count up from there.
    pub source: IpAddr,
    pub target: IpAddr,
    pub addresses: u32,
    pub targets: u32,
    /// From one target to the next.
    pub apart: u32,
    pub sport: u16,
    pub dport: u16,
    /// Flows that come round; 0: each packet opens a new one.
    pub flows: u32,
    /// Number of the first flow.
    pub first: u64,
    /// Packets a second; 0: as fast as it goes.
    pub rate: f64,
    pub seconds: f64,
    /// At most so many packets; 0: no limit.
    pub packets: u64,
    /// Frame sizes in turn, check sequence included.
    pub sizes: Vec<u16>,
    /// The core that makes the packets.
    pub core: Option<usize>,
}

impl Order {
    /// Bytes handed to the test runner: room for the largest frame.
    pub(crate) fn longest(&self) -> u16 {
        self.sizes.iter().copied().max().unwrap_or(64) - CHECK_SEQUENCE
    }

    /// The smallest size that has room for headers and mark.
    fn least_size(&self) -> u16 {
        if self.source.is_ipv4() { 64 } else { 78 }
    }

    /// The same with frames of other sizes: numbers of bytes, and imix. The usual ones begin below what IPv6 needs; those become
    /// what it needs.
    pub(crate) fn of_sizes(&self, names: &[String]) -> anyhow::Result<Self> {
        let mut sizes = Vec::new();
        for name in names {
            match name.as_str() {
                "imix" => sizes.extend(IMIX),
                number => sizes.push(
                    number
                        .parse()
                        .with_context(|| format!("a size is a number of bytes, or imix, not {number}"))?,
                ),
            }
        }
        let least = self.least_size();
        sizes.iter_mut().for_each(|size: &mut u16| *size = (*size).max(least));
        Ok(Self { sizes, ..self.clone() })
    }

    pub(crate) fn words(&self, interface: u32) -> anyhow::Result<[u64; layout::ORDER_WORDS]> {
        ensure!(self.source.is_ipv4() == self.target.is_ipv4(), "source and target are of two families");
        ensure!((1..=layout::SIZES).contains(&self.sizes.len()), "between 1 and {} sizes", layout::SIZES);
        let fits = |size: &u16| (self.least_size()..=3400).contains(size);
        ensure!(self.sizes.iter().all(fits), "sizes lie between {} and 3400", self.least_size());
        ensure!(self.addresses > 0 && self.targets > 0, "there must be a source and a target");
        let mut words = [0; layout::ORDER_WORDS];
        words[layout::OUT] = interface.into();
        words[layout::FLOWS] = self.flows.into();
        words[layout::FIRST] = self.first;
        words[layout::ADDRESSES] = self.addresses.into();
        words[layout::TARGETS] = self.targets.into();
        words[layout::APART] = self.apart.into();
        words[layout::INTERVAL] = if self.rate > 0.0 { whole(1e9 / self.rate * 65536.0).max(1) } else { 0 };
        words[layout::LASTS] = whole(self.seconds * 1e9);
        words[layout::BUDGET] = if self.packets == 0 { u64::MAX } else { self.packets };
        words[layout::SOURCE] = last_word(self.source).into();
        words[layout::TARGET] = last_word(self.target).into();
        words[layout::PORT] = self.sport.into();
        words[layout::FAMILY] = if self.source.is_ipv4() { 4 } else { 6 };
        words[layout::LONGEST] = self.longest().into();
        words[layout::SIZES_USED] = self.sizes.len() as u64;
        for (word, size) in words[layout::FIRST_SIZE..].iter_mut().zip(&self.sizes) {
            *word = (size - CHECK_SEQUENCE).into();
        }
        let header = self.template()?;
        words[layout::SUM] = constant_sum(&header);
        let (eight, _) = header.as_chunks::<8>();
        for (word, bytes) in words[layout::FIRST_HEADER..].iter_mut().zip(eight) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(words)
    }

    /// The headers with nothing in them that differs between packets.
    fn template(&self) -> anyhow::Result<[u8; layout::HEADER]> {
        let (src, dst) = (mapped(self.source), mapped(self.target));
        let key = FlowKey { src, dst, sport: 0, dport: self.dport, proto: 17, v4: self.source.is_ipv4() };
        let mut bytes = Frame { payload: vec![0; 40], ..Frame::new(key) }.build();
        bytes[0..6].copy_from_slice(&self.to_mac);
        bytes[6..12].copy_from_slice(&self.from_mac);
        let mut header = [0; layout::HEADER];
        header.copy_from_slice(bytes.get(..layout::HEADER).context("a frame shorter than its headers")?);
        Ok(header)
    }
}

/// IPv6: addresses but for their last words, protocol and destination port. What varies is added for each packet.
fn constant_sum(header: &[u8; layout::HEADER]) -> u64 {
    let word = |at: usize| u64::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let addresses = (22..54).step_by(2).filter(|at| !matches!(at, 34 | 36 | 50 | 52)).map(word);
    addresses.sum::<u64>() + u64::from(17_u16.to_be()) + word(56)
}

fn last_word(ip: IpAddr) -> u32 {
    let [.., a, b, c, d] = mapped(ip).octets();
    u32::from_be_bytes([a, b, c, d])
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length of time or a rate")]
const fn whole(value: f64) -> u64 {
    value as u64
}
