//! Where a service can be reached: the addresses of each kind of frontend, and whether our node exposes it at all.

use std::net::IpAddr;

use super::{Kind, Service, ServicePort};
use crate::config::Options;
use crate::objects::Objects;

/// An address and port, what kind of frontend it is, and whether clients outside the cluster are meant.
pub(super) type Entrance = (IpAddr, u16, &'static str, bool);

/// The label and annotation of the same name.
const NODE: &str = "service.cilium.io/node";

/// Is it a service that we handle at all?
pub(super) fn is_ours(service: &Service, options: &Options) -> bool {
    service.kind != Kind::ExternalName
        && !service.headless
        && service.proxy_name.as_deref().unwrap_or_default() == options.proxy_name
}

/// The addresses that NodePorts and host ports listen on.
pub(super) fn node_addresses(objects: &Objects, options: &Options) -> Vec<IpAddr> {
    let wanted = &options.node_port_addresses;
    match objects.nodes.get(&options.node) {
        Some(node) => {
            let listens = |ip: &IpAddr| {
                let within = |p: &sluice_core::tables::record::Prefix| {
                    p.addr.is_ipv4() == ip.is_ipv4() && crate::decode::masked(*ip, p.len) == p.addr
                };
                wanted.is_empty() || wanted.iter().any(within)
            };
            node.addresses.iter().copied().filter(listens).collect()
        }
        // Nobody tells of addresses: those that are written down.
        None => wanted
            .iter()
            .filter(|p| p.len == if p.addr.is_ipv4() { 32 } else { 128 })
            .map(|p| p.addr)
            .collect(),
    }
}

/// All entrances of one port of a service.
pub(super) fn entrances(
    service: &Service,
    port: &ServicePort,
    ingress: &[IpAddr],
    objects: &Objects,
    options: &Options,
) -> Vec<Entrance> {
    let wants = |kind: &str| {
        service.annotations.types.as_ref().is_none_or(|types| types.iter().any(|name| name == kind))
    };
    let exposed = is_exposed(service, objects, options);
    let mut found = Vec::new();
    if wants("ClusterIP") {
        found.extend(service.cluster_ips.iter().map(|ip| (*ip, port.port, "ClusterIP", false)));
    }
    if exposed {
        found.extend(service.external_ips.iter().map(|ip| (*ip, port.port, "ExternalIPs", true)));
    }
    if exposed && service.kind == Kind::LoadBalancer && wants("LoadBalancer") {
        found.extend(ingress.iter().map(|ip| (*ip, port.port, "LoadBalancer", true)));
    }
    if let Some(number) = port.node_port
        && exposed
        && service.kind != Kind::ClusterIp
        && wants("NodePort")
    {
        let own = node_addresses(objects, options);
        found.extend(own.into_iter().map(|ip| (ip, number, "NodePort", true)));
    }
    found
}

/// Is our node one of those that expose the service to the outside?
fn is_exposed(service: &Service, objects: &Objects, options: &Options) -> bool {
    let labels = objects.nodes.get(&options.node).map(|node| node.labels.as_slice()).unwrap_or_default();
    let value = |key: &str| labels.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_str());
    let by_name = service.annotations.node.as_deref().is_none_or(|name| value(NODE) == Some(name));
    let by_labels = service.annotations.node_selector.as_deref().is_none_or(|selector| fits(selector, value));
    by_name && by_labels
}

/// `a=b,c!=d,e,!f`. What cannot be read selects nothing.
fn fits<'a>(selector: &str, value: impl Fn(&str) -> Option<&'a str>) -> bool {
    selector.split(',').map(str::trim).filter(|part| !part.is_empty()).all(|part| {
        if let Some((key, unwanted)) = part.split_once("!=") {
            value(key.trim()) != Some(unwanted.trim())
        } else if let Some((key, wanted)) = part.split_once('=') {
            value(key.trim()) == Some(wanted.trim_start_matches('=').trim())
        } else if let Some(key) = part.strip_prefix('!') {
            value(key.trim()).is_none()
        } else {
            value(part).is_some()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn node_selectors_are_read() {
        let value = |key: &str| (key == "rack").then_some("a");
        for yes in ["rack=a", "rack==a", "rack", "!role", "rack!=b, role!=x", ""] {
            assert!(fits(yes, value), "{yes}");
        }
        for no in ["rack=b", "role", "!rack", "rack=a,role=x", "rack in (a,b)"] {
            assert!(!fits(no, value), "{no}");
        }
    }
}
