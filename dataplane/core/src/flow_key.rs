//! The 5-tuple as two packed halves: what a flow is called in one direction.

use core::net::{IpAddr, Ipv6Addr};

/// A 5-tuple. IPv4 addresses are stored as IPv4-mapped IPv6 (`::ffff:a.b.c.d`), so one type serves both; `v4` says
/// which. For ICMP queries the identifier is the source port of requests and the destination port of replies, the other
/// port is 0, so that a reply's key is the reverse of its request's; policy gets the type separately.
/// (Aligned, so that copies of it are made in whole words wherever it lies.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(align(16))]
pub struct FlowKey {
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub sport: u16,
    pub dport: u16,
    pub proto: u8,
    pub v4: bool,
}

impl FlowKey {
    /// The key of packets that go the other way (untranslated).
    #[must_use]
    pub const fn reverse(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ..self }
    }

    pub fn source(&self) -> IpAddr {
        self.src.to_canonical()
    }

    pub fn destination(&self) -> IpAddr {
        self.dst.to_canonical()
    }
}
