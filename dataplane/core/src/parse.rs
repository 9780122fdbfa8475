//! Bytes → [`Headers`], or the reason why not. After `parse` succeeded no accessor of the path can run off the frame.

use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::verdict::DropReason;

/// What one frame is, as far as the path needs to know. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    pub key: FlowKey,
    /// VLAN id of the outer tag; 0 = untagged. (A second tag is refused: we have no ports for it.)
    pub vlan: u16,
    /// Where the IP header starts.
    pub l3: u16,
    /// Where the transport header starts (behind options and extension headers).
    pub l4: u16,
    /// Where the IP packet ends; Ethernet padding behind it does not count.
    pub end: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags byte (FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32); 0 for other protocols.
    pub tcp_flags: u8,
    pub kind: Kind,
    /// DF is set (always true for IPv6: routers never fragment it).
    pub dont_fragment: bool,
    pub fragment: Option<Fragment>,
}

/// What the transport part turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, UDP, SCTP: both ports are in the key.
    Ports,
    /// ICMP echo request/reply and the like: the identifier is in the key (see [`FlowKey`]).
    IcmpQuery,
    /// ICMP error: the key is that of the error itself; the quoted packet is read by `quoted`.
    IcmpError,
    /// Any other protocol: tracked by addresses and protocol alone, ports 0.
    Other,
    /// A later fragment: no transport header; ports in the key are 0 until the fragment table fills them in.
    LaterFragment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    /// In bytes.
    pub offset: u16,
    pub more: bool,
}

/// Read and check one frame. Strict where a lie could confuse a table (lengths, header checksum, source and destination
/// that no one may use, truncated transport headers), indifferent to what only ends care about.
pub fn parse(_packet: &Packet<'_>) -> Result<Headers, DropReason> {
    Err(DropReason::NotReady)
}
