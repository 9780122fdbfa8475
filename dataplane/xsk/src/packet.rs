//! A packet socket on one device: what the kernel gets of the link, and a way to send whole frames by it. For questions of
//! the link that are answered beside the path (ARP, neighbour discovery), not for traffic.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use crate::sys;

/// One instruction of the classic filter: operation, jumps when true and false, operand.
type Instruction = (u16, u8, u8, u32);

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Where a filter reads whether the kernel took a VLAN tag off the frame.
const TAGGED: u32 = 0xffff_f000 + 48;
/// The longest frame that is of interest.
const LONGEST: u32 = 256;

/// Untagged ARP, neighbour solicitations and advertisements.
const QUESTIONS: [Instruction; 12] = [
    (LOAD_WORD, 0, 0, TAGGED),
    (IF_EQUAL, 0, 9, 0),
    (LOAD_HALF, 0, 0, 12),
    (IF_EQUAL, 6, 0, 0x0806),
    (IF_EQUAL, 0, 6, 0x86dd),
    (LOAD_BYTE, 0, 0, 20),
    (IF_EQUAL, 0, 4, 58),
    (LOAD_BYTE, 0, 0, 54),
    (IF_EQUAL, 1, 0, 135),
    (IF_EQUAL, 0, 1, 136),
    (RETURN, 0, 0, LONGEST),
    (RETURN, 0, 0, 0),
];

/// Frames of the link as the kernel's own code sees them, but for those that we send ourselves.
#[derive(Debug)]
pub struct LinkSocket {
    file: File,
}

impl LinkSocket {
    /// Listen for questions on the device with this index. Needs CAP_NET_RAW.
    pub fn open(interface: u32) -> io::Result<Self> {
        let fd: OwnedFd = sys::packet_socket(interface, &QUESTIONS)?;
        Ok(Self { file: File::from(fd) })
    }

    /// The next frame, if there is one; it never waits.
    pub fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let length = self.file.read(buffer).ok()?;
        buffer.get(..length)
    }

    /// Send a whole frame. A full queue loses it, as the link may lose any.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.file.write(frame).map(drop)
    }
}
