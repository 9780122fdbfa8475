//! An edge with objects: what its frontends are, and where clients inside and outside of the cluster get.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use sluice_core::tables::Tables;
use sluice_core::tables::record::{Change, FrontendKey, Service, Settings};
use sluice_policy::compile::{Compiled, Edit};
use sluice_policy::config::Options;
use sluice_policy::objects;
use sluice_policy::verdict::Judge;

const WORLD: &str = "
apiVersion: v1
kind: Node
metadata: {name: edge, labels: {topology.kubernetes.io/zone: a, service.cilium.io/node: rack-1, role: edge}}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: 192.0.2.3}, {type: InternalIP, address: '2001:db8::1'}, {type: Hostname, address: edge}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {nodeName: far}
status: {podIPs: [{ip: 10.1.1.1}]}
---
";

pub fn options() -> Options {
    Options { node: "edge".to_owned(), maglev_size: 1021, ..Options::default() }
}

/// An EndpointSlice `NAME-1` of the service, port `http` at 8080, with these endpoints.
pub fn slice(service: &str, endpoints: &str) -> String {
    let endpoints = if endpoints.trim() == "[]" { " []".to_owned() } else { endpoints.to_owned() };
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-1, namespace: shop, labels: \
         {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:{endpoints}\n"
    )
}

/// One of many services.
pub fn slices(n: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: shop}}\nspec: {{type: NodePort, clusterIP: 10.97.0.{n}, \
         ports: [{{name: http, port: 80, nodePort: {}}}]}}\n---\n{}",
        30_100 + n,
        slice(
            &format!("s{n}"),
            &format!("\n  - {{addresses: [10.2.{n}.1]}}\n  - {{addresses: [10.2.{n}.2]}}\n")
        )
    )
}

pub struct Edge {
    pub compiled: Compiled,
    tables: Tables,
}

impl Edge {
    pub fn new(text: &str) -> Self {
        Self::with(text, options())
    }

    pub fn with(text: &str, options: Options) -> Self {
        let (objects, problems) = objects::parse("edge.yaml", &format!("{WORLD}{text}"), &options.limits);
        assert!(problems.is_ok(), "{problems}");
        let compiled = Compiled::new(objects, options, problems);
        let mut tables = Tables::default();
        tables.apply(&compiled.changes(), None).unwrap();
        Self { compiled, tables }
    }

    pub fn edit(&mut self, edit: Edit) -> Vec<Change> {
        let changes = self.compiled.edit(vec![edit]);
        self.tables.apply(&changes, None).unwrap();
        changes
    }

    /// Every service and slice of a text as an edit of its own; what the last one changed.
    pub fn edit_text(&mut self, text: &str) -> Vec<Change> {
        let (objects, problems) = objects::parse("edit.yaml", text, &options().limits);
        assert!(problems.is_ok(), "{problems}");
        let mut changes = Vec::new();
        for (key, service) in objects.services {
            changes.extend(self.edit(Edit::Service(key, Some(service))));
        }
        for (key, slice) in objects.slices {
            changes.extend(self.edit(Edit::Slice(key, Some(slice))));
        }
        changes
    }

    pub fn settings(&self) -> &Settings {
        &self.tables.settings
    }

    pub fn shown(&self) -> Vec<Value> {
        self.compiled.show_services().as_array().unwrap().clone()
    }

    /// Frontends, sorted, with their types.
    pub fn kinds(&self) -> Vec<(String, String)> {
        let shown = self.compiled.frontends.iter();
        let mut kinds: Vec<_> = shown
            .map(|one| (SocketAddr::new(one.key.ip, one.key.port).to_string(), one.kind.to_owned()))
            .collect();
        kinds.sort();
        kinds
    }

    pub fn addresses(&self) -> Vec<String> {
        let set: BTreeSet<IpAddr> = self.compiled.frontends.iter().map(|one| one.key.ip).collect();
        set.iter().map(ToString::to_string).collect()
    }

    fn ask(&self, from: &str, ip: &str, port: u16, proto: u8, sport: u16) -> Value {
        let from = match from {
            "inside" => "shop/client",
            "outside" => "198.51.100.99",
            address => address,
        };
        let proto = match proto {
            17 => "UDP",
            132 => "SCTP",
            _ => "TCP",
        };
        let mut judge = Judge::new(self.compiled.clone()).unwrap();
        let question = json!({"from": from, "to": ip, "proto": proto, "port": port, "sport": sport});
        judge.line(&question.to_string()).unwrap().unwrap()
    }

    /// Why a flow is dropped; 0: it is not.
    pub fn reason(&self, from: &str, ip: &str, port: u16) -> u64 {
        self.ask(from, ip, port, 6, 40000)["drop_reason"].as_u64().unwrap_or(0)
    }

    pub fn backend_of(&self, from: &str, ip: &str, port: u16, proto: u8) -> Option<(String, u16)> {
        let answer = self.ask(from, ip, port, proto, 40000);
        let backend = &answer["backend"];
        Some((backend["ip"].as_str()?.to_owned(), u16::try_from(backend["port"].as_u64()?).ok()?))
    }

    pub fn backend(&self, from: &str, ip: &str, port: u16) -> Option<(String, u16)> {
        self.backend_of(from, ip, port, 6)
    }

    /// Who is reached by many clients of one kind.
    pub fn reached(&self, from: &str, ip: &str, port: u16) -> BTreeSet<String> {
        let mut judge = Judge::new(self.compiled.clone()).unwrap();
        let from = if from == "inside" { "shop/client" } else { "198.51.100.99" };
        let ask = |sport: u16| {
            let question = json!({"from": from, "to": ip, "proto": "TCP", "port": port, "sport": sport});
            let answer = judge.line(&question.to_string()).unwrap().unwrap();
            answer["backend"]["ip"].as_str().map(str::to_owned)
        };
        (1000..1064).filter_map(ask).collect()
    }

    /// The list behind a frontend.
    pub fn list(&self, ip: &str, port: u16) -> Service {
        let key = FrontendKey { ip: ip.parse().unwrap(), port, proto: 6 };
        let id = self.tables.services.frontend(key).unwrap().service.unwrap();
        self.tables.services.service(id).unwrap().record.clone()
    }

    /// How many Maglev slots each backend has.
    pub fn shares(&self, ip: &str, port: u16) -> BTreeMap<String, f64> {
        let key = FrontendKey { ip: ip.parse().unwrap(), port, proto: 6 };
        let id = self.tables.services.frontend(key).unwrap().service.unwrap();
        let mut shares = BTreeMap::new();
        for backend in self.tables.services.service(id).unwrap().row() {
            *shares.entry(backend.ip.to_string()).or_insert(0.0) += 1.0;
        }
        shares
    }
}
