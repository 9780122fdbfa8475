//! One generation of everything that is looked up and never changed by a packet.
//!
//! A `Tables` is built by applying [`record::Change`]s; the publisher keeps two of them, changes the one that no worker
//! can see, and swaps (see `sluice-run`'s epoch). To a worker it is immutable.

pub mod record;

pub mod egress;
pub mod ipcache;
pub mod lpm;
pub mod maglev;
pub mod nexthop;
pub mod policy;
pub mod service;
