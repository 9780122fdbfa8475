//! Address pools: who gets which address, what is kept, and what is told when there is none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod exposed;

use std::net::IpAddr;

use sluice_policy::compile::{Compiled, Edit};
use sluice_policy::config::Options;
use sluice_policy::decode::Problems;
use sluice_policy::objects::{self, Objects};

fn pool(name: &str, more: &str, spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {{name: {name}{more}}}\nspec: {spec}\n---\n"
    )
}

fn service(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop{metadata}}}\nspec: {{type: LoadBalancer, ports: \
         [{{port: 80}}]{spec}}}\n---\n"
    )
}

fn read(text: &str) -> (Objects, Problems) {
    let (objects, problems) = objects::parse("pools.yaml", text, &Options::default().limits);
    assert!(problems.is_ok(), "{problems}");
    (objects, problems)
}

fn compiled(text: &str) -> Compiled {
    let (objects, problems) = read(text);
    Compiled::new(objects, Options::default(), problems)
}

/// Addresses of a service's frontends.
fn of(compiled: &Compiled, name: &str) -> Vec<String> {
    let own = compiled.frontends.iter().filter(|one| one.service == format!("shop/{name}"));
    let mut ips: Vec<IpAddr> = own.map(|one| one.key.ip).collect();
    ips.sort_unstable();
    ips.dedup();
    ips.iter().map(ToString::to_string).collect()
}

fn warned(compiled: &Compiled) -> Vec<String> {
    compiled.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn services_get_an_address_of_each_family_that_they_want() {
    let blocks = "{blocks: [{cidr: 192.0.2.0/28}, {cidr: '2001:db8::/64'}]}";
    let text = pool("blue", "", blocks)
        + &service("four", "", "")
        + &service("six", "", ", ipFamilies: [IPv6]")
        + &service("both", "", ", ipFamilyPolicy: RequireDualStack");
    let all = compiled(&text);
    assert_eq!(warned(&all), [""; 0]);
    let family = |name: &str| of(&all, name).iter().map(|ip| ip.contains('.')).collect::<Vec<_>>();
    assert_eq!((family("four"), family("six"), family("both")), (vec![true], vec![false], vec![true, false]));
    assert_eq!(of(&compiled(&text), "both"), of(&all, "both"), "the same in every process");
    // Without a pool nobody gets anything.
    assert_eq!(of(&compiled(&service("four", "", "")), "four"), [""; 0]);
}

#[test]
fn every_address_is_given_once_and_the_last_one_hears_that_there_is_none() {
    for (block, room) in
        [("{cidr: 192.0.2.0/29}", 8), ("{start: 192.0.2.1, stop: 192.0.2.5}", 5), ("{start: 192.0.2.1}", 1)]
    {
        let services: String = (0..=room).map(|n| service(&format!("s{n}"), "", "")).collect();
        let all = compiled(&(pool("blue", "", &format!("{{blocks: [{block}]}}")) + &services));
        let mut given: Vec<String> = (0..=room).flat_map(|n| of(&all, &format!("s{n}"))).collect();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), room, "{block}");
        assert_eq!(warned(&all).len(), 1);
        assert!(warned(&all)[0].contains("no_pool"), "{:?}", warned(&all));
    }
    // First and last can be kept out of it, where there is something between them.
    for (block, room) in [("192.0.2.0/30", 2), ("192.0.2.0/31", 2), ("192.0.2.0/32", 1)] {
        let services: String = (0..4).map(|n| service(&format!("s{n}"), "", "")).collect();
        let spec = format!("{{allowFirstLastIPs: 'No', blocks: [{{cidr: {block}}}]}}");
        assert_eq!(warned(&compiled(&(pool("blue", "", &spec) + &services))).len(), 4 - room, "{block}");
    }
}

#[test]
fn what_a_service_has_it_keeps_in_the_process_and_in_the_next() {
    let names = ["a", "b", "c", "d", "e"];
    let services = |names: &[&str]| names.iter().map(|name| service(name, "", "")).collect::<String>();
    let blue = pool("blue", "", "{blocks: [{start: 192.0.2.1, stop: 192.0.2.5}]}");
    let mut all = compiled(&(blue.clone() + &services(&names[2..])));
    let before: Vec<_> = names[2..].iter().map(|name| of(&all, name)).collect();
    let (objects, problems) = read(&(blue.clone() + &services(&names)));
    all.update(objects.clone(), problems);
    assert_eq!(names[2..].iter().map(|name| of(&all, name)).collect::<Vec<_>>(), before);
    let mut next = Compiled::new(Objects::default(), Options::default(), Problems::default());
    next.frontends.pools.held.clone_from(&all.frontends.pools.held);
    next.update(objects, Problems::default());
    assert_eq!(names.map(|name| of(&next, name)), names.map(|name| of(&all, name)));
    // One that goes makes room, also when it goes by itself.
    let (objects, problems) = read(&(blue + &services(&names) + &service("f", "", "")));
    all.update(objects, problems);
    assert_eq!(of(&all, "f"), [""; 0]);
    all.edit(vec![Edit::Service(("shop".into(), "a".into()), None)]);
    assert_eq!(of(&all, "f").len(), 1);
    // A disabled pool gives no more, and takes nothing away.
    let had = of(&all, "f");
    let disabled = pool("blue", "", "{disabled: true, blocks: [{start: 192.0.2.1, stop: 192.0.2.5}]}");
    let pools = read(&disabled).0.pools;
    all.edit(vec![Edit::Pool("blue".into(), pools.get("blue").cloned())]);
    assert_eq!(of(&all, "f"), had);
    all.edit(vec![Edit::Service(("shop".into(), "b".into()), None)]);
    let (objects, _) = read(&service("g", "", ""));
    let edits = objects.services.into_iter().map(|(key, service)| Edit::Service(key, Some(service)));
    all.edit(edits.collect());
    assert_eq!(of(&all, "g"), [""; 0]);
}

#[test]
fn pools_choose_services_by_labels_name_and_namespace() {
    let red = "{blocks: [{cidr: 198.51.100.0/24}], serviceSelector: {matchLabels: {color: red}}}";
    let by_name = "{blocks: [{cidr: 203.0.113.0/24}], serviceSelector: {matchExpressions: [{key: io.kubernetes.service.name, \
                   operator: In, values: [web, api]}], matchLabels: {io.kubernetes.service.namespace: shop}}}";
    let text = pool("red", "", red)
        + &pool("named", "", by_name)
        + &service("x", ", labels: {color: red}", "")
        + &service("web", "", "")
        + &service("other", "", "");
    let all = compiled(&text);
    assert!(of(&all, "x")[0].starts_with("198.51.100."));
    assert!(of(&all, "web")[0].starts_with("203.0.113."));
    assert_eq!(of(&all, "other"), [""; 0]);
}

#[test]
fn services_ask_for_addresses_and_hear_why_they_cannot_have_them() {
    let blue = pool("blue", "", "{blocks: [{cidr: 192.0.2.0/24}]}");
    let asking =
        |name: &str, ip: &str| service(name, &format!(", annotations: {{lbipam.cilium.io/ips: '{ip}'}}"), "");
    let text = blue.clone()
        + &asking("a", "192.0.2.7, 192.0.2.8")
        + &service("b", "", ", loadBalancerIP: 192.0.2.9")
        + &asking("c", "192.0.2.7")
        + &asking("d", "10.0.0.1");
    let all = compiled(&text);
    assert_eq!(of(&all, "a"), ["192.0.2.7", "192.0.2.8"]);
    assert_eq!(of(&all, "b"), ["192.0.2.9"]);
    assert_eq!((of(&all, "c"), of(&all, "d")), (vec![], vec![]));
    let told = warned(&all);
    assert!(told[0].starts_with("pools.yaml:") && told[0].contains("shop/a has it"), "{told:?}");
    assert!(told[1].contains("no pool has it"), "{told:?}");
    // What a status tells is given already; a node's address is nobody's.
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.20}]}\n---\n";
    let given =
        service("e", "", "").replace("\n---", "\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.10}]}}\n---");
    let all = compiled(&(blue + node + &given + &asking("f", "192.0.2.10") + &asking("g", "192.0.2.20")));
    assert_eq!(
        (of(&all, "e"), of(&all, "f"), of(&all, "g")),
        (vec!["192.0.2.10".to_owned()], vec![], vec![])
    );
}

#[test]
fn services_with_a_key_share_an_address_if_they_can_live_together() {
    let blue = pool("blue", "", "{blocks: [{cidr: 192.0.2.0/24}]}");
    let shared = |name: &str, port: u16, more: &str, spec: &str| {
        service(name, &format!(", annotations: {{lbipam.cilium.io/sharing-key: k{more}}}"), spec)
            .replace("port: 80", &format!("port: {port}"))
    };
    let all = compiled(
        &(blue.clone()
            + &shared("a", 80, "", "")
            + &shared("b", 443, "", "")
            + &shared("c", 80, "", "")
            + &shared("d", 8080, "", ", externalTrafficPolicy: Local")),
    );
    assert_eq!(of(&all, "a"), of(&all, "b"));
    assert_ne!(of(&all, "a"), of(&all, "c"), "the same port");
    assert_ne!(of(&all, "a"), of(&all, "d"), "another traffic policy");
    let far = |more: &str| {
        let other = shared("z", 443, more, "").replace("namespace: shop", "namespace: far");
        let all = compiled(&(blue.clone() + &shared("a", 80, more, "") + &other));
        let ips: std::collections::BTreeSet<IpAddr> = all.frontends.iter().map(|one| one.key.ip).collect();
        ips.len()
    };
    assert_eq!(far(""), 2);
    assert_eq!(far(", lbipam.cilium.io/sharing-cross-namespace: '*'"), 1);
    assert_eq!(far(", lbipam.cilium.io/sharing-cross-namespace: 'far,shop'"), 1);
    assert_eq!(far(", lbipam.cilium.io/sharing-cross-namespace: 'far'"), 2, "both must agree");
}

#[test]
fn the_newer_of_two_pools_that_overlap_is_not_used_and_said_so() {
    let old =
        pool("z-old", ", creationTimestamp: '2020-01-01T00:00:00Z'", "{blocks: [{cidr: 192.0.2.0/30}]}");
    let new = pool(
        "a-new",
        ", creationTimestamp: '2024-01-01T00:00:00Z'",
        "{blocks: [{cidr: 192.0.2.0/24}, {cidr: 198.51.100.0/24}]}",
    );
    let services: String = (0..5).map(|n| service(&format!("s{n}"), "", "")).collect();
    let all = compiled(&(old + &new + &services));
    let given: usize = (0..5).map(|n| of(&all, &format!("s{n}")).len()).sum();
    assert_eq!(given, 4);
    assert!(warned(&all).iter().any(|w| w.contains("overlaps the older pool z-old")), "{:?}", warned(&all));
}

#[test]
fn classes_of_others_are_left_to_others() {
    let blue = pool("blue", "", "{blocks: [{cidr: 192.0.2.0/24}]}");
    let class = |class: &str| {
        of(&compiled(&(blue.clone() + &service("a", "", &format!(", loadBalancerClass: {class}")))), "a")
            .len()
    };
    assert_eq!(class("io.cilium/l2-announcer"), 1);
    assert_eq!(class("io.cilium/bgp-control-plane"), 1);
    assert_eq!(class("example.com/other"), 0);
}

#[test]
fn pools_are_read_strictly() {
    for (spec, what) in [
        ("{blocks: [{cidr: nonsense}]}", "no address"),
        ("{blocks: [{start: 192.0.2.9, stop: 192.0.2.1}]}", "a block is"),
        ("{blocks: [{start: 192.0.2.9, stop: '2001:db8::1'}]}", "a block is"),
        ("{blocks: [{}]}", "a block is"),
        ("{blocks: [], disabld: true}", "did you mean disabled"),
        ("{blocks: [], allowFirstLastIPs: Maybe}", "must be Yes or No"),
    ] {
        let text = pool("blue", "", spec);
        let (_, problems) = objects::parse("pools.yaml", &text, &Options::default().limits);
        assert!(problems.to_string().contains(what), "{spec}: {problems}");
    }
}
