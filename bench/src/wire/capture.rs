//! What is sent, as a capture: the very program that makes the packets writes them, and they go to a file instead.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};

use super::order::Order;
use super::programs::Programs;

/// Write the first `count` packets of the order, at the times at which they are due.
pub(crate) fn write(order: &Order, count: u32, file: &Path) -> anyhow::Result<()> {
    let mut programs = Programs::load()?;
    // Without a pace: a packet is written each time.
    let unpaced = Order { rate: 0.0, seconds: f64::MAX, ..order.clone() };
    programs.order(&unpaced.words(0)?)?;
    let output = File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(BufWriter::new(output), header)?;
    let rate = if order.rate > 0.0 { order.rate } else { 1e6 };
    for n in 0..count {
        let bytes = programs.show(order.longest())?;
        let at = Duration::from_secs_f64(f64::from(n) / rate);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        writer.write_packet(&PcapPacket::new(at, length, &bytes))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use sluice_core::packet::{Packet, PortId};
    use sluice_core::parse::parse;

    use super::*;

    fn order(v6: bool) -> Order {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        Order {
            interface: "lo".into(),
            from_mac: [2; 6],
            to_mac: [4; 6],
            source: if v6 { ip("2001:db8::1") } else { ip("10.0.0.1") },
            target: if v6 { ip("2001:db8:1::1") } else { ip("10.96.0.1") },
            addresses: 3,
            targets: 2,
            apart: 300,
            sport: 1000,
            dport: 53,
            flows: 0,
            first: 0,
            rate: 0.0,
            seconds: f64::MAX,
            packets: 0,
            sizes: vec![128, 78, 1518],
            core: None,
        }
    }

    /// Each frame is one that the gateway's own parser takes, of the size and flow that were ordered, with right sums.
    #[test]
    fn the_program_writes_what_was_ordered() {
        for v6 in [false, true] {
            let order = order(v6);
            let Ok(mut programs) = Programs::load() else { return };
            programs.order(&order.words(0).unwrap()).unwrap();
            for n in 0..7_u16 {
                let bytes = programs.show(order.longest()).unwrap();
                assert_eq!(bytes.len(), usize::from(order.sizes[usize::from(n) % 3]) - 4);
                let mut room = vec![0; 2048];
                room[256..256 + bytes.len()].copy_from_slice(&bytes);
                let packet = Packet::new(&mut room, 256, bytes.len(), PortId(0)).unwrap();
                let headers = parse(&packet).unwrap();
                assert_eq!((headers.key.sport, headers.key.dport), (1000 + n / 3, 53), "v6: {v6}");
                assert_eq!(headers.key.src.octets()[15], 1 + (n % 3).to_le_bytes()[0]);
                assert_eq!(headers.key.dst.segments()[7], 1 + n % 2 * 300);
                if v6 {
                    assert!(udp_sum_is_right(&bytes), "packet {n}");
                }
            }
        }
    }

    /// What was counted when it was told to stop is all that there ever is.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "the kernel runs meanwhile")]
    fn a_generator_that_is_stopped_has_counted_its_last_packet() {
        let order = order(false);
        let Ok(mut programs) = Programs::load() else { return };
        programs.order(&order.words(0).unwrap()).unwrap();
        let pause = || std::thread::sleep(Duration::from_millis(20));
        std::thread::scope(|scope| {
            let runner = scope.spawn(|| programs.run(order.longest(), 1 << 20));
            while programs.counts().unwrap().sent == 0 && !runner.is_finished() {
                pause();
            }
            let told = programs.stop().unwrap();
            pause();
            let later = programs.counts().unwrap();
            assert!(told.sent > 0 && later.asked > told.asked, "{told:?} {later:?}");
            assert_eq!(told.sent, later.sent);
        });
    }

    fn udp_sum_is_right(frame: &[u8]) -> bool {
        let words =
            frame[22..].chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)));
        let length = u32::try_from(frame.len() - 54).unwrap();
        let mut sum = words.sum::<u32>() + length + 17;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff
    }
}
