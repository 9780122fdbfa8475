//! A change costs what it touches, however much else there is; and what it touches is no more than it must.
//!
//! Times are measured by `cargo bench -p sluice-policy --bench scale`; here they only have a bound that no busy machine
//! breaks.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says so, and reads a clock"
)]

mod cluster;

use std::time::{Duration, Instant};

use sluice_core::tables::record::Change;
use sluice_policy::compile::{Compiled, Edit};
use sluice_policy::config::Options;
use sluice_policy::decode::Problems;
use sluice_policy::objects::{self, Endpoint, Objects};

use cluster::{Size, everybody, one_policy, world};

fn read(text: &str) -> Objects {
    let (objects, problems) = objects::parse("world.yaml", text, &Options::default().limits);
    assert!(problems.is_ok(), "{problems}");
    objects
}

fn pod(like: &Endpoint, n: u8, app: &str) -> Edit {
    let pod = Endpoint {
        name: format!("new-{n}"),
        addresses: vec![std::net::Ipv4Addr::new(10, 240, 0, n).into()],
        labels: vec![("app".to_owned(), app.to_owned()), ("tier".to_owned(), "tier0".to_owned())],
        ..like.clone()
    };
    Edit::Endpoint((pod.namespace.clone(), pod.name.clone()), Some(pod))
}

fn policy(text: &str) -> Edit {
    let policies = read(text).policies;
    Edit::Policy(policies[0].source.clone(), policies)
}

/// The shortest of a few times, and the records of the last.
fn quickest(compiled: &mut Compiled, edits: impl Iterator<Item = Edit>) -> (Duration, Vec<Change>) {
    let timed = edits.map(|edit| {
        let start = Instant::now();
        let changes = compiled.edit(vec![edit]);
        (start.elapsed(), changes)
    });
    timed.reduce(|best, next| (best.0.min(next.0), next.1)).unwrap()
}

#[test]
fn a_change_costs_what_it_touches() {
    let size = Size::divided(10);
    let options = Options { node: "us".to_owned(), ..Options::default() };
    let start = Instant::now();
    let mut compiled = Compiled::new(read(&world(&size)), options.clone(), Problems::default());
    assert!(start.elapsed() < Duration::from_secs(20), "a tenth of the cluster took {:?}", start.elapsed());
    let like = compiled.objects.endpoints.values().next().unwrap().clone();
    let bound = Duration::from_millis(20);

    let known = (0..5).map(|n| pod(&like, n, "app0"));
    let (took, changes) = quickest(&mut compiled, known);
    assert!(matches!(changes[..], [Change::Address(..)]), "{changes:?}");
    assert!(took < bound, "{took:?}");

    let fresh = (10..15).map(|n| pod(&like, n, &format!("fresh{n}")));
    let (took, changes) = quickest(&mut compiled, fresh);
    assert!(matches!(changes[..], [Change::Identity(..), Change::Address(..)]), "{changes:?}");
    assert!(took < bound, "{took:?}");

    let changed = (1..5).map(|n| policy(&one_policy(1, 8, &size).replace("port: '", &format!("port: '{n}"))));
    let (took, changes) = quickest(&mut compiled, changed);
    assert!(matches!(changes[..], [Change::Class(..)]), "{changes:?}");
    assert!(took < bound, "{took:?}");

    // After all that the same stands there as if it had been read at once.
    compiled.edit(vec![policy(&everybody(1))]);
    let again = Compiled::new(compiled.objects.clone(), options, Problems::default());
    assert_eq!(again.records.len(), compiled.records.len());
    assert_eq!(again.engine.identities().len(), compiled.engine.identities().len());
}
