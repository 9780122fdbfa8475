//! Mapped memory: the buffers of a UMEM, the rings of a socket, and huge pages for anyone who asks.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

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
        // SAFETY: the range is the mapping that was just made; the advice changes no contents.
        let advised = unsafe { libc::madvise(mapping.start.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        // Touch every page now, not when packets come.
        for page in (0..len).step_by(4096) {
            // SAFETY: `page` is below the mapping's length.
            let byte = unsafe { mapping.start.add(page) };
            // SAFETY: the byte lies inside the mapping, which nobody else knows yet.
            unsafe { byte.write_volatile(0) };
        }
        Ok((mapping, huge && advised == 0))
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

/// Ask for huge pages behind a large table that has just been allocated. Only advice: what the kernel does not grant
/// costs time, not truth. Returns whether the kernel took it.
pub fn advise_huge<T>(table: &[T]) -> bool {
    let start = table.as_ptr() as usize;
    let aligned = start.next_multiple_of(HUGE);
    let end = start + size_of_val(table);
    if aligned + HUGE > end {
        return false;
    }
    let len = (end - aligned) / HUGE * HUGE;
    // SAFETY: the range lies inside `table`, is page-aligned, and the advice changes no contents.
    unsafe { libc::madvise(aligned as *mut libc::c_void, len, libc::MADV_HUGEPAGE) == 0 }
}
