//! What policies mean, one idea a test: objects as people write them, questions as `sluice verdict` takes them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod shop;

use serde_json::json;
use sluice_policy::config::Options;
use sluice_policy::objects;
use sluice_policy::verdict::Judge;

use shop::{admin, ask, ccnp, cnp, judge, judge_with, mistakes, reason};

#[test]
fn without_policy_everything_passes() {
    assert_eq!(reason(&mut judge(""), "shop/client", "shop/web", "TCP", 80), 0);
}

#[test]
fn a_default_deny_names_who_enforces_it_and_the_nearest_miss() {
    let judge = &mut judge(&cnp(
        "  ingress: [{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: '8443', protocol: TCP}]}]}]",
    ));
    let answer = ask(judge, "shop/client", "shop/web", "TCP", 443);
    assert_eq!(answer["ingress"]["enforced_by"][0]["name"], "p");
    assert_eq!(answer["egress"]["enforced"], false);
    let question = json!({"from": "shop/client", "to": "shop/web", "port": 443});
    let (text, _) = judge.explain(&question).unwrap();
    assert!(text.contains("ingress[0] of shop/p would allow this on port 8443, asked 443"), "{text}");
}

#[test]
fn network_policies_mean_what_they_mean() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: shop}\nspec:\n  \
                  podSelector: {matchLabels: {app: web}}\n  ingress:\n    - from: [{namespaceSelector: {matchLabels: {team: a}}}]\n      \
                  ports: [{port: 8080}]\n";
    let judge = &mut judge(policy);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 8080), 0);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 133);
    assert_eq!(reason(judge, "elsewhere/other", "shop/web", "TCP", 8080), 133);
    assert_eq!(reason(judge, "shop/web", "198.51.100.1", "TCP", 80), 0, "egress is not its business");
}

#[test]
fn l7_rules_wait_for_inspection_and_audit_forwards() {
    let l7 = cnp(
        "  ingress: [{fromEntities: [all], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]",
    );
    assert_eq!(reason(&mut judge(&l7), "shop/client", "shop/web", "TCP", 80), 1);
    let audit = Options { audit: true, node: "us".to_owned(), ..Options::default() };
    let judge = &mut judge_with(&cnp("  ingress: [{}]"), audit);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 2);
}

#[test]
fn unresolved_services_select_nothing() {
    let policy = cnp(
        "  egress: [{toServices: [{k8sService: {serviceName: gone, namespace: shop}}], toPorts: [{ports: [{port: '443'}]}]}]",
    );
    assert_eq!(reason(&mut judge(&policy), "shop/web", "198.51.100.1", "TCP", 443), 133);
}

#[test]
fn a_list_of_no_ports_is_no_port_and_denies_all() {
    for ports in ["{}", "{ports: []}"] {
        let none = &mut judge(&cnp(&format!("  ingress: [{{fromEntities: [all], toPorts: [{ports}]}}]")));
        assert_eq!(reason(none, "shop/client", "shop/web", "TCP", 80), 133, "{ports} opens nothing");
        let all = &mut judge(&cnp(&format!(
            "  ingress: [{{fromEntities: [all]}}]\n  ingressDeny: [{{fromEntities: [all], toPorts: [{ports}]}}]"
        )));
        assert_eq!(reason(all, "shop/client", "shop/web", "TCP", 80), 181, "{ports} keeps out");
    }
}

#[test]
fn labels_of_a_pod_do_not_say_where_it_is_or_as_whom_it_runs() {
    let false_labels = "app: client, io.kubernetes.pod.namespace: elsewhere, io.cilium.k8s.policy.cluster: west, \
                        io.cilium.k8s.policy.serviceaccount: root, io.cilium.k8s.namespace.labels.team: b";
    let liar = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: liar, namespace: shop, labels: {{{false_labels}}}}}\nstatus: {{podIP: 10.0.0.66}}\n---\n"
    );
    for label in [
        "io.kubernetes.pod.namespace: elsewhere",
        "io.cilium.k8s.policy.cluster: west",
        "io.cilium.k8s.policy.serviceaccount: root",
        "io.cilium.k8s.namespace.labels.team: b",
    ] {
        let policy = cnp(&format!("  ingress: [{{fromEndpoints: [{{matchLabels: {{{label}}}}}]}}]"));
        assert_eq!(
            reason(&mut judge(&(liar.clone() + &policy)), "shop/liar", "shop/web", "TCP", 80),
            133,
            "{label}"
        );
    }
    let (_, problems) = objects::parse("t.yaml", &liar, &Options::default().limits);
    assert_eq!(problems.warnings.len(), 4, "it is told: {problems:?}");
    let own = cnp("  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]");
    assert_eq!(reason(&mut judge(&(liar + &own)), "shop/liar", "shop/web", "TCP", 80), 0);
}

#[test]
fn peers_of_those_who_are_not_known_yet_may_be_anywhere() {
    let policy = |subject: &str| {
        ccnp(&format!(
            "  endpointSelector: {{matchLabels: {{{subject}: ''}}}}\n  ingress: [{{fromEndpoints: [{{}}]}}]"
        ))
    };
    let init = &mut judge(&policy("'reserved:init'"));
    assert_eq!(reason(init, "198.51.100.1", "reserved:init", "TCP", 80), 0);
    let health = &mut judge(&policy("'reserved:health'"));
    assert_eq!(reason(health, "198.51.100.1", "reserved:health", "TCP", 80), 133);
    assert_eq!(reason(health, "shop/client", "reserved:health", "TCP", 80), 0);
}

#[test]
fn what_expressions_say_of_the_namespace_stays() {
    let other = |subject: &str| cnp("  ingress: [{}]").replace("{matchLabels: {app: web}}", subject);
    for (subject, expected) in [
        (
            "{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: NotIn, values: [shop]}]}",
            0,
        ),
        ("{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: In, values: [shop, bank]}]}", 133),
        ("{matchLabels: {io.kubernetes.pod.namespace: bank}}", 0),
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': bank}}", 133),
    ] {
        let judge = &mut judge(&other(subject));
        assert_eq!(reason(judge, "198.51.100.1", "shop/web", "TCP", 80), expected, "{subject}");
    }
}

#[test]
fn a_header_is_told_from_its_value_by_a_space() {
    let rule = |header: &str| {
        cnp(&format!(
            "  ingress: [{{fromEntities: [all], toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{{headers: ['{header}']}}]}}}}]}}]"
        ))
    };
    let asked = json!({"from": "shop/client", "to": "shop/web", "port": 80, "http": {"headers": {"X-Token": "a: b"}}});
    for (header, expected) in
        [("X-Token: a: b", 0), ("X-Token a: b", 0), ("X-Token", 0), ("X-Token:a: b", 133), ("X-Token:", 133)]
    {
        assert_eq!(shop::number(&shop::say(&mut judge(&rule(header)), asked.clone())), expected, "{header}");
    }
    let (_, problems) = objects::parse("t.yaml", &rule("X-Token:a"), &Options::default().limits);
    assert!(problems.warnings.iter().any(|one| one.what.contains("without a space")), "{problems:?}");
}

#[test]
fn order_of_policies_never_matters() {
    let first = cnp("  ingress: [{fromEntities: [world]}]");
    let second = cnp("  ingressDeny: [{fromCIDR: [198.51.100.0/24]}]").replace("name: p,", "name: q,");
    for text in [format!("{first}\n---\n{second}"), format!("{second}\n---\n{first}")] {
        let judge = &mut judge(&text);
        assert_eq!(reason(judge, "198.51.100.1", "shop/web", "TCP", 80), 181);
        assert_eq!(reason(judge, "203.0.113.1", "shop/web", "TCP", 80), 0);
    }
}

#[test]
fn what_only_a_cloud_knows_selects_nothing() {
    let policy = cnp(
        "  egress: [{toGroups: [{aws: {securityGroupsIds: [sg-1]}}], toPorts: [{ports: [{port: '443'}]}]}]",
    );
    assert_eq!(reason(&mut judge(&policy), "shop/web", "198.51.100.1", "TCP", 443), 133);
}

#[test]
fn labels_of_rules_are_texts_or_as_the_api_server_has_them() {
    let rule = |labels: &str| cnp(&format!("  labels: {labels}\n  ingress: [{{}}]"));
    assert_eq!(mistakes(&rule("['k8s:a=b', {key: a, value: b, source: k8s}, {key: a}]")), [""; 0]);
    for (labels, wrong) in [
        ("[{value: b}]", "a label needs a key"),
        ("[{key: a, valu: b}]", "did you mean value?"),
        ("[[a]]", "must be an object, not a list"),
        ("{a: b}", "must be a list"),
    ] {
        let told = mistakes(&rule(labels));
        assert!(told.iter().any(|line| line.contains(wrong)), "{labels}: {told:?}");
    }
}

#[test]
fn tiers_are_asked_in_their_order() {
    let normal = cnp("  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]");
    let baseline =
        admin("  tier: Baseline\n  priority: 1\n  ingress: [{action: Deny, from: [{namespaces: {}}]}]");
    let first = &mut judge(&(normal.clone() + &baseline));
    assert_eq!(reason(first, "shop/client", "shop/web", "TCP", 80), 0, "the baseline comes last");
    assert_eq!(reason(first, "shop/web", "shop/client", "TCP", 80), 181);
    let before = admin("  tier: Admin\n  priority: 1\n  ingress: [{action: Deny, from: [{namespaces: {}}]}]");
    assert_eq!(reason(&mut judge(&(normal.clone() + &before)), "shop/client", "shop/web", "TCP", 80), 181);
    // Of two rules the first counts; Pass leaves the rest of its tier out.
    let ordered = admin(
        "  tier: Admin\n  priority: 1\n  ingress:\n    - {action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}]}\n    \
         - {action: Deny, from: [{namespaces: {}}]}",
    );
    let passed = &mut judge(&(normal + &ordered));
    assert_eq!(reason(passed, "shop/client", "shop/web", "TCP", 80), 0);
    assert_eq!(
        reason(passed, "elsewhere/other", "shop/web", "TCP", 80),
        133,
        "passed on, and not allowed there"
    );
    assert_eq!(reason(passed, "shop/web", "shop/client", "TCP", 80), 181);
}

#[test]
fn names_live_as_long_as_their_time() {
    let policy = cnp("  egress: [{toFQDNs: [{matchName: a.example.com}]}]");
    let judge = &mut judge(&policy);
    shop::learn(judge, "A.Example.com.", "198.51.100.1", 60);
    let at = |judge: &mut Judge, at: u32| {
        let question = json!({"from": "shop/web", "to": "198.51.100.1", "port": 443, "at": at});
        shop::number(&shop::say(judge, question))
    };
    assert_eq!((at(judge, 0), at(judge, 59), at(judge, 60)), (0, 0, 133));
}

#[test]
fn a_rule_that_decides_is_named_with_all_that_say_the_same() {
    let two = cnp("  ingress: [{fromEntities: [cluster]}, {fromEndpoints: [{matchLabels: {app: client}}]}]");
    let rules = ask(&mut judge(&two), "shop/client", "shop/web", "TCP", 80)["ingress"]["rules"].clone();
    let indexes: Vec<u64> =
        rules.as_array().unwrap().iter().map(|rule| rule["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 1]);
}

#[test]
fn the_word_on_a_smaller_path_is_never_kept_out() {
    let judge = &mut judge(&cnp("  ingress: [{}]"));
    let icmp = |code: u16| json!({"from": "198.51.100.1", "to": "shop/web", "proto": "ICMP", "icmp_type": 3, "icmp_code": code});
    assert_eq!(shop::number(&shop::say(judge, icmp(4))), 0);
    assert_eq!(shop::number(&shop::say(judge, icmp(1))), 133);
}

#[test]
fn audit_is_for_all_for_a_namespace_or_for_one() {
    let denied = cnp("  ingress: [{}]").replace("{matchLabels: {app: web}}", "{}");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: watched, namespace: shop, labels: {app: web}, annotations: {policy.sluice.dev/audit-mode: enabled}}\nstatus: {podIP: 10.0.0.7}\n---\n";
    let one = &mut judge(&(denied.clone() + pod));
    assert_eq!(reason(one, "198.51.100.1", "shop/watched", "TCP", 80), 2);
    assert_eq!(reason(one, "198.51.100.1", "shop/web", "TCP", 80), 133, "the same labels, and not audited");
    let text = shop::WORLD
        .replace("labels: {team: a}", "annotations: {policy.sluice.dev/audit-mode: enabled}")
        + &denied;
    let (objects, problems) = objects::parse("test.yaml", &text, &Options::default().limits);
    assert!(problems.is_ok(), "{problems}");
    let compiled = sluice_policy::compile::Compiled::new(objects, Options::default(), problems);
    let all = &mut Judge::new(compiled).unwrap();
    assert_eq!(reason(all, "198.51.100.1", "shop/web", "TCP", 80), 2);
    let odd = mistakes(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, annotations: {policy.sluice.dev/audit-mode: 'yes'}}",
    );
    assert!(odd.len() == 1 && odd[0].contains("must be enabled or disabled"), "{odd:?}");
}

#[test]
fn a_policys_word_for_the_log_stands_with_its_rules() {
    let policy = cnp("  log: {value: seen}\n  ingress: [{fromEntities: [all]}]");
    assert_eq!(
        ask(&mut judge(&policy), "shop/client", "shop/web", "TCP", 80)["ingress"]["rules"][0]["log"],
        "seen"
    );
}

#[test]
fn numbers_are_the_same_after_a_restart() {
    use sluice_policy::compile::Compiled;
    use sluice_policy::identity::Numbers;
    let policies = cnp("  ingress: [{fromCIDR: [198.51.100.0/24]}, {fromCIDR: [203.0.113.0/24]}]");
    let (objects, problems) =
        objects::parse("test.yaml", &format!("{}{policies}", shop::WORLD), &Options::default().limits);
    let before = Compiled::new(objects.clone(), Options::default(), problems);
    let saved = before.engine.numbers().save();
    let fewer = cnp("  ingress: [{fromCIDR: [203.0.113.0/24]}]");
    let (objects, problems) =
        objects::parse("test.yaml", &format!("{}{fewer}", shop::WORLD), &Options::default().limits);
    let after = Compiled::with_numbers(objects, Options::default(), problems, Numbers::with_saved(&saved));
    for ip in ["203.0.113.1", "10.0.0.1", "10.0.0.3"] {
        let number = |compiled: &Compiled| {
            let slot = compiled.engine.slot_of(ip.parse().unwrap()).unwrap();
            compiled.engine.party(slot).unwrap().number
        };
        assert_eq!(number(&before), number(&after), "{ip}");
    }
}

#[test]
fn the_nearest_miss_is_what_one_would_change() {
    let http = "{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /a}]}}]}";
    let policy = cnp(&format!(
        "  ingress: [{http}, {{fromEndpoints: [{{matchLabels: {{app: client}}}}], toPorts: [{{ports: [{{port: '8443', protocol: TCP}}]}}]}}]\n  \
         ingressDeny: [{{fromCIDR: [203.0.113.0/24]}}]"
    ));
    let judge = &mut judge(&policy);
    let mut nearly = |question: serde_json::Value| {
        let (text, _) = judge.explain(&question).unwrap();
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("nearly: "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let said = nearly(json!({"from": "shop/client", "to": "shop/web", "port": 80, "http": {"path": "/b"}}));
    assert_eq!(said, ["ingress[0] of shop/p would allow this if what is said were what it asks for"]);
    let port = nearly(json!({"from": "shop/client", "to": "shop/web", "port": 443}));
    assert_eq!(port.len(), 2);
    assert_eq!(port[1], "ingress[1] of shop/p would allow this on port 8443, asked 443");
    let peer = nearly(json!({"from": "elsewhere/other", "to": "shop/web", "port": 8443}));
    assert_eq!(peer, ["ingress[1] of shop/p allows this to app=client and io.kubernetes.pod.namespace=shop"]);
    let denied = nearly(json!({"from": "203.0.113.1", "to": "shop/web", "port": 80}));
    assert!(denied.is_empty(), "a deny is no miss: {denied:?}");
}

#[test]
fn the_nearest_miss_is_told_of_protocols_types_services_and_in_audit() {
    let pings = "{fromEndpoints: [{matchLabels: {app: client}}], icmps: [{fields: [{type: EchoRequest}]}]}";
    let tcp = "{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: '8443', protocol: TCP}]}]}";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n---\n";
    let told = |policy: &str, audit: bool, question: serde_json::Value| {
        let options = Options { audit, node: "us".to_owned(), ..Options::default() };
        let judge = &mut judge_with(&format!("{service}{policy}"), options);
        let (text, answer) = judge.explain(&question).unwrap();
        (answer["ingress"]["nearest"][0].as_str().unwrap_or_default().to_owned(), text)
    };
    let asked = |proto: &str| json!({"from": "shop/client", "to": "shop/web", "proto": proto, "port": 8443, "icmp_type": 13});
    let of = |rule: &str| cnp(&format!("  ingress: [{rule}]"));
    assert_eq!(
        told(&of(pings), false, asked("ICMP")).0,
        "ingress[0] of shop/p would allow this on ICMP type 8, asked ICMP type 13"
    );
    assert_eq!(
        told(&of(tcp), false, asked("UDP")).0,
        "ingress[0] of shop/p would allow this on TCP port 8443, asked UDP 8443"
    );
    assert_eq!(
        told(&of(tcp), false, asked("47")).0,
        "ingress[0] of shop/p would allow this on TCP port 8443, asked protocol 47"
    );
    let by_service = json!({"from": "shop/client", "to": "service:shop/web", "port": 80});
    assert_eq!(
        told(&of(tcp), false, by_service).0,
        "ingress[0] of shop/p would allow this on port 8443, asked 8080",
        "the port is the backend's"
    );
    let (nearest, text) = told(&of(tcp), true, asked("UDP"));
    assert!(nearest.contains("asked UDP 8443"), "{nearest}");
    assert!(text.contains("ingress: AUDIT, without audit it would be dropped (POLICY_DENIED 133)"), "{text}");
}

#[test]
fn clusterwide_policies_are_about_health_checks_too() {
    let policy = ccnp("  endpointSelector: {}\n  egress: [{toEntities: [cluster]}]");
    let judge = &mut judge(&policy);
    assert_eq!(reason(judge, "reserved:health", "198.51.100.1", "TCP", 80), 133);
    assert_eq!(reason(judge, "reserved:health", "shop/web", "TCP", 80), 0);
    assert_eq!(reason(judge, "reserved:unmanaged", "198.51.100.1", "TCP", 80), 0, "nobody enforces for them");
    let own = cnp("  egress: [{toEntities: [cluster]}]").replace("{matchLabels: {app: web}}", "{}");
    assert_eq!(reason(&mut shop::judge(&own), "reserved:health", "198.51.100.1", "TCP", 80), 0);
}

#[test]
fn with_one_family_the_world_is_one() {
    let mut options = Options { node: "us".to_owned(), ..Options::default() };
    options.set("enable-ipv6", "false").unwrap();
    let judge = &mut judge_with(&cnp("  ingress: [{fromEntities: [world]}]"), options);
    let answer = ask(judge, "198.51.100.1", "shop/web", "TCP", 80);
    assert_eq!(
        (answer["source"]["identity"].as_u64(), answer["verdict"].as_str()),
        (Some(2), Some("FORWARDED"))
    );
    assert_eq!(reason(judge, "reserved:world", "shop/web", "TCP", 80), 0);
}

#[test]
fn the_dump_tells_who_is_heard_above_ports() {
    let rule =
        "{fromEndpoints: [{}], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}";
    let judge = judge(&cnp(&format!("  ingress: [{rule}]")));
    let dump = judge.compiled.dump();
    let classes = dump["policies"].as_array().unwrap();
    let class = classes.iter().find(|class| !class["entries"].as_array().unwrap().is_empty()).unwrap();
    assert_eq!((class["direction"].as_str(), class["default_deny"].as_bool()), (Some("ingress"), Some(true)));
    let entries = class["entries"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["verdict"] == "INSPECT").unwrap();
    assert_eq!(entry["heard"][0]["asks_for"], "http");
    assert_eq!(entry["rules"][0]["name"], "p");
    let identity = |name: &str| {
        let identities = dump["identities"].as_array().unwrap();
        let has = |one: &&serde_json::Value| {
            let labels = one["labels"].to_string();
            labels.contains(name) && labels.contains("pod.namespace=shop")
        };
        identities.iter().find(has).unwrap()["identity"].clone()
    };
    assert_eq!(class["identities"], json!([identity("k8s:app=web")]));
    assert!(entry["peers"].as_array().unwrap().contains(&identity("k8s:app=client")));
}

#[test]
fn labels_that_are_left_out_make_no_identities() {
    let pod = |n: u8| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: x{n}, namespace: shop, labels: {{app: x, run-id: r{n}}}}}\nstatus: {{podIP: 10.1.0.{n}}}\n---\n"
        )
    };
    let text = pod(1) + &pod(2);
    let identity = |judge: &mut Judge, name: &str| {
        ask(judge, name, "198.51.100.1", "TCP", 80)["source"]["identity"].clone()
    };
    let plain = &mut judge(&text);
    assert_ne!(identity(plain, "shop/x1"), identity(plain, "shop/x2"));
    let mut options = Options { node: "us".to_owned(), ..Options::default() };
    options.set("labels", "!k8s:run-.*").unwrap();
    let filtered = &mut judge_with(&text, options);
    assert_eq!(identity(filtered, "shop/x1"), identity(filtered, "shop/x2"));
}

#[test]
fn a_policy_in_the_place_of_another_hears_of_later_changes() {
    let group = |cidr: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {{name: g, labels: {{k: v}}}}\nspec: {{externalCIDRs: [{cidr}]}}\n---\n"
        )
    };
    let other = "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: h, labels: {k: v}}\nspec: {externalCIDRs: [198.51.100.0/24]}\n---\n";
    let read = |text: &str| {
        let (objects, problems) =
            objects::parse("test.yaml", &format!("{}{text}", shop::WORLD), &Options::default().limits);
        assert!(problems.is_ok(), "{problems}");
        objects
    };
    let first = cnp("  ingress: [{fromEntities: [host]}]");
    let second = cnp("  ingress: [{fromCIDRSet: [{cidrGroupSelector: {matchLabels: {k: v}}}]}]")
        .replace("name: p", "name: q");
    let judge = &mut judge(&(first + &group("203.0.113.0/24")));
    // One goes and one comes, for the same pods, in one step; then what the new one refers to changes.
    judge.update(read(&(second.clone() + &group("203.0.113.0/24"))), Default::default()).unwrap();
    assert_eq!(reason(judge, "203.0.113.1", "shop/web", "TCP", 80), 0);
    judge.update(read(&(second + &group("203.0.113.0/24") + other)), Default::default()).unwrap();
    assert_eq!(reason(judge, "198.51.100.1", "shop/web", "TCP", 80), 0);
}

#[test]
fn a_group_may_be_the_whole_world_and_stop_being_it() {
    let group = |cidrs: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {{name: g}}\nspec: {{externalCIDRs: [{cidrs}]}}\n---\n"
        )
    };
    let policy =
        cnp("  enableDefaultDeny: {ingress: false}\n  ingressDeny: [{fromCIDRSet: [{cidrGroupRef: g}]}]");
    let judge = &mut judge(&(policy.clone() + &group("0.0.0.0/0")));
    let said = |judge: &mut Judge| {
        ["198.51.100.1", "reserved:world-ipv4", "2001:db8::1", "reserved:world-ipv6", "shop/client"]
            .map(|from| reason(judge, from, "shop/web", "TCP", 80))
    };
    assert_eq!(said(judge), [181, 181, 0, 0, 0], "the world of one family, and nobody in the cluster");
    let text = format!("{}{policy}{}", shop::WORLD, group("203.0.113.0/24, \"::/0\""));
    let (objects, problems) = objects::parse("test.yaml", &text, &Options::default().limits);
    judge.update(objects, problems).unwrap();
    assert_eq!(said(judge), [0, 0, 181, 181, 0]);
    assert_eq!(reason(judge, "203.0.113.1", "shop/web", "TCP", 80), 181);
    assert_eq!(ask(judge, "198.51.100.1", "shop/web", "TCP", 80)["source"]["identity"], 9, "as before");
}

#[test]
fn what_cilium_has_switches_for_can_be_switched_off_and_that_is_told() {
    let host = ccnp("  nodeSelector: {}\n  ingress: [{fromEntities: [none]}]");
    let admin = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a}\nspec:\n  tier: Admin\n  \
                 priority: 1\n  subject: {namespaces: {}}\n  ingress: [{action: Deny, from: [{namespaces: {}}]}]\n";
    let gre = cnp("  ingress: [{toPorts: [{ports: [{protocol: GRE}]}]}]");
    let nodes = cnp("  ingress: [{fromNodes: [{matchLabels: {role: edge}}]}]");
    let deny = cnp("  ingress: [{fromEntities: [none]}]");
    let judged = |objects: &str, switch: Option<&str>, from: &str, to: &str, what: (&str, u16)| {
        let mut options = Options { node: "us".to_owned(), ..Options::default() };
        switch.into_iter().for_each(|name| options.set(name, "false").unwrap());
        let mut judge = judge_with(objects, options);
        let question =
            json!({"from": from, "to": to, "proto": what.0, "port": what.1, "icmp_type": 3, "icmp_code": 4});
        let answer = judge.line(&question.to_string()).unwrap().unwrap();
        (
            answer["verdict"] == "FORWARDED",
            judge.compiled.warnings.iter().map(ToString::to_string).collect::<String>(),
        )
    };
    let web = "shop/web";
    for (objects, name, (from, to, what), on, off, told) in [
        (
            &host,
            "enable-host-firewall",
            ("shop/client", "reserved:host", ("TCP", 22)),
            false,
            true,
            "closes no node",
        ),
        (
            &admin.to_owned(),
            "enable-k8s-cluster-network-policy",
            ("shop/client", web, ("TCP", 80)),
            false,
            true,
            "is left out",
        ),
        (
            &gre,
            "enable-extended-ip-protocols",
            ("shop/client", web, ("47", 0)),
            true,
            true,
            "here they count",
        ),
        (
            &nodes,
            "enable-node-selector-labels",
            ("shop/client", web, ("TCP", 80)),
            false,
            false,
            "here they count",
        ),
        (&deny, "allow-icmp-frag-needed", ("shop/client", web, ("ICMP", 0)), true, false, ""),
        (&deny, "policy-default-local-cluster", ("shop/client", web, ("TCP", 80)), false, false, ""),
    ] {
        let (passes, before) = judged(objects, None, from, to, what);
        assert_eq!(passes, on, "{name}");
        let (passes, warned) = judged(objects, Some(name), from, to, what);
        assert_eq!(passes, off, "{name}");
        let new = warned.strip_prefix(&before).unwrap();
        assert!(new.contains(told) && new.is_empty() == told.is_empty(), "{name}: {new}");
    }
}
