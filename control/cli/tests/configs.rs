//! Are the examples under configs/ what the program reads, and do they, the schema and the options tell of the same
//! settings?
#![expect(clippy::unwrap_used, reason = "what does not hold here fails the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

fn sluice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap()
}

fn shown(file: &Path) -> Value {
    let output = sluice(&["config", "show", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A file of this test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        let file = std::env::temp_dir().join(format!("sluice-configs-{}-{name}.yaml", std::process::id()));
        std::fs::write(&file, text).unwrap();
        Self(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn gateway_text() -> String {
    std::fs::read_to_string(configs().join("gateway.yaml")).unwrap()
}

/// `section.key` of everything under `spec` that the schema knows.
fn schema_keys() -> BTreeSet<String> {
    let output = sluice(&["config", "schema"]);
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut keys = BTreeSet::new();
    for (section, what) in schema["properties"]["spec"]["properties"].as_object().unwrap() {
        let inner = what.get("properties").or_else(|| what.pointer("/items/properties"));
        match inner.and_then(Value::as_object) {
            Some(fields) => keys.extend(fields.keys().map(|key| format!("{section}.{key}"))),
            None => drop(keys.insert(section.clone())),
        }
    }
    keys
}

/// Does the text have the setting, in use or commented out?
fn has_setting(text: &str, key: &str) -> bool {
    text.lines().any(|line| {
        line.trim_start().trim_start_matches('#').trim_start_matches("- ").starts_with(&format!("{key}:"))
    })
}

#[test]
fn the_examples_are_read() {
    for name in ["gateway.yaml", "minimal.yaml"] {
        let shown = shown(&configs().join(name));
        assert_eq!(shown["metadata"]["name"], "edge-1");
        assert_eq!(shown["spec"]["interfaces"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn what_is_commented_out_is_read_too() {
    let uncommented: String = gateway_text()
        .lines()
        .map(|line| {
            let body = line.trim_start();
            let setting = body.starts_with('#') && body.chars().nth(1).is_some_and(char::is_alphabetic);
            if setting { format!("{}\n", line.replacen('#', "", 1)) } else { format!("{line}\n") }
        })
        .collect();
    let shown = shown(&Scratch::new("all", &uncommented).0);
    assert_eq!(shown["spec"]["masquerade"]["sources"][0], "10.244.0.0/16");
    assert_eq!(shown["spec"]["flows"]["snapshot"], "/var/lib/sluice/flows");
    assert_eq!(shown["spec"]["interfaces"][0]["vlans"][1], 200);
    assert_eq!(shown["spec"]["guard"]["prefixes"][1], "2001:db8:244::/56");
}

#[test]
fn the_values_in_use_are_the_defaults() {
    let bare = "apiVersion: sluice.dev/v1\nkind: Gateway\nmetadata: {name: edge-1}\nspec: {}\n";
    let defaults = shown(&Scratch::new("bare", bare).0);
    let example = shown(&configs().join("gateway.yaml"));
    for (section, value) in defaults["spec"].as_object().unwrap() {
        // These have no default that does anything.
        if section != "interfaces" && section != "objects" {
            assert_eq!(value, &example["spec"][section], "{section} is not at its default");
        }
    }
    // An interface that says all its defaults is an interface that says none of them.
    let (said, unsaid) = (&example["spec"]["interfaces"][0], &example["spec"]["interfaces"][1]);
    assert_eq!((&said["mode"], &said["zeroCopy"]), (&unsaid["mode"], &unsaid["zeroCopy"]));
}

#[test]
fn schema_example_and_show_tell_of_the_same_settings() {
    let (text, keys) = (gateway_text(), schema_keys());
    for key in &keys {
        let leaf = key.rsplit('.').next().unwrap();
        assert!(has_setting(&text, leaf), "configs/gateway.yaml does not show {key}");
    }
    let example = shown(&configs().join("gateway.yaml"));
    for (section, value) in example["spec"].as_object().unwrap() {
        let fields = value.as_object().or_else(|| value.get(0).and_then(Value::as_object));
        for key in fields.into_iter().flat_map(|fields| fields.keys()) {
            assert!(keys.contains(&format!("{section}.{key}")), "the schema lacks {section}.{key}");
        }
        assert!(
            keys.iter().any(|key| key == section || key.starts_with(&format!("{section}."))),
            "{section}"
        );
    }
}

#[test]
fn hubbles_clients_come_to_an_address_a_path_or_not_at_all() {
    let file = |value: &str| {
        let text =
            format!("apiVersion: sluice.dev/v1\nkind: Gateway\nspec: {{api: {{hubble: \"{value}\"}}}}\n");
        Scratch::new(&format!("hubble-{}", value.replace('/', "-")), &text)
    };
    for (value, meant) in [
        ("127.0.0.1:4245", "127.0.0.1:4245"),
        ("[::1]:4245", "[::1]:4245"),
        ("/run/sluice/hubble.sock", "/run/sluice/hubble.sock"),
        ("unix:///run/sluice/hubble.sock", "/run/sluice/hubble.sock"),
        ("off", "off"),
    ] {
        assert_eq!(shown(&file(value).0)["spec"]["api"]["hubble"], meant);
    }
    for wrong in ["4245", ":4245", "localhost", "localhost:hubble", "localhost:65536", "hubble.sock"] {
        let output = sluice(&["config", "show", file(wrong).0.to_str().unwrap()]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("hubble must be an address with a port"), "{said}");
    }
}

#[test]
fn every_option_is_in_the_example() {
    let output = sluice(&["config", "options"]);
    let (text, list) = (gateway_text(), String::from_utf8(output.stdout).unwrap());
    assert!(list.lines().count() >= 14);
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        assert!(has_setting(&text, name), "configs/gateway.yaml does not show {name}");
    }
}

#[test]
fn a_mistake_is_refused_with_its_place() {
    let wrong = gateway_text().replace("poll: adaptive", "poll: sometimes");
    let scratch = Scratch::new("wrong", &wrong);
    let output = sluice(&["config", "show", scratch.0.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("poll must be busy, adaptive or sleep"), "{said}");
}

#[test]
fn what_is_shown_of_a_configuration_means_the_same_configuration() {
    let example = shown(&configs().join("gateway.yaml"));
    let again = Scratch::new("again", &example.to_string());
    assert_eq!(shown(&again.0), example);
    let options = "spec: {policy: {labels: \"k8s:app\", policy-deny-response: icmp}, services: {bpf-lb-dsr-dispatch: ipip}}\n";
    let text = format!("apiVersion: sluice.dev/v1\nkind: Gateway\n{options}");
    let first = shown(&Scratch::new("options", &text).0);
    assert_eq!(first["spec"]["policy"]["policy-deny-response"], "icmp");
    assert_eq!(first["spec"]["services"]["bpf-lb-dsr-dispatch"], "ipip");
    assert_eq!(shown(&Scratch::new("options-again", &first.to_string()).0), first);
}

#[test]
fn nothing_that_was_written_is_passed_over() {
    let head = "apiVersion: sluice.dev/v1\nkind: Gateway\n";
    for (n, (text, said)) in [
        ("specs: {}\n", "3:1: specs: unknown field"),
        ("metadata: {nam: x}\n", "3:12: metadata.nam: unknown field; did you mean name?"),
        (
            "spec: {interfaces: [{name: a, queues: 7}]}\n",
            "3:39: spec.interfaces[0].queues: queues must be all, not 7",
        ),
        (
            "spec: {interfaces: [{name: a}, {name: a}]}\n",
            "spec.interfaces[1]: the interface a is there twice",
        ),
        (
            "spec: {workers: {cores: [0, two]}}\n",
            "3:29: spec.workers: cores must be numbers of cores, each once",
        ),
        ("spec: {workers: {cores: [1, -1]}}\n", "each once"),
        ("spec: {workers: {cores: [1, 1]}}\n", "each once"),
        ("spec: {workers: {cores: []}}\n", "spec.workers.cores: cores must be auto"),
        ("spec: {workers: {hugePages: nope}}\n", "hugePages must be auto, true or false, not nope"),
        ("spec: {services: {clampMss: yes}}\n", "spec.services.clampMss: must be true or false"),
        (
            "spec: {services: {nodePortRange: 30000-33000}}\n",
            "nodePortRange and snatPorts have ports in common",
        ),
        ("spec: {policy: {enable-ipv4: false, enable-ipv6: false}}\n", "are both false"),
        (
            "spec:\n  policy:\n    audit: false\n    enforcement: foo\n",
            "6:18: spec.policy.enforcement: enable-policy must be one of",
        ),
        (
            "spec:\n  services:\n    mode: dnat\n    nodeport-addresses: here\n",
            "6:25: spec.services.nodeport-addresses: here is no",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let scratch = Scratch::new(&format!("passed-over-{n}"), &format!("{head}{text}"));
        let output = sluice(&["config", "show", scratch.0.to_str().unwrap()]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && told.contains(said), "{text}: {told}");
    }
    let listed = Scratch::new("listed", &format!("{head}spec: {{workers: {{cores: [3, 2]}}}}\n"));
    assert_eq!(shown(&listed.0)["spec"]["workers"]["cores"], serde_json::json!([3, 2]));
}

#[test]
fn a_ring_that_the_kernel_would_refuse_is_refused_here() {
    let ring = |size: &str| {
        let text = gateway_text().replace("    ring: 2048", &format!("    ring: {size}"));
        Scratch::new(&format!("ring-{size}"), &text)
    };
    assert_eq!(shown(&ring("16384").0)["spec"]["workers"]["ring"], 16384);
    for (size, why) in
        [("3000", "ring must be a power of two, not 3000"), ("32", "32 is not between 64 and 65536")]
    {
        let output = sluice(&["config", "show", ring(size).0.to_str().unwrap()]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(why), "{said}");
    }
}

/// A unit without these is a gateway that does not start: the kernel refuses the sockets.
#[test]
fn the_units_allow_what_the_daemons_need_and_no_more() {
    let unit = |name: &str| std::fs::read_to_string(configs().join("systemd").join(name)).unwrap();
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{key}=")));
        line.unwrap_or_else(|| panic!("no {key}")).split_once('=').unwrap().1.to_owned()
    };
    let dataplane = unit("sluiced.service");
    let families = value(&dataplane, "RestrictAddressFamilies");
    for family in ["AF_XDP", "AF_NETLINK", "AF_PACKET", "AF_UNIX"] {
        assert!(families.split(' ').any(|allowed| allowed == family), "{family}");
    }
    assert_eq!(value(&dataplane, "LimitMEMLOCK"), "infinity");
    assert_eq!(value(&dataplane, "LimitNICE"), "-10", "workers could not be more urgent than others");
    let capabilities = value(&dataplane, "CapabilityBoundingSet");
    let needed = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW"];
    assert_eq!(capabilities.split(' ').collect::<Vec<_>>(), needed);
    let control = unit("sluice-control.service");
    assert_eq!(value(&control, "CapabilityBoundingSet"), "");
    for text in [&dataplane, &control] {
        assert_eq!(value(text, "Type"), "notify");
        assert_eq!(value(text, "ProtectSystem"), "strict");
    }
}
