//! What the XDP program and its loader agree on: map keys and values, outcomes, limits, and the decision itself.
//!
//! The program is compiled from these very files ([`decide`] and [`layout`]), so a host test of the decision tests the
//! program's.
#![no_std]
#![forbid(unsafe_code)]

pub mod decide;
pub mod layout;
