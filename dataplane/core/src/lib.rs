//! The packet path: three nouns and one verb.
//!
//! A worker borrows a [`packet::Packet`], reads one immutable [`tables::Tables`] generation (shared by all), changes
//! its own [`state::State`] (shared by none) and calls [`path::forward`]. This crate has no clock, no thread, no lock
//! and no I/O: time comes in as [`time::Now`], packets come and go as borrowed bytes, and what happened leaves as
//! [`event::FlowEvent`]s. The modules are declared in the order in which a packet meets them.
#![no_std]
#![deny(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod time;

pub mod flow_key;
pub mod packet;
pub mod parse;

pub mod checksum;
pub mod cut;
pub mod dns;
pub mod emit;
pub mod path;
pub mod rewrite;
pub mod unwrap;
pub mod verdict;
pub mod wrap;

pub mod event;
pub mod state;
pub mod tables;
pub mod watch;

pub mod intrinsics;
pub(crate) mod lines;
