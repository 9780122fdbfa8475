//! From what people wrote to what workers look up: bytes → tree → objects → records. Nothing here waits or reads a clock.
//!
//! Objects come as a positioned tree, so that every error names its file, line, column and field, and all errors are
//! told, not the first. What passes is a model that can only hold valid values; [`compile`] is the only way from there to
//! records.

pub mod tree;

pub mod decode;
pub mod objects;
pub mod schema;
pub mod shelf;

pub mod labels;
pub mod policy;
pub mod service;

pub mod compile;
pub mod egress;
pub mod engine;
pub mod fqdn;
pub mod identity;

pub mod config;
pub mod hubble;
pub mod lint;
pub mod observed;
pub mod sighted;
pub mod verdict;
