//! Packets that mean no good, made beforehand and sent in turn: what the path pays for them, and that it lives.

use std::net::IpAddr;

use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::parse::SYN;

use crate::args::{Attack, PathArgs};
use crate::random::Random;
use crate::traffic::{frame, key};
use crate::world;

/// Different packets of an attack; a flood larger than that comes round.
const FRAMES: usize = 1 << 17;

pub(crate) fn frames(args: &PathArgs, attack: Attack) -> Vec<Vec<u8>> {
    let mut random = Random::new(99);
    let vlan = args.vlan.then_some(world::CLIENT_VLAN);
    let one = |n: u32| match attack {
        // Clients that no established flow has.
        Attack::SynFlood => frame(key(args, args.flows.wrapping_add(n)), SYN, vlan),
        Attack::Random => frame(somebody(args, &mut random), SYN, vlan),
        Attack::Fragments => fragment(args, n, vlan),
        Attack::Malformed => lie(frame(key(args, n), SYN, vlan), &mut random, args.vlan),
    };
    (0..u32::try_from(FRAMES).unwrap_or(0)).map(one).collect()
}

fn somebody(args: &PathArgs, random: &mut Random) -> FlowKey {
    let ip = |random: &mut Random| -> IpAddr {
        let bytes = random.next().to_be_bytes();
        let [a, b, c, d, e, f, g, h] = bytes;
        if args.ipv6 {
            IpAddr::from([0x20, 0x01, a, b, c, d, e, f, g, h, a, c, e, g, b, d])
        } else {
            IpAddr::from([1 + a % 222, b, c, d])
        }
    };
    let [a, b, c, d, e, ..] = random.next().to_be_bytes();
    FlowKey {
        src: mapped(ip(random)),
        dst: mapped(ip(random)),
        sport: u16::from_be_bytes([a, b]),
        dport: u16::from_be_bytes([c, d]),
        proto: if e % 2 == 0 { 6 } else { 17 },
        v4: !args.ipv6,
    }
}

/// The first fragment of a datagram whose others never come; every eighth is one in its middle.
fn fragment(args: &PathArgs, n: u32, vlan: Option<u16>) -> Vec<u8> {
    let from = key(&PathArgs { udp: true, ..args.clone() }, args.flows.wrapping_add(n));
    let mut bytes = Frame { vlan, payload: vec![0x5a; 64], ..Frame::new(from) }.build();
    let l3 = if args.vlan { 18 } else { 14 };
    let [id_high, id_low] = [n.to_be_bytes()[2], n.to_be_bytes()[3]];
    let offset: u16 = if n % 8 == 7 { 8 } else { 0x2000 };
    if args.ipv6 {
        // A fragment header between the IPv6 header and UDP.
        let [high, low] = if n % 8 == 7 { [0, 64] } else { [0, 1] };
        let header = [17, 0, high, low, 0, 0, id_high, id_low];
        bytes.splice(l3 + 40..l3 + 40, header);
        bytes[l3 + 6] = 44;
        let length = u16::try_from(bytes.len() - l3 - 40).unwrap_or(0);
        bytes[l3 + 4..l3 + 6].copy_from_slice(&length.to_be_bytes());
        return bytes;
    }
    bytes[l3 + 4..l3 + 6].copy_from_slice(&[id_high, id_low]);
    bytes[l3 + 6..l3 + 8].copy_from_slice(&offset.to_be_bytes());
    bytes[l3 + 10..l3 + 12].fill(0);
    let sum = sluice_core::checksum::of(&bytes[l3..l3 + 20]);
    bytes[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// One of the fields that others believe says something else.
fn lie(mut bytes: Vec<u8>, random: &mut Random, vlan: bool) -> Vec<u8> {
    let l3 = if vlan { 18 } else { 14 };
    let [what, value, ..] = random.next().to_be_bytes();
    match what % 5 {
        0 => bytes[l3] = value,
        1 => bytes[l3 + 2..l3 + 4].fill(value | 0x40),
        2 => bytes[l3 + 10] ^= value | 1,
        3 => bytes.truncate(l3 + usize::from(value % 24)),
        _ => bytes[l3 + 32] = value % 0x50,
    }
    bytes
}
