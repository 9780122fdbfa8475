//! What control and the dataplane say to each other over a Unix socket, and how it is written down.
//!
//! After a hello from either side control sends one snapshot and then deltas; each is answered by an ack when it is live on
//! every worker, or by a nack, and then nothing has changed. Events flow back, with an exact count of what was lost.
//! Questions have numbers, and answers name them. Either side may die and come back: a new snapshot is compared with
//! what is there, so that a control process that restarts changes nothing if nothing changed.

pub mod codec;
pub mod event;
pub mod message;
pub mod settings;
pub mod steady;

/// Both sides must speak the same.
pub const VERSION: u32 = 5;
