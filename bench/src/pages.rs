//! Huge pages for everything large: without them a random access costs a second one for the page table, and the figures
//! measure that.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

const TUNABLES: &str = "GLIBC_TUNABLES";
const HUGE: &str = "glibc.malloc.hugetlb=1";

/// glibc asks the kernel for huge pages behind large allocations if told so by an environment variable, which it reads
/// once at start: so this process starts again with it. Where that does not help, [`in_use`] says so.
pub(crate) fn ask_for_huge_ones() {
    if std::env::var_os(TUNABLES).is_some() {
        return;
    }
    if let Ok(this) = std::env::current_exe() {
        // Only returns if it failed; then we go on with small pages.
        let _ = Command::new(this).args(std::env::args_os().skip(1)).env(TUNABLES, HUGE).exec();
    }
}

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
