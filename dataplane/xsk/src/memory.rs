//! Mapped memory: the buffers of a UMEM, the rings of a socket, and huge pages for anyone who asks.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

const HUGE: usize = 2 << 20;

/// A mapping that goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory; whoever owns the `Mapping` decides who touches it.
unsafe impl Send for Mapping {}

impl Mapping {
    fn map(len: usize, flags: i32, file: Option<(&OwnedFd, i64)>) -> io::Result<Self> {
        let (fd, offset) = file.map_or((-1, 0), |(fd, offset)| (fd.as_raw_fd(), offset));
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { start, len })
    }

    /// Memory for buffers; in huge pages if there are any, and whether it is.
    pub(crate) fn buffers(len: usize, huge: bool) -> io::Result<(Self, bool)> {
        let len = len.next_multiple_of(HUGE);
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        if huge && let Ok(mapping) = Self::map(len, anonymous | libc::MAP_HUGETLB, None) {
            return Ok((mapping, true));
        }
        let mapping = Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)?;
        // SAFETY: the range is the mapping that was just made.
        let huge = huge && unsafe { advise(mapping.start.as_ptr(), len) };
        // Touch every page now, not when packets come.
        for page in (0..len).step_by(4096) {
            // SAFETY: `page` is below the mapping's length.
            let byte = unsafe { mapping.start.add(page) };
            // SAFETY: the byte lies inside the mapping, which nobody else knows yet.
            unsafe { byte.write_volatile(0) };
        }
        Ok((mapping, huge))
    }

    /// The pages of a ring.
    pub(crate) fn ring(fd: &OwnedFd, len: usize, offset: i64) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_POPULATE, Some((fd, offset)))
    }

    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Copy bytes between two places that both lie inside and do not overlap; what does not is left alone.
    pub(crate) fn copy_within(&mut self, from: usize, to: usize, len: usize) {
        let inside = |at: usize| at.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside(from) || !inside(to) || from.abs_diff(to) < len {
            return;
        }
        // SAFETY: `from` lies inside the mapping (checked above).
        let from = unsafe { self.start.add(from) };
        // SAFETY: `to` lies inside the mapping (checked above).
        let to = unsafe { self.start.add(to) };
        // SAFETY: both ranges lie inside the mapping and do not overlap (checked above); `self` is borrowed alone.
        unsafe { from.copy_to_nonoverlapping(to, len) };
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and nothing refers to it any more: rings and frames borrow their owner.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The system's allocator, with huge pages behind what is large: a search in a table of flows would cost a second access
/// to memory for the page table. (glibc asks for them, too, if a variable of the environment tells it so, but 2.36 in half of its
/// starts only: it compares text with an end that it has not read.)
#[derive(Debug)]
pub struct Huge;

/// Do not ask for huge pages any more.
pub fn no_huge_pages() {
    UNWANTED.store(true, Ordering::Relaxed);
}

static UNWANTED: AtomicBool = AtomicBool::new(false);

// SAFETY: every call goes to the system's allocator with the very arguments; advice changes no contents.
unsafe impl GlobalAlloc for Huge {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        advised(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        advised(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        advised(unsafe { System.realloc(ptr, layout, size) }, size)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

fn advised(start: *mut u8, len: usize) -> *mut u8 {
    if len >= HUGE && !start.is_null() && !UNWANTED.load(Ordering::Relaxed) {
        // SAFETY: the range is what was just allocated.
        unsafe { advise(start, len) };
    }
    start
}

/// Ask for the huge pages that fit into a range. What is not granted costs time, not truth.
///
/// # Safety
/// The range is the caller's.
unsafe fn advise(start: *mut u8, len: usize) -> bool {
    let (first, end) = (start.addr().next_multiple_of(HUGE), start.addr() + len);
    let whole = end.saturating_sub(first) / HUGE * HUGE;
    // SAFETY: the range lies inside the caller's, and the advice changes no contents.
    whole > 0 && unsafe { libc::madvise(start.with_addr(first).cast(), whole, libc::MADV_HUGEPAGE) } == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static HUGE_PAGES: Huge = Huge;

    /// Is the middle of this memory in a mapping for which huge pages were asked? (Whether there were any is the machine's affair.)
    fn is_asked_for(memory: &[u8]) -> bool {
        let middle = memory.as_ptr().addr() + memory.len() / 2;
        let mut here = false;
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let bounds = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some(bounds) = bounds {
                let [first, end] = [bounds.0, bounds.1].map(|at| usize::from_str_radix(at, 16).unwrap_or(0));
                here = (first..end).contains(&middle);
            }
            if here && line.starts_with("VmFlags:") {
                return line.split(' ').any(|flag| flag == "hg");
            }
        }
        false
    }

    #[test]
    fn huge_pages_are_asked_for_behind_what_is_large() {
        if !std::fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
            return;
        }
        // As tables are made: written at once, of zero pages, and grown.
        let (written, zeroed) = (vec![7_u8; 32 << 20], vec![0_u8; 32 << 20]);
        let mut grown = vec![1_u8; 1 << 10];
        assert!(!is_asked_for(&grown));
        grown.resize(32 << 20, 2);
        assert_eq!([&written, &zeroed, &grown].map(|memory| is_asked_for(memory)), [true; 3]);
        let (buffers, huge) = Mapping::buffers(8 << 20, false).unwrap();
        // SAFETY: the mapping is there, all of it was written, and nobody else knows it.
        let memory = unsafe { std::slice::from_raw_parts(buffers.start().as_ptr(), buffers.len()) };
        assert!(!huge && !is_asked_for(memory), "not where they are not wanted");
    }
}
