//! Do the offline commands answer with the exit codes and words that a review in CI builds on?
#![expect(clippy::unwrap_used, reason = "what does not hold here fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/policies")
}

/// A folder of this test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sluice-review-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let file = self.0.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    /// The cluster of the examples, with this policy of its back.
    fn cluster(&self, name: &str, rules: &str) -> String {
        let world = std::fs::read_to_string(policies().join("world.yaml")).unwrap();
        let policy = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{app: back}}}}\n{rules}\n"
        );
        self.write(&format!("{name}/world.yaml"), &world);
        self.write(&format!("{name}/policy.yaml"), &policy);
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Exit code, standard output, standard error.
fn sluice(arguments: &[&str]) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

#[test]
fn exit_codes_tell_no_from_could_not() {
    let scratch = Scratch::new("codes");
    let objects = scratch.cluster("now", "  ingress: [{fromEndpoints: [{matchLabels: {app: front}}]}]");
    let bad = scratch.cluster("bad", "  ingres: []");
    let odd = scratch.cluster("odd", "  ingress: [{fromEndpoints: [{matchLabels: {app: gone}}]}]");
    let flows = scratch.write("flows", "{\"id\": 1, \"from\": \"shop/front\", \"to\": \"shop/back\"}\n");
    let broken = scratch.write("broken", "{\"id\": 1, \"from\": \"shop/front\"}\n{\"id\": 2}\nno JSON\n");
    let explain = |from: &str| {
        let asked = ["explain", "--objects", &objects, "--from", from, "--to", "shop/back", "--port", "80"];
        sluice(&asked).0
    };
    assert_eq!([explain("shop/front"), explain("shop/batch"), explain("shop/nobody")], [0, 1, 2]);
    for (arguments, code, told) in [
        (vec!["check", &objects], 0, ""),
        (vec!["check", &bad], 1, "spec.ingres: unknown field; did you mean ingress?"),
        (vec!["check", &odd], 0, "a selector of its peers matches nobody"),
        (vec!["check", "--strict", &odd], 1, "a selector of its peers matches nobody"),
        (vec!["check", "/nowhere"], 2, "cannot read /nowhere"),
        (vec!["verdict", "--objects", &objects, "--flows", &flows], 0, "\"verdict\":\"FORWARDED\""),
        (
            vec!["verdict", "--objects", &objects, "--flows", &broken],
            2,
            "{\"error\":\"to is missing\",\"id\":1}",
        ),
        (vec!["verdict", "--objects", &bad, "--flows", &flows], 2, "the objects are not valid"),
        (vec!["diff", &objects, &objects], 0, ""),
        (
            vec!["diff", &objects, &odd],
            1,
            "shop/front (10.0.1.1) -> shop/back TCP 9: FORWARDED becomes DROPPED",
        ),
        (vec!["diff", &objects, &bad], 2, "the objects are not valid"),
        (vec!["dump", "--objects", &bad], 2, "spec.ingres"),
        (vec!["status", "--socket", "/nowhere/sock"], 2, "no gateway answers at /nowhere/sock"),
    ] {
        let (got, out, err) = sluice(&arguments);
        assert!(got == code && (out.clone() + &err).contains(told), "{arguments:?}: {got}\n{out}\n{err}");
    }
}

#[test]
fn a_misspelt_field_of_a_question_is_told_and_not_passed_over() {
    let scratch = Scratch::new("misspelt");
    let objects = scratch.cluster("now", "  ingress: [{fromEndpoints: [{matchLabels: {app: front}}]}]");
    for (with, odd) in [
        (r#""prto": "UDP""#, "prto"),
        (r#""http": {"pth": "/"}"#, "http.pth"),
        (r#""dns": {"query": "a.example", "type": "A"}"#, "dns.type"),
        (r#""kafka": {"api_key": 0, "topics": "t"}"#, "kafka.topics"),
        (r#""learn": {"name": "a.example", "ips": []}"#, "from"),
    ] {
        let line = format!("{{\"id\": 1, \"from\": \"shop/front\", \"to\": \"shop/back\", {with}}}\n");
        let flows = scratch.write("flows", &line);
        let (code, out, err) = sluice(&["verdict", "--objects", &objects, "--flows", &flows]);
        let told = format!("\"error\":\"unknown field {odd} (there are ");
        assert!(code == 2 && out.contains(&told) && out.contains("\"id\":1"), "{with}: {code} {out}{err}");
    }
    let asked = [
        "explain",
        "--objects",
        &objects,
        "--from",
        "shop/front",
        "--to",
        "shop/back",
        "--with",
        "{\"sn\": 1}",
    ];
    let (code, _, err) = sluice(&asked);
    assert!(code == 2 && err.contains("unknown field sn "), "{err}");
}

#[test]
fn recorded_flows_are_judged_by_both_sets_names_included() {
    let scratch = Scratch::new("recorded");
    let old = scratch.cluster("old", "  egress: [{toFQDNs: [{matchName: api.example.com}]}]");
    let new = scratch.cluster("new", "  egress: [{toFQDNs: [{matchName: other.example.com}]}]");
    let flow = |names: &str, to: &str| {
        format!(
            "{{\"flow\": {{\"IP\": {{\"source\": \"10.0.1.2\", \"destination\": \"{to}\"}}, \"l4\": {{\"TCP\": {{\"destination_port\": 443}}}}, \
             \"source\": {{\"namespace\": \"shop\", \"pod_name\": \"back\"}}, \"destination_names\": [{names}]}}}}\n"
        )
    };
    let lines = flow("\"api.example.com\"", "198.51.100.1") + &flow("", "198.51.100.2");
    let recorded = scratch.write("flows", &lines);
    let (code, out, _) = sluice(&["diff", &old, &new, "--flows", &recorded]);
    assert_eq!(
        (code, out.as_str()),
        (1, "shop/back -> 198.51.100.1 TCP 443: FORWARDED becomes DROPPED (default deny of shop/p)\n")
    );
    // Of a pod that is gone since, one with the same labels tells.
    let gone = flow("\"api.example.com\"", "198.51.100.1").replace(
        "\"pod_name\": \"back\"",
        "\"pod_name\": \"back-7\", \"labels\": [\"k8s:app=back\", \"k8s:io.kubernetes.pod.namespace=shop\"]",
    );
    let (code, out, err) = sluice(&["diff", &old, &new, "--flows", &scratch.write("gone", &gone)]);
    assert!((code, out.lines().count()) == (1, 1) && out.starts_with("shop/back -> "), "{out}{err}");
    let gone = lines + "half a li\n{\"from\": \"shop/gone\", \"to\": \"shop/back\"}\n";
    let (code, out, err) = sluice(&["diff", &old, &new, "--flows", &scratch.write("more", &gone)]);
    assert_eq!((code, out.lines().count()), (2, 1), "what could be judged is told all the same");
    assert!(
        err.contains("2 recorded flows cannot be judged by either set") && err.contains("more:3: "),
        "{err}"
    );
}

#[test]
fn more_of_a_question_is_an_object_and_contradicts_no_flag() {
    let scratch = Scratch::new("with");
    let objects = scratch.cluster("now", "  ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]");
    let explain = |more: &[&str]| {
        let asked = ["explain", "--objects", &objects, "--from", "shop/front", "--to", "shop/back"];
        sluice(&[&asked, more].concat())
    };
    for with in ["3", "[1]", "\"x\"", "{"] {
        let (code, _, told) = explain(&["--with", with]);
        assert!(code == 2 && told.contains("--with is no JSON object"), "{with}: {code} {told}");
    }
    assert_eq!(explain(&["--with", "{\"port\": 80}"]).0, 0, "the port that --with tells");
    assert_eq!(explain(&["--with", "{\"proto\": \"UDP\"}", "--port", "80"]).0, 1);
    let (code, _, told) = explain(&["--with", "{\"port\": 80}", "--port", "81"]);
    assert!(code == 2 && told.contains("port is said both by its flag and in --with"), "{told}");
}

#[test]
fn one_line_that_is_no_text_costs_no_other_and_a_reader_that_goes_is_no_mistake() {
    let scratch = Scratch::new("lines");
    let objects = scratch.cluster("now", "  ingress: [{}]");
    let flows = scratch.0.join("flows");
    std::fs::write(&flows, b"\xff\n{\"id\": 2, \"from\": \"shop/front\", \"to\": \"shop/back\"}\r\n")
        .unwrap();
    let (code, out, _) = sluice(&["verdict", "--objects", &objects, "--flows", flows.to_str().unwrap()]);
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        code == 2 && lines.len() == 2 && lines[0].contains("\"error\"") && lines[1].contains("\"id\":2"),
        "{out}"
    );
    let many = "{\"id\": 2, \"from\": \"shop/front\", \"to\": \"shop/back\"}\n".repeat(5000);
    std::fs::write(&flows, many).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["verdict", "--objects", &objects, "--flows", flows.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
