//! What services mean, one idea a test: objects as people write them, and what clients of each kind reach.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod exposed;

use exposed::{Edge, slice, slices};
use serde_json::json;
use sluice_core::tables::record::{Change, Probe, ProbeKind, Reach};
use sluice_policy::compile::Edit;
use sluice_policy::config::Options;
use sluice_policy::objects::NodeObject;

const TWO_NODES: &str = "
  - {addresses: [10.1.0.1], nodeName: edge, zone: a}
  - {addresses: [10.1.0.2], nodeName: far, zone: b}
";

fn web(spec: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec:\n  ports: [{{name: http, port: 80, \
         nodePort: 30080, targetPort: 8080}}]\n{spec}\n---\n{}",
        slice("web", endpoints)
    )
}

#[test]
fn each_type_has_its_frontends() {
    let text = web("  type: LoadBalancer\n  clusterIPs: [10.96.0.1, 'fd00:96::1']\n  externalIPs: [198.51.100.7]", TWO_NODES)
        .replacen("---", "status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {hostname: x.example}, {ip: 203.0.113.2, ipMode: Proxy}]}}\n---", 1);
    let edge = Edge::new(&text);
    let kinds = edge.kinds();
    assert_eq!(
        kinds,
        [
            ("10.96.0.1:80", "ClusterIP"),
            ("192.0.2.1:30080", "NodePort"),
            ("192.0.2.3:30080", "NodePort"),
            ("198.51.100.7:80", "ExternalIPs"),
            ("203.0.113.1:80", "LoadBalancer"),
            ("[2001:db8::1]:30080", "NodePort"),
            ("[fd00:96::1]:80", "ClusterIP"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
    // What asks for a service address's other ports finds nobody; the node's own other ports are the node's.
    assert_eq!(edge.reason("outside", "203.0.113.1", 81), 158);
    assert_eq!(edge.reason("outside", "192.0.2.1", 81), 0);
}

#[test]
fn cluster_addresses_are_for_the_cluster_unless_the_option_says_otherwise() {
    let text = web("  clusterIP: 10.96.0.1", TWO_NODES);
    let edge = Edge::new(&text);
    assert_eq!(edge.reason("outside", "10.96.0.1", 80), 174);
    assert_eq!(edge.reason("inside", "10.96.0.1", 80), 0);
    let open = Edge::with(&text, Options { external_clusterip: true, ..exposed::options() });
    assert_eq!(open.reason("outside", "10.96.0.1", 80), 0);
}

#[test]
fn another_seed_gives_each_flow_another_place() {
    let text = web("  clusterIP: 10.96.0.1", TWO_NODES);
    let chosen = |seed: Option<&str>| {
        let mut options = Options { external_clusterip: true, ..exposed::options() };
        seed.into_iter().for_each(|seed| options.set("bpf-lb-maglev-hash-seed", seed).unwrap());
        let edge = Edge::with(&text, options);
        (1..65)
            .map(|n| edge.backend(&format!("198.51.100.{n}"), "10.96.0.1", 80).unwrap().0)
            .collect::<Vec<_>>()
    };
    let (own, same, other) =
        (chosen(None), chosen(Some("JLfvgnHc2kaSUFaI")), chosen(Some("AAAAAQAAAAL/////")));
    let moved = own.iter().zip(&other).filter(|(own, other)| own != other).count();
    assert!(own == same && (16..48).contains(&moved), "{moved} of 64");
}

#[test]
fn node_ports_listen_where_they_are_told() {
    let text = web("  type: NodePort", TWO_NODES);
    let mut options = exposed::options();
    options.set("nodeport-addresses", "192.0.2.2/31, 2001:db8::/64").unwrap();
    let edge = Edge::with(&text, options);
    assert_eq!(edge.addresses(), ["192.0.2.3", "2001:db8::1"]);
    // Without a Node object the addresses themselves are told.
    let mut options = Options { node: "nobody".to_owned(), ..exposed::options() };
    options.set("nodeport-addresses", "192.0.2.9/32,10.0.0.0/8").unwrap();
    assert_eq!(Edge::with(&text, options).addresses(), ["192.0.2.9"]);
    assert!(exposed::options().set("nodeport-addresses", "nonsense").is_err());
}

#[test]
fn host_ports_lead_to_the_pod_of_this_node_and_yield_to_node_ports() {
    let pod = |name: &str, node: &str, port: u16, host_ip: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  nodeName: {node}\n  \
             containers: [{{ports: [{{containerPort: 53, hostPort: {port}, protocol: UDP{host_ip}}}]}}]\nstatus: {{podIPs: [{{ip: 10.1.0.9}}]}}\n"
        )
    };
    let edge = Edge::new(&pod("dns", "edge", 53, ""));
    assert_eq!(edge.addresses(), ["192.0.2.1", "192.0.2.3"]);
    let edge = Edge::new(&pod("dns", "edge", 53, ", hostIP: 192.0.2.3"));
    assert_eq!(edge.addresses(), ["192.0.2.3"]);
    assert!(Edge::new(&pod("dns", "edge", 53, ", hostIP: 127.0.0.1")).addresses().is_empty());
    assert!(Edge::new(&pod("dns", "far", 53, "")).addresses().is_empty());

    let clash = pod("dns", "edge", 30080, "").replace("UDP", "TCP");
    let both = format!("{}---\n{clash}", web("  type: NodePort", TWO_NODES));
    let mut edge = Edge::new(&both);
    assert_eq!(edge.backend("outside", "192.0.2.1", 30080).unwrap().1, 8080);
    edge.edit(Edit::Service(("shop".into(), "web".into()), None));
    assert_eq!(
        edge.backend("outside", "192.0.2.1", 30080).unwrap().1,
        53,
        "the pod has it when the service lets go"
    );
}

#[test]
fn the_policies_for_outside_and_inside_are_apart() {
    let all = |external: &str, internal: &str| {
        let spec = format!(
            "  type: NodePort\n  clusterIP: 10.96.0.1\n  externalTrafficPolicy: {external}\n  internalTrafficPolicy: {internal}"
        );
        let edge = Edge::new(&web(&spec, TWO_NODES));
        let to = |from, ip, port| edge.reached(from, ip, port).into_iter().collect::<Vec<_>>().join(" ");
        (to("outside", "192.0.2.1", 30080), to("inside", "192.0.2.1", 30080), to("inside", "10.96.0.1", 80))
    };
    let (near, every) = ("10.1.0.1", "10.1.0.1 10.1.0.2");
    let expect = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(all("Cluster", "Cluster"), expect(every, every, every));
    assert_eq!(all("Local", "Cluster"), expect(near, every, every));
    assert_eq!(all("Cluster", "Local"), expect(every, near, near));
    assert_eq!(all("Local", "Local"), expect(near, near, near));
}

#[test]
fn local_without_a_local_backend_is_nobody_and_silent() {
    let spec = "  type: NodePort\n  externalTrafficPolicy: Local";
    let edge = Edge::new(&web(spec, "\n  - {addresses: [10.1.0.2], nodeName: far}\n"));
    assert_eq!(edge.reason("outside", "192.0.2.1", 30080), 158);
    assert!(!edge.list("192.0.2.1", 30080).reject);
    let spec = "  type: NodePort";
    let edge =
        Edge::new(&web(spec, "\n  - {addresses: [10.1.0.2], nodeName: far, conditions: {ready: false}}\n"));
    assert_eq!(edge.reason("outside", "192.0.2.1", 30080), 158);
    assert!(edge.list("192.0.2.1", 30080).reject);
    let silent = Options { no_backend_reject: false, ..exposed::options() };
    assert!(!Edge::with(&web(spec, "\n  []\n"), silent).list("192.0.2.1", 30080).reject);
}

#[test]
fn source_ranges_bind_clients_outside_at_load_balancers() {
    let spec =
        "  type: LoadBalancer\n  externalIPs: [203.0.113.1]\n  loadBalancerSourceRanges: [198.51.100.0/25]";
    let edge = Edge::new(&web(spec, TWO_NODES));
    let ask = |edge: &Edge, from, ip, port| edge.reason(from, ip, port);
    assert_eq!(ask(&edge, "198.51.100.5", "203.0.113.1", 80), 0);
    assert_eq!(ask(&edge, "198.51.100.200", "203.0.113.1", 80), 177);
    assert_eq!(ask(&edge, "198.51.100.200", "192.0.2.1", 30080), 0);
    assert_eq!(ask(&edge, "inside", "203.0.113.1", 80), 0);
    let deny = web(spec, TWO_NODES).replacen(
        "namespace: shop",
        "namespace: shop, annotations: {service.cilium.io/src-ranges-policy: deny}",
        1,
    );
    let edge = Edge::new(&deny);
    assert_eq!(ask(&edge, "198.51.100.5", "203.0.113.1", 80), 177);
    assert_eq!(ask(&edge, "198.51.100.200", "203.0.113.1", 80), 0);
    let all = Options { source_range_all_types: true, ..exposed::options() };
    assert_eq!(ask(&Edge::with(&web(spec, TWO_NODES), all), "198.51.100.200", "192.0.2.1", 30080), 177);
}

#[test]
fn endpoints_of_several_slices_are_one_list_and_the_better_word_counts() {
    let text = format!(
        "{}---\n{}",
        web(
            "  clusterIP: 10.96.0.1",
            "\n  - {addresses: [10.1.0.1], conditions: {ready: false}}\n  - {addresses: [10.1.0.2]}\n"
        ),
        slice("web", "\n  - {addresses: [10.1.0.1]}\n  - {addresses: [10.1.0.3]}\n")
            .replace("web-1", "web-2")
    );
    let edge = Edge::new(&text);
    assert_eq!(
        edge.reached("inside", "10.96.0.1", 80).into_iter().collect::<Vec<_>>(),
        ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
    );
    assert_eq!(edge.list("10.96.0.1", 80).backends.len(), 3);
}

#[test]
fn terminating_endpoints_serve_when_nobody_else_does_and_keep_their_flows() {
    let terminating =
        "\n  - {addresses: [10.1.0.1], conditions: {ready: false, serving: true, terminating: true}}\n";
    let edge = Edge::new(&web("  clusterIP: 10.96.0.1", terminating));
    assert_eq!(edge.reason("inside", "10.96.0.1", 80), 0);
    let with_another = format!("{terminating}  - {{addresses: [10.1.0.2]}}\n");
    let edge = Edge::new(&web("  clusterIP: 10.96.0.1", &with_another));
    assert_eq!(edge.reached("inside", "10.96.0.1", 80).into_iter().collect::<Vec<_>>(), ["10.1.0.2"]);
    assert_eq!(edge.list("10.96.0.1", 80).backends.len(), 2, "flows to the first go on");
    let gone =
        "\n  - {addresses: [10.1.0.1], conditions: {ready: false, serving: false, terminating: true}}\n";
    let edge = Edge::new(&web("  clusterIP: 10.96.0.1", gone));
    assert_eq!(edge.reason("inside", "10.96.0.1", 80), 158);
    assert_eq!(edge.list("10.96.0.1", 80).backends.len(), 1, "listed, its flows go on");
    assert_eq!(edge.shown()[0]["backends"], json!([]), "but it is nobody's choice");
}

#[test]
fn weights_come_from_the_slice_and_zero_drains() {
    let weighted = |weight: &str| {
        slice("web", "\n  - {addresses: [10.1.0.2]}\n")
            .replace("web-1", "web-2")
            .replace("labels:", &format!("annotations: {{service.cilium.io/weight: '{weight}'}}, labels:"))
    };
    let text = |weight| {
        format!(
            "{}---\n{}",
            web("  clusterIP: 10.96.0.1", "\n  - {addresses: [10.1.0.1]}\n"),
            weighted(weight)
        )
    };
    let edge = Edge::new(&text("300"));
    let shares = edge.shares("10.96.0.1", 80);
    assert!((2.9..3.1).contains(&(shares["10.1.0.2"] / shares["10.1.0.1"])), "{shares:?}");
    let edge = Edge::new(&text("0"));
    assert_eq!(edge.reached("inside", "10.96.0.1", 80).into_iter().collect::<Vec<_>>(), ["10.1.0.1"]);
}

#[test]
fn affinity_has_a_timeout() {
    let spec =
        |more: &str| web(&format!("  clusterIP: 10.96.0.1\n  sessionAffinity: ClientIP{more}"), TWO_NODES);
    assert_eq!(Edge::new(&spec("")).list("10.96.0.1", 80).affinity_seconds, 10_800);
    let told = spec("\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}");
    assert_eq!(Edge::new(&told).list("10.96.0.1", 80).affinity_seconds, 60);
}

#[test]
fn annotations_choose_types_nodes_and_ways() {
    let with = |annotation: &str| {
        let spec = "  type: NodePort\n  clusterIP: 10.96.0.1";
        Edge::new(&web(spec, TWO_NODES).replacen(
            "namespace: shop",
            &format!("namespace: shop, annotations: {{{annotation}}}"),
            1,
        ))
    };
    assert_eq!(
        with("service.cilium.io/type: NodePort").addresses(),
        ["192.0.2.1", "192.0.2.3", "2001:db8::1"]
    );
    assert_eq!(with("service.cilium.io/type: ClusterIP").addresses(), ["10.96.0.1"]);
    assert_eq!(with("service.cilium.io/node: rack-1").addresses().len(), 4);
    assert_eq!(with("service.cilium.io/node: rack-2").addresses(), ["10.96.0.1"]);
    assert_eq!(with("service.cilium.io/node-selector: 'role=edge'").addresses().len(), 4);
    assert_eq!(with("service.cilium.io/node-selector: 'role=core'").addresses(), ["10.96.0.1"]);
    let edge = with("service.cilium.io/lb-algorithm: random, service.cilium.io/forwarding-mode: snat");
    assert_eq!((&edge.shown()[0]["algorithm"], &edge.shown()[0]["mode"]), (&json!("random"), &json!("snat")));
}

#[test]
fn backends_answer_directly_where_mode_or_annotation_say_so() {
    const NODES: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: far}\nstatus: {addresses: [{type: InternalIP, \
         address: 192.0.2.9}]}\n---\n";
    let text = |annotation: &str| {
        let annotations = format!("namespace: shop, annotations: {{{annotation}}}");
        let service = web("  clusterIP: 10.96.0.1", TWO_NODES).replacen("namespace: shop", &annotations, 1);
        format!("{NODES}{service}")
    };
    let with = |mode: &str, dispatch: &str| Options {
        mode: mode.to_owned(),
        dispatch: dispatch.to_owned(),
        ..exposed::options()
    };
    let shown = |text: &str, options: Options| {
        let one = Edge::with(text, options).shown().remove(0);
        (one["mode"].as_str().unwrap().to_owned(), one["dispatch"].as_str().map(str::to_owned))
    };
    let plain = text("");
    let direct = |how: &str| ("dsr".to_owned(), Some(how.to_owned()));
    assert_eq!(shown(&plain, with("dsr", "opt")), direct("opt"));
    assert_eq!(shown(&plain, with("hybrid", "geneve")), direct("geneve"));
    let udp = plain
        .replace("port: 80,", "port: 80, protocol: UDP,")
        .replace("port: 8080", "port: 8080, protocol: UDP");
    assert_eq!(shown(&udp, with("hybrid", "geneve")).0, "snat");
    let annotated = text("service.cilium.io/forwarding-mode: dsr");
    assert_eq!(shown(&annotated, with("snat", "ipip")), direct("ipip"));
    assert_eq!(shown(&annotated, Options { mode_annotation: false, ..with("snat", "ipip") }).0, "snat");
    assert_eq!(shown(&text("service.cilium.io/forwarding-mode: sideways"), with("snat", "ipip")).0, "snat");
    // What is on our own node answers by us; a tunnel ends at the node of the rest.
    let edge = Edge::with(&plain, with("dsr", "geneve"));
    let reach = |edge: &Edge| {
        let lists = edge.compiled.frontends.iter().flat_map(|one| one.list.record.backends.clone());
        lists.map(|backend| (backend.ip.to_string(), backend.reach)).collect::<Vec<_>>()
    };
    let reached = reach(&edge);
    assert!(reached.iter().any(|(_, reach)| *reach == Reach::Here), "{reached:?}");
    assert!(reached.iter().any(|(_, reach)| *reach == Reach::By([192, 0, 2, 9].into())), "{reached:?}");
    // Flows by Geneve outlive the mode, but for those to another node where tunnels are of plain IP.
    let by = Reach::By([192, 0, 2, 9].into());
    for (mode, dispatch, told) in [("dnat", "opt", true), ("snat", "geneve", true), ("dsr", "ipip", false)] {
        let later = reach(&Edge::with(&plain, with(mode, dispatch)));
        assert_eq!(later.iter().any(|(_, reach)| *reach == by), told, "{mode} {dispatch}");
    }
    let mut moved = edge;
    let far =
        NodeObject { name: "far".to_owned(), labels: Vec::new(), addresses: vec![[192, 0, 2, 10].into()] };
    moved.edit(Edit::Node("far".to_owned(), Some(far)));
    assert!(reach(&moved).iter().any(|(_, reach)| *reach == Reach::By([192, 0, 2, 10].into())));
}

#[test]
fn services_for_other_proxies_headless_and_external_names_are_not_ours() {
    let labelled = web("  clusterIP: 10.96.0.1", TWO_NODES).replacen(
        "namespace: shop",
        "namespace: shop, labels: {service.kubernetes.io/service-proxy-name: other}",
        1,
    );
    assert!(Edge::new(&labelled).addresses().is_empty());
    let options = Options { proxy_name: "other".to_owned(), ..exposed::options() };
    assert_eq!(Edge::with(&labelled, options).addresses(), ["10.96.0.1"]);
    assert!(Edge::new(&web("  clusterIP: None", TWO_NODES)).addresses().is_empty());
    assert!(
        Edge::new(&web("  type: ExternalName\n  externalName: x.example", TWO_NODES)).addresses().is_empty()
    );
}

#[test]
fn topology_keeps_flows_near_while_somebody_near_is_there() {
    let near = Options { topology: true, ..exposed::options() };
    let hinted = "
  - {addresses: [10.1.0.1], hints: {forZones: [{name: a}]}}
  - {addresses: [10.1.0.2], hints: {forZones: [{name: b}]}}
";
    let text = web("  clusterIP: 10.96.0.1", hinted);
    let all = |edge: &Edge| edge.reached("inside", "10.96.0.1", 80).len();
    assert_eq!(all(&Edge::new(&text)), 2, "only where the option says so");
    let edge = Edge::with(&text, near.clone());
    assert_eq!(edge.reached("inside", "10.96.0.1", 80).into_iter().collect::<Vec<_>>(), ["10.1.0.1"]);
    let partly = hinted.replace(", hints: {forZones: [{name: b}]}", "");
    assert_eq!(
        all(&Edge::with(&web("  clusterIP: 10.96.0.1", &partly), near.clone())),
        2,
        "one without a hint"
    );
    let elsewhere = hinted.replace("name: a", "name: c");
    assert_eq!(all(&Edge::with(&web("  clusterIP: 10.96.0.1", &elsewhere), near.clone())), 2, "none for us");
    for (wish, count) in [("PreferClose", 1), ("PreferSameZone", 1), ("PreferSameNode", 1), ("Whatever", 2)] {
        let spec = format!("  clusterIP: 10.96.0.1\n  trafficDistribution: {wish}");
        assert_eq!(all(&Edge::with(&web(&spec, TWO_NODES), near.clone())), count, "{wish}");
    }
}

#[test]
fn without_slices_the_selector_finds_pods_and_their_named_ports() {
    let pods = |names: &[(&str, u8, u16)]| -> String {
        let pod = |(name, n, port): &(&str, u8, u16)| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: web}}}}\nspec: {{containers: \
                 [{{ports: [{{name: http, containerPort: {port}}}]}}]}}\nstatus: {{podIPs: [{{ip: 10.1.0.{n}}}]}}\n"
            )
        };
        names.iter().map(pod).collect()
    };
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, \
                   selector: {app: web}, ports: [{port: 80, targetPort: http}]}\n";
    let mut edge = Edge::new(&format!("{service}{}", pods(&[("a", 1, 8080), ("b", 2, 9090)])));
    let ports: Vec<u16> = edge.list("10.96.0.1", 80).backends.iter().map(|b| b.port).collect();
    assert_eq!(ports, [8080, 9090]);
    edge.edit(Edit::Endpoint(("shop".into(), "a".into()), None));
    assert_eq!(edge.list("10.96.0.1", 80).backends.len(), 1);
}

#[test]
fn one_port_number_serves_tcp_udp_and_sctp_apart() {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec:\n  clusterIP: 10.96.0.1\n  ports:\n{}---\n{}",
        ["TCP", "UDP", "SCTP"].map(|p| format!("    - {{name: {p}, protocol: {p}, port: 53}}\n").to_lowercase().replace(&p.to_lowercase(), p)).concat(),
        slice("web", "\n  - {addresses: [10.1.0.1]}\n").replace(
            "ports: [{name: http, port: 8080}]",
            "ports: [{name: TCP, port: 1}, {name: UDP, protocol: UDP, port: 2}, {name: SCTP, protocol: SCTP, port: 3}]"
        )
    );
    let edge = Edge::new(&text);
    let ports =
        [6, 17, 132].map(|proto| edge.backend_of("inside", "10.96.0.1", 53, proto).map(|(_, port)| port));
    assert_eq!(ports, [Some(1), Some(2), Some(3)]);
}

#[test]
fn a_change_costs_the_service_that_it_touches() {
    let text: String = (0..50).map(|n| format!("{}---\n", slices(n))).collect();
    let mut edge = Edge::new(&text);
    let changes = edge.edit_text(&slices(7).replace("10.2.7.1]", "10.2.7.99]"));
    assert_eq!(changes.len(), 1, "{changes:?}");
    // And what is edited step by step is what is read at once.
    let whole = Edge::new(&text.replace("10.2.7.1]", "10.2.7.99]"));
    assert_eq!(edge.compiled.records, whole.compiled.records);
}

#[test]
fn a_node_that_moves_takes_its_backends_with_it() {
    let node = |zone: &str, ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: far, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n\
             status: {{addresses: [{{type: InternalIP, address: {ip}}}]}}\n"
        )
    };
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, \
                   selector: {app: client}, trafficDistribution: PreferClose, ports: [{port: 80}]}\n---\n\
                   apiVersion: v1\nkind: Pod\nmetadata: {name: near, namespace: shop, labels: {app: client}}\n\
                   spec: {nodeName: edge}\nstatus: {podIPs: [{ip: 10.1.0.9}]}\n";
    let options = || Options { topology: true, ..exposed::options() };
    let mut edge = Edge::with(&format!("{service}{}", node("b", "192.0.2.2")), options());
    let reached = |edge: &Edge| edge.reached("inside", "10.96.0.1", 80).len();
    assert_eq!(reached(&edge), 1, "the other zone is spared");
    for (zone, ip, count) in [("a", "192.0.2.2", 2), ("a", "192.0.2.9", 2), ("b", "192.0.2.9", 1)] {
        let text = format!("{service}{}", node(zone, ip));
        let whole = Edge::with(&text, options());
        let far = whole.compiled.objects.nodes["far"].clone();
        edge.edit(Edit::Node("far".to_owned(), Some(far)));
        assert_eq!(reached(&edge), count, "{zone} {ip}");
        assert_eq!(edge.list("10.96.0.1", 80), whole.list("10.96.0.1", 80), "{zone} {ip}");
    }
}

#[test]
fn clients_are_replaced_by_the_nodes_addresses_where_no_others_are_told() {
    let spec = "  type: NodePort\n  externalTrafficPolicy: Local";
    let plain = web("  type: NodePort", TWO_NODES);
    let snat = || Options { mode: "snat".to_owned(), ..exposed::options() };
    assert_eq!(Edge::with(&plain, snat()).settings().snat_addresses.len(), 3);
    assert!(Edge::new(&plain).settings().snat_addresses.is_empty(), "nobody needs them");
    let told = Edge::with(&plain, {
        let mut options = snat();
        options.settings.snat_addresses = vec!["192.0.2.77".parse().unwrap()];
        options
    });
    assert_eq!(told.settings().snat_addresses.len(), 1);
    let local = Edge::with(&web(spec, TWO_NODES), snat());
    assert_eq!(local.shown()[0]["mode"], "dnat", "who stays on the node keeps its source");
}

#[test]
fn an_address_is_exposed_while_somebody_stands_behind_it() {
    let spec = "  type: LoadBalancer\n  clusterIP: 10.96.0.1\n  externalIPs: [203.0.113.1]";
    let ready = "\n  - {addresses: [10.1.0.1]}\n";
    let mut edge = Edge::new(&web(spec, ready));
    let told = |changes: &[Change]| -> Vec<String> {
        let one = |change: &Change| {
            if let Change::Exposed(ip, exposed) = change { Some(format!("{ip} {exposed}")) } else { None }
        };
        changes.iter().filter_map(one).collect()
    };
    // Neither the cluster's own address nor the node's.
    assert_eq!(told(&edge.compiled.changes()), ["203.0.113.1 true"]);
    let gone = slice("web", "\n  - {addresses: [10.1.0.1], conditions: {ready: false}}\n");
    assert_eq!(told(&edge.edit_text(&gone)), ["203.0.113.1 false"]);
    assert_eq!(told(&edge.edit_text(&slice("web", ready))), ["203.0.113.1 true"]);
    assert_eq!(told(&edge.edit_text(&slice("web", ready))), [""; 0]);
    // Two services on one address: it goes when the last one goes.
    let other = web(spec, ready).replace("web", "api");
    assert_eq!(told(&edge.edit_text(&other)), [""; 0]);
    assert_eq!(told(&edge.edit(Edit::Service(("shop".into(), "web".into()), None))), [""; 0]);
    assert_eq!(told(&edge.edit(Edit::Service(("shop".into(), "api".into()), None))), ["203.0.113.1 false"]);
}

#[test]
fn annotations_say_how_backends_are_asked_and_mistakes_are_told() {
    let with = |annotations: &str| {
        let text = web("  clusterIP: 10.96.0.1", TWO_NODES).replacen(
            "namespace: shop",
            &format!("namespace: shop, annotations: {{{annotations}}}"),
            1,
        );
        let (objects, problems) =
            sluice_policy::objects::parse("health.yaml", &text, &exposed::options().limits);
        let probe = objects.services.values().next().and_then(|service| service.probe.clone());
        (probe, problems.to_string())
    };
    let (probe, _) = with("sluice.dev/health: tcp");
    assert_eq!(probe, Some(Probe { kind: ProbeKind::Tcp, interval: 2000, timeout: 1000, rise: 2, fall: 3 }));
    let (probe, _) = with(
        "sluice.dev/health: http, sluice.dev/health-path: /ready, sluice.dev/health-interval: 500ms, \
         sluice.dev/health-timeout: 2s, sluice.dev/health-rise: '1', sluice.dev/health-fall: '5'",
    );
    let kind = ProbeKind::Http("/ready".to_owned());
    assert_eq!(probe, Some(Probe { kind, interval: 500, timeout: 500, rise: 1, fall: 5 }));
    assert_eq!(with("a: b"), (None, String::new()));
    for (wrong, what) in [
        ("sluice.dev/health: ping", "must be tcp, http or icmp"),
        ("sluice.dev/health: http, sluice.dev/health-path: ready", "must be a path"),
        ("sluice.dev/health: http, sluice.dev/health-path: \"/a b\"", "must be a path"),
        ("sluice.dev/health: tcp, sluice.dev/health-interval: 1ms", "from 100ms to 1h"),
        ("sluice.dev/health: tcp, sluice.dev/health-timeout: soon", "from 10ms to 1h"),
        ("sluice.dev/health: tcp, sluice.dev/health-fall: '0'", "from 1 to 100"),
    ] {
        assert!(with(wrong).1.contains(what), "{wrong}: {}", with(wrong).1);
    }
}

#[test]
fn a_probe_comes_and_goes_with_its_annotation() {
    let plain = web("  clusterIP: 10.96.0.1", TWO_NODES);
    let asked =
        plain.replacen("namespace: shop", "namespace: shop, annotations: {sluice.dev/health: tcp}", 1);
    let mut edge = Edge::new(&plain);
    let told = |changes: Vec<Change>| -> Vec<bool> {
        let one =
            |change: &Change| if let Change::Probe(_, probe) = change { Some(probe.is_some()) } else { None };
        changes.iter().filter_map(one).collect()
    };
    assert_eq!(told(edge.edit_text(&asked)), [true]);
    assert_eq!(edge.shown()[0]["health"]["probe"], "tcp");
    assert_eq!(told(edge.edit_text(&asked)), [true; 0]);
    assert_eq!(told(edge.edit_text(&plain)), [false]);
    // Nobody can connect to a port that is not TCP.
    let udp = asked.replacen("name: http, port: 80", "name: http, protocol: UDP, port: 80", 1);
    assert_eq!(told(edge.edit_text(&udp)), [true; 0]);
}

#[test]
fn the_health_port_counts_backends_on_our_node() {
    let count = |policy: &str, endpoints: &str| {
        let spec = format!(
            "  type: LoadBalancer\n  externalIPs: [203.0.113.1]\n  healthCheckNodePort: 32000\n  externalTrafficPolicy: {policy}"
        );
        let edge = Edge::new(&web(&spec, endpoints));
        edge.compiled.frontends.health_ports(&edge.compiled.objects).get(&32000).map(|(.., count)| *count)
    };
    assert_eq!(count("Local", TWO_NODES), Some(1));
    assert_eq!(count("Local", "\n  - {addresses: [10.1.0.2], nodeName: far}\n"), Some(0));
    assert_eq!(count("Cluster", TWO_NODES), None);
}
