//! `forward`: a burst of packets from arrival to departure, in three phases.

pub mod admit;
pub mod established;
pub mod fragment;
pub mod icmp;
pub mod reply;
