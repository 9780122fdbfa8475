//! Wakes a worker that sleeps, for what comes by its rings and not by its devices. Who rings for one that is awake pays two
//! loads and a fence, and no system call.

use std::io::{self, Error};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

#[derive(Clone, Debug)]
pub struct Bell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The worker sleeps, or is about to, and nobody has rung yet.
    asleep: AtomicBool,
    /// There are commands for it.
    called: AtomicBool,
    fd: OwnedFd,
}

impl Bell {
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(Error::from)?;
        Ok(Self(Arc::new(Inner { asleep: AtomicBool::new(false), called: AtomicBool::new(false), fd })))
    }

    /// After something was put into a ring that the worker reads.
    #[inline]
    pub fn ring(&self) {
        // The worker says that it sleeps and then looks, we put and then look: one of both sees the other.
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// After a command was left for it.
    pub fn call(&self) {
        self.0.called.store(true, Ordering::Release);
        self.ring();
    }

    #[cold]
    fn wake(&self) {
        if self.0.asleep.swap(false, Ordering::AcqRel) {
            // (A counter that is full wakes as well.)
            let _ = rustix::io::write(&self.0.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Is there a command?
    #[inline]
    pub(crate) fn was_called(&self) -> bool {
        self.0.called.load(Ordering::Relaxed)
    }

    /// The same, and there is none any more.
    pub(crate) fn take_call(&self) -> bool {
        self.was_called() && self.0.called.swap(false, Ordering::Acquire)
    }

    /// From here on whoever rings wakes the worker. What came before it has to look for once more.
    pub(crate) fn lie_down(&self) {
        self.0.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn get_up(&self) {
        if !self.0.asleep.swap(false, Ordering::AcqRel) {
            // Somebody has rung, or is about to: then the next sleep is a short one.
            let _ = rustix::io::read(&self.0.fd, &mut [0; 8]);
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "threads sleep and wake in real time")]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn whoever_sleeps_is_woken_for_each_thing_that_comes() {
        const THINGS: u32 = 3000;
        let (bell, things, taken) = (Bell::new().unwrap(), AtomicU32::new(0), AtomicU32::new(0));
        let late = Timespec { tv_sec: 5, tv_nsec: 0 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..=THINGS {
                    while taken.load(Ordering::Acquire) < n - 1 {
                        std::hint::spin_loop();
                    }
                    // At times before it lies down, at times while it does, at times when it sleeps.
                    (0..n % 300 * 20).for_each(|_| std::hint::spin_loop());
                    things.store(n, Ordering::Release);
                    bell.ring();
                }
            });
            let began = Instant::now();
            while taken.load(Ordering::Relaxed) < THINGS {
                bell.lie_down();
                if things.load(Ordering::Acquire) == taken.load(Ordering::Relaxed) {
                    poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&late)).unwrap();
                }
                bell.get_up();
                taken.store(things.load(Ordering::Acquire), Ordering::Release);
            }
            assert!(began.elapsed() < Duration::from_secs(4), "somebody slept through a ring");
        });
    }

    #[test]
    fn a_call_is_heard_once_and_ringing_while_awake_leaves_nothing_behind() {
        let bell = Bell::new().unwrap();
        bell.call();
        assert!(bell.take_call() && !bell.take_call());
        bell.ring();
        bell.lie_down();
        let mut fds = [PollFd::new(&bell, PollFlags::IN)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&none)).unwrap(), 0);
        bell.ring();
        assert_eq!(poll(&mut fds, Some(&none)).unwrap(), 1);
        bell.get_up();
        assert_eq!(poll(&mut fds, Some(&none)).unwrap(), 0);
    }
}
