//! System calls and the kernel's structures, as libc has them or as `linux/if_xdp.h` does. Nothing else calls libc.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

pub(crate) const FILL: i32 = libc::XDP_UMEM_FILL_RING;
pub(crate) const COMPLETION: i32 = libc::XDP_UMEM_COMPLETION_RING;
pub(crate) const RX: i32 = libc::XDP_RX_RING;
pub(crate) const TX: i32 = libc::XDP_TX_RING;

/// `struct xdp_umem_reg`. Older kernels know less of its end and take what is zero.
#[repr(C)]
pub(crate) struct UmemReg {
    pub address: u64,
    pub len: u64,
    pub chunk_size: u32,
    pub headroom: u32,
    pub flags: u32,
    pub tx_metadata_len: u32,
}

/// `struct xdp_ring_offset`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RingOffset {
    pub producer: u64,
    pub consumer: u64,
    pub descriptors: u64,
    pub flags: u64,
}

/// `struct xdp_mmap_offsets`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MmapOffsets {
    pub rx: RingOffset,
    pub tx: RingOffset,
    pub fill: RingOffset,
    pub completion: RingOffset,
}

/// `struct xdp_desc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub options: u32,
}

/// The kernel's own drops: `struct xdp_statistics`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub rx_dropped: u64,
    pub rx_invalid_descs: u64,
    pub tx_invalid_descs: u64,
    pub rx_ring_full: u64,
    pub rx_fill_ring_empty_descs: u64,
    pub tx_ring_empty_descs: u64,
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(crate) fn xdp_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a new descriptor or -1 comes back.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Memory that can be mapped twice, as a socket's rings are; of this size.
pub(crate) fn memory_file(len: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is a string that lives for ever; a new descriptor or -1 comes back.
    let fd = unsafe { libc::memfd_create(c"sluice-rings".as_ptr(), libc::MFD_CLOEXEC) };
    check(fd)?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    std::fs::File::from(fd.try_clone()?).set_len(len as u64)?;
    Ok(fd)
}

/// `setsockopt` with a plain value.
pub(crate) fn set<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the pointer and size describe `value`, which lives through the call; the kernel only reads it.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), size) })
}

/// `getsockopt` into a plain value of integers.
pub(crate) fn get<T: Default>(fd: &OwnedFd, option: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut size = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    let place = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the kernel writes at most `size` bytes into `value`, whose fields are integers: any bytes are valid.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, place, &mut size) })?;
    Ok(value)
}

pub(crate) fn bind(
    fd: &OwnedFd,
    interface: u32,
    queue: u32,
    flags: u16,
    shared: Option<RawFd>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).unwrap_or(0),
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.and_then(|fd| u32::try_from(fd).ok()).unwrap_or(0),
    };
    let size = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    // SAFETY: pointer and size describe `address`, which lives through the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), size) })
}

/// A packet socket of one device that hears what the filter lets through and nothing that we send.
pub(crate) fn packet_socket(interface: u32, filter: &[(u16, u8, u8, u32)]) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Without a protocol nothing comes in before the filter is there.
    // SAFETY: no pointers; a new descriptor or -1 comes back.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    check(fd)?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut code: Vec<libc::sock_filter> =
        filter.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = libc::c_ushort::try_from(code.len()).unwrap_or(0);
    set(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &libc::sock_fprog { len, filter: code.as_mut_ptr() })?;
    set(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
    let everything = u16::try_from(libc::ETH_P_ALL).unwrap_or(0).to_be();
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or(0),
        sll_protocol: everything,
        sll_ifindex: i32::try_from(interface).unwrap_or(0),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let size = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    // SAFETY: pointer and size describe `address`, which lives through the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), size) })?;
    Ok(fd)
}

/// Ask the kernel to look at the transmit ring. What it cannot do now it does later.
pub(crate) fn kick_tx(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no data is passed, only the descriptor.
    let sent =
        unsafe { libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Ask the kernel to look at the fill ring.
pub(crate) fn kick_rx(fd: &OwnedFd) {
    // SAFETY: no buffer is passed, only the descriptor. The result does not matter: the next turn asks again.
    unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
}

/// Wait until one of the sockets has something, at most so long.
pub(crate) fn poll(fds: &mut [libc::pollfd], most: Duration) {
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
    let seconds = libc::time_t::try_from(most.as_secs()).unwrap_or(libc::time_t::MAX);
    let most = libc::timespec { tv_sec: seconds, tv_nsec: most.subsec_nanos().into() };
    // SAFETY: pointer and count describe the slice, which lives through the call, as does the time; no signal mask is given.
    unsafe { libc::ppoll(fds.as_mut_ptr(), count, &raw const most, std::ptr::null()) };
}

/// The number of an interface of our network namespace.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a string that ends with a zero and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The device's MTU, if there is such a device.
pub(crate) fn mtu(name: &str) -> Option<usize> {
    // Any socket will do; this kind is allowed wherever we run.
    // SAFETY: no pointers; a new descriptor or -1 comes back.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd).ok()?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a structure of integers and bytes: all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    // SAFETY: the request is for this structure, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFMTU, &mut request) }).ok()?;
    // SAFETY: the kernel has just filled in this field.
    usize::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
}
