//! Where objects come from. Every source says the same thing: "there may be something new, read again".

pub mod files;
