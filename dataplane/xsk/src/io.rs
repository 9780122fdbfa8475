//! [`PacketIo`] over AF_XDP: one worker's queue on each of its devices, all in one memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_core::packet::{Packet, PortId};
use sluice_run::bell::Bell;
use sluice_run::io::{Burst, Frame, PacketIo, Packets};

pub use crate::buffers::BUFFER;
use crate::buffers::{Buffers, LARGE};
use crate::memory::Mapping;
use crate::rehearsal::{self, Player};
use crate::socket::{Copy, Sizes, Socket, Statistics, Target};
use crate::sys::{self, Descriptor, UmemReg};

/// What the kernel leaves free before a received frame, on top of its own 256 bytes.
const HEADROOM: u32 = 0;
/// Devices that a worker sleeps for, and its bell.
const MOST_FDS: usize = 65;
/// What we leave free before a frame that we put into a buffer.
const START: usize = 256;
/// Large frames that a worker has in its hands or is sending.
const LARGE_BUFFERS: usize = 512;

/// A device that a worker serves.
#[derive(Clone, Debug)]
pub struct Device {
    pub name: String,
    pub queue: u32,
    pub zero_copy: bool,
}

/// What the I/O of one worker is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// By the numbers that ports call them: `Port::device` is an index into this list.
    pub devices: Vec<Device>,
    /// Descriptors in a receive ring; the fill ring has twice as many, so that it is never empty at start.
    pub ring: u32,
    pub huge_pages: bool,
    /// Microseconds; 0 is off.
    pub busy_poll: u32,
}

/// What one device's socket came to be.
#[derive(Clone, Debug)]
pub struct Attached {
    pub name: String,
    pub queue: u32,
    pub copy: Copy,
    pub reason: Option<String>,
    /// For the XDP program's map.
    pub fd: RawFd,
}

#[derive(Debug)]
struct Slot {
    device: Device,
    /// `None`: the device is gone, or was never there.
    socket: Option<Socket>,
    /// A large frame of which more pieces are to come.
    gathering: Option<Gathering>,
    sent: u64,
    send_failed: u64,
    large_lost: u64,
}

impl Slot {
    fn has_come(&mut self) -> bool {
        self.socket.as_mut().is_some_and(|socket| socket.rx.has_come())
    }
}

/// A large frame so far. `None`: there was no buffer, or it is too large; its pieces are thrown away.
#[derive(Clone, Copy, Debug)]
struct Gathering {
    place: Option<u64>,
    len: usize,
}

/// How a device's socket fares.
#[derive(Clone, Debug)]
pub struct Report {
    pub name: String,
    pub queue: u32,
    pub sent: u64,
    /// Frames that found no room in the transmit ring.
    pub send_failed: u64,
    /// Large frames that found no large buffer, or were larger than one.
    pub large_lost: u64,
    /// The kernel's own counters; `None`: there is no socket.
    pub kernel: Option<Statistics>,
}

/// All devices of one worker.
#[derive(Debug)]
pub struct XskIo {
    // Sockets before memory: they are closed first, then the memory that they used goes.
    slots: Vec<Slot>,
    buffers: Buffers,
    memory: Mapping,
    huge: bool,
    config: Config,
    next: usize,
}

impl XskIo {
    /// Take memory and open a socket on each device. A device that is not there is left out for now; see [`Self::reopen`].
    pub fn open(config: Config) -> io::Result<Self> {
        let per_device = config.ring as usize * 4;
        let buffers = Buffers::new((per_device * config.devices.len().max(1)) + 1024, LARGE_BUFFERS);
        let (memory, huge) = Mapping::buffers(buffers.bytes(), config.huge_pages)?;
        let slots = config.devices.iter().cloned().map(|device| Slot {
            device,
            socket: None,
            gathering: None,
            sent: 0,
            send_failed: 0,
            large_lost: 0,
        });
        let mut io = Self { slots: slots.collect(), buffers, memory, huge, next: 0, config };
        for index in 0..io.slots.len() {
            match io.open_socket(index) {
                Err(error) if sys::interface_index(&io.slots[index].device.name).is_some() => {
                    return Err(error);
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(io)
    }

    /// Close a device's socket: the device is gone. What was in its rings is lost, its buffers are free again.
    pub fn close(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.socket = None;
        if let Some(place) = slot.gathering.take().and_then(|gathering| gathering.place) {
            self.buffers.put(place);
        }
        self.buffers.recover(number(index));
    }

    /// Open a device's socket again, on the device that has its name now.
    pub fn reopen(&mut self, index: usize) -> io::Result<Vec<Attached>> {
        self.close(index);
        self.open_socket(index)?;
        Ok(self.attached())
    }

    /// Devices that are played: the rings of each are memory, with somebody of ours at the kernel's end. Nothing needs to be woken, as
    /// with a driver that polls.
    pub fn rehearse(devices: usize, ring: u32) -> io::Result<(Self, Vec<Player>)> {
        let mut io = Self::open(Config { devices: Vec::new(), ring, huge_pages: true, busy_poll: 0 })?;
        io.buffers = Buffers::new(ring as usize * 4 * devices + 1024, LARGE_BUFFERS);
        (io.memory, io.huge) = Mapping::buffers(io.buffers.bytes(), true)?;
        let mut players = Vec::new();
        for index in 0..devices {
            let (socket, player) = rehearsal::socket(io.sizes())?;
            let device = Device { name: format!("played-{index}"), queue: 0, zero_copy: true };
            io.slots.push(Slot {
                device,
                socket: Some(socket),
                gathering: None,
                sent: 0,
                send_failed: 0,
                large_lost: 0,
            });
            io.fill(index);
            players.push(player);
        }
        Ok((io, players))
    }

    fn sizes(&self) -> Sizes {
        let ring = self.config.ring;
        Sizes { rx: ring, tx: ring, fill: ring * 2, completion: ring }
    }

    fn open_socket(&mut self, index: usize) -> io::Result<()> {
        let slot = &self.slots[index];
        let interface = sys::interface_index(&slot.device.name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no interface {}", slot.device.name))
        })?;
        let shared = self.slots.iter().find_map(|slot| slot.socket.as_ref());
        let target = Target {
            interface,
            queue: slot.device.queue,
            shared: shared.map(|socket| (socket.raw(), socket.pieces)),
            zero_copy: slot.device.zero_copy,
            large: sys::mtu(&slot.device.name).is_some_and(|mtu| mtu > BUFFER - 2 * START),
            busy_poll: self.config.busy_poll,
        };
        let memory = UmemReg {
            address: self.memory.start().as_ptr() as u64,
            len: self.memory.len() as u64,
            chunk_size: u32::try_from(BUFFER).unwrap_or(0),
            headroom: HEADROOM,
            flags: 0,
            tx_metadata_len: 0,
        };
        let socket = Socket::open(target, shared.is_none().then_some(&memory), self.sizes())?;
        self.slots[index].socket = Some(socket);
        self.fill(index);
        Ok(())
    }

    /// Sockets as they are, with the reasons.
    pub fn attached(&self) -> Vec<Attached> {
        let attached = |slot: &Slot| {
            slot.socket.as_ref().map(|socket| Attached {
                name: slot.device.name.clone(),
                queue: slot.device.queue,
                copy: socket.copy,
                reason: socket.copy_reason.clone(),
                fd: socket.raw(),
            })
        };
        self.slots.iter().filter_map(attached).collect()
    }

    /// Are the buffers in huge pages?
    pub fn huge_pages(&self) -> bool {
        self.huge
    }

    /// What each device's socket sent and lost.
    pub fn reports(&self) -> Vec<Report> {
        let report = |slot: &Slot| Report {
            name: slot.device.name.clone(),
            queue: slot.device.queue,
            sent: slot.sent,
            send_failed: slot.send_failed,
            large_lost: slot.large_lost,
            kernel: slot.socket.as_ref().and_then(|socket| socket.statistics().ok()),
        };
        self.slots.iter().map(report).collect()
    }

    /// Give the kernel buffers to receive into, as many as its ring takes.
    fn fill(&mut self, index: usize) {
        let Some(socket) = self.slots[index].socket.as_mut() else { return };
        let room = socket.fill.fresh_room();
        if room == 0 {
            return;
        }
        self.buffers.lend_free(room, number(index), |place| socket.fill.push(place));
        socket.fill.submit();
        if socket.fill.needs_wakeup() {
            sys::kick_rx(&socket.fd);
        }
    }

    /// Buffers that were sent are free again.
    fn complete(&mut self, index: usize) {
        let Some(socket) = self.slots.get_mut(index).and_then(|slot| slot.socket.as_mut()) else { return };
        let ready = socket.completion.ready();
        if ready == 0 {
            return;
        }
        for _ in 0..ready {
            self.buffers.sent(socket.completion.take());
        }
        socket.completion.release();
    }

    /// A piece of a large frame has come; with the last one the frame is whole.
    #[cold]
    fn gather(&mut self, index: usize, piece: Descriptor) -> Option<Frame> {
        let slot = self.slots.get_mut(index)?;
        let mut gathering =
            slot.gathering.take().unwrap_or_else(|| Gathering { place: self.buffers.take_large(), len: 0 });
        let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
        let from = usize::try_from(piece.address).unwrap_or(usize::MAX);
        if let Some(place) = gathering.place {
            let to = usize::try_from(place).unwrap_or(usize::MAX) + START + gathering.len;
            if START + gathering.len + len <= LARGE {
                self.memory.copy_within(from, to, len);
                gathering.len += len;
            } else {
                self.buffers.put(place);
                gathering.place = None;
            }
        }
        let place = self.buffers.received(piece.address);
        self.buffers.put(place);
        if piece.options & libc::XDP_PKT_CONTD != 0 {
            slot.gathering = Some(gathering);
            return None;
        }
        let Some(place) = gathering.place else {
            slot.large_lost += 1;
            return None;
        };
        let (start, len) = (u16::try_from(START).ok()?, u16::try_from(gathering.len).ok()?);
        Some(Frame::new(place, start, len, u16::from(number(index))))
    }

    /// Whole frames of one device, until there are no more, no more fit, or a piece of a large one has come.
    #[inline]
    fn receive_from(&mut self, index: usize, device: u16, burst: &mut Burst) -> Option<Descriptor> {
        let slot = &mut self.slots[index];
        let socket = slot.socket.as_mut()?;
        let ready = usize::try_from(socket.rx.ready()).unwrap_or(usize::MAX).min(burst.remaining_capacity());
        if ready == 0 {
            return None;
        }
        let whole = slot.gathering.is_none();
        let mut piece = None;
        for _ in 0..ready {
            let descriptor = socket.rx.take();
            if descriptor.options & libc::XDP_PKT_CONTD != 0 || !whole {
                piece = Some(descriptor);
                break;
            }
            let place = self.buffers.received(descriptor.address);
            let start = u16::try_from(descriptor.address - place).unwrap_or(u16::MAX);
            let len = u16::try_from(descriptor.len).unwrap_or(u16::MAX);
            burst.push(Frame::new(place, start, len, device));
        }
        socket.rx.release();
        piece
    }

    /// By a device that is not there, or whose ring is full, or a large frame, in pieces.
    #[cold]
    fn send_otherwise(&mut self, frame: Frame, index: usize, start: usize, len: usize) {
        let pieces = (start + len).div_ceil(BUFFER) - start / BUFFER;
        let mut room = self.room(index);
        if room < pieces {
            self.kick(index);
            self.complete(index);
            room = self.room(index);
        }
        let Some(slot) = self.slots.get_mut(index) else { return self.release(frame) };
        let Some(socket) =
            slot.socket.as_mut().filter(|socket| room >= pieces && (pieces == 1 || socket.pieces))
        else {
            slot.send_failed += 1;
            return self.release(frame);
        };
        (socket.to_send, slot.sent) = (true, slot.sent + 1);
        let place = frame.into_place();
        self.buffers.lend(place, number(index), u8::try_from(pieces).unwrap_or(u8::MAX));
        let (mut at, end) = (start, start + len);
        while at < end {
            let border = ((at / BUFFER + 1) * BUFFER).min(end);
            let options = if border < end { libc::XDP_PKT_CONTD } else { 0 };
            let len = u32::try_from(border - at).unwrap_or(0);
            socket.tx.push(Descriptor { address: place + at as u64, len, options });
            at = border;
        }
    }

    /// Free entries in a device's transmit ring.
    fn room(&mut self, index: usize) -> usize {
        let socket = self.slots.get_mut(index).and_then(|slot| slot.socket.as_mut());
        socket.map_or(0, |socket| socket.tx.fresh_room() as usize)
    }

    fn kick(&mut self, index: usize) {
        let Some(socket) = self.slots.get_mut(index).and_then(|slot| slot.socket.as_mut()) else { return };
        if !socket.to_send {
            return;
        }
        socket.to_send = false;
        socket.tx.submit();
        // In copy mode a call sends a few dozen frames at most: go on until the ring is empty, but not for ever.
        for _ in 0..8 {
            if !socket.tx.needs_wakeup() && socket.copy == Copy::Zero {
                return;
            }
            if socket.tx.outstanding() == 0 {
                return;
            }
            if let Err(error) = sys::kick_tx(&socket.fd)
                && !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS))
            {
                // ENXIO, ENETDOWN: the device is down or gone; what is in the ring waits or is lost with it.
                return;
            }
        }
        socket.to_send = socket.tx.outstanding() > 0;
    }
}

impl PacketIo for XskIo {
    fn receive(&mut self, burst: &mut Burst) {
        // Another device is first each time, so that a busy one does not starve the others.
        self.next = (self.next + 1) % self.slots.len().max(1);
        for step in 0..self.slots.len() {
            let index = (self.next + step) % self.slots.len();
            let device = u16::try_from(index).unwrap_or(u16::MAX);
            while let Some(piece) = self.receive_from(index, device, burst) {
                burst.extend(self.gather(index, piece));
            }
        }
    }

    fn packets<'a>(
        &'a mut self,
        frames: &'a [Frame],
        port: impl Fn(u16) -> PortId,
        packets: &mut Packets<'a>,
    ) {
        let (start, buffers) = (self.memory.start(), &self.buffers);
        let one = |frame: &Frame| {
            let place = usize::try_from(frame.place()).unwrap_or(usize::MAX);
            let size = buffers.size(frame.place());
            if place.saturating_add(size) > buffers.bytes() {
                return None;
            }
            // SAFETY: `place` is the start of a buffer inside the mapping (checked above).
            let room = unsafe { start.as_ptr().add(place) };
            // SAFETY: the frame owns its buffer (see the crate's documentation): neither the kernel nor another frame
            // refers to it, and the borrow of `self` and of the frame keeps it so for as long as the slice lives.
            let room = unsafe { std::slice::from_raw_parts_mut(room, size) };
            let mut packet =
                Packet::new(room, frame.start().into(), frame.len().into(), port(frame.device()))?;
            (packet.handed, packet.again) = (frame.handed(), frame.again());
            Some(packet)
        };
        packets.extend(frames.iter().take(packets.remaining_capacity()).filter_map(one));
    }

    #[inline]
    fn send(&mut self, frame: Frame, device: u16, start: usize, len: usize) {
        let index = usize::from(device);
        if start + len <= BUFFER
            && let Some(Slot { socket: Some(socket), sent, .. }) = self.slots.get_mut(index)
            && socket.tx.room() > 0
        {
            (socket.to_send, *sent) = (true, *sent + 1);
            let place = frame.into_place();
            self.buffers.lend(place, number(index), 1);
            let len = u32::try_from(len).unwrap_or(0);
            return socket.tx.push(Descriptor { address: place + start as u64, len, options: 0 });
        }
        self.send_otherwise(frame, index, start, len);
    }

    fn release(&mut self, frame: Frame) {
        self.buffers.put(frame.into_place());
    }

    fn inject(&mut self, bytes: &[u8], device: u16, handed: u8) -> Option<Frame> {
        let place = match START + bytes.len() {
            needed if needed <= BUFFER => self.buffers.take()?,
            needed if needed <= LARGE => self.buffers.take_large()?,
            _ => return None,
        };
        let (start, len) = (u16::try_from(START).ok()?, u16::try_from(bytes.len()).ok()?);
        let frame = Frame::new(place, start, len, device).handed_on(handed);
        let frames = [frame];
        if let Some(mut packet) = self.packet(&frames[0]) {
            packet.bytes_mut().copy_from_slice(bytes);
        }
        let [frame] = frames;
        Some(frame)
    }

    fn flush(&mut self) {
        for index in 0..self.slots.len() {
            self.kick(index);
            self.complete(index);
            self.fill(index);
        }
    }

    fn has_come(&mut self) -> bool {
        // Where the kernel polls the device only when it is asked, a whole turn asks it.
        self.config.busy_poll > 0 || self.slots.iter_mut().any(Slot::has_come)
    }

    fn wait(&mut self, most: Duration, bell: &Bell) {
        let mut fds: ArrayVec<libc::pollfd, MOST_FDS> = self
            .slots
            .iter()
            .filter_map(|slot| slot.socket.as_ref())
            .map(Socket::raw)
            .take(MOST_FDS - 1)
            .chain([bell.as_fd().as_raw_fd()])
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        sys::poll(&mut fds, most);
    }
}

/// A slot's number as the buffers know it; there are never more than a few devices.
fn number(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX - 1)
}
