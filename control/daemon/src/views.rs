//! What the API shows, put together from what control knows and what the dataplane says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_core::flow_key::FlowKey;
use sluice_core::state::snapshot::FlowRecord;
use sluice_core::state::tcp::TcpState;
use sluice_core::tables::record::{Change, Leave, Prefix};
use sluice_core::verdict::DropReason;
use sluice_core::watch::Filter;
use sluice_feed::message::{Answer, Question};
use sluice_policy::identity::holds_ip;
use sluice_policy::observed::protocol;
use sluice_policy::policy::above::Kind;
use sluice_policy::policy::{Policy, Ports, Subject};

use crate::reconcile::Control;

pub async fn dataplane(control: &Control) -> Value {
    match control.link.ask(Question::Status).await {
        Ok(Answer::Status(text)) => serde_json::from_str(&text).unwrap_or(Value::Null),
        Ok(_) => Value::Null,
        Err(why) => json!({"error": why}),
    }
}

pub async fn status(control: &Control) -> Value {
    let dataplane = dataplane(control).await;
    let world = control.world();
    let (seen, lost) = control.history.counts();
    json!({
        "gateway": control.gateway.name,
        "version": env!("CARGO_PKG_VERSION"),
        "ready": control.link.is_up() && world.loaded && world.acknowledged >= world.generation,
        "generation": world.generation,
        "acknowledged": world.acknowledged,
        "live_after_microseconds": world.took,
        "attention": attention(control, &world, &dataplane),
        "objects_read_seconds_ago": world.read_at.map(|at| at.elapsed().as_secs()),
        "refused": world.refused,
        "problems": world.problems,
        "warnings": world.compiled.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "objects": {
            "endpoints": world.compiled.objects.endpoints.len(),
            "services": world.compiled.objects.services.len(),
            "policies": world.compiled.objects.policies.len(),
            "identities": world.compiled.engine.identities().len(),
        },
        "events_seen": seen,
        "events_lost": lost,
        "dataplane": dataplane,
    })
}

/// Conditions as Kubernetes' endpoints list them.
pub fn verbose(name: &str, conditions: &[(&str, Result<(), String>)]) -> String {
    let mut text = String::new();
    for (condition, state) in conditions {
        match state {
            Ok(()) => text.push_str(&format!("[+]{condition} ok\n")),
            Err(why) => text.push_str(&format!("[-]{condition} failed: {why}\n")),
        }
    }
    let passed = conditions.iter().all(|(_, state)| state.is_ok());
    text.push_str(&format!("{name} check {}\n", if passed { "passed" } else { "failed" }));
    text
}

fn no_dns_over_tcp(policies: &[String]) -> Option<String> {
    let reason = DropReason::InspectionUnavailable.name();
    let what = "NO DNS OVER TCP YET: it is dropped";
    (!policies.is_empty()).then(|| {
        format!("{what} as {reason} where DNS rules would have to judge it, by {}", some_of(policies))
    })
}

/// Do DNS rules of this policy speak of TCP, too? (ANY does.)
fn hears_dns_over_tcp(policy: &Policy) -> bool {
    policy.rules.iter().any(|rule| {
        let is_dns = rule.above.as_ref().is_some_and(|above| matches!(above.kind, Kind::Dns(_)));
        let Ports::Some(ports) = &rule.ports else { return is_dns };
        is_dns && ports.iter().any(|port| port.proto == 6)
    })
}

/// What somebody should know before they look at anything else.
fn attention(control: &Control, world: &crate::reconcile::World, dataplane: &Value) -> Vec<String> {
    let mut lines: Vec<String> = control
        .conditions_of(world)
        .into_iter()
        .filter_map(|(_, state)| state.err())
        .map(|why| format!("NOT READY: {why}"))
        .collect();
    if let Some(first) = world.problems.first() {
        let count = world.problems.len();
        lines.push(format!("THE OBJECTS ARE INVALID, the last valid ones are in force: {count} mistake(s), the first: {first}"));
    }
    let policies = world.compiled.engine.policies();
    let above = |policy: &Policy| {
        policy
            .rules
            .iter()
            .any(|rule| rule.above.as_ref().is_some_and(|above| !matches!(above.kind, Kind::Dns(_))))
    };
    let names = |wanted: &dyn Fn(&Policy) -> bool| -> Vec<String> {
        let mut names: Vec<String> = policies
            .iter()
            .filter(|(policy, _)| wanted(policy))
            .map(|(policy, _)| {
                format!("{}/{}", policy.source.namespace, policy.source.name)
                    .trim_start_matches('/')
                    .to_owned()
            })
            .collect();
        names.dedup();
        names
    };
    let inspected = names(&above);
    if !inspected.is_empty() {
        let workers = dataplane["workers"].as_array().into_iter().flatten();
        let reason = DropReason::InspectionUnavailable.name();
        let dropped: u64 = workers.filter_map(|worker| worker["dropped"][reason].as_u64()).sum();
        lines.push(format!(
            "NO L7 INSPECTION YET: flows that HTTP, Kafka or TLS rules would have to judge are dropped as {reason} \
             ({dropped} so far), by {}",
            some_of(&inspected)
        ));
    }
    lines.extend(no_dns_over_tcp(&names(&hears_dns_over_tcp)));
    let hosts = names(&|policy| matches!(policy.subject, Subject::Nodes(_)));
    if !hosts.is_empty() {
        lines.push(format!(
            "NOT YET ENFORCED ON THE LIVE HOST: policies that select nodes, judged offline only: {}",
            some_of(&hosts)
        ));
    }
    for device in dataplane["devices"].as_array().into_iter().flatten() {
        let text = |field: &str| device[field].as_str().unwrap_or_default();
        match text("mode") {
            "generic" => lines.push(format!(
                "{} runs in generic XDP mode (slow): {}",
                text("name"),
                text("mode_reason")
            )),
            "absent" => {
                lines.push(format!("there is no interface {}; it is taken when it appears", text("name")))
            }
            _ => {}
        }
    }
    lines
}

/// The first few of many.
fn some_of(names: &[String]) -> String {
    let more = names.len().saturating_sub(5);
    let first = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// Services with what probes say of their backends, as the dataplane knows it.
pub async fn services(control: &Control) -> Value {
    let mut shown = control.world().compiled.show_services();
    let lines = shown.as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    if lines.iter().all(|line| line["health"].is_null()) {
        return shown;
    }
    let health = dataplane(control).await["health"].take();
    let targets = health["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let fails: BTreeMap<(u64, &str, u64), &Value> = targets
        .iter()
        .filter(|target| target["healthy"] == false)
        .flat_map(|target| {
            let key = (target["ip"].as_str().unwrap_or_default(), target["port"].as_u64().unwrap_or(0));
            let lists = target["services"].as_array().map(Vec::as_slice).unwrap_or_default();
            lists.iter().map(move |list| ((list.as_u64().unwrap_or(0), key.0, key.1), &target["why"]))
        })
        .collect();
    for line in lines.iter_mut().filter(|line| !line["health"].is_null()) {
        let list = line["health"]["list"].take().as_u64().unwrap_or(0);
        let fallen = health["fallen_back"].as_array().is_some_and(|all| all.contains(&json!(list)));
        // Nobody answers: all are used, and it is said that none is known to live.
        line["health"] = json!({"probe": line["health"]["probe"], "fallen_back": fallen});
        let mut active = 0;
        let backends = line["backends"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
        for backend in backends.iter_mut() {
            let ip = backend["ip"].as_str().unwrap_or_default().to_owned();
            let port = backend["port"].as_u64().unwrap_or(0);
            let why = fails.get(&(list, ip.as_str(), port)).or_else(|| fails.get(&(list, ip.as_str(), 0)));
            if let Some(why) = why {
                backend["fails"] = (*why).clone();
                if !fallen && backend["state"] == "active" {
                    backend["state"] = json!("quarantined");
                }
            }
            active += usize::from(backend["state"] == "active");
        }
        let summary = format!("{active}/{}{}", backends.len(), if fallen { " (none answers)" } else { "" });
        line["backend_summary"] = json!(summary);
    }
    shown
}

/// At most `limit` flows that the filter means; with one, the first [`LOOKED_AT`] are looked at.
pub async fn flows(control: &Control, filter: &Filter, limit: usize) -> Result<Value, String> {
    let all = filter.ips.is_empty() && filter.ports.is_empty() && filter.protocols.is_empty();
    let asked = if all { u32::try_from(limit).unwrap_or(LOOKED_AT) } else { LOOKED_AT };
    match control.link.ask(Question::Flows { limit: asked }).await? {
        Answer::Flows(flows) => {
            Ok(flows.iter().filter(|one| is_meant(one, filter)).take(limit).map(flow).collect())
        }
        Answer::Failed(why) => Err(why),
        Answer::Status(_) | Answer::Names(_) | Answer::Done => {
            Err("the dataplane answered something else".to_owned())
        }
    }
}

/// As many flows as the dataplane tells of at once.
const LOOKED_AT: u32 = 100_000;

/// Either side, as it came or as it was translated.
fn is_meant(record: &FlowRecord, filter: &Filter) -> bool {
    let keys = [&record.original, &record.translated];
    let has = |list: &[Prefix], ip: IpAddr| list.iter().any(|prefix| holds_ip(prefix, ip));
    let of = |key: &FlowKey| has(&filter.ips, key.source()) || has(&filter.ips, key.destination());
    let on = |key: &FlowKey| filter.ports.contains(&key.sport) || filter.ports.contains(&key.dport);
    (filter.ips.is_empty() || keys.into_iter().any(of))
        && (filter.ports.is_empty() || keys.into_iter().any(on))
        && (filter.protocols.is_empty() || filter.protocols.contains(&record.original.proto))
}

fn flow(record: &FlowRecord) -> Value {
    let address = |key: &FlowKey, source: bool| {
        let (ip, port) = if source { (key.source(), key.sport) } else { (key.destination(), key.dport) };
        std::net::SocketAddr::new(ip, port).to_string()
    };
    let state = match record.original.proto {
        6 => format!("{:?}", TcpState::from_number(record.tcp)),
        _ if record.flags & sluice_core::state::flow::REPLIED != 0 => "Replied".to_owned(),
        _ => "New".to_owned(),
    };
    json!({
        "proto": protocol(record.original.proto),
        "source": address(&record.original, true),
        "destination": address(&record.original, false),
        "translated_source": address(&record.translated, true),
        "translated_destination": address(&record.translated, false),
        "state": state,
        "packets": record.packets,
        "bytes": record.bytes,
        "idle_seconds": record.idle_seconds,
        "age_seconds": record.age_seconds,
    })
}

/// `2026-11-24T12:30:01.250Z`, by the calendar's own arithmetic.
pub fn time(milliseconds: u64) -> String {
    let (seconds, milli) = (milliseconds / 1000, milliseconds % 1000);
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    // Days since the first of March of the year 0, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + next;
    format!(
        "{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}.{milli:03}Z",
        clock / 3600,
        clock / 60 % 60,
        clock % 60
    )
}

/// The addresses that sources are translated to, whoever says so: settings, the node where they say nothing, and egress policies.
pub fn nat(control: &Control) -> Value {
    let world = control.world();
    let settings = world.compiled.frontends.settings(&world.compiled.objects, &world.compiled.options);
    let records = world.compiled.records.values();
    let ways =
        records.filter_map(|change| if let Change::Egress(_, ways) = change { ways.as_ref() } else { None });
    let given =
        ways.flatten().filter_map(|(_, leave)| if let Leave::With(ip) = leave { Some(*ip) } else { None });
    let own = settings.snat_addresses.iter().chain(&settings.masquerade.addresses).copied();
    let addresses: BTreeSet<IpAddr> = own.chain(given).collect();
    let (first, last) = settings.snat_ports;
    addresses.iter().map(|ip| json!({"address": ip, "first_port": first, "last_port": last})).collect()
}

/// Names in the dataplane that can be listed.
const NAMES: u32 = 10_000;

/// Names that were learned.
pub async fn names(control: &Control) -> Result<Value, String> {
    match control.link.ask(Question::Names { limit: NAMES }).await? {
        Answer::Names(names) => serde_json::from_str(&names).map_err(|error| error.to_string()),
        Answer::Failed(why) => Err(why),
        Answer::Status(_) | Answer::Flows(_) | Answer::Done => {
            Err("the dataplane answered something else".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_that_sources_get_is_listed() {
        let lab = crate::reconcile::tests::Lab::new("nat");
        let objects = "apiVersion: v1\nkind: Node\nmetadata: {name: gateway, labels: {role: edge}}\n\
                       status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n---\n\
                       apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop, labels: {app: a}}\nstatus: {podIPs: [{ip: 10.0.0.1}]}\n---\n\
                       apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {name: e}\nspec:\n  selectors: [{podSelector: {}}]\n  \
                       destinationCIDRs: [198.51.100.0/24]\n  egressGateway: {nodeSelector: {matchLabels: {role: edge}}, egressIP: 192.0.2.9}\n---\n\
                       apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop, annotations: {service.cilium.io/forwarding-mode: snat}}\n\
                       spec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80}]}\n";
        lab.write("all.yaml", objects);
        lab.control.take(crate::source::files::News::Everything);
        let told = nat(&lab.control);
        let addresses: Vec<&str> =
            told.as_array().unwrap().iter().filter_map(|row| row["address"].as_str()).collect();
        assert_eq!(addresses, ["192.0.2.1", "192.0.2.9"]);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_795_523_401_250), "2026-11-24T12:30:01.250Z");
    }
}
