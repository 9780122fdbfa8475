//! What is done with hostile bytes of the feed: read them as either side would, whole and in pieces; what is a message is
//! written down and read again, and changes are made to tables.

use sluice_core::tables::Tables;
use sluice_feed::codec::{Decoder, encode};
use sluice_feed::message::{ToControl, ToDataplane};

pub fn swallow(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    match how % 4 {
        0 => drop(stream::<ToDataplane>(bytes, usize::from(*how) + 1)),
        1 => drop(stream::<ToControl>(bytes, usize::from(*how) + 1)),
        // A fuzzer does not guess checksums: the same bytes with a header that is right.
        2 => drop(stream::<ToControl>(&framed(bytes), usize::MAX)),
        _ => make(stream::<ToDataplane>(&framed(bytes), usize::MAX)),
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(crc32(body).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// As in IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    !crc
}

/// All messages up to the end or the first that is none.
fn stream<T>(bytes: &[u8], piece: usize) -> Vec<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.feed(piece);
        loop {
            match decoder.message::<T>() {
                Ok(Some(message)) => {
                    let mut again = Decoder::default();
                    again.feed(&encode(&message).expect("was a message"));
                    let twin: T = again.message().expect("is whole").expect("is there");
                    assert_eq!(twin, message);
                    messages.push(twin);
                }
                Ok(None) => break,
                Err(error) => {
                    let _ = error.to_string();
                    return messages;
                }
            }
        }
    }
    messages
}

/// Whatever a list of changes says, tables take all of it or nothing.
fn make(messages: Vec<ToDataplane>) {
    for message in messages {
        if let ToDataplane::Changes { changes, .. } = message {
            let mut tables = Tables::default();
            let before = tables.generation;
            if tables.apply(&changes, None).is_err() {
                assert_eq!(tables.generation, before);
            }
        }
    }
}
