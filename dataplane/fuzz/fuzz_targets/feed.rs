//! `scripts/fuzz.sh feed`: whatever the other side of the socket says, it is a message or it is refused.

#![no_main]

#[path = "../swallow/feed.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| feed::swallow(data));
