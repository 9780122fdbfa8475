//! Packets in words, one a line, and words for packets:
//!
//! `0.5 eth0 192.0.2.11:40000 > 203.0.113.80:80 tcp S len=10 ttl=1 vlan=100` is what comes half a second after the start.
//! Behind `|` stands what an ICMP error quotes. Words at the end make packets odd: `fragment=7@0+504` (the piece of 504
//! bytes from 0 of datagram 7), `options=3`, `ext=60,43`, `cut=40` (the frame ends there), `pad=6`, `set=14:4f` (bytes of
//! the frame from 14 on), `ip-len=999` and `udp-len=999` (lies), `nosum` (UDP without a checksum), `badsum`.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sluice_core::checksum;
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::{Packet, PortId};
use sluice_core::parse::{Headers, Kind, parse, quoted};
use sluice_core::rewrite::fill_icmp;
use sluice_run::io::pcap::Captured;

/// The gateway's interfaces; a plain capture knows them by the address that frames are sent to.
const MACS: [(&str, [u8; 6]); 2] = [("eth0", [2, 0, 0, 0, 0, 1]), ("eth1", [2, 0, 0, 0, 0, 2])];
const FLAGS: [(char, u8); 6] = [('F', 1), ('S', 2), ('R', 4), ('P', 8), ('A', 16), ('U', 32)];
const ETHERNET: usize = 14;

pub fn read(text: &str) -> Result<Captured, String> {
    let (head, quote) = text.split_once(" | ").map_or((text, None), |(head, quote)| (head, Some(quote)));
    let mut words = head.split_whitespace();
    let at: f64 = words.next().and_then(|at| at.parse().ok()).ok_or("begins with a time")?;
    let at = Duration::try_from_secs_f64(at).map_err(|wrong| wrong.to_string())?;
    let device = words.next().unwrap_or_default();
    let mac = MACS.iter().find(|(name, _)| *name == device).ok_or("no such interface")?.1;
    let payload = quote.map(|quote| packet(&quote.split_whitespace().collect::<Vec<_>>(), mac, Vec::new()));
    let payload = payload.transpose()?.map(|frame| frame[ETHERNET..].to_vec()).unwrap_or_default();
    let bytes = packet(&words.collect::<Vec<_>>(), mac, payload)?;
    Ok(Captured { at, interface: 0, bytes })
}

fn end(text: &str) -> Result<(IpAddr, u16), String> {
    let socket = text.parse::<SocketAddr>().map(|socket| (socket.ip(), socket.port()));
    socket.or_else(|_| text.parse().map(|ip| (ip, 0))).map_err(|_| format!("{text} is no address"))
}

/// `SRC > DST PROTO WORD…`
fn packet(words: &[&str], to: [u8; 6], payload: Vec<u8>) -> Result<Vec<u8>, String> {
    let [src, ">", dst, proto, rest @ ..] = words else { return Err("is not SRC > DST PROTO".into()) };
    let ((src, sport), (dst, dport)) = (end(src)?, end(dst)?);
    let v4 = dst.is_ipv4();
    let proto = match *proto {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => {
            if v4 {
                1
            } else {
                58
            }
        }
        "sctp" => 132,
        other => other.strip_prefix("proto=").and_then(|n| n.parse().ok()).ok_or("no such protocol")?,
    };
    let key = FlowKey { src: mapped(src), dst: mapped(dst), sport, dport, proto, v4 };
    let mut frame = Frame { to, from: [2, 0, 0, 0, 0, 0xee], payload, flags: 0, ..Frame::new(key) };
    let mut mtu = None;
    let mut odd = Vec::new();
    for word in rest {
        if !plain(word, &mut frame, &mut mtu)? {
            odd.push(*word);
        }
    }
    let mut bytes = frame.build();
    if frame.icmp.0 != 8 && matches!(proto, 1 | 58) {
        error_fields(&mut bytes, &frame, mtu);
    }
    odd.iter().try_for_each(|word| make_odd(word, &mut bytes, v4))?;
    Ok(bytes)
}

/// Words that a whole packet is made of.
fn plain(word: &str, frame: &mut Frame, mtu: &mut Option<u16>) -> Result<bool, String> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let number = || value.parse::<u16>().map_err(|_| format!("{word} has no number"));
    let byte = || number().map(|n| n.to_be_bytes()[1]);
    match name {
        "len" => frame.payload = (0..number()?).map(|n| n.to_be_bytes()[1]).collect(),
        "ttl" => frame.ttl = byte()?,
        "vlan" => frame.vlan = Some(number()?),
        "id" => frame.key.sport = number()?,
        "echo" => frame.icmp = if frame.key.v4 { (8, 0) } else { (128, 0) },
        "pong" => frame.icmp = if frame.key.v4 { (0, 0) } else { (129, 0) },
        "type" => frame.icmp.0 = byte()?,
        "code" => frame.icmp.1 = byte()?,
        "mtu" => *mtu = Some(number()?),
        _ if frame.key.proto == 6 && word.chars().all(|c| FLAGS.iter().any(|(flag, _)| *flag == c)) => {
            let bit = |c: char| FLAGS.iter().find(|(flag, _)| *flag == c).map_or(0, |(_, bit)| *bit);
            frame.flags = word.chars().map(bit).fold(0, |all, bit| all | bit);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Errors have no identifier, and some have an MTU.
fn error_fields(bytes: &mut [u8], frame: &Frame, mtu: Option<u16>) {
    let query = matches!(frame.icmp.0, 0 | 8 | 13 | 14 | 128 | 129);
    let l3 = ETHERNET + if frame.vlan.is_some() { 4 } else { 0 };
    let l4 = l3 + if frame.key.v4 { 20 } else { 40 };
    if !query {
        bytes[l4 + 4..l4 + 8].fill(0);
        if let Some(mtu) = mtu {
            bytes[l4 + 6..l4 + 8].copy_from_slice(&mtu.to_be_bytes());
        }
        let end = bytes.len();
        fill_icmp(bytes, l4, end, &frame.key);
    }
}

fn make_odd(word: &str, bytes: &mut Vec<u8>, v4: bool) -> Result<(), String> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let wrong = || format!("{word} means nothing");
    let number = || value.parse::<usize>().map_err(|_| wrong());
    let l3 = if bytes[12..14] == [0x81, 0] { ETHERNET + 4 } else { ETHERNET };
    let l4 = l3 + if v4 { 20 } else { 40 };
    match name {
        "fragment" => {
            let (id, piece) = value.split_once('@').ok_or_else(wrong)?;
            let (from, len) = piece.split_once('+').ok_or_else(wrong)?;
            let parse = |text: &str| text.parse::<u16>().map_err(|_| wrong());
            fragment(bytes, l3, v4, parse(id)?, (parse(from)?, parse(len)?));
        }
        "options" => {
            let words = number()?;
            bytes[l3] = 0x45 + u8::try_from(words).map_err(|_| wrong())?;
            bytes.splice(l4..l4, vec![1; words * 4]);
            mend(bytes, l3, v4);
        }
        "ext" => {
            for kind in value.split(',').rev() {
                let kind = kind.parse().map_err(|_| wrong())?;
                let header = [std::mem::replace(&mut bytes[l3 + 6], kind), 0, 2, 0, 0, 0, 0, 0];
                bytes.splice(l4..l4, header);
            }
            mend(bytes, l3, v4);
        }
        "cut" => bytes.truncate(number()?),
        "pad" => bytes.extend(vec![0; number()?]),
        "set" => {
            let (at, hex) = value.split_once(':').ok_or_else(wrong)?;
            let at: usize = at.parse().map_err(|_| wrong())?;
            for (n, pair) in hex.as_bytes().chunks(2).enumerate() {
                let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
                bytes[at + n] = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
            }
            sum(bytes, l3, v4);
        }
        "ip-len" => {
            let at = if v4 { l3 + 2 } else { l3 + 4 };
            bytes[at..at + 2].copy_from_slice(&u16::try_from(number()?).map_err(|_| wrong())?.to_be_bytes());
            sum(bytes, l3, v4);
        }
        "udp-len" => {
            bytes[l4 + 4..l4 + 6]
                .copy_from_slice(&u16::try_from(number()?).map_err(|_| wrong())?.to_be_bytes());
        }
        "nosum" => bytes[l4 + 6..l4 + 8].fill(0),
        "badsum" => bytes[l3 + 10] ^= 1,
        _ => return Err(wrong()),
    }
    Ok(())
}

/// The piece `from..from + len` of the packet's payload.
fn fragment(bytes: &mut Vec<u8>, l3: usize, v4: bool, id: u16, (from, len): (u16, u16)) {
    let l4 = l3 + if v4 { 20 } else { 40 };
    let whole = bytes.split_off(l4);
    let (start, stop) = (usize::from(from), usize::from(from + len).min(whole.len()));
    let more = u16::from(stop < whole.len());
    if v4 {
        bytes[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
        bytes[l3 + 6..l3 + 8].copy_from_slice(&((from / 8) | (more << 13)).to_be_bytes());
    } else {
        let next = std::mem::replace(&mut bytes[l3 + 6], 44);
        bytes.extend([next, 0]);
        bytes.extend((from | more).to_be_bytes());
        bytes.extend(u32::from(id).to_be_bytes());
    }
    bytes.extend(&whole[start..stop]);
    mend(bytes, l3, v4);
}

/// Length and checksum of the IP header after the packet became another.
fn mend(bytes: &mut [u8], l3: usize, v4: bool) {
    let (at, header) = if v4 { (l3 + 2, 0) } else { (l3 + 4, 40) };
    let len = u16::try_from(bytes.len() - l3 - header).unwrap();
    bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
    sum(bytes, l3, v4);
}

fn sum(bytes: &mut [u8], l3: usize, v4: bool) {
    let stop = l3 + usize::from(bytes[l3] & 15) * 4;
    if v4 && bytes.len() >= stop && stop >= l3 + 20 {
        bytes[l3 + 10..l3 + 12].fill(0);
        let sum = checksum::of(&bytes[l3..stop]);
        bytes[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn headers(bytes: &[u8]) -> Option<Headers> {
    let mut copy = bytes.to_vec();
    let len = copy.len();
    parse(&Packet::new(&mut copy, 0, len, PortId(0))?).ok()
}

/// A frame that left, in the same words.
pub fn show(bytes: &[u8]) -> String {
    let Some(headers) = headers(bytes) else { return format!("{bytes:02x?}") };
    let device = MACS.iter().find(|(_, mac)| bytes[6..12] == *mac).map_or("?", |(name, _)| name);
    let mut text = format!("{device} {}", flow(&headers.key));
    if headers.key.proto == 6 && headers.kind == Kind::Ports {
        text.push(' ');
        text.extend(FLAGS.iter().filter(|(_, bit)| headers.tcp_flags & bit != 0).map(|(flag, _)| *flag));
    }
    if matches!(headers.key.proto, 1 | 58) && headers.kind != Kind::LaterFragment {
        write!(text, " type={} code={}", headers.icmp.0, headers.icmp.1).unwrap();
    }
    write!(text, " ttl={} bytes={}", headers.ttl, headers.end - headers.l3).unwrap();
    if headers.vlan != 0 {
        write!(text, " vlan={}", headers.vlan).unwrap();
    }
    if let Some(fragment) = headers.fragment {
        write!(text, " fragment={}@{}+{}", fragment.id, fragment.offset, headers.end - headers.l4).unwrap();
    }
    let mut copy = bytes.to_vec();
    let len = copy.len();
    let packet = Packet::new(&mut copy, 0, len, PortId(0)).unwrap();
    if headers.kind == Kind::IcmpError {
        if let (3, 4) | (2, 0) = headers.icmp {
            let at = usize::from(headers.l4) + 6;
            write!(text, " mtu={}", u16::from_be_bytes([bytes[at], bytes[at + 1]])).unwrap();
        }
        if let Some(quote) = quoted(&packet, &headers) {
            write!(text, " | {}", flow(&quote.key)).unwrap();
        }
    }
    text
}

fn flow(key: &FlowKey) -> String {
    let end = |ip: IpAddr, port: u16| {
        if port == 0 { ip.to_string() } else { SocketAddr::new(ip, port).to_string() }
    };
    let proto = match key.proto {
        1 | 58 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        132 => "sctp".to_owned(),
        other => format!("proto={other}"),
    };
    format!("{} > {} {proto}", end(key.source(), key.sport), end(key.destination(), key.dport))
}

/// What leaves is sound by somebody else's reckoning, if what came was.
pub fn assert_sound(name: &str, bytes: &[u8], came: &[Captured], at: Duration) {
    let shown = show(bytes);
    let sound = is_sound(bytes);
    let excused =
        came.iter().filter(|frame| frame.at == at).all(|frame| !is_sound(&frame.bytes).unwrap_or(false));
    assert!(excused || sound == Some(true), "{name}: not sound: {shown}");
}

/// All checksums are right; `None`: not a packet that can be judged.
fn is_sound(bytes: &[u8]) -> Option<bool> {
    let headers = headers(bytes)?;
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte));
    let full = |bytes: &[u8], plus: u32| {
        let sum = bytes.chunks(2).map(word).sum::<u32>() + plus;
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum & 0xffff) + (sum >> 16) == 0xffff
    };
    let (l3, l4, end) = (usize::from(headers.l3), usize::from(headers.l4), usize::from(headers.end));
    let header = !headers.key.v4 || full(&bytes[l3..l4], 0);
    let part = &bytes[l4..end];
    let udp_without = headers.key.proto == 17 && part.get(6..8) == Some(&[0, 0]);
    if headers.fragment.is_some() || udp_without || !matches!(headers.key.proto, 1 | 6 | 17 | 58) {
        return Some(header);
    }
    let addresses = if headers.key.v4 { &bytes[l3 + 12..l3 + 20] } else { &bytes[l3 + 8..l3 + 40] };
    let pseudo = addresses.chunks(2).map(word).sum::<u32>()
        + u32::from(headers.key.proto)
        + u32::try_from(part.len()).ok()?;
    Some(header && full(part, if headers.key.proto == 1 { 0 } else { pseudo }))
}
