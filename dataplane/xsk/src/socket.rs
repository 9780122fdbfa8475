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
    /// Something was put into the transmit ring since the last kick.
    pub(crate) to_send: bool,
}

/// Where a socket goes, and what it shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub interface: u32,
    pub queue: u32,
    /// The socket that registered the memory, for all but the first.
    pub shared: Option<RawFd>,
    pub zero_copy: bool,
    /// Microseconds of busy polling; 0 is off.
    pub busy_poll: u32,
}

impl Socket {
    /// Make the socket and bind it: zero-copy if asked for and possible, else copying.
    pub(crate) fn open(target: Target, memory: Option<&UmemReg>, sizes: Sizes) -> io::Result<Self> {
        let try_bind = |flags: u16| {
            let socket = Self::unbound(memory, sizes)?;
            match target.shared {
                // A shared memory's copy mode follows the queue; asking for it again is refused.
                Some(fd) => {
                    sys::bind(&socket.fd, target.interface, target.queue, libc::XDP_SHARED_UMEM, Some(fd))?
                }
                None => {
                    let flags = flags | libc::XDP_USE_NEED_WAKEUP;
                    sys::bind(&socket.fd, target.interface, target.queue, flags, None)?;
                }
            }
            Ok::<_, io::Error>(socket)
        };
        let mut reason = None;
        if target.zero_copy && target.shared.is_none() {
            match try_bind(libc::XDP_ZEROCOPY) {
                Ok(mut socket) => {
                    socket.copy = Copy::Zero;
                    socket.busy_poll(target.busy_poll)?;
                    return Ok(socket);
                }
                Err(error) => reason = Some(format!("the driver refused zero-copy: {error}")),
            }
        }
        let mut socket = try_bind(libc::XDP_COPY)?;
        socket.copy_reason = reason;
        socket.busy_poll(target.busy_poll)?;
        Ok(socket)
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
