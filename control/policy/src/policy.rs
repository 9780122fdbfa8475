//! Policies as they mean: whom they select, whom they let in or out, and on which ports. Only valid ones exist.

pub mod above;
pub mod cilium;
pub mod cluster;
pub mod groups;
pub mod kubernetes;
pub mod peers;
pub mod ports;

use std::fmt;
use std::sync::Arc;

use sluice_core::tables::record::Prefix;

use crate::config::Kinds;
use crate::decode::{Place, Problem};
use crate::labels::{Label, LabelSet, Selector};
use crate::tree::Node;

/// Where a rule comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

/// One `spec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub source: Source,
    pub subject: Subject,
    pub rules: Vec<Rule>,
    /// Does it switch on default deny, for ingress and for egress?
    pub default_deny: [bool; 2],
    /// What to add to flows that it decides (`log.value`).
    pub log: Option<String>,
    pub at: Spot,
}

/// Where something is written. Two things that say the same are the same wherever they stand.
#[derive(Clone, Debug)]
pub struct Spot {
    pub place: Place,
    pub line: u32,
    pub column: u32,
}

impl Spot {
    pub fn new(node: &Node, place: &Place) -> Self {
        Self { place: place.clone(), line: node.line, column: node.column }
    }

    pub fn problem(&self, what: String) -> Problem {
        let Place { file, field } = self.place.clone();
        Problem { file, line: self.line, column: self.column, field, what }
    }
}

impl PartialEq for Spot {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Spot {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Endpoints(Selector),
    /// A host policy.
    Nodes(Selector),
}

/// One entry of a rule list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub direction: Direction,
    /// Its list (`ingress`, `egressDeny`, …) and its place there.
    pub list: &'static str,
    pub index: usize,
    pub effect: Effect,
    pub tier: Tier,
    /// Within the tier, the lower first. What is not ordered is 0.
    pub priority: i64,
    pub peers: Peers,
    pub ports: Ports,
    /// A rule that asks for mutual authentication.
    pub authenticate: bool,
    /// What is asked of the data above TCP and UDP.
    pub above: Option<Arc<above::Above>>,
    pub at: Spot,
}

/// What a rule does to those that it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    Deny,
    Allow,
    /// The rest of the tier has nothing to say to them.
    Pass,
}

/// Which rules are asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    Admin,
    Normal,
    Baseline,
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peers {
    /// No word about it: everybody.
    Anyone,
    /// Any of these; none of them is nobody.
    Any(Vec<Peer>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    Endpoints(Selector),
    Nodes(Selector),
    Cidr {
        prefix: Prefix,
        except: Vec<Prefix>,
    },
    /// All prefixes of a CIDR group, by name or labels.
    Group {
        name: Option<String>,
        selector: Option<Selector>,
        except: Vec<Prefix>,
    },
    Entity(Entity),
    /// A service's pods or backends.
    Service {
        namespace: Option<String>,
        name: Option<String>,
        selector: Option<Selector>,
    },
    Name(String),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoints(selector) => write!(f, "{selector}"),
            Self::Nodes(selector) => write!(f, "nodes with {selector}"),
            Self::Cidr { prefix, except } => {
                write!(f, "{}/{}", prefix.addr, prefix.len)?;
                for hole in except {
                    write!(f, " but {}/{}", hole.addr, hole.len)?;
                }
                Ok(())
            }
            Self::Group { name: Some(name), .. } => write!(f, "the CIDR group {name}"),
            Self::Group { selector, .. } => {
                write!(f, "CIDR groups with {}", selector.clone().unwrap_or_default())
            }
            Self::Entity(entity) => write!(f, "the entity {}", format!("{entity:?}").to_lowercase()),
            Self::Service { name: Some(name), .. } => write!(f, "the service {name}"),
            Self::Service { selector, .. } => {
                write!(f, "services with {}", selector.clone().unwrap_or_default())
            }
            Self::Name(pattern) => write!(f, "addresses of {pattern}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entity {
    All,
    None,
    World,
    WorldIpv4,
    WorldIpv6,
    Cluster,
    Host,
    RemoteNode,
    KubeApiserver,
    Init,
    Health,
    Unmanaged,
    Ingress,
}

/// Which ports, protocols and ICMP types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Everything, ICMP included.
    All,
    Some(Vec<PortSpec>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSpec {
    pub proto: u8,
    pub port: PortName,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortName {
    Range(u16, u16),
    /// Resolved per endpoint.
    Named(String),
}

impl Rule {
    /// By what it fits traffic of this protocol and port, in Cilium's numbers: 1 by the peer, 2 by peer and port, 3 by the
    /// port, 4 everything, 5 by peer and protocol, 6 by the protocol. `None`: not at all, whoever the peer is.
    pub fn match_type(&self, proto: u8, port: u16) -> Option<u8> {
        let peer = match &self.peers {
            Peers::Anyone => false,
            Peers::Any(peers) => !peers.contains(&Peer::Entity(Entity::All)),
        };
        let Ports::Some(specs) = &self.ports else { return Some(if peer { 1 } else { 4 }) };
        let fits = |spec: &&PortSpec| match &spec.port {
            PortName::Range(first, last) => (*first..=*last).contains(&port),
            PortName::Named(_) => true,
        };
        let spec = specs.iter().filter(|spec| spec.proto == proto).find(fits)?;
        Some(match (peer, spec.port == PortName::Range(0, u16::MAX)) {
            (true, true) => 5,
            (true, false) => 2,
            (false, true) => 6,
            (false, false) => 3,
        })
    }
}

impl Policy {
    pub fn denies_by_default(&self, direction: Direction) -> bool {
        self.default_deny[usize::from(direction == Direction::Egress)]
    }
}

impl Policy {
    /// What of it is switched off, if anything. That makes no hole: only a whole kind is left out, as Cilium leaves it out.
    pub fn switched_off(&self, kinds: Kinds) -> Option<Problem> {
        let rules = || self.rules.iter();
        let peers = || {
            rules().filter_map(|rule| if let Peers::Any(peers) = &rule.peers { Some(peers) } else { None })
        };
        let nodes = || peers().flatten().any(|peer| matches!(peer, Peer::Nodes(_)));
        let odd = |spec: &PortSpec| !matches!(spec.proto, 1 | 6 | 17 | 58 | 132);
        let protocols =
            || rules().any(|rule| matches!(&rule.ports, Ports::Some(specs) if specs.iter().any(odd)));
        let what = if !kinds.cluster_network_policy && self.source.kind == cluster::KIND {
            "is left out: enable-k8s-cluster-network-policy is false"
        } else if !kinds.host_firewall && matches!(self.subject, Subject::Nodes(_)) {
            "closes no node: enable-host-firewall is false"
        } else if !kinds.extended_protocols && self.source.kind != cluster::KIND && protocols() {
            "names protocols that Cilium refuses without enable-extended-ip-protocols; here they count"
        } else if !kinds.node_labels && self.source.kind != cluster::KIND && nodes() {
            "names nodes by labels, which Cilium refuses without enable-node-selector-labels; here they count"
        } else {
            return None;
        };
        Some(self.at.problem(what.to_owned()))
    }
}

/// Does a `toServices` peer mean this service?
pub fn is_meant(peer: &Peer, service: &crate::service::Service) -> bool {
    let Peer::Service { namespace, name, selector } = peer else { return false };
    let labels: LabelSet = service.labels.iter().map(|(key, value)| Label::k8s(key, value)).collect();
    namespace.as_ref().is_none_or(|namespace| *namespace == service.namespace)
        && name.as_ref().is_none_or(|name| *name == service.name)
        && selector.as_ref().is_none_or(|selector| selector.matches(&labels))
        && (name.is_some() || selector.is_some())
}
