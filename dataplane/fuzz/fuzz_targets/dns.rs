//! `scripts/fuzz.sh dns`: whatever a DNS message holds, reading it ends, and the path believes only what was asked for.

#![no_main]

#[path = "../swallow/dns.rs"]
mod dns;
#[path = "../swallow/sound.rs"]
mod sound;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns::swallow(data));
