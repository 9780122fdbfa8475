//! What is done with a hostile frame: read it, and if it can be read, everything that the path does with what was read.

use std::net::IpAddr;

use sluice_core::checksum;
use sluice_core::emit::{Error, echo_reply, icmp_error, tcp_reset};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::{Packet, PortId};
use sluice_core::parse::{Headers, Kind, parse, quoted};
use sluice_core::rewrite;

use super::sound;

/// What the buffers of a worker leave before and behind a frame.
const HEADROOM: usize = 64;
const TAILROOM: usize = 1400;

pub fn swallow(frame: &[u8]) {
    life(frame);
    if let Some(mended) = with_checksum(frame) {
        life(&mended);
    }
}

/// Nobody guesses a checksum: the same frame with that of its IPv4 header made right.
fn with_checksum(frame: &[u8]) -> Option<Vec<u8>> {
    let l3 = [14, 18].into_iter().find(|at| frame.get(at - 2..*at) == Some(&[8, 0]))?;
    let header = frame.get(l3..l3 + usize::from(frame.get(l3)? & 15) * 4).filter(|ip| ip.len() >= 20)?;
    let mut header = header.to_vec();
    header[10..12].fill(0);
    let sum = checksum::of(&header);
    let mut frame = frame.to_vec();
    frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    Some(frame)
}

fn life(frame: &[u8]) {
    let Some(headers) = read(frame) else { return };
    translations(frame, &headers);
    errors(frame, &headers);
    for error in [Error::TimeExceeded, Error::TooBig(1280), Error::NoRoute, Error::PortUnreachable] {
        answers(frame, |packet| icmp_error(packet, &headers, error, gateway(headers.key.v4)));
    }
    answers(frame, |packet| tcp_reset(packet, &headers));
    if sound::transport_is_sound(frame, &headers) == Some(true) {
        answers(frame, |packet| echo_reply(packet, &headers));
    }
}

fn gateway(v4: bool) -> IpAddr {
    if v4 { IpAddr::from([192, 0, 2, 1]) } else { "2001:db8:1::1".parse().expect("an address") }
}

/// Read the frame; what comes out lies inside of it.
fn read(frame: &[u8]) -> Option<Headers> {
    in_room(frame, |packet| {
        let headers = parse(packet).ok()?;
        assert!(headers.l3 >= 14 && headers.l4 >= headers.l3 + 20, "{headers:?}");
        assert!(headers.end >= headers.l4 && usize::from(headers.end) <= frame.len(), "{headers:?}");
        assert_eq!(headers.key.reverse().reverse(), headers.key);
        assert!(sound::header_is_sound(frame, &headers), "{headers:?}");
        Some(headers)
    })
}

fn in_room<T>(frame: &[u8], then: impl FnOnce(&mut Packet<'_>) -> T) -> T {
    let mut room = vec![0xa5; HEADROOM + frame.len() + TAILROOM];
    room[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    let mut packet = Packet::new(&mut room, HEADROOM, frame.len(), PortId(0)).expect("lies in the room");
    then(&mut packet)
}

/// Other addresses and ports, for a key of either family.
fn elsewhere(key: &FlowKey) -> FlowKey {
    let (src, dst) = if key.v4 {
        ("::ffff:198.51.100.77", "::ffff:10.244.3.4")
    } else {
        ("2001:db8:77::1", "2001:db8:99:aaaa::4")
    };
    let ip = |text: &str| text.parse().expect("an address");
    let port = |port: u16| if matches!(key.proto, 6 | 17 | 132) { port ^ 0x5aa5 } else { port };
    FlowKey { src: ip(src), dst: ip(dst), sport: port(key.sport), dport: port(key.dport), ..*key }
}

/// Translated there and back the frame is what it was, and checksums that were right stay right on the way.
fn translations(frame: &[u8], headers: &Headers) {
    if headers.key.proto == 132 && headers.kind == Kind::Ports {
        return sctp(frame, headers);
    }
    let to = elsewhere(&headers.key);
    let (ip, l4) = rewrite::deltas(&headers.key, &to);
    let before = sound::transport_is_sound(frame, headers);
    in_room(frame, |packet| {
        rewrite::translate(packet.bytes_mut(), headers, &to, ip, l4);
        let there = sound::headers(packet.bytes()).expect("still readable");
        if headers.kind != Kind::LaterFragment {
            assert_eq!(there.key, to);
        }
        assert!(sound::header_is_sound(packet.bytes(), &there));
        if before == Some(true) {
            assert_eq!(sound::transport_is_sound(packet.bytes(), &there), before);
        }
        rewrite::translate(packet.bytes_mut(), &there, &headers.key, ip.reverse(), l4.reverse());
        let back = sound::headers(packet.bytes()).expect("still readable");
        assert_eq!(back.key, headers.key);
        assert!(sound::header_is_sound(packet.bytes(), &back));
        assert_eq!(without_sums(packet.bytes(), &back), without_sums(frame, headers));
        if before == Some(true) {
            assert_eq!(sound::transport_is_sound(packet.bytes(), &back), before);
        }
        if back.ttl > 0 {
            rewrite::hop(packet.bytes_mut(), &back);
            let fewer = sound::headers(packet.bytes()).expect("still readable");
            assert!(sound::header_is_sound(packet.bytes(), &fewer) && fewer.ttl == back.ttl - 1);
        }
        tags(packet, headers);
    });
}

/// The frame but for its checksums: one's complement has two zeros, and one may come back as the other.
fn without_sums(bytes: &[u8], headers: &Headers) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if headers.key.v4 {
        bytes[usize::from(headers.l3) + 10..][..2].fill(0);
    }
    let at = match headers.key.proto {
        1 | 58 => 2,
        17 => 6,
        _ => 16,
    };
    if headers.kind != Kind::LaterFragment && matches!(headers.key.proto, 1 | 6 | 17 | 58) {
        bytes[usize::from(headers.l4) + at..][..2].fill(0);
    }
    bytes
}

/// SCTP carries a CRC, computed anew: it is right afterwards, whatever it was.
fn sctp(frame: &[u8], headers: &Headers) {
    let to = elsewhere(&headers.key);
    let (ip, l4) = rewrite::deltas(&headers.key, &to);
    in_room(frame, |packet| {
        rewrite::translate(packet.bytes_mut(), headers, &to, ip, l4);
        assert_eq!(sound::headers(packet.bytes()).expect("still readable").key, to);
    });
}

/// A tag put on and taken off changes nothing but the link header.
fn tags(packet: &mut Packet<'_>, headers: &Headers) {
    let inner = packet.bytes()[usize::from(headers.l3)..].to_vec();
    for vlan in [100, 0] {
        let Some(now) = sound::headers(packet.bytes()) else { panic!("still readable") };
        assert!(rewrite::link(packet, now.l3, [2; 6], [4; 6], vlan));
        let after = sound::headers(packet.bytes()).expect("still readable");
        assert_eq!((after.vlan, after.key), (vlan, now.key));
        assert_eq!(packet.bytes()[usize::from(after.l3)..], inner);
    }
}

/// An ICMP error is translated with what it quotes, or refused.
fn errors(frame: &[u8], headers: &Headers) {
    if headers.kind != Kind::IcmpError {
        return;
    }
    in_room(frame, |packet| {
        let Some(quote) = quoted(packet, headers) else { return };
        assert!(quote.l3 >= headers.l4 + 8 && quote.l4 < headers.end);
        let (inner, outer) = (elsewhere(&quote.key), elsewhere(&headers.key));
        if rewrite::translate_error(packet.bytes_mut(), headers, &quote, &outer, &inner) {
            let after = sound::headers(packet.bytes()).expect("still readable");
            assert_eq!(after.key.dst, outer.dst);
            assert_ne!(sound::transport_is_sound(packet.bytes(), &after), Some(false));
            let again = quoted(packet, &after).expect("still quotes");
            assert_eq!((again.key.src, again.key.dst), (inner.src, inner.dst));
        }
    });
}

/// An answer of ours is sound and goes back to who asked.
fn answers(frame: &[u8], make: impl FnOnce(&mut Packet<'_>) -> bool) {
    let asked = sound::headers(frame).expect("was read before");
    in_room(frame, |packet| {
        if !make(packet) {
            return;
        }
        let answer = sound::headers(packet.bytes()).expect("a readable answer");
        assert_eq!((answer.key.dst, answer.vlan), (asked.key.src, asked.vlan));
        assert!(sound::header_is_sound(packet.bytes(), &answer));
        assert_eq!(sound::transport_is_sound(packet.bytes(), &answer), Some(true));
    });
}
