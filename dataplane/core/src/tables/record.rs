//! What a generation is made of: plain records, each with a key, as control sends them and the netlink mirror adds them.
//!
//! A generation is a map from keys to records. Two generations differ by a list of [`Change`]s, and
//! [`super::Tables::apply`] is the only thing that turns records into lookup structures. Everything here is a value
//! that can be compared, encoded and printed; nothing here is looked at on the packet path.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::packet::PortId;
use crate::verdict::{Action, NextHopId};

/// Dense index of an identity in this generation; 0 is "unknown" and always exists. Slots are given out by control and
/// stay with their identity for as long as it lives, so that a new pod touches one slot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct IdentitySlot(pub u32);

/// A class of identities that the same rules select, for one direction.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct ClassId(pub u32);

/// A set of peers that some rule entry names; identities carry the list of sets that they are in.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct PeerSetId(pub u32);

impl PeerSetId {
    /// Every peer, known or not.
    pub const ANY: Self = Self(u32::MAX);
}

/// A rule entry as events and answers name it; control keeps what it stands for. 0 is "none".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct RuleId(pub u32);

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct ServiceId(pub u32);

/// Stable number of a backend within its service; flows remember it to notice that their backend is gone.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct BackendId(pub u32);

/// A pattern of DNS names.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct PatternId(pub u32);

/// The DNS rules that [`Action::Dns`] names.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct DnsRulesId(pub u32);

/// An address prefix; host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Prefix {
    pub addr: IpAddr,
    pub len: u8,
}

/// One identity: its number on the wire and in events, the classes that judge it, and the peer sets that it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    pub number: u32,
    /// Judged when it is the source. `None`: egress of this identity is not ours to judge (the world, other nodes).
    pub egress: Option<ClassId>,
    /// Judged when it is the destination.
    pub ingress: Option<ClassId>,
    /// Sorted, without duplicates.
    pub peer_sets: Vec<PeerSetId>,
    /// Outside the cluster: ClusterIPs and source ranges treat it as external.
    pub world: bool,
}

/// The policy of one class in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PolicyClass {
    /// False: allowed unless an entry says otherwise; true: denied unless an entry says otherwise.
    pub default_deny: bool,
    /// Denials are forwarded and reported as AUDIT.
    pub audit: bool,
    /// Disjoint ranges, sorted by (`proto`, `first`). Where a packet falls into none, the protocol's catch-all
    /// (`first` 0, `last` 65535 in a range of its own cut by others) or [`PortRange::ANY_PROTO`] applies.
    pub ranges: Vec<PortRange>,
}

/// What applies to one range of destination ports (or ICMP types) of one protocol. The list is complete: wider rules
/// are already merged in, in order of precedence, so the first entry whose peer set has the peer decides.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortRange {
    /// IP protocol number; [`PortRange::ANY_PROTO`] holds for protocols without a range of their own.
    pub proto: u16,
    pub first: u16,
    pub last: u16,
    pub entries: Vec<PolicyEntry>,
}

impl PortRange {
    pub const ANY_PROTO: u16 = 256;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PolicyEntry {
    pub peers: PeerSetId,
    pub action: Action,
    pub rule: RuleId,
}

/// A pattern, in lower case and with a dot at its end, in Cilium's grammar.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pattern {
    pub text: String,
    /// Rules ask for the addresses of names that fit (`toFQDNs`).
    pub selects: bool,
}

/// One of the rules that judge DNS queries.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DnsRule {
    /// The resolvers that it means.
    pub peers: PeerSetId,
    pub rule: RuleId,
    pub asks: Asks,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Asks {
    /// Content with every query.
    Nothing,
    /// One of these patterns must fit. Sorted.
    Names(Vec<PatternId>),
    /// Something else than names: never content.
    Other,
}

/// The identity of addresses that were learned for names: those that the patterns fit, in the place of `base`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Named {
    /// Who has the address by its longest prefix.
    pub base: IdentitySlot,
    /// Sorted.
    pub patterns: Vec<PatternId>,
}

/// A service's way of choosing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Algorithm {
    /// With this many slots; one of Cilium's primes.
    Maglev(u32),
    #[default]
    Random,
}

/// How packets get to a backend and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Forwarding {
    /// Rewrite the destination only; the backend's way back leads through us.
    #[default]
    Dnat,
    /// Rewrite the source too, to an address of ours.
    Snat,
    /// Tell the backend what the client asked for; it answers the client directly, past us.
    Dsr(Dispatch),
}

/// How a backend that answers directly is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Dispatch {
    /// In an option of the IP header.
    Option,
    /// In a Geneve tunnel, in an option of its header.
    Geneve,
    /// The client's packet as it is, in a tunnel of plain IP.
    Ipip,
}

/// Who is sent the packets for a backend that answers directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Reach {
    /// The backend.
    #[default]
    Itself,
    /// The end of a tunnel in front of it (its node).
    By(IpAddr),
    /// Nobody else: its answers come by us, so that nothing needs to be told.
    Here,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum BackendState {
    Active,
    /// Keeps its flows, gets new ones only when nothing is active.
    Terminating,
    Quarantined,
    Maintenance,
    /// Still there, but not for new flows (not ready, or others are nearer): it keeps those it has until it is gone.
    Kept,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Backend {
    pub id: BackendId,
    pub ip: IpAddr,
    pub port: u16,
    pub weight: u16,
    pub state: BackendState,
    pub reach: Reach,
}

/// One list of backends and how one of them is chosen. Frontends point here; several may share one.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Service {
    /// Protocol of its frontends; part of the backends' names in Maglev.
    pub proto: u8,
    pub algorithm: Algorithm,
    pub forwarding: Forwarding,
    /// ClientIP affinity; 0 is off.
    pub affinity_seconds: u32,
    /// Without a usable backend: answer (true) or stay silent.
    pub reject: bool,
    pub backends: Vec<Backend>,
}

/// What a backend is asked, and how often.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Probe {
    pub kind: ProbeKind,
    /// Milliseconds from one question to the next, and until there must be an answer.
    pub interval: u32,
    pub timeout: u32,
    /// Good answers in a row that bring a backend back, and failures in a row that set it apart.
    pub rise: u8,
    pub fall: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum ProbeKind {
    /// A connection.
    Tcp,
    /// A connection, and a GET of this path that is answered with 200 to 399.
    Http(String),
    /// An echo request to the address.
    Icmp,
}

impl Service {
    /// Is there anybody for a new flow?
    pub fn has_usable(&self) -> bool {
        let usable =
            |b: &Backend| matches!(b.state, BackendState::Active | BackendState::Terminating) && b.weight > 0;
        self.backends.iter().any(usable)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct FrontendKey {
    pub ip: IpAddr,
    pub port: u16,
    pub proto: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Frontend {
    /// `None`: a known address with an unknown port, or nothing behind it by design; dropped as [`NoBackend`].
    ///
    /// [`NoBackend`]: crate::verdict::DropReason::NoBackend
    pub service: Option<ServiceId>,
    /// What clients inside the cluster get instead, where the traffic policies of inside and outside differ.
    pub inside: Option<ServiceId>,
    /// Only clients inside the cluster may use it (ClusterIP without the option); others get `IsClusterIp`.
    pub cluster_only: bool,
    /// If not empty: sources allowed (or, with `deny`, refused); checked for sources outside the cluster.
    pub source_ranges: Vec<Prefix>,
    pub source_ranges_deny: bool,
}

/// Sources that leave with another address.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Masquerade {
    pub sources: Vec<Prefix>,
    pub exclude: Vec<Prefix>,
    pub addresses: Vec<IpAddr>,
}

/// What holds for names learned from DNS; the names are Cilium's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DnsSettings {
    /// Refuse queries with NXDOMAIN in place of REFUSED.
    pub name_error: bool,
    /// Milliseconds that an answer is kept, at most, until its addresses are known everywhere.
    pub max_delay: u32,
    /// Seconds that an address lives at least.
    pub min_ttl: u32,
    /// Seconds that an address outlives its last flow by.
    pub idle_grace: u32,
    /// Addresses of one name.
    pub most_per_name: u32,
    /// Addresses whose time is over, but that flows may live on.
    pub most_lingering: u32,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            name_error: false,
            max_delay: 100,
            min_ttl: 0,
            idle_grace: 0,
            most_per_name: 1000,
            most_lingering: 10_000,
        }
    }
}

/// What becomes of a source on its way out of the cluster, by an egress gateway's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Leave {
    /// What becomes of any other: the policy makes an exception.
    Usual,
    /// It is replaced by this address.
    With(IpAddr),
    /// Another gateway replaces it.
    Elsewhere,
    /// The address that should replace it is not there.
    NoAddress,
    /// There is no gateway that would replace it.
    NoGateway,
    /// It is replaced by the first address of its family that this port has.
    Through(PortId),
}

/// What holds for the whole gateway.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// Addresses that SNAT services use.
    pub snat_addresses: Vec<IpAddr>,
    /// Ports to translate with: first and last, shared out over the workers.
    pub snat_ports: (u16, u16),
    pub masquerade: Masquerade,
    /// Ports that services may have on the node's own addresses.
    pub node_ports: (u16, u16),
    /// How many workers share the flows.
    pub workers: u8,
    /// What the gateway guards: packets to and from these prefixes are judged and forwarded by us.
    pub guarded: Vec<Prefix>,
    /// Cilium's hash seed in its three parts: of the Maglev permutation, of the IPv4 and of the IPv6 packet hash.
    pub hash_seed: [u32; 3],
    /// Tunnels to backends that answer directly come from these prefixes, a source for each flow, so that the receiver
    /// spreads them over its queues. Where there is none, they come from the port's own address.
    pub tunnel_sources: Vec<Prefix>,
    /// Tunnels that end here.
    pub tunnels: Ends,
    /// Connections by tunnels are told to send no segment that would not fit.
    pub clamp_mss: bool,
    /// Who is denied by its own egress policy is told so, by ICMP.
    pub deny_response: bool,
    pub dns: DnsSettings,
}

/// Tunnels of other gateways that we open: to these addresses, from these peers. None unless both are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ends {
    pub addresses: Vec<Prefix>,
    pub peers: Vec<Prefix>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            snat_addresses: Vec::new(),
            snat_ports: (32768, 65535),
            masquerade: Masquerade::default(),
            node_ports: (30000, 32767),
            workers: 1,
            guarded: Vec::new(),
            hash_seed: super::maglev::DEFAULT_SEEDS,
            tunnel_sources: Vec::new(),
            tunnels: Ends::default(),
            clamp_mss: false,
            deny_response: false,
            dns: DnsSettings::default(),
        }
    }
}

/// A network port: an interface, or one VLAN of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Port {
    pub mac: [u8; 6],
    /// Largest IP packet.
    pub mtu: u16,
    /// 0: untagged.
    pub vlan: u16,
    /// The device that carries it (its index in the worker's list of devices).
    pub device: u16,
    pub up: bool,
    /// Own addresses with their prefix length; the first of a family is the source of our ICMP errors.
    pub addresses: Vec<Prefix>,
}

/// Where a routed packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NextHop {
    pub port: PortId,
    /// The gateway's address, or the destination's own when on link.
    pub ip: IpAddr,
    /// `None`: not resolved yet; packets are held and the kernel is asked.
    pub mac: Option<[u8; 6]>,
    /// Of the route, or of the port where the route has none.
    pub mtu: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Route {
    /// By one of these, chosen by flow hash in proportion to the weights.
    Via(Vec<(NextHopId, u16)>),
    /// On link by this port, and no neighbour entry yet (known neighbours have a host route of their own, `Via` their
    /// next hop): packets are held and the kernel is asked for the destination itself.
    OnLink(PortId),
    /// To the gateway itself.
    Local,
    /// Answer with unreachable.
    Unreachable,
    /// Drop in silence.
    Blackhole,
}

/// One difference between two generations. `None` removes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Change {
    Identity(IdentitySlot, Option<Identity>),
    Address(Prefix, Option<IdentitySlot>),
    Class(ClassId, Option<PolicyClass>),
    Service(ServiceId, Option<Service>),
    Frontend(FrontendKey, Option<Frontend>),
    /// How packets of this source leave for each prefix; the longest counts, of equals the first.
    Egress(IpAddr, Option<Vec<(Prefix, Leave)>>),
    /// How backends of a service are asked whether they are alive. Not for the path.
    Probe(ServiceId, Option<Probe>),
    /// Clients outside may ask their link for this service address: it is exposed, and somebody stands behind it. The path
    /// does not look at it; who announces addresses does.
    Exposed(IpAddr, bool),
    Settings(Settings),
    Port(PortId, Option<Port>),
    NextHop(NextHopId, Option<NextHop>),
    Route(Prefix, Option<Route>),
    Pattern(PatternId, Option<Pattern>),
    DnsRules(DnsRulesId, Option<Vec<DnsRule>>),
    /// For whoever learns names; packets are not judged by it.
    Named(IdentitySlot, Option<Named>),
    /// Who has this address by what was learned of it: as [`Self::Address`], but flows go on as they were judged.
    Learned(Prefix, Option<IdentitySlot>),
}

impl Change {
    /// Does this difference ask flows to be judged again? A neighbour's new MAC and an announcement do not, nor does what is heard of
    /// names: what is learned only allows more, it is forgotten when no flow needs it, and queries are judged one by one.
    pub fn touches_flows(&self) -> bool {
        !matches!(
            self,
            Self::NextHop(..)
                | Self::Exposed(..)
                | Self::Probe(..)
                | Self::Pattern(..)
                | Self::DnsRules(..)
                | Self::Named(..)
                | Self::Learned(..)
        )
    }
}

/// What a record is filed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    Settings,
    Port(PortId),
    NextHop(NextHopId),
    Identity(IdentitySlot),
    Class(ClassId),
    Address(Prefix),
    Service(ServiceId),
    Frontend(FrontendKey),
    Exposed(IpAddr),
    Probe(ServiceId),
    Route(Prefix),
    Pattern(PatternId),
    DnsRules(DnsRulesId),
    Named(IdentitySlot),
    Learned(Prefix),
    Egress(IpAddr),
}

/// A generation, or one source's part of it: every record as the change that would put it there.
pub type Records = BTreeMap<RecordKey, Change>;

impl Change {
    pub const fn key(&self) -> RecordKey {
        match self {
            Self::Identity(slot, _) => RecordKey::Identity(*slot),
            Self::Address(prefix, _) => RecordKey::Address(*prefix),
            Self::Class(id, _) => RecordKey::Class(*id),
            Self::Service(id, _) => RecordKey::Service(*id),
            Self::Frontend(key, _) => RecordKey::Frontend(*key),
            Self::Egress(ip, _) => RecordKey::Egress(*ip),
            Self::Exposed(ip, _) => RecordKey::Exposed(*ip),
            Self::Probe(id, _) => RecordKey::Probe(*id),
            Self::Settings(_) => RecordKey::Settings,
            Self::Port(id, _) => RecordKey::Port(*id),
            Self::NextHop(id, _) => RecordKey::NextHop(*id),
            Self::Route(prefix, _) => RecordKey::Route(*prefix),
            Self::Pattern(id, _) => RecordKey::Pattern(*id),
            Self::DnsRules(id, _) => RecordKey::DnsRules(*id),
            Self::Named(slot, _) => RecordKey::Named(*slot),
            Self::Learned(prefix, _) => RecordKey::Learned(*prefix),
        }
    }

    /// Does this take the record away?
    pub const fn removes(&self) -> bool {
        matches!(
            self,
            Self::Identity(_, None)
                | Self::Address(_, None)
                | Self::Class(_, None)
                | Self::Service(_, None)
                | Self::Frontend(_, None)
                | Self::Egress(_, None)
                | Self::Exposed(_, false)
                | Self::Probe(_, None)
                | Self::Port(_, None)
                | Self::NextHop(_, None)
                | Self::Route(_, None)
                | Self::Pattern(_, None)
                | Self::DnsRules(_, None)
                | Self::Named(_, None)
                | Self::Learned(_, None)
        )
    }
}

impl RecordKey {
    /// The change that takes such a record away. Settings are never without: they become the default.
    pub fn removal(self) -> Change {
        match self {
            Self::Settings => Change::Settings(Settings::default()),
            Self::Port(id) => Change::Port(id, None),
            Self::NextHop(id) => Change::NextHop(id, None),
            Self::Identity(slot) => Change::Identity(slot, None),
            Self::Class(id) => Change::Class(id, None),
            Self::Address(prefix) => Change::Address(prefix, None),
            Self::Service(id) => Change::Service(id, None),
            Self::Frontend(key) => Change::Frontend(key, None),
            Self::Egress(ip) => Change::Egress(ip, None),
            Self::Exposed(ip) => Change::Exposed(ip, false),
            Self::Probe(id) => Change::Probe(id, None),
            Self::Route(prefix) => Change::Route(prefix, None),
            Self::Pattern(id) => Change::Pattern(id, None),
            Self::DnsRules(id) => Change::DnsRules(id, None),
            Self::Named(slot) => Change::Named(slot, None),
            Self::Learned(prefix) => Change::Learned(prefix, None),
        }
    }
}

/// What leads from one set of records to another.
pub fn diff(old: &Records, new: &Records) -> Vec<Change> {
    let gone = old.keys().filter(|key| !new.contains_key(key)).map(|key| key.removal());
    let changed =
        new.iter().filter(|(key, change)| old.get(key) != Some(change)).map(|(_, change)| change.clone());
    gone.chain(changed).collect()
}

/// Put changes into a set of records.
pub fn merge(records: &mut Records, changes: &[Change]) {
    for change in changes {
        if change.removes() {
            records.remove(&change.key());
        } else {
            records.insert(change.key(), change.clone());
        }
    }
}
