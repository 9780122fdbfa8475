//! One ring between us and the kernel: two counters and an array, one writer and one reader.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::memory::Mapping;
use crate::sys::RingOffset;

/// Set by the kernel when it sleeps and wants to be kicked.
const NEED_WAKEUP: u32 = 1;

/// Where in the mapping the counters and the array are.
#[derive(Clone, Copy, Debug)]
struct Offset {
    producer: usize,
    consumer: usize,
    flags: usize,
    descriptors: usize,
}

impl TryFrom<RingOffset> for Offset {
    type Error = io::Error;

    fn try_from(told: RingOffset) -> io::Result<Self> {
        let within = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        Ok(Self {
            producer: within(told.producer)?,
            consumer: within(told.consumer)?,
            flags: within(told.flags)?,
            descriptors: within(told.descriptors)?,
        })
    }
}

/// A ring of `T`s that we fill and the kernel empties, or the other way round.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    mapping: Mapping,
    offset: Offset,
    mask: u32,
    /// Our own counter, and the last seen of the other side's.
    mine: u32,
    theirs: u32,
    kind: std::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    pub(crate) fn new(fd: &OwnedFd, offset: RingOffset, size: u32, page_offset: i64) -> io::Result<Self> {
        let offset = Offset::try_from(offset)?;
        let bytes = offset.descriptors + size as usize * size_of::<T>();
        let mapping = Mapping::ring(fd, bytes, page_offset)?;
        Ok(Self { mapping, offset, mask: size - 1, mine: 0, theirs: 0, kind: std::marker::PhantomData })
    }

    #[inline]
    fn counter(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the kernel gave this offset for a 32-bit counter inside the ring's mapping, which lives as long as
        // `self`; both sides use it atomically.
        let counter = unsafe { self.mapping.start().add(offset) };
        // SAFETY: as above; the counter is aligned, initialised by the kernel, and lives as long as `self`.
        unsafe { counter.cast::<AtomicU32>().as_ref() }
    }

    #[inline]
    fn slot(&self, index: u32) -> *mut T {
        let at = self.offset.descriptors + (index & self.mask) as usize * size_of::<T>();
        debug_assert!(at + size_of::<T>() <= self.mapping.len());
        // SAFETY: `new` mapped the array of `mask + 1` entries behind this offset; the index is masked.
        unsafe { self.mapping.start().as_ptr().add(at).cast() }
    }

    /// Free entries, for the side that fills.
    #[inline]
    pub(crate) fn room(&mut self) -> u32 {
        let size = self.mask + 1;
        if self.mine.wrapping_sub(self.theirs) == size {
            self.theirs = self.counter(self.offset.consumer).load(Ordering::Acquire);
        }
        size - self.mine.wrapping_sub(self.theirs)
    }

    /// Free entries by the kernel's latest word.
    pub(crate) fn fresh_room(&mut self) -> u32 {
        self.theirs = self.counter(self.offset.consumer).load(Ordering::Acquire);
        self.mask + 1 - self.mine.wrapping_sub(self.theirs)
    }

    /// Fill the next entry. The caller has seen that there is room; `submit` shows it to the kernel.
    #[inline]
    pub(crate) fn push(&mut self, value: T) {
        let slot = self.slot(self.mine);
        // SAFETY: the entry is between the consumer's and our counter: the kernel does not read it before `submit`.
        unsafe { slot.write(value) };
        self.mine = self.mine.wrapping_add(1);
    }

    #[inline]
    pub(crate) fn submit(&self) {
        self.counter(self.offset.producer).store(self.mine, Ordering::Release);
    }

    /// Entries submitted that the kernel has not taken.
    pub(crate) fn outstanding(&self) -> u32 {
        self.mine.wrapping_sub(self.counter(self.offset.consumer).load(Ordering::Acquire))
    }

    /// How many entries there are to take, for the side that empties. The kernel's counter is read only when there are none
    /// left of those that it showed before.
    #[inline]
    pub(crate) fn ready(&mut self) -> u32 {
        if self.mine == self.theirs {
            self.theirs = self.counter(self.offset.producer).load(Ordering::Acquire);
        }
        self.theirs.wrapping_sub(self.mine)
    }

    /// The next entry; there is one by `ready`. `release` gives the entries back.
    #[inline]
    pub(crate) fn take(&mut self) -> T {
        debug_assert!(self.mine != self.theirs, "more taken than was ready");
        let slot = self.slot(self.mine);
        // SAFETY: the entry lies in the mapping whatever the counters say, and any bytes are a valid `T` (numbers). Before
        // the producer's counter, where `ready` said it is, the kernel has written it and waits for `release`.
        let value = unsafe { slot.read() };
        self.mine = self.mine.wrapping_add(1);
        value
    }

    /// Is there an entry, for the side that empties?
    pub(crate) fn has_come(&mut self) -> bool {
        if self.mine == self.theirs {
            self.theirs = self.counter(self.offset.producer).load(Ordering::Acquire);
        }
        self.mine != self.theirs
    }

    #[inline]
    pub(crate) fn release(&self) {
        self.counter(self.offset.consumer).store(self.mine, Ordering::Release);
    }

    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.counter(self.offset.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}
