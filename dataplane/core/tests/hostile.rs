//! Hostile frames, lives and DNS: what the fuzzers of `parse`, `forward` and `dns` found once is swallowed now, and so is
//! what becomes of it when bytes change. The targets are in `dataplane/fuzz`.

#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "the fuzz targets' code, which is built with them"
)]

#[path = "../../fuzz/swallow/dns.rs"]
mod dns;
#[path = "../../fuzz/swallow/forward.rs"]
mod forward;
#[path = "../../fuzz/swallow/parse.rs"]
mod parse;
#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/swallow/sound.rs"]
mod sound;

use std::path::Path;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    replay::seeds(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz"), target)
}

/// Ethertypes, tags, protocols, and the first bytes of IP headers.
const WORDS: [&[u8]; 10] = [
    &[0x08, 0x00, 0x45, 0x00],
    &[0x86, 0xdd, 0x60],
    &[0x81, 0x00, 0x00, 0x64],
    &[0x88, 0xa8],
    &[1],
    &[6],
    &[17],
    &[44, 0],
    &[58],
    &[0xff, 0xff],
];

#[test]
fn frames_are_swallowed() {
    replay::storm(seeds("parse"), &WORDS, 300_000, parse::swallow);
}

/// Pieces of messages: headers, names, pointers, the kinds and lengths of records.
const DNS_WORDS: [&[u8]; 10] = [
    &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0],
    &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0],
    b"\x01a\x02io\x00",
    b"\x04evil\x03com\x00",
    &[0xc0, 12],
    &[0, 1, 0, 1],
    &[0, 5, 0, 1],
    &[0, 28, 0, 1],
    &[0, 0, 0, 60, 0, 4],
    &[0, 0, 0, 60, 0, 16],
];

#[test]
fn messages_are_swallowed() {
    replay::storm(seeds("dns"), &DNS_WORDS, 100_000, dns::swallow);
}

#[test]
fn lives_are_swallowed() {
    replay::storm(seeds("forward"), &[], 10_000, forward::swallow);
}
