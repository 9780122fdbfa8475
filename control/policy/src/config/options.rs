//! The options of policy and services, each under Cilium's name.

use sluice_core::tables::maglev;
use sluice_core::tables::record::{Prefix, Settings};

use crate::decode::prefix;
use crate::labels::Filter;
use crate::tree::Limits;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    #[default]
    Default,
    Always,
    Never,
}

/// What objects mean here.
#[derive(Clone, Debug)]
pub struct Options {
    pub node: String,
    pub cluster: String,
    pub enforcement: Enforcement,
    pub audit: bool,
    pub algorithm: String,
    pub maglev_size: u32,
    pub mode: String,
    /// How backends that answer directly are told: opt, geneve, ipip.
    pub dispatch: String,
    /// Services may choose their own mode.
    pub mode_annotation: bool,
    pub external_clusterip: bool,
    pub source_range_all_types: bool,
    pub no_backend_reject: bool,
    /// Node addresses that NodePorts listen on; empty: all of the node's. Host prefixes stand for themselves where no
    /// Node object tells of addresses.
    pub node_port_addresses: Vec<Prefix>,
    /// Prefer backends as EndpointSlices' hints say.
    pub topology: bool,
    /// Services with this `service.kubernetes.io/service-proxy-name` are ours; empty: those without.
    pub proxy_name: String,
    /// Seconds that a learned name lives at least.
    pub tofqdns_min_ttl: u32,
    /// Pods may always be reached from their own node.
    pub allow_localhost: bool,
    /// Which labels tell identities apart.
    pub filter: Filter,
    /// Which families there are: with one alone the world is one, too.
    pub ipv4: bool,
    pub ipv6: bool,
    /// CIDRs select nodes, pods, or neither.
    pub cidr_matches: CidrMatches,
    pub settings: Settings,
    pub limits: Limits,
}

/// `policy-cidr-match-mode`: who in the cluster is meant by a CIDR that has their address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CidrMatches {
    pub nodes: bool,
    pub pods: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node: String::new(),
            cluster: "default".to_owned(),
            enforcement: Enforcement::Default,
            audit: false,
            algorithm: "maglev".to_owned(),
            maglev_size: 16_381,
            mode: "dnat".to_owned(),
            dispatch: "opt".to_owned(),
            mode_annotation: true,
            external_clusterip: false,
            source_range_all_types: false,
            no_backend_reject: true,
            node_port_addresses: Vec::new(),
            topology: false,
            proxy_name: String::new(),
            tofqdns_min_ttl: 0,
            allow_localhost: true,
            filter: Filter::default(),
            ipv4: true,
            ipv6: true,
            cidr_matches: CidrMatches::default(),
            settings: Settings::default(),
            limits: Limits::default(),
        }
    }
}

/// The options that can be set by name, with a sentence each.
pub const OPTIONS: [(&str, &str); 21] = [
    ("enable-policy", "When a direction is enforced: default, always or never"),
    ("policy-audit-mode", "Forward what would be denied and report AUDIT: true or false"),
    ("bpf-lb-algorithm", "How a backend is chosen: maglev or random"),
    (
        "bpf-lb-maglev-table-size",
        "Slots of a Maglev table: 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071",
    ),
    (
        "bpf-lb-mode",
        "How replies come back: dnat (the gateway is on their way), snat, dsr (past it) or hybrid (TCP dsr, else snat)",
    ),
    (
        "bpf-lb-mode-annotation",
        "Services may say service.cilium.io/forwarding-mode themselves: true or false",
    ),
    ("bpf-lb-dsr-dispatch", "How a backend that answers directly is told for whom: opt, geneve or ipip"),
    ("bpf-lb-rss-ipv4-src-cidr", "Tunnels to backends come from this prefix, an address for each flow"),
    ("bpf-lb-rss-ipv6-src-cidr", "The same for IPv6"),
    ("bpf-lb-external-clusterip", "ClusterIPs may be used from outside: true or false"),
    ("bpf-lb-source-range-all-types", "loadBalancerSourceRanges bind all types of frontends: true or false"),
    ("tofqdns-min-ttl", "Seconds that a name learned from DNS lives at least"),
    ("labels", "Labels that tell identities apart, beside the usual: k8s:app !k8s:run-.*"),
    ("enable-ipv4", "There is IPv4: true or false"),
    (
        "enable-ipv6",
        "There is IPv6: true or false; with one family alone everything outside is reserved:world",
    ),
    (
        "allow-localhost",
        "When pods may be reached from their own node whatever policy says: auto, always or policy",
    ),
    (
        "policy-cidr-match-mode",
        "Whom CIDRs select in the cluster by address: nodes, pods, nodes,pods or nothing",
    ),
    (
        "nodeport-addresses",
        "Prefixes of the node addresses that NodePorts listen on, with commas; nothing is all",
    ),
    ("enable-service-topology", "Prefer backends as the hints in EndpointSlices say: true or false"),
    ("k8s-service-proxy-name", "Handle services with this service-proxy-name label instead of those without"),
    ("service-no-backend-response", "What a service without backends does: reject or drop"),
];

impl Options {
    /// Set one option by its name.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let flag = || value.parse().map_err(|_| format!("{name} must be true or false, not {value}"));
        let one_of = |known: &[&str]| match known.contains(&value) {
            true => Ok(value.to_owned()),
            false => Err(format!("{name} must be one of {}, not {value}", known.join(", "))),
        };
        match name {
            "enable-policy" => {
                self.enforcement = match one_of(&["default", "always", "never"])?.as_str() {
                    "always" => Enforcement::Always,
                    "never" => Enforcement::Never,
                    _ => Enforcement::Default,
                }
            }
            "policy-audit-mode" => self.audit = flag()?,
            "bpf-lb-algorithm" => self.algorithm = one_of(&["maglev", "random"])?,
            "bpf-lb-maglev-table-size" => {
                let size = value.parse().ok().filter(|size| maglev::SIZES.contains(size));
                self.maglev_size =
                    size.ok_or_else(|| format!("{name} must be one of {:?}", maglev::SIZES))?;
            }
            "bpf-lb-mode" => self.mode = one_of(&["dnat", "snat", "dsr", "hybrid"])?,
            "bpf-lb-mode-annotation" => self.mode_annotation = flag()?,
            "bpf-lb-dsr-dispatch" => self.dispatch = one_of(&["opt", "geneve", "ipip"])?,
            "bpf-lb-rss-ipv4-src-cidr" => self.tunnel_source(name, value, true)?,
            "bpf-lb-rss-ipv6-src-cidr" => self.tunnel_source(name, value, false)?,
            "bpf-lb-external-clusterip" => self.external_clusterip = flag()?,
            "bpf-lb-source-range-all-types" => self.source_range_all_types = flag()?,
            "tofqdns-min-ttl" => {
                self.tofqdns_min_ttl =
                    value.parse().map_err(|_| format!("{name} must be a number of seconds, not {value}"))?;
            }
            "labels" => self.filter = Filter::new(value)?,
            "enable-ipv4" => self.ipv4 = flag()?,
            "enable-ipv6" => self.ipv6 = flag()?,
            "allow-localhost" => self.allow_localhost = one_of(&["auto", "always", "policy"])? != "policy",
            "policy-cidr-match-mode" => {
                let parts: Vec<&str> = value.split(',').filter(|part| !part.is_empty()).collect();
                if let Some(odd) = parts.iter().find(|part| !matches!(**part, "nodes" | "pods")) {
                    return Err(format!("{name} must be of nodes and pods, not {odd}"));
                }
                self.cidr_matches =
                    CidrMatches { nodes: parts.contains(&"nodes"), pods: parts.contains(&"pods") };
            }
            "nodeport-addresses" => {
                let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
                self.node_port_addresses = parts.map(prefix).collect::<Result<_, _>>()?;
            }
            "enable-service-topology" => self.topology = flag()?,
            "k8s-service-proxy-name" => value.clone_into(&mut self.proxy_name),
            "service-no-backend-response" => {
                self.no_backend_reject = one_of(&["reject", "drop"])? == "reject"
            }
            _ => return Err(format!("there is no option {name}; `sluice config options` lists them")),
        }
        Ok(())
    }

    fn tunnel_source(&mut self, name: &str, value: &str, v4: bool) -> Result<(), String> {
        let found = prefix(value)?;
        if found.addr.is_ipv4() != v4 {
            return Err(format!("{name} must be a prefix of its family, not {value}"));
        }
        self.settings.tunnel_sources.retain(|known| known.addr.is_ipv4() != v4);
        self.settings.tunnel_sources.push(found);
        Ok(())
    }
}
