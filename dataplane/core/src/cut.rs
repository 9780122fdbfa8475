//! Cutting an IPv4 packet that is too long for where it goes and whose sender lets routers do that (RFC 791, RFC 1812 5.2.7).
//! It is cut as it came, and its pieces then go their way like fragments that came so: whatever is done to a packet on its
//! way (addresses, tunnels) need not know of this.

use crate::checksum;
use crate::packet::Packet;
use crate::parse::{Headers, parse};

/// Pieces of one packet at most: as many as are remembered of a datagram.
pub const MOST: usize = crate::state::fragments::MAX_PIECES;
/// What a first piece has to have of the transport header, in whole units of eight bytes.
const LEAST: u16 = 24;

const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Options that only the first piece has become one that says nothing.
const COPIED: u8 = 0x80;
const NOTHING: u8 = 1;

/// A link header with a tag, and the longest IP header.
const HEAD: usize = 14 + 4 + 60;

/// Payload of each piece but the last, if the packet may and can be cut so that none is longer than `room`.
pub fn each(headers: &Headers, room: u16) -> Option<u16> {
    let (header, payload) = (headers.l4 - headers.l3, headers.end - headers.l4);
    let each = room.checked_sub(header)? & !7;
    let may = headers.key.v4 && !headers.dont_fragment && each >= LEAST;
    (may && usize::from(payload.div_ceil(each)) <= MOST).then_some(each)
}

/// The pieces of one packet, built one after the other over what the one before had of it.
#[derive(Debug)]
pub struct Pieces<'a> {
    frame: &'a mut [u8],
    /// Link and IP header, and how long they are.
    head: [u8; HEAD],
    l3: usize,
    l4: usize,
    /// What of the payload is still to go, and how much goes at once.
    at: usize,
    end: usize,
    each: usize,
    /// Flags and offset of the packet itself: it may be a piece already.
    word: u16,
}

impl<'a> Pieces<'a> {
    /// `None`: it is not to be cut, or not so small.
    pub fn of(packet: &'a mut Packet<'_>, room: u16) -> Option<Self> {
        let headers = parse(packet).ok()?;
        let each = usize::from(each(&headers, room)?);
        let (l3, l4, end) = (usize::from(headers.l3), usize::from(headers.l4), usize::from(headers.end));
        let frame = packet.bytes_mut();
        let mut head = [0; HEAD];
        head.get_mut(..l4)?.copy_from_slice(frame.get(..l4)?);
        let word = u16::from_be_bytes([head[l3 + 6], head[l3 + 7]]);
        Some(Self { frame, head, l3, l4, at: l4, end, each, word })
    }

    pub fn count(&self) -> usize {
        (self.end - self.at).div_ceil(self.each)
    }

    /// Is the packet a piece of a datagram itself?
    pub const fn are_of_a_piece(&self) -> bool {
        self.word & (MORE | OFFSET) != 0
    }

    /// The next piece, a whole frame.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend what it owns")]
    pub fn next(&mut self) -> Option<&[u8]> {
        let len = self.each.min(self.end - self.at);
        if len == 0 {
            return None;
        }
        let (at, start, ip) = (self.at, self.at - self.l4, &mut self.head[self.l3..self.l4]);
        let offset = (self.word & OFFSET) + u16::try_from(start / 8).unwrap_or(OFFSET);
        let more = if at + len < self.end { MORE } else { self.word & MORE };
        let total = u16::try_from(ip.len() + len).unwrap_or(u16::MAX);
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[6..8].copy_from_slice(&(offset | more).to_be_bytes());
        ip[10..12].fill(0);
        let sum = checksum::of(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        self.frame.get_mut(start..at)?.copy_from_slice(&self.head[..self.l4]);
        if start == 0 {
            forget_options(&mut self.head[self.l3 + 20..self.l4]);
        }
        self.at = at + len;
        self.frame.get(start..at + len)
    }
}

fn forget_options(options: &mut [u8]) {
    let mut at = 0;
    while let Some(kind) = options.get(at).copied().filter(|kind| *kind != 0) {
        let len = match options.get(at + 1) {
            _ if kind == NOTHING => 1,
            Some(len) if *len >= 2 => usize::from(*len),
            // What cannot be read is left as it is.
            _ => return,
        };
        let Some(option) = options.get_mut(at..at + len) else { return };
        if kind & COPIED == 0 {
            option.fill(NOTHING);
        }
        at += len;
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test data of our own, all small")]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::emit::Frame;
    use crate::flow_key::FlowKey;
    use crate::packet::PortId;

    /// A datagram with these IP options, and with leave to be cut.
    fn datagram(payload: usize, options: &[u8]) -> Vec<u8> {
        let ip = "::ffff:10.0.0.1".parse().unwrap();
        let key = FlowKey { src: ip, dst: ip, sport: 1000, dport: 7, proto: 17, v4: true };
        let payload = (0..payload).map(|n| (n % 251) as u8).collect();
        let mut frame = Frame { payload, ..Frame::new(key) }.build();
        frame.splice(34..34, options.iter().copied());
        frame[14] += (options.len() / 4) as u8;
        let total = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[18..22].copy_from_slice(&[0xab, 0xcd, 0, 0]);
        seal(&mut frame, 34 + options.len());
        frame
    }

    fn seal(frame: &mut [u8], l4: usize) {
        frame[24..26].fill(0);
        let sum = checksum::of(&frame[14..l4]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    fn cut(frame: &[u8], room: u16) -> Vec<Vec<u8>> {
        let mut bytes = frame.to_vec();
        let len = bytes.len();
        let mut packet = Packet::new(&mut bytes, 0, len, PortId(0)).unwrap();
        let Some(mut pieces) = Pieces::of(&mut packet, room) else { return Vec::new() };
        let count = pieces.count();
        let mut all = Vec::new();
        while let Some(piece) = pieces.next() {
            all.push(piece.to_vec());
        }
        assert_eq!(all.len(), count);
        all
    }

    fn headers(frame: &[u8]) -> Headers {
        let mut bytes = frame.to_vec();
        let len = bytes.len();
        parse(&Packet::new(&mut bytes, 0, len, PortId(0)).unwrap()).unwrap()
    }

    /// What a receiver makes of the pieces.
    fn together(pieces: &[Vec<u8>]) -> Vec<u8> {
        let mut whole = Vec::new();
        for piece in pieces {
            let read = headers(piece);
            let at = usize::from(read.fragment.unwrap().offset);
            whole.resize(whole.len().max(at), 0);
            whole.truncate(at);
            whole.extend(&piece[usize::from(read.l4)..usize::from(read.end)]);
        }
        whole
    }

    #[test]
    fn pieces_are_small_enough_and_make_the_datagram_again() {
        for (payload, room) in [(1400, 1300), (1400, 576), (8000, 1500), (64, 68), (1, 68), (1264, 1292)] {
            let frame = datagram(payload, &[]);
            let pieces = cut(&frame, room);
            assert!(pieces.iter().all(|piece| piece.len() - 14 <= usize::from(room)), "{payload} {room}");
            if pieces.len() == 1 {
                assert_eq!(pieces[0], frame);
                continue;
            }
            assert_eq!(together(&pieces), frame[34..], "{payload} {room}");
            let fragments: Vec<_> = pieces.iter().map(|piece| headers(piece).fragment.unwrap()).collect();
            let (last, others) = fragments.split_last().unwrap();
            assert!(!last.more && others.iter().all(|piece| piece.more && piece.id == 0xabcd));
        }
    }

    #[test]
    fn a_piece_is_cut_into_pieces_of_the_datagram() {
        let pieces = cut(&datagram(4000, &[]), 1500);
        let again: Vec<_> = pieces.iter().flat_map(|piece| cut(piece, 700)).collect();
        assert!(again.len() > pieces.len());
        assert_eq!(together(&again), datagram(4000, &[])[34..]);
    }

    #[test]
    fn options_that_are_for_the_first_piece_alone_are_in_no_other() {
        // Record route is for the first alone, the option of a service for all.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 0x9a, 8, 1, 2, 3, 4, 5, 6];
        let pieces = cut(&datagram(1000, &options), 576);
        assert_eq!(pieces[0][34..50], options);
        for later in &pieces[1..] {
            assert_eq!(later[34..50], [1, 1, 1, 1, 1, 1, 1, 1, 0x9a, 8, 1, 2, 3, 4, 5, 6]);
        }
        assert_eq!(together(&pieces).len(), 1008);
    }

    #[test]
    fn what_may_not_be_cut_or_not_so_small_is_not() {
        let frame = datagram(1400, &[]);
        assert!(cut(&frame, 40).is_empty(), "a transport header would be in two pieces");
        assert!(cut(&datagram(8000, &[]), 68).is_empty(), "too many");
        let mut bound = frame;
        bound[20] = 0x40;
        seal(&mut bound, 34);
        assert!(cut(&bound, 576).is_empty());
    }

    #[test]
    fn options_that_lie_about_their_length_are_let_be() {
        for options in [[7, 0, 4, 4], [7, 200, 4, 4], [1, 1, 1, 7], [0, 7, 3, 4]] {
            let pieces = cut(&datagram(1000, &options), 576);
            assert_eq!(pieces[1][34..38], options);
        }
    }
}
