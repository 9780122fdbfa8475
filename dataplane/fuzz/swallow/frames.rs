//! Frames for scripts: of every kind, in every state of order, in answer to what was sent before, and damaged.

use sluice_core::emit::{Error, Frame, icmp_error, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::{Packet, PortId};

use super::script::Script;
use super::sound;
use super::world::{PORTS, PROTOCOLS, V4, V6, ip};

/// TCP flags as they come, and as they do not.
const FLAGS: [u8; 10] = [2, 18, 16, 17, 24, 4, 20, 1, 0, 3];
const LENGTHS: [usize; 8] = [0, 8, 1, 64, 1332, 1352, 1472, 1600];

/// What went before, to answer to.
#[derive(Clone, Debug, Default)]
pub struct Before {
    pub came: Vec<u8>,
    pub went: Vec<u8>,
}

pub fn frame(script: &mut Script<'_>, before: &Before) -> (PortId, Vec<u8>) {
    let port = PortId(u16::from(script.below(3)));
    let mut bytes = match script.below(8) {
        0 => before.came.clone(),
        1 => answer(script, &before.went).unwrap_or_default(),
        2 => error_about(script, &before.went).unwrap_or_default(),
        3 => script.bytes(120).to_vec(),
        4 => fragment(script),
        5 => extended(script),
        6 if script.one_in(2) => tunnelled(script),
        _ => fresh(script),
    };
    if script.one_in(4) {
        damage(script, &mut bytes);
    }
    (port, bytes)
}

fn fresh(script: &mut Script<'_>) -> Vec<u8> {
    let list = script.pick(&[V4, V6]);
    let (src, dst) = (mapped(ip(script.pick(&list))), mapped(ip(script.pick(&list))));
    let (sport, dport) = (script.pick(&PORTS), script.pick(&PORTS));
    let v4 = list == V4;
    // The other family's ICMP only by damage.
    let proto = match script.pick(&PROTOCOLS) {
        1 | 58 => {
            if v4 {
                1
            } else {
                58
            }
        }
        proto => proto,
    };
    let key = FlowKey { src, dst, sport, dport, proto, v4 };
    let usual = Frame::new(key);
    let frame = Frame {
        vlan: script.pick(&[None, None, None, Some(100), Some(101), Some(0)]),
        flags: script.pick(&FLAGS),
        ttl: script.pick(&[64, 64, 64, 2, 1, 0]),
        sequence: u32::from(script.byte()),
        icmp: if script.one_in(3) { (script.byte(), script.byte()) } else { usual.icmp },
        payload: vec![script.byte(); script.pick(&LENGTHS)],
        ..usual
    };
    frame.build()
}

fn answer(script: &mut Script<'_>, went: &[u8]) -> Option<Vec<u8>> {
    let headers = sound::headers(went)?;
    let reply = match headers.icmp.0 {
        8 => (0, 0),
        128 => (129, 0),
        other => (other, 0),
    };
    let usual = Frame::new(headers.key.reverse());
    Some(Frame { flags: script.pick(&FLAGS), icmp: reply, ..usual }.build())
}

/// What a router, or the receiver, says about what was sent.
fn error_about(script: &mut Script<'_>, went: &[u8]) -> Option<Vec<u8>> {
    let headers = sound::headers(went)?;
    let mut room = went.to_vec();
    room.resize(went.len() + 2048, 0);
    let mut packet = Packet::new(&mut room, 0, went.len(), PortId(0))?;
    let errors = [Error::TooBig(1280), Error::PortUnreachable, Error::TimeExceeded, Error::NoRoute];
    let list = if headers.key.v4 { V4 } else { V6 };
    let router = if script.one_in(2) { headers.key.destination() } else { ip(script.pick(&list)) };
    icmp_error(&mut packet, &headers, script.pick(&errors), router).then(|| packet.bytes().to_vec())
}

/// One piece of a packet.
fn fragment(script: &mut Script<'_>) -> Vec<u8> {
    let whole = fresh(script);
    let Some(headers) = sound::headers(&whole) else { return whole };
    let (l3, l4, end) = (usize::from(headers.l3), usize::from(headers.l4), usize::from(headers.end));
    let part = &whole[l4..end];
    let start = (usize::from(script.below(8)) * 8).min(part.len() / 8 * 8);
    let more = script.one_in(2);
    let stop = if more {
        (start + 8 + usize::from(script.below(6)) * 8).min(part.len() / 8 * 8)
    } else {
        part.len()
    };
    let piece = part.get(start..stop).unwrap_or_default();
    let id = script.below(3);
    let mut frame = whole[..l4].to_vec();
    if headers.key.v4 {
        frame[l3 + 4..l3 + 6].copy_from_slice(&[0, id]);
        let word = (start / 8) as u16 | u16::from(more) << 13;
        frame[l3 + 6..l3 + 8].copy_from_slice(&word.to_be_bytes());
    } else {
        let word = start as u16 | u16::from(more);
        frame.extend([frame[l3 + 6], 0, word.to_be_bytes()[0], word.to_be_bytes()[1], 0, 0, 0, id]);
        frame[l3 + 6] = 44;
    }
    frame.extend(piece);
    mend(&mut frame, l3, headers.key.v4);
    frame
}

/// A frame with IPv4 options or IPv6 extension headers.
fn extended(script: &mut Script<'_>) -> Vec<u8> {
    let whole = fresh(script);
    let Some(headers) = sound::headers(&whole) else { return whole };
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let mut frame = whole[..l4].to_vec();
    if headers.key.v4 {
        let words = script.below(11);
        frame[l3] = 0x45 + words;
        frame.extend(vec![1; usize::from(words) * 4]);
    } else {
        for _ in 0..script.below(10) {
            let next = frame[l3 + 6];
            frame[l3 + 6] = script.pick(&[60, 0, 43, 44, 135]);
            let at = l4;
            let header = [next, 0, script.byte() % 2, 0, 0, 0, 0, 0];
            frame.splice(at..at, header);
        }
    }
    frame.extend(&whole[l4..]);
    mend(&mut frame, l3, headers.key.v4);
    frame
}

/// A packet in a tunnel of plain IP or Geneve, from whoever may send one and from others.
fn tunnelled(script: &mut Script<'_>) -> Vec<u8> {
    let inner = fresh(script);
    let Some(headers) = sound::headers(&inner) else { return inner };
    let list = script.pick(&[V4, V6]);
    let v4 = list == V4;
    let (src, dst) = (mapped(ip(list[4])), mapped(ip(script.pick(&[list[2], list[3], list[9]]))));
    let packet = &inner[usize::from(headers.l3)..usize::from(headers.end)];
    let geneve = script.one_in(2);
    let proto = if geneve {
        17
    } else if headers.key.v4 {
        4
    } else {
        41
    };
    let mut payload = Vec::new();
    if geneve {
        let words = script.below(6);
        let kind = if headers.key.v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        payload.extend([words, script.byte() & 0x40, 0x65, 0x58, 0, 0, 0, 0]);
        // What stands there may mean something: class, type and length of an option, then an address and a port.
        let option = [0x01, 0x4b, 0x81, words.saturating_sub(1), 203, 0, 113, 80, 0, 80, 0, 0];
        let mut options = vec![script.byte(); usize::from(words) * 4];
        options.iter_mut().zip(option).for_each(|(byte, value)| *byte = value);
        payload.extend(options);
        payload.extend([2; 12]);
        payload.extend(kind);
    }
    payload.extend(packet);
    let key = FlowKey { src, dst, sport: 40_000, dport: 6081, proto, v4 };
    Frame { payload, ..Frame::new(key) }.build()
}

/// Length and checksum of the IP header after the frame became another.
fn mend(frame: &mut [u8], l3: usize, v4: bool) {
    let len = frame.len() - l3;
    if v4 {
        let header = usize::from(frame[l3] & 15) * 4;
        frame[l3 + 2..l3 + 4].copy_from_slice(&(len as u16).to_be_bytes());
        frame[l3 + 10..l3 + 12].fill(0);
        let sum = sluice_core::checksum::of(&frame[l3..l3 + header]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[l3 + 4..l3 + 6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    }
}

/// Bytes change, the end is cut or padded.
fn damage(script: &mut Script<'_>, bytes: &mut Vec<u8>) {
    match script.below(3) {
        0 => {
            let at = usize::from(script.byte());
            if let Some(byte) = bytes.get_mut(at) {
                *byte = script.byte();
            }
        }
        1 => bytes.truncate(usize::from(script.byte())),
        _ => bytes.extend(script.bytes(40)),
    }
}
