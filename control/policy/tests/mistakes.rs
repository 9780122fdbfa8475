//! What is refused, what is said of it and where, and that nothing else is lost by it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod shop;

use sluice_policy::config::Options;
use sluice_policy::objects;

use shop::{admin, ccnp, cnp, judge, mistakes, reason};

#[test]
fn every_mistake_is_told_with_its_place() {
    let text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  \
                endpointSelector: {}\n  ingres: []\n  ingress:\n    - fromEndpoint: [{}]\n    - toPorts: [{ports: [{port: '90000'}]}]\n    \
                - {fromCIDR: [10.0.0.0/40], fromEntities: [moon]}\n";
    let (_, problems) = objects::parse("bad.yaml", text, &Options::default().limits);
    let told: Vec<String> = problems.errors.iter().map(ToString::to_string).collect();
    for part in [
        "bad.yaml:6:3: spec.ingres: unknown field; did you mean ingress?",
        "bad.yaml:8:7: spec.ingress[0].fromEndpoint: unknown field; did you mean fromEndpoints?",
        "90000 is no port",
        "10.0.0.0/40 is longer",
        "there is no entity moon",
        "only one kind of peer",
    ] {
        assert!(told.iter().any(|line| line.contains(part)), "{part} is not in {told:#?}");
    }
}

#[test]
fn ports_are_numbers_or_names_of_services() {
    let wrong =
        ["http s", "", "-http", "http-", "ht--tp", "a-name-too-long-", "ünder", "+80", "080", "65536"];
    let right = ["http", "HTTP", "http-alt", "a", "9p"];
    let kubernetes = |port: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: \
             {{podSelector: {{}}, ingress: [{{ports: [{{port: '{port}'}}]}}]}}\n"
        )
    };
    let cilium = |port: &str| cnp(&format!("  ingress: [{{toPorts: [{{ports: [{{port: '{port}'}}]}}]}}]"));
    for port in wrong {
        assert!(mistakes(&kubernetes(port))[0].contains("is no port"), "{port}");
        assert!(mistakes(&cilium(port))[0].contains("is no port"), "{port}");
    }
    for port in right {
        assert_eq!([mistakes(&kubernetes(port)), mistakes(&cilium(port))].concat(), [""; 0], "{port}");
    }
    // One mistake hides no other.
    let told = mistakes(&cnp("  ingress: [{toPorts: [{ports: [{port: 'http s'}]}], icmps: [{fields: []}]}]"));
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn what_was_removed_is_refused_with_advice() {
    let told = mistakes(&cnp("  ingress: [{fromRequires: [{matchLabels: {a: b}}]}]"));
    assert!(told.len() == 1 && told[0].contains("put the demands into fromEndpoints"), "{told:?}");
    assert_eq!(mistakes(&cnp("  ingress: [{fromRequires: [], fromEntities: [all]}]")), Vec::<String>::new());
}

#[test]
fn impossible_combinations_are_mistakes() {
    for (rule, wrong) in [
        ("ingress: [{toPorts: [{ports: [{port: '80', protocol: UDP}], rules: {http: [{}]}}]}]", "TCP alone"),
        (
            "ingress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*'}]}}]}]",
            "egress only",
        ),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: '(?=x)'}]}}]}]",
            "RE2",
        ),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}], kafka: [{}]}}]}]",
            "only one kind",
        ),
        (
            "ingress: [{toPorts: [{ports: [{port: '80'}]}], icmps: [{fields: [{type: 8}]}]}]",
            "cannot be in one rule",
        ),
        ("egress: [{toFQDNs: [{matchName: a.b}], toEntities: [world]}]", "only one kind of peer"),
        ("egress: [{toFQDNs: [{matchName: a.b, matchPattern: '*'}]}]", "exactly one of matchName"),
        ("egressDeny: [{toFQDNs: [{matchName: a.b}]}]", "unknown field"),
        ("ingressDeny: [{authentication: {mode: required}}]", "unknown field"),
        ("ingress: [{icmps: [{fields: [{type: Ping}]}]}]", "the name of a type"),
        ("ingress: [{toPorts: [{ports: [{port: '80', protocol: ICMP}]}]}]", "use icmps"),
        ("log: {value: a-text-that-is-longer-than-it-may-be}\n  ingress: [{}]", "32 printable"),
        ("nodeSelector: {}\n  ingress: [{}]", "exactly one of endpointSelector and nodeSelector"),
        ("ingress: []", "at least one of"),
        (
            "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.b], rules: {http: [{}]}}]}]",
            "terminatingTLS",
        ),
        ("ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/8]}]}]", "outside 10.0.0.0/8"),
        ("ingress: [{toPorts: [{ports: [{port: '0', endPort: 80}]}]}]", "port 0 is every port already"),
        ("egress: [{toServices: [{k8sService: {namespace: shop}}]}]", "serviceName is missing"),
        ("egress: [{toFQDNs: [{matchName: a..b}]}]", "is no DNS name"),
        ("egress: [{toFQDNs: [{matchPattern: '.*.b'}]}]", "is no DNS name"),
        ("ingress: [{toPorts: [{rules: {http: [{}]}}]}]", "http rules need a port"),
        (
            "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {kafka: [{apiVersion: '-1'}]}}]}]",
            "no number up to 32767",
        ),
    ] {
        let told = mistakes(&cnp(&format!("  {rule}")));
        assert!(told.iter().any(|line| line.contains(wrong)), "{rule}: {told:#?}");
    }
    let host = ccnp(
        "  nodeSelector: {}\n  ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]",
    );
    assert!(mistakes(&host).iter().any(|line| line.contains("host policies")), "{:?}", mistakes(&host));
}

#[test]
fn administrators_mistakes_are_told() {
    for (rest, wrong) in [
        ("  tier: Normal\n  priority: 1", "tier must be Admin or Baseline"),
        ("  tier: Admin\n  priority: 2000", "2000 is not between 0 and 1000"),
        ("  tier: Admin", "priority is missing"),
        (
            "  tier: Admin\n  priority: 1\n  egress: [{action: Deny, to: [{domainNames: [a.b]}]}]",
            "for Accept alone",
        ),
        (
            "  tier: Admin\n  priority: 1\n  ingress: [{action: Allow, from: [{namespaces: {}}]}]",
            "Accept, Deny or Pass",
        ),
        (
            "  tier: Admin\n  priority: 1\n  ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]",
            "unknown field",
        ),
        (
            "  tier: Admin\n  priority: 1\n  ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 9, end: 8}}}}]}]",
            "not below",
        ),
    ] {
        let told = mistakes(&admin(rest));
        assert!(told.iter().any(|line| line.contains(wrong)), "{rest}: {told:#?}");
    }
    // A peer of a kind that is not known yet keeps out what it would have kept out.
    let unknown = "  tier: Admin\n  priority: 1\n  ingress: [{action: Pass, from: [{}]}]";
    assert_eq!(reason(&mut judge(&admin(unknown)), "shop/client", "shop/web", "TCP", 80), 181);
}

#[test]
fn one_mistake_hides_no_other() {
    let network = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: shop}\nspec: \
                   {podSelector: {}, policyTypes: [ingress], ingress: [{from: [{ipBlock: {cidr: 1.2.3.4/33}}], ports: [{protocol: ICMP}]}]}";
    assert_eq!(mistakes(network).len(), 3, "{:#?}", mistakes(network));
    let cluster = admin(
        "  tier: admin\n  ingress: [{action: deny, from: [{networks: []}]}, {action: Accept, protocols: []}]",
    );
    for part in [
        "tier must be",
        "priority is missing",
        "action must be",
        "networks: unknown field",
        "protocols needs an item",
    ] {
        let told = mistakes(&cluster);
        assert!(told.iter().any(|line| line.contains(part)), "{part}: {told:#?}");
    }
}

#[test]
fn objects_of_other_versions_and_with_misspelt_metadata_are_refused() {
    let object = |version: &str, metadata: &str| {
        format!(
            "apiVersion: {version}\nkind: CiliumNetworkPolicy\nmetadata: {metadata}\nspec: {{endpointSelector: {{}}, ingress: [{{}}]}}"
        )
    };
    assert_eq!(
        mistakes(&object("cilium.io/v2", "{name: p, namespace: shop, uid: 1, managedFields: [{}]}")),
        [""; 0]
    );
    for (version, metadata, wrong) in [
        ("cilium.io/v1", "{name: p}", "is of cilium.io/v2, not of \"cilium.io/v1\""),
        (
            "cilium.io/v2",
            "{name: p, namspace: shop}",
            "metadata.namspace: unknown field; did you mean namespace?",
        ),
    ] {
        let told = mistakes(&object(version, metadata));
        assert!(told.len() == 1 && told[0].contains(wrong), "{told:?}");
    }
    let foreign = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: p, whatever: x}";
    assert_eq!(mistakes(foreign), [""; 0], "what is not ours is not ours to judge");
}

#[test]
fn what_a_cluster_holds_beside_is_passed_over_and_what_is_misspelt_is_not() {
    let text = |version: &str, kind: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n---\n")
    };
    let fine = text("apps/v1", "Deployment")
        + &text("autoscaling/v2", "HorizontalPodAutoscaler")
        + &text("v1", "LimitRange");
    let (objects, problems) = objects::parse(
        "test.yaml",
        &(fine + &text("cilium.io/v2alpha1", "CiliumL2AnnouncementPolicy")),
        &Options::default().limits,
    );
    assert!(problems.is_ok() && problems.warnings.len() == 1, "{problems}");
    assert_eq!(objects.ignored.values().sum::<usize>(), 4);
    for (version, kind) in [
        ("cilium.io/v2", "CiliumNetworkPolicies"),
        ("cilum.io/v2", "CiliumNetworkPolicy"),
        ("cilium.io/v2", "CiliumEgressGatewayPolicy"),
        ("v1", "Pood"),
    ] {
        assert_eq!(mistakes(&text(version, kind)).len(), 1, "{version} {kind}");
    }
}

#[test]
fn numbers_in_questions_are_those_of_their_field() {
    let judge = &mut judge("");
    let ask = |judge: &mut sluice_policy::verdict::Judge, more: &str| {
        let line =
            format!("{{\"from\": \"198.51.100.1\", \"to\": \"shop/web\", \"proto\": \"ICMP\", {more}}}");
        judge.line(&line).map(drop).map_err(|answer| answer["error"].as_str().unwrap().to_owned())
    };
    assert_eq!(ask(judge, "\"icmp_type\": 255, \"icmp_code\": 255"), Ok(()));
    for (more, why) in [
        ("\"icmp_type\": 256", "icmp_type must be a number from 0 to 255"),
        ("\"icmp_code\": 256", "icmp_code must be a number from 0 to 255"),
        ("\"port\": 65536", "port must be a number from 0 to 65535"),
        ("\"sport\": -1", "sport must be a number from 0 to 65535"),
    ] {
        assert_eq!(ask(judge, more), Err(why.to_owned()));
    }
}

#[test]
fn folders_are_read_as_they_are_mounted_and_however_their_links_turn() {
    use std::os::unix::fs::symlink;
    let folder = std::env::temp_dir().join(format!("sluice-folders-{}", std::process::id()));
    let text = |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    std::fs::create_dir_all(folder.join("map/..2026_11_29")).unwrap();
    // As a ConfigMap is mounted.
    std::fs::write(folder.join("map/..2026_11_29/a.yaml"), text("a")).unwrap();
    symlink("..2026_11_29", folder.join("map/..data")).unwrap();
    symlink("..data/a.yaml", folder.join("map/a.yaml")).unwrap();
    // As editors leave folders.
    std::fs::write(folder.join(".b.yaml"), "{").unwrap();
    symlink("nobody@nowhere", folder.join(".#b.yaml")).unwrap();
    // Rings.
    symlink("..", folder.join("map/up")).unwrap();
    symlink(".", folder.join("map/round")).unwrap();
    let (objects, problems) = objects::load(std::slice::from_ref(&folder), &Options::default().limits);
    assert!(problems.is_ok(), "{problems}");
    assert_eq!(objects.namespaces.keys().collect::<Vec<_>>(), ["a"]);
    let named = folder.join(".b.yaml");
    let (_, problems) = objects::load(&[named], &Options::default().limits);
    assert!(!problems.is_ok(), "what is named is read");
    std::fs::remove_dir_all(folder).unwrap();
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop, annotations: {ANNOTATIONS}}\nspec:\n  \
                       clusterIP: 10.96.0.1\n  SPEC\n  ports: [{port: 80PORT}]\n---\n\
                       apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s1\n  namespace: shop\n  \
                       labels: {kubernetes.io/service-name: s}\n  annotations: {WEIGHT}\naddressType: IPv4\nports: [{port: 80SLICE}]\n\
                       endpoints: [{addresses: [10.0.0.1]END}]\n---\n\
                       apiVersion: sluice.dev/v1\nkind: Endpoint\nmetadata: {name: e, namespace: shop}\n\
                       spec: {addresses: [10.0.0.9], ports: [{name: http, port: 80OWN}]}\n---\n\
                       apiVersion: v1\nkind: Pod\nmetadata: {name: q, namespace: shop}\n\
                       spec: {containers: [{name: c, ports: [{containerPort: 80POD}]}]}\n";

/// The service with these words in their places.
fn service(words: &[(&str, &str)]) -> String {
    let places = ["ANNOTATIONS", "SPEC", "PORT", "WEIGHT", "SLICE", "END", "OWN", "POD"];
    let said = |place: &str| words.iter().find(|(known, _)| *known == place).map_or("", |(_, word)| word);
    places.iter().fold(SERVICE.to_owned(), |text, place| text.replace(place, said(place)))
}

#[test]
fn what_the_api_server_would_refuse_of_services_is_refused_here() {
    assert_eq!(
        mistakes(&service(&[("PORT", ", targetPort: 0"), ("POD", ", protocol: UDP, hostIP: ''")])),
        [""; 0]
    );
    for (place, word, wrong) in [
        (
            "SPEC",
            "externalTrafficPolicy: local",
            "spec.externalTrafficPolicy: must be Cluster or Local, not local",
        ),
        (
            "SPEC",
            "internalTrafficPolicy: LOCAL",
            "spec.internalTrafficPolicy: must be Cluster or Local, not LOCAL",
        ),
        ("SPEC", "sessionAffinity: clientIP", "spec.sessionAffinity: must be None or ClientIP, not clientIP"),
        ("SPEC", "sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}", "0 is not between 1 and 86400"),
        ("SPEC", "sessionAffinityConfig: {clientIP: {timeoutSeconds: '9'}}", "must be a whole number"),
        ("PORT", ", targetPort: 70000", "targetPort must be a number from 1 to 65535 or the name of a port"),
        ("PORT", ", targetPort: '8080'", "targetPort must be a number from 1 to 65535 or the name of a port"),
        ("SLICE", ", protocol: TPC", "ports[0].protocol: must be TCP, UDP or SCTP, not TPC"),
        ("END", ", conditions: {ready: 'false'}", "endpoints[0].conditions.ready: must be true or false"),
        ("OWN", ", protocol: TPC", "spec.ports[0].protocol: must be TCP, UDP or SCTP, not TPC"),
        ("OWN", "}, {port: 81", "spec.ports[1]: a port needs a name and a port"),
        ("OWN", "}, {name: web", "spec.ports[1]: a port needs a name and a port"),
        ("POD", ", protocol: TPC", "ports[0].protocol: must be TCP, UDP or SCTP, not TPC"),
        ("POD", ", hostPort: 80, hostIP: here", "here is no address"),
    ] {
        let told = mistakes(&service(&[(place, word)]));
        assert!(told.len() == 1 && told[0].contains(wrong), "{word}: {told:?}");
    }
}

#[test]
fn what_is_misspelt_in_services_is_told_and_other_fields_of_a_cluster_are_not() {
    let warnings = |words: &[(&str, &str)]| -> Vec<String> {
        let (_, problems) = objects::parse("test.yaml", &service(words), &Options::default().limits);
        assert!(problems.is_ok(), "{problems}");
        problems.warnings.iter().map(ToString::to_string).collect()
    };
    let usual = "type: LoadBalancer\n  allocateLoadBalancerNodePorts: true\n  ipFamilies: [IPv4]\n  ipFamilyPolicy: SingleStack\n  \
                 externalTrafficPolicy: Cluster\n  internalTrafficPolicy: Cluster\n  sessionAffinity: None\n  trafficDistribution: PreferClose\n  \
                 clusterIPs: [10.96.0.1]\n  loadBalancerClass: x\n  publishNotReadyAddresses: true";
    let end = ", conditions: {ready: true, serving: true, terminating: false}, targetRef: {kind: Pod}, hints: {forZones: [{name: a}]}";
    let port = ", nodePort: 30080, appProtocol: http, name: ''";
    let told = [
        ("SPEC", usual),
        ("END", end),
        ("PORT", port),
        ("ANNOTATIONS", "service.cilium.io/type: 'NodePort, ClusterIP'"),
    ];
    assert_eq!(warnings(&told), [""; 0]);
    for (place, word, odd) in [
        (
            "SPEC",
            "loadBalancerSourceRange: [10.0.0.0/8]",
            "spec.loadBalancerSourceRange: unknown field; did you mean loadBalancerSourceRanges?",
        ),
        ("SPEC", "trafficDistribution: Near", "trafficDistribution is Near"),
        ("PORT", ", nodeport: 30080", "spec.ports[0].nodeport: unknown field; did you mean nodePort?"),
        (
            "END",
            ", condition: {ready: false}",
            "endpoints[0].condition: unknown field; did you mean conditions?",
        ),
        (
            "ANNOTATIONS",
            "service.cilium.io/src-ranges-policy: denny",
            "service.cilium.io/src-ranges-policy has \"denny\", but knows allow, deny alone",
        ),
        ("ANNOTATIONS", "service.cilium.io/lb-algorithm: maglv", "has \"maglv\""),
        ("ANNOTATIONS", "service.cilium.io/forwarding-mode: drs", "has \"drs\""),
        ("ANNOTATIONS", "service.cilium.io/type: 'NodePort,clusterip'", "has \"clusterip\""),
        (
            "WEIGHT",
            "service.cilium.io/weight: much",
            "service.cilium.io/weight must be a number up to 65535, not much",
        ),
    ] {
        let told = warnings(&[(place, word)]);
        assert!(told.len() == 1 && told[0].contains(odd), "{word}: {told:?}");
    }
}

#[test]
fn network_policies_are_completed_and_refused_as_by_the_api_server() {
    let policy = |rest: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: n, namespace: shop}}\nspec: {{podSelector: {{}}{rest}}}\n"
        )
    };
    let out = |rest: &str| reason(&mut judge(&policy(rest)), "shop/client", "198.51.100.1", "TCP", 80);
    assert_eq!(out(", egress: []"), 0, "no rule, no type: it is about ingress alone");
    assert_eq!(out(", egress: [], policyTypes: [Egress]"), 133);
    assert_eq!(out(", egress: [{to: [{podSelector: {}}]}]"), 133);
    let (_, problems) = objects::parse("test.yaml", &policy(", egress: []"), &Options::default().limits);
    let told: Vec<String> = problems.warnings.iter().map(ToString::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("say policyTypes: [Egress]"), "{told:?}");
    for port in ["0", "65536", "-1"] {
        let told = mistakes(&policy(&format!(", ingress: [{{ports: [{{port: {port}}}]}}]")));
        assert!(told.len() == 1 && told[0].contains(&format!("{port} is no port")), "{told:?}");
    }
}

#[test]
fn a_list_holds_no_more_objects_than_there_may_be() {
    let item = |n: usize| format!("- {{apiVersion: v1, kind: Namespace, metadata: {{name: n{n}}}}}\n");
    let text: String = (0..5).map(item).collect();
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{text}");
    let read = |most: usize| {
        let limits = sluice_policy::tree::Limits { objects: most, ..Options::default().limits };
        let (objects, problems) = objects::parse("test.yaml", &text, &limits);
        (objects.namespaces.len(), problems.errors.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(read(5), (5, Vec::new()));
    assert_eq!(read(3), (3, vec!["test.yaml:7:3: more than 3 objects (limits.objects)".to_owned()]));
}

#[test]
fn labels_that_are_numbers_count_as_they_are_written_or_not_at_all() {
    let pod = |label: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, labels: {{v: {label}}}}}\nstatus: {{podIP: 10.0.0.8}}\n"
        )
    };
    for (written, meant) in [
        ("7", "7"),
        ("007", "007"),
        ("+5", "+5"),
        ("-0", "-0"),
        ("'1.10'", "1.10"),
        ("12345678901234567890", "12345678901234567890"),
    ] {
        let (objects, problems) = objects::parse("test.yaml", &pod(written), &Options::default().limits);
        assert!(problems.is_ok(), "{problems}");
        let labels = &objects.endpoints[&("shop".to_owned(), "p".to_owned())].labels;
        assert_eq!(labels[0].1, meant, "{written}");
    }
    for written in ["1.10", "1e3", "[a]"] {
        let told = mistakes(&pod(written));
        assert!(
            told.len() == 1 && told[0].contains("metadata.labels: must be a text"),
            "{written}: {told:?}"
        );
    }
}
