//! DNS messages, as far as the path must understand them: what is asked, and which addresses answer it.
//!
//! Everything here reads bytes that anybody may have sent. It takes no memory, and its work is bounded: names are at most
//! 255 bytes, compression leads backwards only and not often, and records are looked at a limited number of times.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

/// Before the first question.
const HEADER: usize = 12;
/// Bytes of a name with the lengths of its labels and the root's zero.
const NAME: usize = 255;
/// Compression pointers within one name. Real messages need two or three.
const JUMPS: usize = 32;
/// Aliases from the name that was asked to the one that has addresses.
const ALIASES: usize = 16;
/// Records looked at, all passes together.
const LOOKS: usize = 4096;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const IN: u16 = 1;

/// Response codes of refused queries.
pub const NXDOMAIN: u8 = 3;
pub const REFUSED: u8 = 5;

/// The bytes are no message, or one of a kind that needs no answer here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A name in lower case, as messages hold it: labels behind their lengths, and a zero.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; NAME],
    len: u8,
}

/// The labels of a name, the last one first: where each starts and ends in the name's bytes.
type Labels = ArrayVec<(u8, u8), 128>;

impl Name {
    pub const ROOT: Self = Self { bytes: [0; NAME], len: 1 };

    /// Of a text like `www.example.com.`; the dot at the end may be missing. `None`: it is no name.
    pub fn parse(text: &str) -> Option<Self> {
        let mut name = Self { bytes: [0; NAME], len: 0 };
        let text = text.strip_suffix('.').unwrap_or(text);
        if !text.is_empty() {
            text.split('.').try_for_each(|label| name.push(label.as_bytes()))?;
        }
        name.finish()
    }

    /// Of bytes that [`Self::as_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (name, end) = read_name(bytes, 0).ok()?;
        (end == bytes.len()).then_some(name)
    }

    fn push(&mut self, label: &[u8]) -> Option<()> {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..64).contains(len))?;
        let at = usize::from(self.len);
        *self.bytes.get_mut(at)? = len;
        let target = self.bytes.get_mut(at + 1..at + 1 + label.len())?;
        target.copy_from_slice(label);
        target.make_ascii_lowercase();
        self.len = u8::try_from(at + 1 + label.len()).ok()?;
        Some(())
    }

    fn finish(mut self) -> Option<Self> {
        *self.bytes.get_mut(usize::from(self.len))? = 0;
        self.len += 1;
        Some(self)
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// From the top: `com`, `example`, `www`.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut places = Labels::new();
        let mut at = 0_u8;
        while let Some(len) = self.bytes.get(usize::from(at)).copied().filter(|len| *len > 0) {
            if places.try_push((at + 1, at + 1 + len)).is_err() {
                break;
            }
            at += 1 + len;
        }
        let bytes = &self.bytes;
        places.into_iter().rev().map(move |(from, to)| &bytes[usize::from(from)..usize::from(to)])
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.as_bytes();
        if rest.len() <= 1 {
            return f.write_str(".");
        }
        while let Some((len, tail)) = rest.split_first().filter(|(len, _)| **len > 0) {
            let (label, tail) = tail.split_at_checked(usize::from(*len)).unwrap_or_default();
            for byte in label {
                match byte {
                    b'-' | b'_' | b'a'..=b'z' | b'0'..=b'9' => write!(f, "{}", char::from(*byte))?,
                    // As zone files write what is no letter.
                    odd => write!(f, "\\{odd:03}")?,
                }
            }
            f.write_str(".")?;
            rest = tail;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a message asks for, or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub id: u16,
    pub name: Name,
    pub kind: u16,
    pub class: u16,
    /// Where the question ends in the message.
    pub end: usize,
}

/// Read a query. Only plain queries with one question are any.
pub fn query(message: &[u8]) -> Result<Question, Malformed> {
    let flags = word(message, 2)?;
    if flags & 0xf800 != 0 {
        return Err(Malformed);
    }
    question(message)
}

/// Read an answer: `each` is given every address that answers the question, with the seconds that it holds. Of a chain of
/// aliases the addresses at its end count, for as long as the whole chain does; what else the message tells is hearsay.
pub fn answer(message: &[u8], mut each: impl FnMut(IpAddr, u32)) -> Result<Question, Malformed> {
    let flags = word(message, 2)?;
    // A response, to a plain query.
    if flags & 0xf800 != 0x8000 {
        return Err(Malformed);
    }
    let asked = question(message)?;
    let count = word(message, 6)?;
    let mut looks = LOOKS;
    let (mut owner, mut holds) = (asked.name, u32::MAX);
    let mut aliases = 0;
    loop {
        let before = aliases;
        each_record(message, asked.end, count, &mut looks, |record| {
            if record.kind != CNAME || aliases > ALIASES || !is_name(message, record.owner, &owner)? {
                return Ok(());
            }
            (owner, _) = read_name(message, record.data)?;
            holds = holds.min(record.ttl);
            aliases += 1;
            Ok(())
        })?;
        if aliases > ALIASES {
            return Err(Malformed);
        }
        if aliases == before {
            break;
        }
    }
    each_record(message, asked.end, count, &mut looks, |record| {
        let data = message.get(record.data..record.data + record.len).ok_or(Malformed)?;
        let ip = match (record.kind, data) {
            (A, [a, b, c, d]) => IpAddr::from([*a, *b, *c, *d]),
            (AAAA, data) => IpAddr::from(<[u8; 16]>::try_from(data).map_err(|_| Malformed)?),
            (A, _) => return Err(Malformed),
            _ => return Ok(()),
        };
        // Failures tell no addresses, and some addresses are nobody's.
        if flags & 0xf == 0 && is_somebodys(ip) && is_name(message, record.owner, &owner)? {
            each(ip, holds.min(record.ttl));
        }
        Ok(())
    })?;
    Ok(asked)
}

/// May it be an address of some other machine?
fn is_somebodys(ip: IpAddr) -> bool {
    let nobodys = |ip: Ipv4Addr| ip.octets()[0] == 0 || ip.is_loopback() || ip.octets()[0] >= 224;
    match ip {
        IpAddr::V4(ip) => !nobodys(ip),
        // One that stands for an IPv4 address would be taken for it.
        IpAddr::V6(ip) => {
            let unicast_link = ip.segments()[0] & 0xffc0 == 0xfe80;
            !(ip.is_multicast()
                || unicast_link
                || ip.segments()[..5] == Ipv6Addr::UNSPECIFIED.segments()[..5])
        }
    }
}

fn question(message: &[u8]) -> Result<Question, Malformed> {
    if word(message, 4)? != 1 {
        return Err(Malformed);
    }
    let (name, end) = read_name(message, HEADER)?;
    Ok(Question {
        id: word(message, 0)?,
        name,
        kind: word(message, end)?,
        class: word(message, end + 2)?,
        end: end + 4,
    })
}

struct Record {
    owner: usize,
    kind: u16,
    ttl: u32,
    data: usize,
    len: usize,
}

/// Walk the records of the Internet's class.
fn each_record(
    message: &[u8],
    mut at: usize,
    count: u16,
    looks: &mut usize,
    mut each: impl FnMut(Record) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    for _ in 0..count {
        *looks = looks.checked_sub(1).ok_or(Malformed)?;
        let fixed = skip_name(message, at)?;
        let high = u32::from(word(message, fixed + 4)?);
        let ttl = high << 16 | u32::from(word(message, fixed + 6)?);
        let (data, len) = (fixed + 10, usize::from(word(message, fixed + 8)?));
        if data + len > message.len() {
            return Err(Malformed);
        }
        // Beyond the sign bit a time means nothing (RFC 2181 8).
        let ttl = if ttl >> 31 == 0 { ttl } else { 0 };
        if word(message, fixed + 2)? == IN {
            each(Record { owner: at, kind: word(message, fixed)?, ttl, data, len })?;
        }
        at = data + len;
    }
    Ok(())
}

fn word(message: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = message.get(at..).and_then(<[u8]>::first_chunk).ok_or(Malformed)?;
    Ok(u16::from_be_bytes(*bytes))
}

/// What stands at a place where a label or a pointer is expected.
enum Step {
    /// From here to there.
    Label(usize, usize),
    Pointer(usize),
    End,
}

fn step(message: &[u8], at: usize) -> Result<Step, Malformed> {
    let len = usize::from(*message.get(at).ok_or(Malformed)?);
    match len >> 6 {
        0 if len == 0 => Ok(Step::End),
        0 if at + 1 + len <= message.len() => Ok(Step::Label(at + 1, at + 1 + len)),
        3 => Ok(Step::Pointer(usize::from(word(message, at)? & 0x3fff))),
        _ => Err(Malformed),
    }
}

/// Visit the labels of a name; where what follows it begins. A pointer leads to before where the name was last entered, so
/// that there is an end to it.
fn walk(
    message: &[u8],
    start: usize,
    mut each: impl FnMut(&[u8]) -> Result<(), Malformed>,
) -> Result<usize, Malformed> {
    let (mut at, mut entered, mut after) = (start, start, None);
    let mut jumps = 0;
    loop {
        match step(message, at)? {
            Step::Label(from, to) => {
                each(message.get(from..to).ok_or(Malformed)?)?;
                at = to;
            }
            Step::Pointer(to) => {
                jumps += 1;
                if to >= entered || jumps > JUMPS {
                    return Err(Malformed);
                }
                after = after.or(Some(at + 2));
                (at, entered) = (to, to);
            }
            Step::End => return Ok(after.unwrap_or(at + 1)),
        }
    }
}

fn read_name(message: &[u8], at: usize) -> Result<(Name, usize), Malformed> {
    let mut name = Name { bytes: [0; NAME], len: 0 };
    let end = walk(message, at, |label| name.push(label).ok_or(Malformed))?;
    Ok((name.finish().ok_or(Malformed)?, end))
}

/// Where what follows the name begins; the name itself is not looked at.
fn skip_name(message: &[u8], mut at: usize) -> Result<usize, Malformed> {
    loop {
        match step(message, at)? {
            Step::Label(_, to) => at = to,
            Step::Pointer(_) => return Ok(at + 2),
            Step::End => return Ok(at + 1),
        }
    }
}

/// Is the name at this place that one?
fn is_name(message: &[u8], at: usize, name: &Name) -> Result<bool, Malformed> {
    let (mut rest, mut same) = (name.as_bytes(), true);
    let mut total = 1;
    walk(message, at, |label| {
        total += 1 + label.len();
        if total > NAME {
            return Err(Malformed);
        }
        let (own, tail) = rest.split_at_checked(1 + label.len()).unwrap_or_default();
        same = same
            && own.split_first().is_some_and(|(len, own)| {
                usize::from(*len) == label.len() && own.eq_ignore_ascii_case(label)
            });
        rest = tail;
        Ok(())
    })?;
    Ok(same && rest == [0])
}
