//! `cargo +nightly fuzz run objects` in this folder: whatever a file holds, reading it ends, and ends well.

#![no_main]

mod swallow;

libfuzzer_sys::fuzz_target!(|data: &[u8]| swallow::swallow(data));
