//! What is done with a file of hostile bytes: read it, and if it is valid, do everything with it that users do.

use serde_json::json;
use sluice_policy::compile::Compiled;
use sluice_policy::config::Options;
use sluice_policy::lint::lint;
use sluice_policy::objects;
use sluice_policy::tree::Limits;
use sluice_policy::verdict::Judge;

/// Limits that a test can afford to reach.
const LIMITS: Limits = Limits { file_bytes: 1 << 20, objects: 1000, depth: 64, expansion: 1000 };

pub fn swallow(data: &[u8]) {
    // What is no text is refused before it is read.
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (objects, problems) = objects::parse("hostile.yaml", text, &LIMITS);
    let _ = problems.to_string();
    if !problems.is_ok() {
        return;
    }
    let options = Options { node: "us".to_owned(), ..Options::default() };
    let compiled = Compiled::new(objects, options, problems);
    let _ = (compiled.dump(), lint(&compiled));
    let names: Vec<String> = compiled
        .objects
        .endpoints
        .keys()
        .take(4)
        .map(|(namespace, name)| format!("{namespace}/{name}"))
        .collect();
    // Tables refuse what contradicts itself; then there is nothing to ask.
    let Ok(mut judge) = Judge::new(compiled) else { return };
    for from in names.iter().map(String::as_str).chain(["198.51.100.1", "reserved:host"]) {
        for to in names.iter().map(String::as_str).chain(["2001:db8::1", "10.96.0.1"]) {
            for (proto, port) in [("TCP", 80), ("UDP", 53), ("ICMP", 8)] {
                let question = json!({"from": from, "to": to, "proto": proto, "port": port,
                    "http": {"method": "GET", "path": "/"}, "dns": {"query": "a.b"}});
                let _ = judge.explain(&question);
            }
        }
    }
}
