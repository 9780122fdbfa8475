//! [`PacketIo`] over AF_XDP: one worker's queue on each of its devices, all in one memory.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_core::packet::{BURST, Packet, PortId};
use sluice_run::io::{Burst, Frame, PacketIo};

use crate::memory::Mapping;
use crate::socket::{Copy, Sizes, Socket, Statistics, Target};
use crate::sys::{self, Descriptor, UmemReg};

/// One buffer. A page, so that frames of up to 3.8 KiB fit and the kernel's checks are simple.
pub const BUFFER: usize = 4096;
/// What the kernel leaves free before a received frame, on top of its own 256 bytes.
const HEADROOM: u32 = 0;

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
    sent: u64,
    send_failed: u64,
}

/// All devices of one worker.
#[derive(Debug)]
pub struct XskIo {
    // Sockets before memory: they are closed first, then the memory that they used goes.
    slots: Vec<Slot>,
    free: Vec<u64>,
    memory: Mapping,
    huge: bool,
    buffers: usize,
    config: Config,
    next: usize,
}

impl XskIo {
    /// Take memory and open a socket on each device. A device that is not there is left out for now; see [`Self::reopen`].
    pub fn open(config: Config) -> io::Result<Self> {
        let per_device = config.ring as usize * 4;
        let buffers = (per_device * config.devices.len().max(1)) + 1024;
        let (memory, huge) = Mapping::buffers(buffers * BUFFER, config.huge_pages)?;
        let free = (0..buffers as u64).rev().map(|index| index * BUFFER as u64).collect();
        let slots = config.devices.iter().cloned().map(|device| Slot {
            device,
            socket: None,
            sent: 0,
            send_failed: 0,
        });
        let mut io = Self { slots: slots.collect(), free, memory, huge, buffers, next: 0, config };
        for index in 0..io.slots.len() {
            match io.open_socket(index) {
                Ok(()) => {}
                Err(error) if sys::interface_index(&io.slots[index].device.name).is_none() => drop(error),
                Err(error) => return Err(error),
            }
        }
        Ok(io)
    }

    fn open_socket(&mut self, index: usize) -> io::Result<()> {
        let slot = &self.slots[index];
        let interface = sys::interface_index(&slot.device.name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no interface {}", slot.device.name))
        })?;
        let shared = self.slots.iter().find_map(|slot| slot.socket.as_ref().map(Socket::raw));
        let target = Target {
            interface,
            queue: slot.device.queue,
            shared,
            zero_copy: slot.device.zero_copy,
            busy_poll: self.config.busy_poll,
        };
        let memory = UmemReg {
            address: self.memory.start().as_ptr() as u64,
            len: self.memory.len() as u64,
            chunk_size: u32::try_from(BUFFER).unwrap_or(0),
            headroom: HEADROOM,
            flags: 0,
        };
        let ring = self.config.ring;
        let sizes = Sizes { rx: ring, tx: ring, fill: ring * 2, completion: ring };
        let socket = Socket::open(target, shared.is_none().then_some(&memory), sizes)?;
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

    /// The kernel's counters of a device's socket.
    pub fn statistics(&self, device: usize) -> Option<Statistics> {
        self.slots.get(device)?.socket.as_ref()?.statistics().ok()
    }

    /// Give the kernel buffers to receive into, as many as its ring takes.
    fn fill(&mut self, index: usize) {
        let Some(socket) = self.slots[index].socket.as_mut() else { return };
        let room = socket.fill.fresh_room();
        if room == 0 {
            return;
        }
        let mut given = 0;
        // Some buffers stay for sending what other devices received.
        while given < room && self.free.len() > 64 {
            let Some(place) = self.free.pop() else { break };
            socket.fill.push(place);
            given += 1;
        }
        if given > 0 {
            socket.fill.submit();
        }
        if socket.fill.needs_wakeup() {
            sys::kick_rx(&socket.fd);
        }
    }

    /// Buffers that were sent are free again.
    fn complete(&mut self, index: usize) {
        let Some(socket) = self.slots[index].socket.as_mut() else { return };
        let mut any = false;
        while let Some(address) = socket.completion.pop() {
            self.free.push(address / BUFFER as u64 * BUFFER as u64);
            any = true;
        }
        if any {
            socket.completion.release();
        }
    }

    fn kick(&mut self, index: usize) {
        let Some(socket) = self.slots[index].socket.as_mut() else { return };
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
            let Some(socket) = self.slots[index].socket.as_mut() else { continue };
            let mut any = false;
            while !burst.is_full()
                && let Some(descriptor) = socket.rx.pop()
            {
                let place = descriptor.address / BUFFER as u64 * BUFFER as u64;
                let start = u16::try_from(descriptor.address - place).unwrap_or(u16::MAX);
                let len = u16::try_from(descriptor.len).unwrap_or(u16::MAX);
                burst.push(Frame::new(place, start, len, device));
                any = true;
            }
            if any {
                socket.rx.release();
                self.fill(index);
            }
        }
    }

    fn packets<'a>(
        &'a mut self,
        frames: &'a [Frame],
        port: impl Fn(u16) -> PortId,
    ) -> ArrayVec<Packet<'a>, BURST> {
        let start = self.memory.start();
        let one = |frame: &Frame| {
            let place = usize::try_from(frame.place()).unwrap_or(usize::MAX);
            if place.saturating_add(BUFFER) > self.buffers * BUFFER {
                return None;
            }
            // SAFETY: `place` is the start of a buffer inside the mapping (checked above).
            let room = unsafe { start.as_ptr().add(place) };
            // SAFETY: the frame owns its buffer (see the crate's documentation): neither the kernel nor another frame
            // refers to it, and the borrow of `self` and of the frame keeps it so for as long as the slice lives.
            let room = unsafe { std::slice::from_raw_parts_mut(room, BUFFER) };
            let mut packet =
                Packet::new(room, frame.start().into(), frame.len().into(), port(frame.device()))?;
            packet.handed = frame.handed();
            Some(packet)
        };
        frames.iter().take(BURST).filter_map(one).collect()
    }

    fn send(&mut self, frame: Frame, device: u16, start: usize, len: usize) {
        let index = usize::from(device);
        let Some(slot) = self.slots.get_mut(index) else { return self.release(frame) };
        let Some(socket) = slot.socket.as_mut() else {
            slot.send_failed += 1;
            return self.release(frame);
        };
        if socket.tx.room() == 0 {
            self.kick(index);
            self.complete(index);
            let slot = &mut self.slots[index];
            if slot.socket.as_mut().is_none_or(|socket| socket.tx.fresh_room() == 0) {
                slot.send_failed += 1;
                return self.release(frame);
            }
        }
        let slot = &mut self.slots[index];
        if let Some(socket) = slot.socket.as_mut() {
            let address = frame.into_place() + start as u64;
            socket.tx.push(Descriptor { address, len: u32::try_from(len).unwrap_or(0), options: 0 });
            socket.to_send = true;
            slot.sent += 1;
        }
    }

    fn release(&mut self, frame: Frame) {
        self.free.push(frame.into_place());
    }

    fn inject(&mut self, bytes: &[u8], device: u16, handed: u8) -> Option<Frame> {
        const START: usize = 256;
        if bytes.len() > BUFFER - START {
            return None;
        }
        let place = self.free.pop()?;
        let (start, len) = (u16::try_from(START).ok()?, u16::try_from(bytes.len()).ok()?);
        let frame = Frame::new(place, start, len, device).handed_on(handed);
        let frames = [frame];
        if let Some(packet) = self.packets(&frames, PortId).first_mut() {
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

    fn wait(&mut self, most: Duration) {
        let mut fds: ArrayVec<libc::pollfd, 64> = self
            .slots
            .iter()
            .filter_map(|slot| slot.socket.as_ref())
            .map(|socket| libc::pollfd { fd: socket.raw(), events: libc::POLLIN, revents: 0 })
            .take(64)
            .collect();
        sys::poll(&mut fds, i32::try_from(most.as_millis()).unwrap_or(i32::MAX));
    }
}
