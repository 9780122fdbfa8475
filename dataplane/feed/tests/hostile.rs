//! Hostile bytes on the feed: what the fuzzer found once is swallowed now, and so is what becomes of it when bytes change.
//! The target is in `dataplane/fuzz`.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "the fuzz target's code, which is built with it"
)]

#[path = "../../fuzz/swallow/feed.rs"]
mod feed;
#[path = "../../fuzz/replay.rs"]
mod replay;

use std::path::Path;

#[test]
fn streams_are_swallowed() {
    let seeds = replay::seeds(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz"), "feed");
    replay::storm(seeds, &[&[0; 4], &[0xff; 4], &[1], &[0x80, 0x80, 0x01]], 5_000, feed::swallow);
}
