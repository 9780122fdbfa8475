//! Measuring over interfaces: traffic made and taken in by XDP programs, against whatever lies between two of them.

pub(crate) mod blast;
mod capture;
pub(crate) mod generator;
pub(crate) mod l2fwd;
mod lab;
mod ledger;
pub(crate) mod memory;
mod order;
mod peers;
mod programs;
pub(crate) mod rfc2544;
mod rules;
pub(crate) mod sink;
pub(crate) mod trial;
pub(crate) mod veth;
