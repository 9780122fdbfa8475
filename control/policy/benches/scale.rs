//! How long a large cluster takes: reading, compiling, one change, a million questions.
//!
//! `cargo bench -p sluice-policy --bench scale` for 10,000 policies, 50,000 pods and 5,000 identities; the environment
//! variable SLUICE_SCALE divides all of them.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a measurement that prints"
)]

#[path = "../tests/scale/cluster.rs"]
mod cluster;

use std::time::Instant;

use sluice_core::tables::Tables;
use sluice_core::tables::record::Change;
use sluice_policy::compile::{Compiled, Edit};
use sluice_policy::config::Options;
use sluice_policy::decode::Problems;
use sluice_policy::objects::{self, Endpoint, Objects};
use sluice_policy::verdict::Judge;

use cluster::{Size, everybody, one_policy, world};

fn memory(what: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<u64>().ok())
        .map_or_else(String::new, |kb| format!("{} MiB", kb / 1024))
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!(
        "{what:44} {:>10.1} ms   {} now, {} at most",
        start.elapsed().as_secs_f64() * 1e3,
        memory("VmRSS"),
        memory("VmHWM")
    );
    result
}

/// p50, p99 and the longest, in microseconds.
fn spread(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("{what:44} p50 {:>8.0} µs   p99 {:>8.0} µs   most {:>8.0} µs", at(50), at(99), at(100));
}

fn read(text: &str) -> Objects {
    let (objects, problems) = objects::parse("world.yaml", text, &Options::default().limits);
    assert!(problems.is_ok(), "{problems}");
    objects
}

fn changes(compiled: &mut Compiled, tables: &mut Tables, what: &str, mut edit: impl FnMut(usize) -> Edit) {
    let (mut control, mut dataplane, mut records) = (Vec::new(), Vec::new(), 0);
    let rounds = if what.contains("everybody") { 20 } else { 500 };
    for n in 0..rounds {
        let edit = edit(n);
        let start = Instant::now();
        let told: Vec<Change> = compiled.edit(vec![edit]);
        control.push(start.elapsed().as_secs_f64() * 1e6);
        records += told.len();
        let start = Instant::now();
        tables.apply(&told, None).unwrap();
        dataplane.push(start.elapsed().as_secs_f64() * 1e6);
    }
    spread(&format!("{what}: compile"), control);
    spread(&format!("{what}: apply ({} records each)", records / rounds), dataplane);
}

fn main() {
    let by = std::env::var("SLUICE_SCALE").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let size = Size::divided(by);
    let text = world(&size);
    println!("{} MB of YAML", text.len() / 1_000_000);
    let objects = timed("read", || read(&text));
    println!("{} policies, {} pods", objects.policies.len(), objects.endpoints.len());
    let options = Options { node: "us".to_owned(), ..Options::default() };
    let mut compiled = timed("compile", || Compiled::new(objects, options.clone(), Problems::default()));
    println!("{} identities, {} records", compiled.engine.identities().len(), compiled.records.len());
    let mut tables = Tables::default();
    timed("tables", || tables.apply(&compiled.changes(), None).unwrap());

    let first = compiled.objects.endpoints.values().next().unwrap().clone();
    let pod = |n: usize, app: String| Endpoint {
        name: format!("new-{n}"),
        addresses: vec![std::net::Ipv4Addr::from(0x0AF0_0000 + u32::try_from(n).unwrap()).into()],
        labels: vec![("app".to_owned(), app), ("tier".to_owned(), "tier0".to_owned())],
        ..first.clone()
    };
    changes(&mut compiled, &mut tables, "pod of a known identity", |n| {
        let pod = pod(n, "app0".to_owned());
        Edit::Endpoint((pod.namespace.clone(), pod.name.clone()), Some(pod))
    });
    changes(&mut compiled, &mut tables, "pod of a new identity", |n| {
        let pod = pod(1000 + n, format!("fresh{n}"));
        Edit::Endpoint((pod.namespace.clone(), pod.name.clone()), Some(pod))
    });
    let policy = |n: usize| one_policy(n % size.namespaces, (n + n / 100 * 13) % 100, &size);
    changes(&mut compiled, &mut tables, "policy changed", |n| {
        let policies = read(&policy(n).replace("port: '", "port: '1")).policies;
        Edit::Policy(policies[0].source.clone(), policies)
    });
    changes(&mut compiled, &mut tables, "policy added", |n| {
        let policies = read(&policy(n).replace("name: p", "name: added")).policies;
        Edit::Policy(policies[0].source.clone(), policies)
    });
    changes(&mut compiled, &mut tables, "policy for everybody changed", |n| {
        let policies = read(&everybody(n)).policies;
        Edit::Policy(policies[0].source.clone(), policies)
    });

    let mut judge =
        Judge::new(timed("compile again", || Compiled::new(read(&text), options, Problems::default())))
            .unwrap();
    let lines: Vec<String> = (0..1_000_000_usize / by)
        .map(|n| {
            let pod = |n: usize| {
                format!("ns{}/app{}-{}", n % size.namespaces, n / 7 % size.apps, n / 3 % size.pods_each)
            };
            format!(
                "{{\"id\": \"{n}\", \"from\": \"{}\", \"to\": \"{}\", \"proto\": \"TCP\", \"port\": {}}}",
                pod(n),
                pod(n * 31 + 7),
                8000 + n % 100
            )
        })
        .collect();
    let mut out = String::new();
    timed(&format!("{} verdicts", lines.len()), || {
        for line in &lines {
            out.clear();
            assert!(judge.line_to(line, &mut out), "{out}");
        }
    });
}
