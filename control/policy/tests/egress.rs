//! CiliumEgressGatewayPolicy: read strictly, and turned into how each pod leaves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_core::packet::PortId;
use sluice_core::tables::Tables;
use sluice_core::tables::record::{Change, Leave, Prefix};
use sluice_policy::compile::{Compiled, Edit};
use sluice_policy::config::Options;
use sluice_policy::objects;
use sluice_policy::tree::Limits;

const WORLD: &str = "
apiVersion: v1
kind: Node
metadata: {name: edge, labels: {egress: 'yes'}}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: '2001:db8::1'}]}
---
{apiVersion: v1, kind: Node, metadata: {name: other, labels: {role: worker, egress: spare}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: other}
status: {podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: edge}
status: {podIPs: [{ip: 10.1.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: shop, labels: {app: web}}
spec: {nodeName: other, hostNetwork: true}
status: {podIPs: [{ip: 192.0.2.5}]}
---
";

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
    )
}

const WEB: &str = "selectors: [{podSelector: {matchLabels: {app: web}}}]";
const OUT: &str = "destinationCIDRs: [0.0.0.0/0, '::/0'], excludedCIDRs: [198.51.100.0/24]";
const EDGE: &str = "egressGateway: {nodeSelector: {matchLabels: {egress: 'yes'}}, egressIP: 192.0.2.7}";

fn compiled(text: &str) -> Compiled {
    let (objects, problems) = objects::parse("egress.yaml", &format!("{WORLD}{text}"), &Limits::default());
    assert!(problems.is_ok(), "{problems}");
    let ports = ["eth0", "eth1"].map(String::from).to_vec();
    Compiled::new(objects, Options { node: "edge".to_owned(), ports, ..Options::default() }, problems)
}

type Ways = BTreeMap<String, Vec<(String, Leave)>>;

fn ways(compiled: &Compiled) -> Ways {
    let shown = |prefix: &Prefix| format!("{}/{}", prefix.addr, prefix.len);
    let mut found = Ways::new();
    for change in compiled.records.values() {
        if let Change::Egress(ip, Some(ways)) = change {
            found.insert(ip.to_string(), ways.iter().map(|(to, leave)| (shown(to), *leave)).collect());
        }
    }
    Tables::default().apply(&compiled.changes(), None).unwrap();
    found
}

fn with(ip: &str) -> Leave {
    Leave::With(ip.parse::<IpAddr>().unwrap())
}

#[test]
fn selected_pods_leave_with_the_address_of_the_policy() {
    let found = ways(&compiled(&policy("web", &format!("{WEB}, {OUT}, {EDGE}"))));
    let wanted = [
        ("10.1.0.1", vec![("198.51.100.0/24", Leave::Usual), ("0.0.0.0/0", with("192.0.2.7"))]),
        // An IPv4 address is none for IPv6.
        ("fd00::1", vec![("::/0", Leave::NoAddress)]),
    ];
    let wanted: Ways = wanted
        .into_iter()
        .map(|(ip, ways)| {
            (ip.to_owned(), ways.into_iter().map(|(to, leave)| (to.to_owned(), leave)).collect())
        })
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn namespaces_and_nodes_select_too_and_all_must_fit() {
    let who = |selectors: &str| {
        let spec = format!("selectors: [{selectors}], destinationCIDRs: [0.0.0.0/0], {EDGE}");
        ways(&compiled(&policy("x", &spec))).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(
        who("{namespaceSelector: {matchLabels: {team: a}}}"),
        ["10.1.0.1", "10.1.0.2", "fd00::1"].map(String::from)
    );
    assert_eq!(who("{namespaceSelector: {matchLabels: {team: b}}}"), Vec::<String>::new());
    let both = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}, podSelector: {matchLabels: {app: db}}}";
    assert_eq!(who(both), ["10.1.0.2"].map(String::from));
    let far = "{podSelector: {}, nodeSelector: {matchLabels: {role: worker}}}";
    assert_eq!(who(far), ["10.1.0.1", "fd00::1"].map(String::from));
    let by_space = "{podSelector: {matchLabels: {io.kubernetes.pod.namespace: shop, app: db}}}";
    assert_eq!(who(by_space), ["10.1.0.2"].map(String::from));
}

#[test]
fn the_gateway_is_the_first_node_that_is_selected() {
    let leave = |gateway: &str| {
        let spec = format!("{WEB}, destinationCIDRs: [0.0.0.0/0], {gateway}");
        ways(&compiled(&policy("x", &spec)))["10.1.0.1"][0].1
    };
    assert_eq!(leave("egressGateway: {nodeSelector: {}}"), with("192.0.2.1"), "the node's own address");
    assert_eq!(leave("egressGateway: {nodeSelector: {matchLabels: {role: worker}}}"), Leave::Elsewhere);
    assert_eq!(leave("egressGateway: {nodeSelector: {matchLabels: {role: none}}}"), Leave::NoGateway);
    assert_eq!(leave("egressGateway: {nodeSelector: {}, interface: eth1}"), Leave::Through(PortId(1)));
    assert_eq!(leave("egressGateway: {nodeSelector: {}, interface: eth7}"), Leave::NoAddress);
    // Of several each pod has its own, always the same.
    let several =
        "egressGateways: [{nodeSelector: {}, egressIP: 192.0.2.8}, {nodeSelector: {}, egressIP: 192.0.2.9}]";
    assert!(leave(several) == with("192.0.2.8") || leave(several) == with("192.0.2.9"));
}

#[test]
fn an_interface_that_is_not_the_gateways_is_told_of() {
    let warned = |name: &str, node: &str| {
        let gateway = format!("egressGateway: {{nodeSelector: {{matchLabels: {node}}}, interface: {name}}}");
        let all = compiled(&policy("x", &format!("{WEB}, {OUT}, {gateway}"))).warnings;
        all.iter().map(|one| format!("{}: {}", one.field, one.what)).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(warned("eth0", "{egress: 'yes'}"), "");
    assert_eq!(warned("eth7", "{role: worker}"), "", "another node's");
    let odd = warned("eth7", "{egress: 'yes'}");
    assert!(odd.contains("spec.egressGateway.interface: eth7 is none of the gateway's interfaces"), "{odd}");
}

#[test]
fn mistakes_are_told_with_their_place() {
    let errors = |spec: &str| {
        let text = policy("x", spec);
        let (_, problems) = objects::parse("egress.yaml", &text, &Limits::default());
        problems
            .errors
            .iter()
            .map(|error| format!("{}: {}", error.field, error.what))
            .collect::<Vec<_>>()
            .join("\n")
    };
    for (spec, wanted) in [
        (format!("{WEB}, {OUT}"), "which node is the gateway"),
        (format!("{OUT}, {EDGE}"), "selectors must say who"),
        (format!("{WEB}, {EDGE}"), "destinationCIDRs must say where"),
        (
            format!("selectors: [{{nodeSelector: {{}}}}], {OUT}, {EDGE}"),
            "needs podSelector or namespaceSelector",
        ),
        (
            format!("{WEB}, {OUT}, egressGateway: {{nodeSelector: {{}}, interface: a, egressIP: 1.2.3.4}}"),
            "not both",
        ),
        (format!("{WEB}, {OUT}, egressGateway: {{egressIP: 1.2.3.4}}"), "needs a nodeSelector"),
        (format!("{WEB}, {OUT}, {EDGE}, surprise: 1"), "surprise"),
        (format!("{WEB}, destinationCIDRs: [1.2.3.4/40], {EDGE}"), "1.2.3.4/40"),
    ] {
        assert!(errors(&spec).contains(wanted), "{spec}: {}", errors(&spec));
    }
}

#[test]
fn edits_cost_what_they_touch_and_come_to_the_same() {
    let text = policy("web", &format!("{WEB}, {OUT}, {EDGE}"));
    let mut edited = compiled("");
    let (objects, _) = objects::parse("egress.yaml", &text, &Limits::default());
    let changes = edited.edit(vec![Edit::Egress("web".to_owned(), objects.egress.into_iter().next())]);
    assert_eq!(changes.len(), 2);
    assert_eq!(ways(&edited), ways(&compiled(&text)));
    let key = ("shop".to_owned(), "web".to_owned());
    let changes = edited.edit(vec![Edit::Endpoint(key, None)]);
    assert_eq!(changes.iter().filter(|change| matches!(change, Change::Egress(_, None))).count(), 2);
    assert!(ways(&edited).is_empty());
}
