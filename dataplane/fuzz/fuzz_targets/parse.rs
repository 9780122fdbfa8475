//! `scripts/fuzz.sh parse`: whatever a frame holds, reading, translating and answering it stays inside the frame.

#![no_main]

#[path = "../swallow/parse.rs"]
mod parse;
#[path = "../swallow/sound.rs"]
mod sound;

libfuzzer_sys::fuzz_target!(|data: &[u8]| parse::swallow(data));
