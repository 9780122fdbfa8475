//! One AF_XDP socket: a queue of a device, its four rings, and the buffers that are in them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

pub use crate::sys::Statistics;

use crate::ring::Ring;
use crate::sys::{self, Descriptor, MmapOffsets, UmemReg};

/// Does the driver put packets straight into our memory?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    Zero,
    Copied,
}

/// What a socket is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub rx: u32,
    pub tx: u32,
    pub fill: u32,
    pub completion: u32,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    pub(crate) rx: Ring<Descriptor>,
    pub(crate) tx: Ring<Descriptor>,
    pub(crate) fill: Ring<u64>,
    pub(crate) completion: Ring<u64>,
    pub(crate) copy: Copy,
    /// Why not zero-copy.
    pub(crate) copy_reason: Option<String>,
    /// May a frame be in several pieces?
    pub(crate) pieces: bool,
    /// Something was put into the transmit ring since the last kick.
    pub(crate) to_send: bool,
}

/// Where a socket goes, and what it shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub interface: u32,
    pub queue: u32,
    /// A socket that has the memory already, for all but the first, and whether it may have frames in several pieces.
    pub shared: Option<(RawFd, bool)>,
    pub zero_copy: bool,
    /// The device has frames that do not fit into one buffer.
    pub large: bool,
    /// Microseconds of busy polling; 0 is off.
    pub busy_poll: u32,
}

impl Socket {
    /// Make the socket and bind it: zero-copy if asked for and possible, else copying; with frames in several pieces
    /// where the kernel can (6.6 and later), but not at the price of zero-copy unless the device needs it.
    pub(crate) fn open(target: Target, memory: Option<&UmemReg>, sizes: Sizes) -> io::Result<Self> {
        if let Some((fd, pieces)) = target.shared {
            // All that share a memory are bound as the first one was; asking for it again is refused.
            let socket = Self::unbound(memory, sizes)?;
            sys::bind(&socket.fd, target.interface, target.queue, libc::XDP_SHARED_UMEM, Some(fd))?;
            return socket.bound(pieces, target.busy_poll);
        }
        let try_bind = |copy: u16, pieces: bool| {
            let socket = Self::unbound(memory, sizes)?;
            let flags = copy | libc::XDP_USE_NEED_WAKEUP | if pieces { libc::XDP_USE_SG } else { 0 };
            sys::bind(&socket.fd, target.interface, target.queue, flags, None)?;
            socket.bound(pieces, target.busy_poll)
        };
        let mut reason = None;
        if target.zero_copy {
            match try_bind(libc::XDP_ZEROCOPY, target.large) {
                Ok(socket) => return Ok(socket),
                Err(error) => reason = Some(format!("the driver refused zero-copy: {error}")),
            }
        }
        let whole = |error: io::Error| match error.raw_os_error() {
            Some(libc::EINVAL) => try_bind(libc::XDP_COPY, false),
            _ => Err(error),
        };
        let socket = try_bind(libc::XDP_COPY, true).or_else(whole)?;
        Ok(Self { copy_reason: reason, ..socket })
    }

    fn bound(mut self, pieces: bool, busy_poll: u32) -> io::Result<Self> {
        let options: u32 = sys::get(&self.fd, libc::XDP_OPTIONS)?;
        self.copy = if options & libc::XDP_OPTIONS_ZEROCOPY == 0 { Copy::Copied } else { Copy::Zero };
        self.pieces = pieces;
        self.busy_poll(busy_poll)?;
        Ok(self)
    }

    fn unbound(memory: Option<&UmemReg>, sizes: Sizes) -> io::Result<Self> {
        let fd = sys::xdp_socket()?;
        if let Some(memory) = memory {
            sys::set(&fd, libc::SOL_XDP, libc::XDP_UMEM_REG, memory)?;
        }
        for (ring, size) in [
            (sys::FILL, sizes.fill),
            (sys::COMPLETION, sizes.completion),
            (sys::RX, sizes.rx),
            (sys::TX, sizes.tx),
        ] {
            sys::set(&fd, libc::SOL_XDP, ring, &size)?;
        }
        let offsets: MmapOffsets = sys::get(&fd, libc::XDP_MMAP_OFFSETS)?;
        let page = |offset: u64| i64::try_from(offset).unwrap_or(0);
        Ok(Self {
            rx: Ring::new(&fd, offsets.rx, sizes.rx, libc::XDP_PGOFF_RX_RING)?,
            tx: Ring::new(&fd, offsets.tx, sizes.tx, libc::XDP_PGOFF_TX_RING)?,
            fill: Ring::new(&fd, offsets.fill, sizes.fill, page(libc::XDP_UMEM_PGOFF_FILL_RING))?,
            completion: Ring::new(
                &fd,
                offsets.completion,
                sizes.completion,
                page(libc::XDP_UMEM_PGOFF_COMPLETION_RING),
            )?,
            fd,
            copy: Copy::Copied,
            copy_reason: None,
            pieces: false,
            to_send: false,
        })
    }

    fn busy_poll(&self, microseconds: u32) -> io::Result<()> {
        if microseconds == 0 {
            return Ok(());
        }
        const BUDGET: i32 = 64;
        sys::set(&self.fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1_i32)?;
        sys::set(&self.fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &microseconds)?;
        sys::set(&self.fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &BUDGET)
    }

    pub(crate) fn statistics(&self) -> io::Result<Statistics> {
        sys::get(&self.fd, libc::XDP_STATISTICS)
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
