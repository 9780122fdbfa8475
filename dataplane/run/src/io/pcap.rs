//! Packets from captures and into them. Runs until the capture is read, not until a timer says so.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "captures hold blocks that are not packets; they are passed over"
)]

use std::io::{Read, Write};
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgReader};

/// One captured frame: when, on which interface of the capture, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub at: Duration,
    pub interface: u32,
    pub bytes: Vec<u8>,
}

/// Why a capture could not be read.
#[derive(Debug)]
pub struct CaptureError(pub String);

impl std::fmt::Display for CaptureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CaptureError {}

fn broken(error: impl std::fmt::Display) -> CaptureError {
    CaptureError(format!("the capture cannot be read: {error}"))
}

/// Read a whole capture, pcap or pcapng by its first bytes, and the names of its interfaces (none for pcap).
pub fn read(mut source: impl Read) -> Result<(Vec<String>, Vec<Captured>), CaptureError> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).map_err(broken)?;
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) { read_pcapng(&bytes) } else { read_pcap(&bytes) }
}

fn read_pcap(bytes: &[u8]) -> Result<(Vec<String>, Vec<Captured>), CaptureError> {
    let mut reader = PcapReader::new(bytes).map_err(broken)?;
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(broken)?;
        frames.push(Captured { at: packet.timestamp, interface: 0, bytes: packet.data.into_owned() });
    }
    Ok((Vec::new(), frames))
}

fn read_pcapng(bytes: &[u8]) -> Result<(Vec<String>, Vec<Captured>), CaptureError> {
    let mut reader = PcapNgReader::new(bytes).map_err(broken)?;
    let (mut names, mut frames) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.map_err(broken)? {
            Block::InterfaceDescription(interface) => names.push(interface_name(&interface)),
            Block::EnhancedPacket(packet) => frames.push(Captured {
                at: packet.timestamp,
                interface: packet.interface_id,
                bytes: packet.data.into_owned(),
            }),
            _ => {}
        }
    }
    Ok((names, frames))
}

fn interface_name(
    block: &pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock<'_>,
) -> String {
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption as Option_;
    let named = block.options.iter().find_map(|option| match option {
        Option_::IfName(name) => Some(name.to_string()),
        _ => None,
    });
    named.unwrap_or_default()
}

/// Write frames as a plain pcap of Ethernet.
pub fn write(target: impl Write, frames: &[Captured]) -> Result<(), CaptureError> {
    let header = PcapHeader { datalink: DataLink::ETHERNET, snaplen: 65_535, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(target, header).map_err(broken)?;
    for frame in frames {
        let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
        writer.write_packet(&PcapPacket::new(frame.at, length, &frame.bytes)).map_err(broken)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let frames =
            vec![Captured { at: Duration::from_micros(1_500_000), interface: 0, bytes: vec![1, 2, 3] }];
        let mut file = Vec::new();
        write(&mut file, &frames).unwrap();
        assert_eq!(read(file.as_slice()).unwrap().1, frames);
        assert!(read(&b"nonsense"[..]).is_err());
    }
}
