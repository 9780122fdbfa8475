//! Every way a packet ends: one closed list, each with a counter; every drop with Cilium's number and name.

use core::net::IpAddr;

use crate::packet::PortId;
use crate::tables::record::ServiceId;

/// What the worker does with a packet after [`crate::path::forward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Fate {
    /// Send the (rewritten) frame out of this port.
    Forward(PortId),
    /// Release the frame; the reason is counted and told.
    Drop(DropReason),
    /// Not ours: the kernel should have had it. The XDP program passes such packets before they reach us, so only
    /// offline runs and races with a change of the steering tables end here.
    Pass,
    /// Turned in place into an answer of ours (ICMP error, reset, echo reply) that leaves by this port. What became of
    /// the original is counted already.
    Answer(PortId),
    /// The neighbour's MAC is not known yet: keep the frame (bounded), ask the kernel, forward it again after the next
    /// publish.
    Hold { port: PortId, ip: IpAddr },
    /// A DNS answer, ready to leave by this port: keep it until every worker knows the addresses in it.
    Learn(PortId),
    /// Another worker owns this flow, or is to be asked for it first: give it the frame.
    HandOver(WorkerId),
    /// The row of this service is not built yet: keep the frame (bounded), have it built, forward the frame again after the
    /// next publish.
    AwaitRow(ServiceId),
    /// Too long for its way, and its sender lets routers cut it: forward pieces of at most so many bytes in its place
    /// ([`crate::cut`]).
    Cut(u16),
}

/// Index into [`crate::tables::nexthop`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct NextHopId(pub u16);

/// Index of a worker, 0-based.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct WorkerId(pub u8);

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a packet was dropped. Numbers and names are Cilium's; the documentation says when *we* use them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant = $number,)* }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in Hubble's API.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

drop_reasons! {
    /// Source is a martian, one of our own addresses, or not reachable by the port it came in on (spoofed).
    InvalidSourceIp = 132, "INVALID_SOURCE_IP";
    /// No rule allows it and the direction is enforced.
    PolicyDenied = 133, "POLICY_DENIED";
    /// Lying lengths, bad header checksum, impossible flags.
    InvalidPacket = 134, "INVALID_PACKET_DROPPED";
    /// The transport header is cut short.
    TruncatedHeader = 135, "CT_TRUNCATED_OR_INVALID_HEADER";
    /// Larger than the next hop's MTU and may not be fragmented (answered with an ICMP error), or there was no buffer for its
    /// pieces. (Cilium's monitor text
    /// for 136 is "fragmentation needed"; the API kept the older name.)
    FragmentationNeeded = 136, "CT_MISSING_TCP_ACK_FLAG";
    /// A transport protocol that we cannot track.
    UnknownL4Protocol = 142, "UNKNOWN_L4_PROTOCOL";
    /// Neither IPv4 nor IPv6.
    UnsupportedL3Protocol = 139, "UNSUPPORTED_L3_PROTOCOL";
    /// The destination exists but its neighbour did not answer, or the hold queue is full.
    StaleOrUnroutable = 151, "STALE_OR_UNROUTABLE_IP";
    /// The flow table is full and no half-open flow could make room.
    FlowTableFull = 155, "CT_MAP_INSERTION_FAILED";
    /// IPv6 extension headers that cannot be walked, or too many of them.
    InvalidExtensionHeader = 156, "INVALID_IPV6_EXTENSION_HEADER";
    /// Overlapping fragments, or the fragment table is full.
    FragmentRefused = 157, "IP_FRAGMENTATION_NOT_SUPPORTED";
    /// The service has no usable backend.
    NoBackend = 158, "SERVICE_BACKEND_NOT_FOUND";
    /// A tunnel to a backend has no address to come from.
    NoTunnelEnd = 160, "NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT";
    /// A TCP segment that opens nothing and belongs to no known connection.
    UnknownConnection = 163, "UNKNOWN_CONNECTION_TRACKING_STATE";
    /// A frame kind that we do not speak.
    UnsupportedL2Protocol = 166, "UNSUPPORTED_L2_PROTOCOL";
    /// No source port is left to translate with.
    NoNatMapping = 167, "NO_MAPPING_FOR_NAT_MASQUERADE";
    /// This protocol's sources cannot be translated.
    NatUnsupported = 168, "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE";
    /// No route, or a route that says unreachable.
    NoRoute = 169, "FIB_LOOKUP_FAILED";
    /// Who is guarded makes a tunnel of its own, past everything that judges it.
    EncapsulationProhibited = 170, "ENCAPSULATION_TRAFFIC_IS_PROHIBITED";
    /// A ClusterIP asked for from outside.
    IsClusterIp = 174, "IS_A_CLUSTERIP";
    /// A later fragment whose first one we have not seen.
    FirstFragmentMissing = 175, "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND";
    /// The service does not accept this source.
    SourceRange = 177, "DENIED_BY_LB_SRC_RANGE_CHECK";
    /// The flow would need HTTP, Kafka or TLS inspection, or DNS inspection over TCP, which this gateway does not do yet.
    InspectionUnavailable = 180, "PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL";
    /// A deny rule matches.
    PolicyDeny = 181, "POLICY_DENY";
    /// A VLAN that we have no port for.
    VlanFiltered = 182, "VLAN_FILTERED";
    /// A rule asks for mutual authentication.
    AuthRequired = 189, "AUTH_REQUIRED";
    /// There is no room for what a backend is to be told: a full IP header, or a frame at the end of its buffer.
    CannotWrap = 193, "UNSUPPORTED_PROTOCOL_FOR_DSR_ENCAP";
    /// There is no egress gateway that a policy asks for.
    NoEgressGateway = 194, "NO_EGRESS_GATEWAY";
    /// TTL or hop limit ran out; answered with an ICMP error.
    TtlExceeded = 196, "TTL_EXCEEDED";
    /// An answer of ours suppressed by its rate limit, or a full hand-over ring.
    RateLimited = 198, "DROP_RATE_LIMITED";
    /// No generation has been published yet, or not in time one that knows the addresses in a DNS answer.
    NotReady = 202, "DROP_HOST_NOT_READY";
    /// The egress address that a rule asks for is not there.
    NoEgressAddress = 204, "DROP_NO_EGRESS_IP";
}

impl DropReason {
    /// The number in Hubble's API.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// What policy said of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Action {
    Allow,
    Deny,
    /// A rule asks for mutual authentication (`authentication.mode` other than `disabled`).
    Authenticate,
    /// Allowed so far; DNS rules (index into the generation's DNS rule sets) decide per query.
    Dns(u32),
    /// Allowed so far; HTTP, Kafka or TLS rules decide. Until L7 lands such flows are dropped with
    /// [`DropReason::InspectionUnavailable`].
    Inspect(u32),
}
