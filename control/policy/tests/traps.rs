//! The places where a reader of Cilium's manifests goes wrong most easily, each by its number.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod shop;

use serde_json::json;
use sluice_core::event::{EventKind, FlowEvent};
use sluice_core::flow_key::FlowKey;
use sluice_core::tables::maglev;
use sluice_core::time::Now;
use sluice_core::verdict::DropReason;
use sluice_policy::config::Options;
use sluice_policy::fqdn;
use sluice_policy::hubble::{LostAt, Teller, lost};
use sluice_policy::observed::describe;

use shop::{ask, ccnp, cnp, judge, judge_with, learn, mistakes, number, reason, say};

#[test]
fn trap_01_nil_empty_and_one_empty_peer() {
    let nobody = &mut judge(&cnp("  ingress: [{fromEndpoints: []}]"));
    assert_eq!(reason(nobody, "shop/client", "shop/web", "TCP", 80), 133);
    let bare = &mut judge(&cnp("  ingress: [{}]"));
    assert_eq!(reason(bare, "shop/client", "shop/web", "TCP", 80), 133);
    let empty_ports = &mut judge(&cnp("  ingress: [{toPorts: []}]"));
    assert_eq!(reason(empty_ports, "shop/client", "shop/web", "TCP", 80), 133);
    let nobody_on_port =
        &mut judge(&cnp("  ingress: [{fromEndpoints: [], toPorts: [{ports: [{port: '80'}]}]}]"));
    assert_eq!(reason(nobody_on_port, "shop/client", "shop/web", "TCP", 80), 133);
    let anyone = &mut judge(&cnp("  ingress: [{toPorts: [{ports: [{port: '80'}]}]}]"));
    assert_eq!(reason(anyone, "198.51.100.1", "shop/web", "TCP", 80), 0);
    let namespace = &mut judge(&cnp("  ingress: [{fromEndpoints: [{}]}]"));
    assert_eq!(reason(namespace, "shop/client", "shop/web", "TCP", 80), 0);
    assert_eq!(reason(namespace, "elsewhere/other", "shop/web", "TCP", 80), 133);
    assert_eq!(reason(namespace, "198.51.100.1", "shop/web", "TCP", 80), 133);
    let null = &mut judge(&cnp("  ingress: [{fromEndpoints: null, toPorts: [{ports: [{port: '80'}]}]}]"));
    assert_eq!(reason(null, "198.51.100.1", "shop/web", "TCP", 80), 0, "null is as if it were not there");
    let from_nobody = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: shop}\n\
                       spec: {podSelector: {}, ingress: [{from: []}]}";
    assert_eq!(
        reason(&mut judge(from_nobody), "198.51.100.1", "shop/web", "TCP", 80),
        0,
        "in Kubernetes: everybody"
    );
}

#[test]
fn trap_02_peers_inherit_the_namespace() {
    let own = &mut judge(&cnp("  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]"));
    assert_eq!(reason(own, "shop/client", "shop/web", "TCP", 80), 0);
    assert_eq!(reason(own, "elsewhere/other", "shop/web", "TCP", 80), 133);
    let named = "{matchLabels: {app: client, io.kubernetes.pod.namespace: elsewhere}}";
    let named = &mut judge(&cnp(&format!("  ingress: [{{fromEndpoints: [{named}]}}]")));
    assert_eq!(reason(named, "elsewhere/other", "shop/web", "TCP", 80), 0);
    assert_eq!(reason(named, "shop/client", "shop/web", "TCP", 80), 133);
    let labelled = "{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': a}}";
    let labelled = &mut judge(&cnp(&format!("  ingress: [{{fromEndpoints: [{labelled}]}}]")));
    assert_eq!(reason(labelled, "shop/client", "shop/web", "TCP", 80), 0);
    let cluster = &mut judge(&ccnp(
        "  endpointSelector: {matchLabels: {app: web}}\n  ingress: [{fromEndpoints: [{}]}]",
    ));
    assert_eq!(reason(cluster, "elsewhere/other", "shop/web", "TCP", 80), 0);
    assert_eq!(
        reason(cluster, "198.51.100.1", "shop/web", "TCP", 80),
        133,
        "pods have a namespace, the world has none"
    );
    let foreign = cnp("  ingress: [{fromEntities: [all]}]")
        .replace("{app: web}", "{app: client, 'k8s:io.kubernetes.pod.namespace': elsewhere}");
    assert_eq!(
        reason(&mut judge(&foreign), "198.51.100.1", "elsewhere/other", "TCP", 80),
        0,
        "a policy stays in its namespace whatever its selector says"
    );
    assert_eq!(
        ask(&mut judge(&foreign), "198.51.100.1", "shop/client", "TCP", 80)["ingress"]["enforced"],
        true
    );
}

#[test]
fn trap_03_entities() {
    for (entity, from, expected) in [
        ("world", "198.51.100.1", 0),
        ("world", "2001:db8::1", 0),
        ("world", "shop/client", 133),
        ("cluster", "shop/client", 0),
        ("cluster", "192.0.2.1", 0),
        ("cluster", "192.0.2.2", 0),
        ("cluster", "reserved:unmanaged", 0),
        ("cluster", "198.51.100.1", 133),
        ("host", "192.0.2.1", 0),
        ("host", "192.0.2.2", 133),
        ("remote-node", "192.0.2.2", 0),
        ("health", "reserved:health", 0),
        ("all", "198.51.100.1", 0),
        ("all", "192.0.2.1", 0),
        ("none", "shop/client", 133),
    ] {
        let policy = cnp(&format!("  ingress: [{{fromEntities: [{entity}]}}]"));
        let options = Options { node: "us".to_owned(), allow_localhost: false, ..Options::default() };
        let judge = &mut judge_with(&policy, options);
        assert_eq!(reason(judge, from, "shop/web", "TCP", 80), expected, "{entity} from {from}");
    }
    // Prefixes that rules name and addresses that were learned are the world all the same.
    let both = cnp("  egress: [{toEntities: [world]}]")
        + &ccnp(
            "  endpointSelector: {}\n  enableDefaultDeny: {egress: false}\n  egress: [{toCIDR: [198.51.100.0/24]}, {toFQDNs: [{matchName: a.example.com}]}]",
        );
    let judge = &mut judge(&both);
    learn(judge, "a.example.com", "203.0.113.9", 60);
    assert_eq!(reason(judge, "shop/web", "198.51.100.1", "TCP", 80), 0);
    assert_eq!(reason(judge, "shop/web", "203.0.113.9", "TCP", 80), 0);
}

#[test]
fn trap_04_cidrs_never_match_pods_and_exceptions_are_holes() {
    let policy = cnp("  ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.9.0.0/16]}]}]");
    let plain = &mut judge(&policy);
    assert_eq!(reason(plain, "shop/client", "shop/web", "TCP", 80), 133, "pods keep their identity");
    assert_eq!(reason(plain, "10.8.0.1", "shop/web", "TCP", 80), 0);
    assert_eq!(reason(plain, "10.9.0.1", "shop/web", "TCP", 80), 133);
    let other = cnp("  ingress: [{fromCIDR: [10.9.0.1/32]}]").replace("name: p", "name: q");
    let hole = &mut judge(&(policy.clone() + &other));
    assert_eq!(reason(hole, "10.9.0.1", "shop/web", "TCP", 80), 0, "a hole is no deny");
    let mut options = Options { node: "us".to_owned(), ..Options::default() };
    options.set("policy-cidr-match-mode", "pods").unwrap();
    let pods = &mut judge_with(&policy, options.clone());
    assert_eq!(reason(pods, "shop/client", "shop/web", "TCP", 80), 0, "unless asked for");
    let nodes = cnp("  ingress: [{fromCIDR: [192.0.2.0/24]}]");
    assert_eq!(reason(&mut judge(&nodes), "192.0.2.2", "shop/web", "TCP", 80), 133);
    options.set("policy-cidr-match-mode", "nodes").unwrap();
    assert_eq!(reason(&mut judge_with(&nodes, options), "192.0.2.2", "shop/web", "TCP", 80), 0);
}

#[test]
fn trap_05_deny_beats_allow_at_every_granularity() {
    let wide = &mut judge(&cnp(
        "  ingress: [{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]\n  \
         ingressDeny: [{fromEndpoints: [{matchLabels: {app: client}}]}]",
    ));
    assert_eq!(reason(wide, "shop/client", "shop/web", "TCP", 80), 181);
    let narrow = &mut judge(&cnp(
        "  ingress: [{fromEntities: [all]}]\n  ingressDeny: [{toPorts: [{ports: [{port: '22', protocol: TCP}]}]}]",
    ));
    assert_eq!(reason(narrow, "shop/client", "shop/web", "TCP", 22), 181);
    assert_eq!(reason(narrow, "shop/client", "shop/web", "TCP", 23), 0);
    // What is ordered is decided by its order first: an Accept before all others is not undone.
    let admin = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a}\nspec:\n  \
                 tier: Admin\n  priority: 1\n  subject: {namespaces: {}}\n  ingress:\n    - {action: Accept, from: [{namespaces: {}}]}\n";
    let tiers = cnp("  ingressDeny: [{fromEntities: [all]}]") + admin;
    assert_eq!(reason(&mut judge(&tiers), "shop/client", "shop/web", "TCP", 80), 0);
    assert_eq!(reason(&mut judge(&tiers), "198.51.100.1", "shop/web", "TCP", 80), 181);
}

#[test]
fn trap_06_ports_alone_let_everything_through_above_them() {
    let http = cnp(
        "  ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /a}]}}]}]",
    );
    let ports = cnp("  ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]")
        .replace("name: p", "name: q");
    let question = json!({"from": "shop/client", "to": "shop/web", "port": 80, "http": {"path": "/b"}});
    assert_eq!(number(&say(&mut judge(&http), question.clone())), 133);
    let both = &mut judge(&(http + &ports));
    assert_eq!(number(&say(both, question)), 0);
    assert_eq!(reason(both, "shop/client", "shop/web", "TCP", 80), 1, "and still somebody looks at it");
}

#[test]
fn trap_07_ranges_and_port_zero() {
    let ranges = &mut judge(&cnp(
        "  ingress: [{fromEntities: [all], toPorts: [{ports: [{port: '8000', endPort: 8080, protocol: TCP}, {port: '0', protocol: UDP}]}]}]",
    ));
    for (proto, port, expected) in [
        ("TCP", 7999, 133),
        ("TCP", 8000, 0),
        ("TCP", 8080, 0),
        ("TCP", 8081, 133),
        ("UDP", 1, 0),
        ("UDP", 65535, 0),
    ] {
        assert_eq!(reason(ranges, "shop/client", "shop/web", proto, port), expected, "{proto} {port}");
    }
    for (ports, wrong) in [
        ("[{port: '90', endPort: 80}]", "endPort 80 is below port 90"),
        ("[{port: http, endPort: 80}]", "endPort needs a numeric port"),
    ] {
        let told = mistakes(&cnp(&format!("  ingress: [{{toPorts: [{{ports: {ports}}}]}}]")));
        assert!(told.len() == 1 && told[0].contains(wrong), "{told:?}");
    }
    for (ports, wrong) in [
        ("[{port: '53', endPort: 54, protocol: UDP}]", "dns rules cannot stand on a range of ports"),
        ("[{port: '0', protocol: UDP}]", "dns rules need a port"),
    ] {
        let rule = format!("{{toPorts: [{{ports: {ports}, rules: {{dns: [{{matchPattern: '*'}}]}}}}]}}");
        let told = mistakes(&cnp(&format!("  egress: [{rule}]")));
        assert!(told.len() == 1 && told[0].contains(wrong), "{told:?}");
    }
}

#[test]
fn trap_08_any_is_not_icmp_but_l3_is() {
    let any = &mut judge(&cnp(
        "  ingress: [{fromEntities: [all], toPorts: [{ports: [{port: '80', protocol: ANY}]}]}]",
    ));
    for (proto, expected) in [("TCP", 0), ("UDP", 0), ("SCTP", 0), ("ICMP", 133), ("47", 133)] {
        assert_eq!(reason(any, "shop/client", "shop/web", proto, 80), expected, "{proto}");
    }
    let l3 = &mut judge(&cnp("  ingress: [{fromEntities: [all]}]"));
    for proto in ["ICMP", "47", "TCP"] {
        assert_eq!(reason(l3, "shop/client", "shop/web", proto, 0), 0);
    }
}

#[test]
fn trap_09_named_ports_are_per_endpoint() {
    let ingress = &mut judge(&cnp(
        "  ingress: [{fromEntities: [all], toPorts: [{ports: [{port: http, protocol: TCP}]}]}]",
    ));
    assert_eq!(reason(ingress, "shop/client", "shop/web", "TCP", 8080), 0);
    assert_eq!(reason(ingress, "shop/client", "shop/web", "TCP", 80), 133);
    // The same name is another number with each peer.
    let peers = "\
apiVersion: v1\nkind: Pod\nmetadata: {name: one, namespace: shop, labels: {app: db}}\n\
spec: {containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}\nstatus: {podIP: 10.0.0.11}\n---\n\
apiVersion: v1\nkind: Pod\nmetadata: {name: two, namespace: shop, labels: {app: db}}\n\
spec: {containers: [{name: c, ports: [{name: sql, containerPort: 3306}]}]}\nstatus: {podIP: 10.0.0.12}\n---\n";
    let policy = cnp(
        "  egress: [{toEndpoints: [{matchLabels: {app: db}}], toPorts: [{ports: [{port: sql, protocol: TCP}]}]}]",
    );
    let egress = &mut judge(&format!("{peers}{policy}"));
    for (to, port, expected) in
        [("shop/one", 5432, 0), ("shop/one", 3306, 133), ("shop/two", 3306, 0), ("shop/two", 5432, 133)]
    {
        assert_eq!(reason(egress, "shop/web", to, "TCP", port), expected, "{to} {port}");
    }
}

#[test]
fn trap_10_stars_in_names_do_not_cross_dots() {
    let policy = cnp("  egress: [{toFQDNs: [{matchPattern: '*.example.com'}]}]");
    let judge = &mut judge(&policy);
    learn(judge, "www.example.com", "198.51.100.1", 60);
    learn(judge, "a.b.example.com", "198.51.100.2", 60);
    learn(judge, "example.com", "198.51.100.3", 60);
    for (to, expected) in [("198.51.100.1", 0), ("198.51.100.2", 133), ("198.51.100.3", 133)] {
        assert_eq!(reason(judge, "shop/web", to, "TCP", 443), expected, "{to}");
    }
}

#[test]
fn trap_11_a_lone_star_is_every_name_and_the_root() {
    for pattern in ["*", "**", "*."] {
        let pattern = fqdn::normal(pattern);
        assert!(fqdn::fits(&pattern, ".") && fqdn::fits(&pattern, "a.b.c."), "{pattern}");
    }
    let rule = "{toEntities: [world], toPorts: [{ports: [{port: '53', protocol: UDP}], rules: {dns: [{matchPattern: '*'}]}}]}";
    let judge = &mut judge(&cnp(&format!("  egress: [{rule}]")));
    let asked = |query: &str| json!({"from": "shop/web", "to": "198.51.100.1", "proto": "UDP", "port": 53, "dns": {"query": query}});
    assert_eq!(number(&say(judge, asked("."))), 0);
    assert_eq!(number(&say(judge, asked("www.example.com"))), 0);
}

#[test]
fn trap_12_http_patterns_fit_the_whole_and_headers_exactly() {
    let rule = "{method: GET, path: '/public/.*', host: 'a\\.example', headers: ['X-Token: secret', X-Seen]}";
    let policy = cnp(&format!(
        "  ingress: [{{fromEntities: [all], toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rule}]}}}}]}}]"
    ));
    let judge = &mut judge(&policy);
    let fits = |judge: &mut sluice_policy::verdict::Judge, change: serde_json::Value| {
        let mut http = json!({"method": "GET", "path": "/public/x", "host": "a.example",
            "headers": {"x-token": "secret", "X-Seen": "yes"}});
        change.as_object().unwrap().iter().for_each(|(key, value)| http[key] = value.clone());
        number(&say(judge, json!({"from": "shop/client", "to": "shop/web", "port": 80, "http": http})))
    };
    assert_eq!(fits(judge, json!({})), 0);
    for wrong in [
        json!({"method": "GETS"}),
        json!({"method": "FORGET"}),
        json!({"path": "/x/public/x"}),
        json!({"path": "/public"}),
        json!({"host": "a.example.com"}),
        json!({"host": "axexample"}),
        json!({"headers": {"x-token": "secrets", "x-seen": ""}}),
        json!({"headers": {"x-token": "secret"}}),
    ] {
        assert_eq!(fits(judge, wrong.clone()), 133, "{wrong}");
    }
}

#[test]
fn trap_13_reasons_have_ciliums_numbers() {
    let judge = &mut judge(&cnp(
        "  ingress: [{fromEndpoints: [{matchLabels: {app: client}}], authentication: {mode: required}}]\n  \
         ingressDeny: [{fromEntities: [world]}]",
    ));
    assert_eq!(reason(judge, "192.0.2.2", "shop/web", "TCP", 80), 133);
    assert_eq!(reason(judge, "198.51.100.1", "shop/web", "TCP", 80), 181);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 189);
    let answer = ask(judge, "198.51.100.1", "shop/web", "TCP", 80);
    assert_eq!(answer["drop_reason_desc"], "POLICY_DENY");
    assert_eq!(answer["ingress"]["rules"][0]["list"], "ingressDeny");
}

#[test]
fn trap_14_whether_a_dropped_packet_was_a_reply_is_not_known() {
    let judge = judge("");
    let key = FlowKey {
        src: "::ffff:198.51.100.7".parse().unwrap(),
        dst: "::ffff:10.0.0.1".parse().unwrap(),
        sport: 40000,
        dport: 80,
        proto: 6,
        v4: true,
    };
    let event = |kind| FlowEvent { source: 9, ..FlowEvent::of(Now(0), kind, key, key) };
    let dropped = describe(&event(EventKind::Drop(DropReason::PolicyDenied)), "0", &judge.compiled);
    assert!(dropped["is_reply"].is_null());
    assert_eq!(describe(&event(EventKind::New), "0", &judge.compiled)["is_reply"], false);
}

const SERVICE: &str = "\
apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: shop}\nspec:\n  type: LoadBalancer\n  \
clusterIP: 10.96.0.1\n  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]\nMORE\n\
status: {loadBalancer: {ingress: [{ip: 203.0.113.80}]}}\n---\n\
apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
metadata: {name: front-1, namespace: shop, labels: {kubernetes.io/service-name: front}}\n\
addressType: IPv4\nports: [{port: 8080, protocol: TCP}]\n\
endpoints: [{addresses: [10.0.0.1], nodeName: NODE}, {addresses: [10.0.0.2], nodeName: them}]\n---\n";

fn service(more: &str, node: &str) -> String {
    SERVICE.replace("MORE", more).replace("NODE", node)
}

#[test]
fn trap_15_backends_are_chosen_as_cilium_chooses_them() {
    assert_eq!(Options::default().maglev_size, 16_381);
    assert_eq!(maglev::DEFAULT_SEEDS, [0x24b7_ef82, 0x71dc_da46, 0x9250_5688]);
    let backends = |weights: [u16; 2]| {
        let mut named: Vec<(String, u16)> = ["10.0.0.1", "10.0.0.2"]
            .iter()
            .zip(weights)
            .map(|(ip, weight)| (maglev::backend_name(ip.parse().unwrap(), 8080, 6), weight))
            .collect();
        named.sort();
        let row = maglev::build(&named, 16_381, maglev::DEFAULT_SEEDS[0]);
        (row.iter().filter(|slot| **slot == 0).count(), row.len())
    };
    let (first, all) = backends([100, 300]);
    assert!((230..270).contains(&(first * 1000 / all)), "weights count: {first} of {all}");
    // With affinity the client's port does not matter, without it does.
    let backend = |more: &str, sport: u16| {
        let answer = say(
            &mut judge(&service(more, "us")),
            json!({"from": "198.51.100.1", "to": "203.0.113.80", "port": 80, "sport": sport}),
        );
        answer["backend"]["ip"].as_str().unwrap().to_owned()
    };
    let chosen = |more: &str| {
        (1000..1032).map(|sport| backend(more, sport)).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(chosen("  sessionAffinity: ClientIP").len(), 1);
    assert_eq!(chosen("").len(), 2);
}

#[test]
fn trap_16_local_policies_lead_to_local_backends_or_nowhere() {
    let far = &mut judge(&service("  internalTrafficPolicy: Local", "them"));
    assert_eq!(reason(far, "shop/client", "10.96.0.1", "TCP", 80), 158, "nobody is local");
    let near = &mut judge(&service("  internalTrafficPolicy: Local", "us"));
    assert_eq!(ask(near, "shop/client", "10.96.0.1", "TCP", 80)["backend"]["ip"], "10.0.0.1");
    let external = &mut judge(&service("  externalTrafficPolicy: Local", "them"));
    assert_eq!(reason(external, "198.51.100.1", "203.0.113.80", "TCP", 80), 158);
    assert_eq!(
        reason(external, "shop/client", "10.96.0.1", "TCP", 80),
        0,
        "the inner address is not concerned"
    );
    assert_eq!(
        reason(external, "shop/client", "203.0.113.80", "TCP", 80),
        0,
        "inside, every backend is reached"
    );
}

#[test]
fn trap_17_source_ranges_bind_load_balancers_and_outsiders_only() {
    let text = service("  loadBalancerSourceRanges: [198.51.100.0/24]", "us");
    let plain = &mut judge(&text);
    assert_eq!(reason(plain, "198.51.100.1", "203.0.113.80", "TCP", 80), 0);
    assert_eq!(reason(plain, "203.0.113.5", "203.0.113.80", "TCP", 80), 177);
    assert_eq!(reason(plain, "203.0.113.5", "192.0.2.1", "TCP", 30080), 0, "not the port of the node");
    assert_eq!(reason(plain, "shop/client", "203.0.113.80", "TCP", 80), 0, "not clients inside");
    let all = Options { source_range_all_types: true, node: "us".to_owned(), ..Options::default() };
    assert_eq!(reason(&mut judge_with(&text, all), "203.0.113.5", "192.0.2.1", "TCP", 30080), 177);
}

/// The rest of this trap (health, version, filters) is tested where it is served: `control/daemon/src/hubble/tests.rs`.
#[test]
fn trap_18_lost_events_are_no_flows() {
    let teller = Teller { cluster: "default".to_owned(), node: "edge".to_owned() };
    for (at, source) in [(LostAt::Queue, "OBSERVER_EVENTS_QUEUE"), (LostAt::Ring, "HUBBLE_RING_BUFFER")] {
        let told = lost(7, at, "2026-11-24T12:00:00Z", &teller);
        assert_eq!(told["lost_events"], json!({"source": source, "num_events_lost": "7"}));
        // Filters ask about flows, and this is none.
        assert!(told.get("flow").is_none());
    }
}

#[test]
fn trap_19_default_deny_is_per_direction_and_by_any_policy() {
    let off = cnp("  enableDefaultDeny: {ingress: false}\n  ingress: [{fromEntities: [host]}]");
    assert_eq!(reason(&mut judge(&off), "shop/client", "shop/web", "TCP", 80), 0);
    let on = cnp("  ingress: [{fromEntities: [host]}]").replace("name: p,", "name: q,");
    assert_eq!(reason(&mut judge(&format!("{off}{on}")), "shop/client", "shop/web", "TCP", 80), 133);
    let egress_off =
        cnp("  enableDefaultDeny: {egress: false}\n  ingress: [{}]\n  egress: [{toEntities: [host]}]");
    let judge = &mut judge(&egress_off);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 133);
    assert_eq!(reason(judge, "shop/web", "198.51.100.1", "TCP", 80), 0);
}

#[test]
fn trap_20_the_api_server_is_a_label_on_others() {
    let slice = |ip: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: kubernetes, namespace: default, labels: {{kubernetes.io/service-name: kubernetes}}}}\n\
             addressType: IPv4\nports: [{{port: 6443, protocol: TCP}}]\nendpoints: [{{addresses: [{ip}]}}]\n---\n"
        )
    };
    for (ip, number, also) in
        [("192.0.2.2", 7, "remote-node"), ("192.0.2.1", 1, "host"), ("203.0.113.7", 0, "world")]
    {
        for entity in ["kube-apiserver", also] {
            let text = slice(ip) + &cnp(&format!("  egress: [{{toEntities: [{entity}]}}]"));
            let answer = ask(&mut judge(&text), "shop/web", ip, "TCP", 6443);
            assert_eq!(answer["verdict"], "FORWARDED", "{ip} as {entity}");
            let labels = answer["destination"]["labels"].to_string();
            assert!(labels.contains("reserved:kube-apiserver") && labels.contains(also), "{labels}");
            if number > 0 {
                assert_eq!(answer["destination"]["identity"], number);
            }
        }
        let elsewhere = slice(ip) + &cnp("  egress: [{toEntities: [kube-apiserver]}]");
        assert_eq!(reason(&mut judge(&elsewhere), "shop/web", "198.51.100.9", "TCP", 6443), 133);
    }
}
