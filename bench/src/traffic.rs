//! Frames of many flows, made by patching a template where they lie, so that the harness costs little.

use std::net::IpAddr;

use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::{BURST, Packet, PortId};
use sluice_core::parse::{ACK, SYN};

use crate::args::{PathArgs, Scenario, Skew};
use crate::random::Random;
use crate::world;

/// A buffer as a UMEM has it, and where in it a frame begins.
const BUFFER: usize = 2048;
const HEADROOM: usize = 256;
const BUFFERS: usize = 2048;
/// Clients that differ by address; further flows differ by port.
const ADDRESSES: u32 = 1 << 18;

/// What the frames say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    /// Opens a connection.
    Open,
    /// In the middle of one.
    Go,
}

/// Buffers, and the frames to write into them.
#[derive(Debug)]
pub(crate) struct Traffic {
    arena: Vec<u8>,
    open: Vec<u8>,
    go: Vec<u8>,
    ipv6: bool,
    /// Offsets in the frame.
    l3: usize,
    l4: usize,
    /// Where flows go, by `flow % targets`.
    targets: Vec<(IpAddr, u16)>,
    order: Vec<u32>,
    at: usize,
}

/// The frames of flow n, in the original direction.
pub(crate) fn key(args: &PathArgs, n: u32) -> FlowKey {
    let (dst, dport) = world::target(args, n);
    FlowKey {
        src: mapped(world::client(args.ipv6, n % ADDRESSES)),
        dst: mapped(dst),
        sport: sport(n),
        dport,
        proto: if args.udp { 17 } else { 6 },
        v4: !args.ipv6,
    }
}

const fn sport(n: u32) -> u16 {
    1024 + (n / ADDRESSES) as u16
}

pub(crate) fn frame(key: FlowKey, flags: u8, vlan: Option<u16>) -> Vec<u8> {
    let payload = if key.proto == 17 { vec![0x5a; 12] } else { Vec::new() };
    let mut bytes = Frame { flags, vlan, payload, ..Frame::new(key) }.build();
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

impl Traffic {
    pub(crate) fn new(args: &PathArgs, seed: u64) -> Self {
        let vlan = args.vlan.then_some(world::CLIENT_VLAN);
        let l3 = if args.vlan { 18 } else { 14 };
        let arena = vec![0; BUFFERS * BUFFER];
        let targets = args.services * world::BACKENDS;
        Self {
            arena,
            open: frame(key(args, 0), SYN, vlan),
            go: frame(key(args, 0), ACK, vlan),
            ipv6: args.ipv6,
            l3,
            l4: l3 + if args.ipv6 { 40 } else { 20 },
            targets: (0..targets).map(|n| world::target(args, n)).collect(),
            order: order(args, &mut Random::new(seed)),
            at: 0,
        }
    }

    /// Begin again with the first flow.
    pub(crate) fn rewind(&mut self) {
        self.at = 0;
    }

    /// The next flows in random order.
    pub(crate) fn some(&mut self, count: usize, flows: &mut Vec<u32>) {
        flows.clear();
        for _ in 0..count {
            flows.push(self.order[self.at]);
            self.at = if self.at + 1 == self.order.len() { 0 } else { self.at + 1 };
        }
    }

    /// Write a frame of each flow into the buffers from `slot` on, and show them as packets.
    #[inline(always)]
    pub(crate) fn show<'a>(
        &'a mut self,
        slot: u64,
        say: Say,
        flows: &[u32],
    ) -> arrayvec::ArrayVec<Packet<'a>, BURST> {
        let template = if say == Say::Open { &self.open } else { &self.go };
        let (l3, l4, ipv6, targets) = (self.l3, self.l4, self.ipv6, &self.targets);
        let first = turn(slot) * BURST * BUFFER;
        let rooms = self.arena[first..].chunks_exact_mut(BUFFER);
        rooms
            .zip(flows)
            .filter_map(|(room, flow)| {
                let bytes = &mut room[HEADROOM..HEADROOM + template.len()];
                bytes.copy_from_slice(template);
                let target = &targets[*flow as usize % targets.len()];
                if ipv6 {
                    patch_v6(bytes, l3, *flow, target)
                } else {
                    patch_v4(bytes, l3, *flow, target)
                }
                bytes[l4..l4 + 2].copy_from_slice(&sport(*flow).to_be_bytes());
                let len = template.len();
                Packet::new(room, HEADROOM, len, world::CLIENTS)
            })
            .collect()
    }

    /// Any frames, written into the buffers as they are.
    pub(crate) fn show_frames<'a>(
        &'a mut self,
        frames: &[Vec<u8>],
        port: PortId,
    ) -> arrayvec::ArrayVec<Packet<'a>, BURST> {
        let rooms = self.arena.chunks_exact_mut(BUFFER);
        rooms
            .zip(frames)
            .filter_map(|(room, frame)| {
                room[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
                Packet::new(room, HEADROOM, frame.len(), port)
            })
            .collect()
    }
}

/// Bursts go round the buffers, as they do in a UMEM.
#[expect(clippy::cast_possible_truncation, reason = "below the number of bursts that fit")]
const fn turn(slot: u64) -> usize {
    (slot % (BUFFERS / BURST) as u64) as usize
}

#[inline(always)]
fn patch_v4(bytes: &mut [u8], l3: usize, flow: u32, target: &(IpAddr, u16)) {
    let src = 0x0a00_0000 | (flow % ADDRESSES);
    let IpAddr::V4(dst) = target.0 else { return };
    let ip = &mut bytes[l3..l3 + 20];
    ip[12..16].copy_from_slice(&src.to_be_bytes());
    ip[16..20].copy_from_slice(&dst.octets());
    ip[10..12].fill(0);
    let words = ip.chunks_exact(4);
    let sum: u64 = words.map(|w| u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]))).sum();
    let sum = !sluice_core::checksum::fold64(sum);
    ip[10..12].copy_from_slice(&sum.to_ne_bytes());
}

#[inline(always)]
fn patch_v6(bytes: &mut [u8], l3: usize, flow: u32, target: &(IpAddr, u16)) {
    let IpAddr::V6(dst) = target.0 else { return };
    let [_, b, c, d] = (flow % ADDRESSES).to_be_bytes();
    // 2001:db8:a:B:0:0:CD:1 of `world::client`; the rest is in the template.
    let src = &mut bytes[l3 + 8..l3 + 24];
    src[7] = b;
    src[12..14].copy_from_slice(&[c, d]);
    bytes[l3 + 24..l3 + 40].copy_from_slice(&dst.octets());
}

/// Flows in the order in which packets of them come.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank below the number of flows, and not negative"
)]
fn order(args: &PathArgs, random: &mut Random) -> Vec<u32> {
    let count = 1 << 21;
    if args.scenario == Scenario::New {
        // Every flow once.
        let mut all: Vec<u32> = (0..args.flows).collect();
        for n in (1..args.flows).rev() {
            all.swap(n as usize, random.below(n + 1) as usize);
        }
        return all;
    }
    match args.skew {
        Skew::Uniform => (0..count).map(|_| random.below(args.flows)).collect(),
        // The inverse of the harmonic distribution: rank = flows ^ u.
        Skew::Zipf => {
            let flows = f64::from(args.flows);
            (0..count).map(|_| (flows.powf(random.unit()) as u32).min(args.flows) - 1).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;
    use sluice_core::parse::parse;

    fn args(line: &str) -> PathArgs {
        let words = ["sluice-bench", "path"].into_iter().chain(line.split_whitespace());
        let Command::Path(args) = Args::parse_from(words).command else { panic!("not a path") };
        args
    }

    #[test]
    fn patched_frames_are_the_frames_of_their_flows() {
        for line in ["", "--ipv6", "--vlan --udp", "--ipv6 --vlan --services 300", "--scenario forward"] {
            let args = args(&format!("{line} --flows 16000000"));
            let mut traffic = Traffic::new(&args, 1);
            let mut flows = Vec::new();
            traffic.some(64, &mut flows);
            let packets = traffic.show(7, Say::Go, &flows);
            assert_eq!(packets.len(), 64);
            for (packet, flow) in packets.iter().zip(&flows) {
                assert_eq!(parse(packet).unwrap().key, key(&args, *flow), "{line}");
            }
        }
    }
}
