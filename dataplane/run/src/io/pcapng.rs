//! Packets into a pcapng file, one at a time: each with its interface, direction, a number and a comment. Wireshark and
//! tshark show all of it.

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u32 = 1;

const COMMENT: u16 = 1;
const INTERFACE_NAME: u16 = 2;
const RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;
const NUMBER: u16 = 5;
/// Readers stop believing in longer ones.
const LONGEST_COMMENT: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// One packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Noted<'a> {
    /// Nanoseconds since 1970.
    pub at: u64,
    pub interface: &'a str,
    pub direction: Direction,
    /// The same for the packet as it came and as it went.
    pub number: u64,
    pub comment: &'a str,
    pub bytes: &'a [u8],
    /// Its length on the wire, if that is more than there are bytes.
    pub length: usize,
}

#[derive(Debug)]
pub struct Writer<W> {
    target: W,
    interfaces: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begin a file.
    pub fn new(mut target: W) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend([1, 0, 0, 0]);
        // The section's length is not known: it ends where the file ends.
        body.extend(u64::MAX.to_le_bytes());
        block(&mut target, SECTION, &body)?;
        Ok(Self { target, interfaces: Vec::new() })
    }

    /// Write one packet, and what is new of its interface. Flushed, so that a reader behind a pipe sees it at once.
    pub fn write(&mut self, packet: &Noted<'_>) -> io::Result<()> {
        let interface = self.interface(packet.interface)?;
        let mut body = Vec::with_capacity(packet.bytes.len() + packet.comment.len() + 64);
        body.extend(interface.to_le_bytes());
        body.extend(high(packet.at).to_le_bytes());
        body.extend(low(packet.at).to_le_bytes());
        body.extend(word(packet.bytes.len())?.to_le_bytes());
        body.extend(word(packet.length.max(packet.bytes.len()))?.to_le_bytes());
        body.extend(packet.bytes);
        pad(&mut body);
        if !packet.comment.is_empty() {
            let cut = packet.comment.floor_char_boundary(LONGEST_COMMENT);
            option(&mut body, COMMENT, &packet.comment.as_bytes()[..cut]);
        }
        let direction: u32 = if packet.direction == Direction::In { 1 } else { 2 };
        option(&mut body, FLAGS, &direction.to_le_bytes());
        option(&mut body, NUMBER, &packet.number.to_le_bytes());
        body.extend([0; 4]);
        block(&mut self.target, PACKET, &body)?;
        self.target.flush()
    }

    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(index) = self.interfaces.iter().position(|known| known == name) {
            return word(index);
        }
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        body.extend(0_u32.to_le_bytes());
        option(&mut body, INTERFACE_NAME, name.as_bytes());
        // Times count nanoseconds.
        option(&mut body, RESOLUTION, &[9]);
        body.extend([0; 4]);
        block(&mut self.target, INTERFACE, &body)?;
        self.interfaces.push(name.to_owned());
        word(self.interfaces.len() - 1)
    }
}

fn block(target: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = word(body.len() + 12)?.to_le_bytes();
    target.write_all(&[&kind.to_le_bytes(), &length, body, &length].concat())
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend(code.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(&value[..usize::from(length)]);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn word(n: usize) -> io::Result<u32> {
    u32::try_from(n).map_err(io::Error::other)
}

#[expect(clippy::cast_possible_truncation, reason = "split into halves on purpose")]
const fn low(n: u64) -> u32 {
    n as u32
}

const fn high(n: u64) -> u32 {
    low(n >> 32)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        let frame = frame();
        for (interface, direction) in
            [("eth0", Direction::In), ("eth1", Direction::Out), ("eth0", Direction::In)]
        {
            let comment = "DROPPED POLICY_DENIED shop/a -> shop/b by default deny of shop/p";
            let packet = Noted {
                at: 1_795_523_401_250_123_456,
                interface,
                direction,
                number: 7,
                comment,
                bytes: &frame,
                length: frame.len(),
            };
            writer.write(&packet).unwrap();
        }
        file
    }

    /// A ping, as Ethernet has it.
    fn frame() -> Vec<u8> {
        let ip = |text: &str| format!("::ffff:{text}").parse().unwrap();
        let key = sluice_core::flow_key::FlowKey {
            src: ip("192.0.2.1"),
            dst: ip("192.0.2.2"),
            sport: 77,
            dport: 0,
            proto: 1,
            v4: true,
        };
        sluice_core::emit::Frame::new(key).build()
    }

    #[test]
    fn what_is_written_is_read_by_the_reader_of_replay() {
        let (names, frames) = super::super::pcap::read(file().as_slice()).unwrap();
        assert_eq!(names, ["eth0", "eth1"]);
        assert_eq!(frames.iter().map(|frame| frame.interface).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(frames[1].bytes, frame());
    }

    /// Wireshark's own tools agree; machines without them test the rest.
    #[test]
    fn wireshark_reads_interface_direction_and_comment() {
        if Command::new("tshark").arg("--version").output().is_err() {
            eprintln!("tshark is not installed: not compared with it");
            return;
        }
        let path = std::env::temp_dir().join(format!("sluice-pcapng-{}.pcapng", std::process::id()));
        std::fs::write(&path, file()).unwrap();
        let fields = [
            "frame.interface_name",
            "frame.packet_flags_direction",
            "frame.packet_id",
            "frame.comment",
            "frame.time_epoch",
            "ip.src",
        ];
        let mut tshark = Command::new("tshark");
        tshark.args(["-n", "-r"]).arg(&path).args(["-T", "fields"]);
        tshark.args(fields.iter().flat_map(|field| ["-e", *field]));
        let output = tshark.output().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0][0], "eth0");
        assert_eq!(lines[1][0], "eth1");
        assert_ne!(lines[0][1], lines[1][1], "{text}");
        assert_eq!(lines[0][3], "DROPPED POLICY_DENIED shop/a -> shop/b by default deny of shop/p");
        assert!(lines[0][4].contains("401.250123456"), "{text}");
        assert_eq!(lines[0][5], "192.0.2.1");
    }
}
