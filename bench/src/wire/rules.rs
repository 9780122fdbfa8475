//! The same services for everybody: as Kubernetes objects, as nftables rules and as iptables rules in the shape in which
//! kube-proxy writes them.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// Endpoints of each service.
const ENDPOINTS: u32 = 2;
/// Hosts that endpoints are on.
const HOSTS: u32 = 60;
/// What clients ask for, and what servers listen on.
pub(crate) const SERVICE_PORT: u16 = 80;
const SERVER_PORT: u16 = 8080;
/// The first service's address.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// So many, each with an address so far from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Services {
    pub count: u32,
    pub apart: u32,
}

impl Services {
    fn ip(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST.to_bits() + n * self.apart)
    }
}

fn endpoints(n: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..ENDPOINTS).map(move |e| Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 1).to_bits() + (n + e) % HOSTS))
}

/// Services and EndpointSlices in YAML.
pub(crate) fn objects(services: Services) -> String {
    let mut text = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n");
    for n in 0..services.count {
        let ip = services.ip(n);
        let addresses: Vec<String> = endpoints(n).map(|ip| format!("{{addresses: [{ip}]}}")).collect();
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: bench}}\nspec:\n  type: LoadBalancer\n  \
             clusterIP: {ip}\n  clusterIPs: [{ip}]\n  ports: [{{name: p, port: {SERVICE_PORT}, targetPort: {SERVER_PORT}, \
             protocol: UDP}}]\nstatus: {{loadBalancer: {{ingress: [{{ip: {ip}}}]}}}}\n---\napiVersion: \
             discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{n}-1, namespace: bench, labels: \
             {{kubernetes.io/service-name: s{n}}}}}\naddressType: IPv4\nports: [{{name: p, port: {SERVER_PORT}, protocol: \
             UDP}}]\nendpoints: [{}]\n",
            addresses.join(", ")
        );
    }
    text
}

/// A map from address, protocol and port to a chain a service, which picks one of its endpoints' chains.
pub(crate) fn nftables(services: Services) -> String {
    let mut text = String::from("table ip kube-proxy {\n");
    for n in 0..services.count {
        for (e, ip) in endpoints(n).enumerate() {
            let _ = writeln!(
                text,
                " chain endpoint-{n}-{e} {{\n  meta l4proto udp dnat to {ip}:{SERVER_PORT}\n }}"
            );
        }
        let picks: Vec<String> = (0..ENDPOINTS).map(|e| format!("{e} : goto endpoint-{n}-{e}")).collect();
        let _ = writeln!(
            text,
            " chain service-{n} {{\n  numgen random mod {ENDPOINTS} vmap {{ {} }}\n }}",
            picks.join(", ")
        );
    }
    let all: Vec<String> = (0..services.count)
        .map(|n| format!("{} . udp . {SERVICE_PORT} : goto service-{n}", services.ip(n)))
        .collect();
    let _ = writeln!(
        text,
        " map service-ips {{\n  type ipv4_addr . inet_proto . inet_service : verdict\n  elements = {{ {} }}\n }}",
        all.join(", ")
    );
    text.push_str(
        " chain services {\n  ip daddr . meta l4proto . th dport vmap @service-ips\n }\n chain nat-prerouting {\n  type nat hook prerouting \
         priority dstnat; policy accept;\n  jump services\n }\n chain nat-postrouting {\n  type nat hook postrouting \
         priority srcnat; policy accept;\n }\n}\n",
    );
    text
}

/// One list of all services, walked from the top; a chain a service and one an endpoint.
pub(crate) fn iptables(services: Services) -> String {
    let mut text = String::from("*nat\n:KUBE-SERVICES - [0:0]\n");
    for n in 0..services.count {
        let _ = writeln!(text, ":KUBE-SVC-{n} - [0:0]");
        for e in 0..ENDPOINTS {
            let _ = writeln!(text, ":KUBE-SEP-{n}-{e} - [0:0]");
        }
    }
    text.push_str("-A PREROUTING -j KUBE-SERVICES\n");
    for n in 0..services.count {
        let _ = writeln!(
            text,
            "-A KUBE-SERVICES -d {}/32 -p udp -m udp --dport {SERVICE_PORT} -j KUBE-SVC-{n}",
            services.ip(n)
        );
        for (e, ip) in (0..).zip(endpoints(n)) {
            let left = ENDPOINTS - e;
            let chance = if left == 1 {
                String::new()
            } else {
                format!("-m statistic --mode random --probability {:.8} ", 1.0 / f64::from(left))
            };
            let _ = writeln!(text, "-A KUBE-SVC-{n} {chance}-j KUBE-SEP-{n}-{e}");
            let _ = writeln!(
                text,
                "-A KUBE-SEP-{n}-{e} -p udp -m udp -j DNAT --to-destination {ip}:{SERVER_PORT}"
            );
        }
    }
    text.push_str("COMMIT\n");
    text
}
