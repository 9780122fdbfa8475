//! The options of policy and services, each under Cilium's name.

use std::path::PathBuf;

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
    /// Names that are known before anybody asks: a file in Cilium's form.
    pub tofqdns_pre_cache: Option<PathBuf>,
    /// The dataplane learns names (the live gateway), not this engine.
    pub names_elsewhere: bool,
    /// Pods may always be reached from their own node.
    pub allow_localhost: bool,
    /// Which labels tell identities apart.
    pub filter: Filter,
    /// Which families there are: with one alone the world is one, too.
    pub ipv4: bool,
    pub ipv6: bool,
    /// CIDRs select nodes, pods, or neither.
    pub cidr_matches: CidrMatches,
    /// What Cilium has switches for.
    pub kinds: Kinds,
    pub settings: Settings,
    /// Names of the dataplane's ports, in their order.
    pub ports: Vec<String>,
    pub limits: Limits,
}

/// `policy-cidr-match-mode`: who in the cluster is meant by a CIDR that has their address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CidrMatches {
    pub nodes: bool,
    pub pods: bool,
}

/// Kinds of policies and rules that Cilium may be told to do without. Here they are on unless somebody says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Errors that tell of a smaller MTU pass whatever policy says.
    pub frag_needed: bool,
    /// Host policies are judged.
    pub host_firewall: bool,
    pub cluster_network_policy: bool,
    /// Rules may name GRE and the like, and nodes by labels. Cilium refuses what needs them where they are off.
    pub extended_protocols: bool,
    pub node_labels: bool,
}

impl Default for Kinds {
    fn default() -> Self {
        Self {
            frag_needed: true,
            host_firewall: true,
            cluster_network_policy: true,
            extended_protocols: true,
            node_labels: true,
        }
    }
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
            tofqdns_pre_cache: None,
            names_elsewhere: false,
            allow_localhost: true,
            filter: Filter::default(),
            ipv4: true,
            ipv6: true,
            cidr_matches: CidrMatches::default(),
            kinds: Kinds::default(),
            settings: Settings::default(),
            ports: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// The options that can be set by name, with a sentence each.
pub const OPTIONS: [(&str, &str); 35] = [
    ("enable-policy", "When a direction is enforced: default, always or never"),
    ("policy-audit-mode", "Forward what would be denied and report AUDIT: true or false"),
    (
        "policy-deny-response",
        "Whether those whom their own egress policy denies something are told: none or icmp (IPv6, too)",
    ),
    ("bpf-lb-algorithm", "How a backend is chosen: maglev or random"),
    (
        "bpf-lb-maglev-table-size",
        "Slots of a Maglev table: 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071",
    ),
    (
        "bpf-lb-maglev-hash-seed",
        "12 bytes in base64 that Maglev tables and hashes of packets begin with; the same on every gateway",
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
    (
        "tofqdns-endpoint-max-ip-per-hostname",
        "Addresses of one name at most; those that would end first make room",
    ),
    (
        "tofqdns-max-deferred-connection-deletes",
        "Addresses at most that are kept for their flows alone, when their time is over",
    ),
    ("tofqdns-idle-connection-grace-period", "Seconds that an address outlives its last flow by"),
    (
        "tofqdns-proxy-response-max-delay",
        "Milliseconds that a DNS answer waits at most for its addresses to be known everywhere; then it is dropped",
    ),
    ("tofqdns-dns-reject-response-code", "How DNS queries are refused: refused or nameError"),
    ("tofqdns-pre-cache", "File of names that are known from the start, as Cilium's agent writes them"),
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
        "allow-icmp-frag-needed",
        "ICMP errors that tell of a smaller MTU pass whatever policy says: true or false (in verdicts; those about a flow always pass)",
    ),
    ("enable-host-firewall", "Host policies (nodeSelector) are judged: true (Cilium: false) or false"),
    (
        "enable-k8s-cluster-network-policy",
        "ClusterNetworkPolicy objects count: true or false; with false they are left out, with a warning",
    ),
    (
        "enable-extended-ip-protocols",
        "Rules may name GRE, ESP and the like: true (Cilium: false); with false they count all the same, with a warning",
    ),
    (
        "enable-node-selector-labels",
        "Rules may name nodes by labels: true (Cilium: false); with false they count all the same, with a warning",
    ),
    (
        "policy-default-local-cluster",
        "Peers without a cluster are of our own: true or false mean the same, for pods of other clusters are not known here",
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
    /// What holds for names learned from DNS.
    fn set_names(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number =
            |what: &str| value.parse().map_err(|_| format!("{name} must be a number of {what}, not {value}"));
        let dns = &mut self.settings.dns;
        match name {
            "tofqdns-min-ttl" => dns.min_ttl = number("seconds")?,
            "tofqdns-endpoint-max-ip-per-hostname" => dns.most_per_name = number("addresses")?.max(1),
            "tofqdns-max-deferred-connection-deletes" => dns.most_lingering = number("addresses")?,
            "tofqdns-idle-connection-grace-period" => dns.idle_grace = duration(name, value, "s", 1.0)?,
            "tofqdns-proxy-response-max-delay" => dns.max_delay = duration(name, value, "ms", 1000.0)?,
            "tofqdns-dns-reject-response-code" => {
                dns.name_error = match value {
                    "refused" => false,
                    "nameError" => true,
                    _ => return Err(format!("{name} must be refused or nameError, not {value}")),
                }
            }
            "tofqdns-pre-cache" => {
                self.tofqdns_pre_cache = Some(PathBuf::from(value)).filter(|_| !value.is_empty());
            }
            _ => return Err(format!("there is no option {name}; `sluice config options` lists them")),
        }
        Ok(())
    }

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
            "policy-deny-response" => self.settings.deny_response = one_of(&["none", "icmp"])? == "icmp",
            "bpf-lb-algorithm" => self.algorithm = one_of(&["maglev", "random"])?,
            "bpf-lb-maglev-table-size" => {
                let size = value.parse().ok().filter(|size| maglev::SIZES.contains(size));
                self.maglev_size =
                    size.ok_or_else(|| format!("{name} must be one of {:?}", maglev::SIZES))?;
            }
            "bpf-lb-maglev-hash-seed" => self.settings.hash_seed = seeds(name, value)?,
            "bpf-lb-mode" => self.mode = one_of(&["dnat", "snat", "dsr", "hybrid"])?,
            "bpf-lb-mode-annotation" => self.mode_annotation = flag()?,
            "bpf-lb-dsr-dispatch" => self.dispatch = one_of(&["opt", "geneve", "ipip"])?,
            "bpf-lb-rss-ipv4-src-cidr" => self.tunnel_source(name, value, true)?,
            "bpf-lb-rss-ipv6-src-cidr" => self.tunnel_source(name, value, false)?,
            "bpf-lb-external-clusterip" => self.external_clusterip = flag()?,
            "bpf-lb-source-range-all-types" => self.source_range_all_types = flag()?,
            _ if name.starts_with("tofqdns-") => self.set_names(name, value)?,
            "labels" => self.filter = Filter::new(value)?,
            "enable-ipv4" => self.ipv4 = flag()?,
            "enable-ipv6" => self.ipv6 = flag()?,
            "allow-localhost" => self.allow_localhost = one_of(&["auto", "always", "policy"])? != "policy",
            "allow-icmp-frag-needed" => self.kinds.frag_needed = flag()?,
            "enable-host-firewall" => self.kinds.host_firewall = flag()?,
            "enable-k8s-cluster-network-policy" => self.kinds.cluster_network_policy = flag()?,
            "enable-extended-ip-protocols" => self.kinds.extended_protocols = flag()?,
            "enable-node-selector-labels" => self.kinds.node_labels = flag()?,
            "policy-default-local-cluster" => drop::<bool>(flag()?),
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

    /// One option as [`Self::set`] takes it. `None`: it has no value, or there is no such option.
    pub fn get(&self, name: &str) -> Option<String> {
        let (dns, kinds) = (&self.settings.dns, &self.kinds);
        let prefix = |prefix: &Prefix| format!("{}/{}", prefix.addr, prefix.len);
        let source =
            |v4: bool| self.settings.tunnel_sources.iter().find(|p| p.addr.is_ipv4() == v4).map(prefix);
        let one = |holds: bool, yes: &str, no: &str| if holds { yes.to_owned() } else { no.to_owned() };
        Some(match name {
            "enable-policy" => format!("{:?}", self.enforcement).to_lowercase(),
            "policy-audit-mode" => self.audit.to_string(),
            "policy-deny-response" => one(self.settings.deny_response, "icmp", "none"),
            "bpf-lb-algorithm" => self.algorithm.clone(),
            "bpf-lb-maglev-table-size" => self.maglev_size.to_string(),
            "bpf-lb-maglev-hash-seed" => seed_text(self.settings.hash_seed),
            "bpf-lb-mode" => self.mode.clone(),
            "bpf-lb-mode-annotation" => self.mode_annotation.to_string(),
            "bpf-lb-dsr-dispatch" => self.dispatch.clone(),
            "bpf-lb-rss-ipv4-src-cidr" => source(true)?,
            "bpf-lb-rss-ipv6-src-cidr" => source(false)?,
            "bpf-lb-external-clusterip" => self.external_clusterip.to_string(),
            "bpf-lb-source-range-all-types" => self.source_range_all_types.to_string(),
            "tofqdns-min-ttl" => dns.min_ttl.to_string(),
            "tofqdns-endpoint-max-ip-per-hostname" => dns.most_per_name.to_string(),
            "tofqdns-max-deferred-connection-deletes" => dns.most_lingering.to_string(),
            "tofqdns-idle-connection-grace-period" => format!("{}s", dns.idle_grace),
            "tofqdns-proxy-response-max-delay" => format!("{}ms", dns.max_delay),
            "tofqdns-dns-reject-response-code" => one(dns.name_error, "nameError", "refused"),
            "tofqdns-pre-cache" => self.tofqdns_pre_cache.as_ref()?.display().to_string(),
            "labels" => Some(self.filter.text()).filter(|text| !text.is_empty())?.to_owned(),
            "enable-ipv4" => self.ipv4.to_string(),
            "enable-ipv6" => self.ipv6.to_string(),
            "allow-localhost" => one(self.allow_localhost, "auto", "policy"),
            "allow-icmp-frag-needed" => kinds.frag_needed.to_string(),
            "enable-host-firewall" => kinds.host_firewall.to_string(),
            "enable-k8s-cluster-network-policy" => kinds.cluster_network_policy.to_string(),
            "enable-extended-ip-protocols" => kinds.extended_protocols.to_string(),
            "enable-node-selector-labels" => kinds.node_labels.to_string(),
            "policy-default-local-cluster" => true.to_string(),
            "policy-cidr-match-mode" => {
                let modes = [(self.cidr_matches.nodes, "nodes"), (self.cidr_matches.pods, "pods")];
                let on: Vec<&str> = modes.into_iter().filter_map(|(on, name)| on.then_some(name)).collect();
                Some(on.join(",")).filter(|text| !text.is_empty())?
            }
            "nodeport-addresses" => {
                let all: Vec<String> = self.node_port_addresses.iter().map(prefix).collect();
                Some(all.join(",")).filter(|text| !text.is_empty())?
            }
            "enable-service-topology" => self.topology.to_string(),
            "k8s-service-proxy-name" => Some(self.proxy_name.clone()).filter(|name| !name.is_empty())?,
            "service-no-backend-response" => one(self.no_backend_reject, "reject", "drop"),
            _ => return None,
        })
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

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What [`seeds`] reads.
fn seed_text(seeds: [u32; 3]) -> String {
    let bits = seeds.into_iter().fold(0_u128, |bits, part| bits << 32 | u128::from(part));
    (0..16).rev().map(|n| char::from(DIGITS[(bits >> (6 * n) & 63) as usize])).collect()
}

/// Cilium's hash seed in its three parts.
fn seeds(name: &str, value: &str) -> Result<[u32; 3], String> {
    let wrong = || format!("{name} must be 12 bytes in base64 (16 letters), not {value}");
    let digit = |letter: u8| DIGITS.iter().position(|digit| *digit == letter).ok_or_else(wrong);
    let mut bits = 0_u128;
    for letter in value.bytes() {
        bits = bits << 6 | digit(letter)? as u128;
    }
    if value.len() != 16 {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, reason = "takes the bits apart on purpose")]
    Ok([64, 32, 0].map(|shift| (bits >> shift) as u32))
}

/// A time as Go writes it (`100ms`, `1.5s`, `2m`), or a plain number of `unit`; in units, of which a second has so many.
fn duration(name: &str, value: &str, unit: &str, per_second: f64) -> Result<u32, String> {
    let wrong = || format!("{name} must be a time like 100{unit}, not {value}");
    let split = value.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(value.len());
    let (count, written) = value.split_at(split);
    let seconds = match if written.is_empty() { unit } else { written } {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let units = count.parse::<f64>().map_err(|_| wrong())? * seconds * per_second;
    if !(0.0..=1e9).contains(&units) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "looked at just above")]
    Ok(units.round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_seeds_are_read_as_cilium_writes_them() {
        assert_eq!(seeds("x", "JLfvgnHc2kaSUFaI"), Ok(maglev::DEFAULT_SEEDS));
        assert_eq!(seeds("x", "AAAAAQAAAAL/////"), Ok([1, 2, u32::MAX]));
        assert!(
            ["", "JLfvgnHc2kaSUFa", "JLfvgnHc2kaSUFaI=", "JLfvgnHc2ka_UFaI"]
                .iter()
                .all(|one| seeds("x", one).is_err())
        );
    }

    #[test]
    fn every_option_is_told_as_it_was_set() {
        let others = [
            "always",
            "true",
            "icmp",
            "random",
            "251",
            "AAAAAQAAAAL/////",
            "hybrid",
            "false",
            "ipip",
            "198.18.0.0/24",
            "2001:db8:77::/64",
            "true",
            "true",
            "7",
            "8",
            "9",
            "10s",
            "11ms",
            "nameError",
            "names.json",
            "k8s:app !team",
            "false",
            "false",
            "policy",
            "false",
            "false",
            "false",
            "false",
            "false",
            "true",
            "nodes,pods",
            "192.0.2.0/24",
            "true",
            "sluice",
            "drop",
        ];
        for ((name, _), value) in OPTIONS.into_iter().zip(others) {
            let mut options = Options::default();
            if let Some(default) = options.get(name) {
                options.set(name, &default).unwrap();
                assert_eq!(options.get(name), Some(default), "{name}");
            }
            options.set(name, value).unwrap();
            assert_eq!(options.get(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(Options::default().get("bpf-lb-maglev-hash-seed").as_deref(), Some("JLfvgnHc2kaSUFaI"));
    }

    #[test]
    fn times_are_read_as_go_writes_them() {
        let read = |value| duration("x", value, "ms", 1000.0);
        assert_eq!((read("100ms"), read("250"), read("1.5s")), (Ok(100), Ok(250), Ok(1500)));
        assert!(read("soon").is_err() && read("1y").is_err() && read("-1s").is_err());
    }
}
