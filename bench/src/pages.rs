//! How much of this process lies in huge pages: without them a random access costs a second one for the page table, and the
//! figures measure that.

use std::fs;

/// Bytes of this process that lie in huge pages now.
pub(crate) fn in_use() -> u64 {
    kilobytes("/proc/self/smaps_rollup", "AnonHugePages:") * 1024
}

/// Bytes of this process in memory now.
pub(crate) fn resident() -> u64 {
    kilobytes("/proc/self/status", "VmRSS:") * 1024
}

fn kilobytes(file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
