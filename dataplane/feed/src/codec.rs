//! Messages as bytes: length, checksum, postcard. A reader never takes more memory than the stated limit, whatever comes.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message. Snapshots are cut into pieces far below this.
pub const LIMIT: usize = 16 << 20;
const HEADER: usize = 8;

/// Why bytes are no message. The connection is given up after any of these.
#[derive(Debug, PartialEq, Eq)]
pub enum DecodeError {
    TooLong(usize),
    Checksum,
    Malformed,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong(len) => write!(f, "a message of {len} bytes is beyond the limit of {LIMIT}"),
            Self::Checksum => f.write_str("a message with a wrong checksum"),
            Self::Malformed => f.write_str("a message that means nothing"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// One message with its header.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= LIMIT);
    let len = len.ok_or_else(|| io::Error::other(DecodeError::TooLong(body.len())))?;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(len.to_le_bytes());
    bytes.extend(crc32fast::hash(&body).to_le_bytes());
    bytes.extend(body);
    Ok(bytes)
}

pub fn write<T: Serialize>(target: &mut impl Write, message: &T) -> io::Result<()> {
    target.write_all(&encode(message)?)
}

/// Collects bytes as they come and gives whole messages.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    read: usize,
}

impl Decoder {
    /// Take bytes in. Call [`Self::next`] until it has nothing, or they pile up.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.bytes.drain(..self.read);
            self.read = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, DecodeError> {
        let rest = &self.bytes[self.read..];
        let Some((header, body)) = rest.split_at_checked(HEADER) else { return Ok(None) };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let len = word(0) as usize;
        if len > LIMIT {
            return Err(DecodeError::TooLong(len));
        }
        let Some(body) = body.get(..len) else { return Ok(None) };
        if crc32fast::hash(body) != word(4) {
            return Err(DecodeError::Checksum);
        }
        let message = postcard::from_bytes(body).map_err(|_| DecodeError::Malformed)?;
        self.read += HEADER + len;
        Ok(Some(message))
    }

    /// Read until there is a whole message; `None` at the end of the stream.
    pub fn read<T: DeserializeOwned>(&mut self, source: &mut impl Read) -> io::Result<Option<T>> {
        let mut piece = vec![0; 64 << 10];
        loop {
            if let Some(message) = self.message().map_err(io::Error::other)? {
                return Ok(Some(message));
            }
            match source.read(&mut piece)? {
                0 => return Ok(None),
                n => self.feed(&piece[..n]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ToDataplane, chunks};
    use sluice_core::packet::PortId;
    use sluice_core::tables::record::{Change, Port};

    fn message() -> ToDataplane {
        let change = Change::Port(PortId(3), Some(Port { mtu: 1500, ..Port::default() }));
        chunks(7, true, vec![change]).remove(0)
    }

    #[test]
    fn arrives_whole_however_it_is_cut() {
        let bytes = encode(&message()).unwrap();
        let mut decoder = Decoder::default();
        for byte in &bytes[..bytes.len() - 1] {
            decoder.feed(&[*byte]);
            assert_eq!(decoder.message::<ToDataplane>(), Ok(None));
        }
        decoder.feed(&bytes[bytes.len() - 1..]);
        assert_eq!(decoder.message(), Ok(Some(message())));
    }

    #[test]
    fn damage_is_noticed_and_takes_no_memory() {
        let good = encode(&message()).unwrap();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let mut decoder = Decoder::default();
                decoder.feed(&bad);
                assert!(!matches!(decoder.message::<ToDataplane>(), Ok(Some(_))), "byte {at} bit {bit}");
            }
        }
        let mut decoder = Decoder::default();
        decoder.feed(&[0xff; 16]);
        assert_eq!(decoder.message::<ToDataplane>(), Err(DecodeError::TooLong(0xffff_ffff)));
    }
}
