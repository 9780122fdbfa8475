//! `scripts/fuzz.sh forward`: small tables, packets, changes and time in any order; no panic, and the books balance.

#![no_main]

#[path = "../swallow/forward.rs"]
mod forward;
#[path = "../swallow/sound.rs"]
mod sound;

libfuzzer_sys::fuzz_target!(|data: &[u8]| forward::swallow(data));
