//! The service as its clients see it: over a socket, by a client of its own.

use std::path::PathBuf;
use std::time::Duration;

use sluice_core::event::{EventKind, FlowEvent};
use sluice_core::flow_key::FlowKey;
use sluice_core::tables::record::RuleId;
use sluice_core::time::Now;
use sluice_core::verdict::DropReason;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use pb::observer_client::ObserverClient;
use proto::flow::{EventTypeFilter, FlowFilter, TcpFlags, TrafficDirection, Verdict};

const OBJECTS: &str = r#"
apiVersion: sluice.dev/v1
kind: Endpoint
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {addresses: [10.244.0.11, "2001:db8:2::11"]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: ClusterIP, clusterIP: 10.96.0.80, selector: {app: web}, ports: [{port: 80, targetPort: 8080, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.11], conditions: {ready: true}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  log: {value: by the shop}
  ingress:
    - fromCIDR: [198.51.100.0/24]
    - {fromCIDR: [198.51.100.0/24], toPorts: [{ports: [{port: "53", protocol: UDP}]}, {ports: [{port: "8080", protocol: TCP}]}]}
    - toPorts: [{ports: [{port: "8000", endPort: 8090, protocol: TCP}]}]
    - fromEntities: [all]
    - {fromEntities: [world], toPorts: [{ports: [{port: "0", protocol: TCP}]}]}
    - toPorts: [{ports: [{port: "0", protocol: TCP}]}]
"#;

/// A control process without a dataplane, and a client of it.
struct Lab {
    control: Arc<Control>,
    client: ObserverClient<Channel>,
    channel: Channel,
    folder: PathBuf,
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

impl Lab {
    async fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sluice-hubble-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("hubble.sock");
        std::fs::write(folder.join("objects.yaml"), OBJECTS).unwrap();
        let text = format!(
            "apiVersion: sluice.dev/v1\nkind: Gateway\nmetadata: {{name: edge-1}}\n\
             spec: {{objects: {{files: [objects.yaml]}}, api: {{hubble: \"{}\"}}}}\n",
            socket.display()
        );
        std::fs::write(folder.join("gateway.yaml"), text).unwrap();
        let (gateway, problems) = sluice_policy::config::load(&folder.join("gateway.yaml"));
        let control = Arc::new(Control::new(gateway.unwrap_or_else(|| panic!("{problems}"))));
        control.take(crate::source::files::News::Everything);
        assert!(control.world().loaded, "{:?}", control.world().problems);
        let listen = control.gateway.hubble.clone().unwrap();
        serve(Arc::clone(&control), &listen).await.unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self { control, client: ObserverClient::new(channel.clone()), channel, folder }
    }

    /// The identity of the endpoint.
    fn web(&self) -> u32 {
        let shown = self.control.world().compiled.show_endpoints();
        u32::try_from(shown[0]["identity"].as_u64().unwrap()).unwrap()
    }

    fn hear(&self, events: &[FlowEvent]) {
        self.lose(events, 0);
    }

    /// `lost` is what was lost so far.
    fn lose(&self, events: &[FlowEvent], lost: u64) {
        self.control.hear(events.iter().map(|event| (*event).into()).collect(), lost);
    }

    async fn flows(&self, asked: pb::GetFlowsRequest) -> Result<Streaming<pb::GetFlowsResponse>, Status> {
        self.client.clone().get_flows(asked).await.map(Response::into_inner)
    }

    /// Destination ports (source ports of nothing else in these tests) of the flows that are told until the end.
    async fn ports(&self, asked: pb::GetFlowsRequest) -> Vec<u64> {
        let told: Vec<_> = self.flows(asked).await.unwrap().map(|told| json(&told.unwrap())).collect().await;
        told.iter().map(port).collect()
    }

    async fn refused(&self, asked: pb::GetFlowsRequest) -> Status {
        match self.flows(asked).await {
            Err(status) => status,
            Ok(mut told) => told.next().await.expect("neither refused nor told").expect_err("not refused"),
        }
    }
}

fn json(told: &pb::GetFlowsResponse) -> serde_json::Value {
    wire::to_json(told).unwrap()
}

/// The source port, by which these tests tell flows apart; of ICMP its type.
fn port(told: &serde_json::Value) -> u64 {
    let l4 = told["flow"]["l4"].as_object().and_then(|l4| l4.values().next());
    l4.and_then(|l4| l4["source_port"].as_u64().or_else(|| l4["type"].as_u64())).unwrap_or(0)
}

fn event(sport: u16, kind: EventKind) -> FlowEvent {
    let key = FlowKey {
        src: "::ffff:198.51.100.7".parse().unwrap(),
        dst: "::ffff:10.96.0.80".parse().unwrap(),
        sport,
        dport: 80,
        proto: 6,
        v4: true,
    };
    FlowEvent {
        tcp_flags: 2,
        source: 9,
        destination: 300,
        ..FlowEvent::of(
            Now(0),
            kind,
            key,
            FlowKey { dst: "::ffff:10.244.0.11".parse().unwrap(), dport: 8080, ..key },
        )
    }
}

fn all() -> pb::GetFlowsRequest {
    pb::GetFlowsRequest::default()
}

fn following() -> pb::GetFlowsRequest {
    pb::GetFlowsRequest { follow: true, ..all() }
}

fn only(filter: FlowFilter) -> pb::GetFlowsRequest {
    pb::GetFlowsRequest { whitelist: vec![filter], ..all() }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn trap_18_health_is_told_under_three_names() {
    let lab = Lab::new("health").await;
    let mut health = HealthClient::new(lab.channel.clone());
    for name in ["", "observer.Observer", "hubble.server.Observer"] {
        let asked = || HealthCheckRequest { service: name.to_owned() };
        let told = health.check(asked()).await.unwrap();
        assert_eq!(told.get_ref().status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
        let mut watch = health.watch(asked()).await.unwrap().into_inner();
        assert_eq!(watch.next().await.unwrap().unwrap().status, told.get_ref().status, "{name}");
    }
    let unknown = health.check(HealthCheckRequest { service: "peer.Peer".to_owned() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn trap_18_every_answer_names_the_version() {
    let mut lab = Lab::new("version").await;
    let health = HealthClient::new(lab.channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    let status = lab.client.server_status(pb::ServerStatusRequest {}).await.unwrap();
    let flows = lab.client.get_flows(all()).await.unwrap();
    let refused = lab.client.get_flows(pb::GetFlowsRequest { first: true, ..following() }).await.unwrap_err();
    for headers in [health.metadata(), status.metadata(), flows.metadata(), refused.metadata()] {
        assert_eq!(headers.get("hubble-server-version").unwrap(), env!("CARGO_PKG_VERSION"));
    }
}

#[tokio::test]
async fn trap_18_lost_events_are_told_whatever_is_filtered() {
    let lab = Lab::new("lost").await;
    let nothing = pb::GetFlowsRequest {
        whitelist: vec![FlowFilter { verdict: vec![Verdict::Audit.into()], ..FlowFilter::default() }],
        blacklist: vec![FlowFilter::default()],
        since: Some(prost_types::Timestamp { seconds: 10_000_000_000, nanos: 0 }),
        field_mask: Some(prost_types::FieldMask { paths: texts(&["verdict"]) }),
        number: 1,
        ..all()
    };
    let mut follow = lab.flows(pb::GetFlowsRequest { follow: true, ..nothing.clone() }).await.unwrap();
    // What was lost before this process was there is not told.
    lab.lose(&[], 1_000_000);
    lab.lose(&[event(1, EventKind::New)], 1_000_007);
    let past = lab.flows(nothing).await.unwrap().map(|told| json(&told.unwrap())).collect::<Vec<_>>().await;
    let come = json(&follow.next().await.unwrap().unwrap());
    assert_eq!(past.len(), 1, "{past:?}");
    for told in [&past[0], &come] {
        assert_eq!(told["lost_events"]["num_events_lost"], "7");
        assert_eq!(told["lost_events"]["source"], "OBSERVER_EVENTS_QUEUE");
        assert_eq!(told["node_name"], "default/edge-1");
        assert!(told["time"].is_string(), "{told}");
    }
}

#[tokio::test]
async fn trap_18_a_slow_reader_is_told_what_it_missed_and_holds_up_nobody() {
    let lab = Lab::new("slow").await;
    let mut follow = lab.flows(following()).await.unwrap();
    let total = 40 * KEPT;
    for first in (0..total).step_by(500) {
        let burst: Vec<_> = (first..total.min(first + 500)).map(|_| event(1, EventKind::New)).collect();
        lab.hear(&burst);
        tokio::task::yield_now().await;
    }
    let (mut flows, mut missed) = (0, 0);
    while flows + missed < total {
        let told = tokio::time::timeout(Duration::from_secs(20), follow.next()).await;
        let told = json(&told.expect("something is missing").unwrap().unwrap());
        match told.get("lost_events") {
            None => flows += 1,
            Some(lost) => {
                assert_eq!(lost["source"], "HUBBLE_RING_BUFFER");
                missed += lost["num_events_lost"].as_str().unwrap().parse::<usize>().unwrap();
            }
        }
    }
    assert_eq!(flows + missed, total);
    assert!(missed > 0, "this reader was not slow");
}

#[tokio::test]
async fn filters_choose_as_hubbles_do() {
    let lab = Lab::new("filters").await;
    let new = FlowEvent { destination: lab.web(), ..event(1, EventKind::New) };
    let denied = FlowEvent {
        tcp_flags: 18,
        destination: lab.web(),
        ..event(2, EventKind::Drop(DropReason::PolicyDenied))
    };
    let key = FlowKey {
        proto: 17,
        dport: 53,
        dst: "::ffff:198.51.100.1".parse().unwrap(),
        ..event(3, EventKind::New).key
    };
    let dns = FlowEvent { key, translated: key, destination: 2, ..event(3, EventKind::New) };
    let reply =
        FlowEvent { is_reply: true, key: new.translated.reverse(), translated: new.key.reverse(), ..new };
    let reply = FlowEvent { source: new.destination, destination: new.source, ..reply };
    lab.hear(&[new, denied, dns, reply]);
    let filter = FlowFilter::default;
    for (chosen, filter) in [
        (vec![1, 2, 3, 8080], filter()),
        (vec![1, 3, 8080], FlowFilter { verdict: vec![Verdict::Forwarded.into()], ..filter() }),
        (vec![2], FlowFilter { drop_reason_desc: vec![133], ..filter() }),
        (vec![1, 2, 3], FlowFilter { source_ip: texts(&["198.51.100.0/24"]), ..filter() }),
        (vec![3], FlowFilter { destination_ip: texts(&["198.51.100.1"]), ..filter() }),
        (vec![1, 2], FlowFilter { destination_pod: texts(&["shop/web"]), ..filter() }),
        (vec![8080], FlowFilter { source_pod: texts(&["/"]), ..filter() }),
        (vec![1, 2], FlowFilter { destination_label: texts(&["k8s:app in (web, api)"]), ..filter() }),
        (vec![1, 2], FlowFilter { destination_service: texts(&["shop/web"]), ..filter() }),
        (vec![3], FlowFilter { destination_port: texts(&["53"]), ..filter() }),
        (vec![3], FlowFilter { protocol: texts(&["udp"]), ..filter() }),
        (vec![3], FlowFilter { destination_identity: vec![2], ..filter() }),
        (vec![8080], FlowFilter { reply: vec![true], ..filter() }),
        (
            vec![2],
            FlowFilter {
                tcp_flags: vec![TcpFlags { syn: true, ack: true, ..TcpFlags::default() }],
                ..filter()
            },
        ),
        (
            vec![2],
            FlowFilter {
                event_type: vec![EventTypeFilter { r#type: 1, ..EventTypeFilter::default() }],
                ..filter()
            },
        ),
        (
            vec![1, 2, 8080],
            FlowFilter { traffic_direction: vec![TrafficDirection::Ingress.into()], ..filter() },
        ),
        (
            vec![1, 2, 3, 8080],
            FlowFilter { node_name: texts(&["default/edge-*"]), encrypted: vec![false], ..filter() },
        ),
        (vec![1], FlowFilter { destination_pod: texts(&["shop/"]), verdict: vec![1], ..filter() }),
    ] {
        assert_eq!(lab.ports(only(filter.clone())).await, chosen, "{filter:?}");
        let denied = pb::GetFlowsRequest { blacklist: vec![filter.clone()], ..all() };
        let rest: Vec<u64> = [1, 2, 3, 8080].into_iter().filter(|port| !chosen.contains(port)).collect();
        assert_eq!(lab.ports(denied).await, rest, "not {filter:?}");
    }
    let two =
        [FlowFilter { protocol: texts(&["udp"]), ..filter() }, FlowFilter { reply: vec![true], ..filter() }];
    assert_eq!(lab.ports(pb::GetFlowsRequest { whitelist: two.to_vec(), ..all() }).await, [3, 8080]);
}

#[tokio::test]
async fn what_cannot_be_evaluated_is_refused_by_name() {
    let lab = Lab::new("refused").await;
    let filter = FlowFilter::default;
    let text = || texts(&["x"]);
    let cel = proto::flow::flow_filter::Experimental { cel_expression: text() };
    for (field, filter) in [
        ("uuid", FlowFilter { uuid: text(), ..filter() }),
        ("source_fqdn", FlowFilter { source_fqdn: text(), ..filter() }),
        ("dns_query", FlowFilter { dns_query: text(), ..filter() }),
        ("http_path", FlowFilter { http_path: text(), ..filter() }),
        ("http_status_code", FlowFilter { http_status_code: text(), ..filter() }),
        ("trace_id", FlowFilter { trace_id: text(), ..filter() }),
        ("ip_trace_id", FlowFilter { ip_trace_id: vec![1], ..filter() }),
        ("node_labels", FlowFilter { node_labels: text(), ..filter() }),
        (
            "source_workload",
            FlowFilter { source_workload: vec![proto::flow::Workload::default()], ..filter() },
        ),
        ("interface", FlowFilter { interface: vec![proto::flow::NetworkInterface::default()], ..filter() }),
        ("experimental", FlowFilter { experimental: Some(cel), ..filter() }),
        ("source_ip", FlowFilter { source_ip: text(), ..filter() }),
        ("verdict", FlowFilter { verdict: vec![99], ..filter() }),
        ("protocol", FlowFilter { protocol: texts(&["http"]), ..filter() }),
    ] {
        let allowed = lab.refused(only(filter.clone())).await;
        let denied = lab.refused(pb::GetFlowsRequest { blacklist: vec![filter], ..all() }).await;
        assert_eq!((allowed.code(), denied.code()), (Code::InvalidArgument, Code::InvalidArgument));
        assert!(allowed.message().starts_with(&format!("whitelist[0].{field}: ")), "{allowed}");
        assert!(denied.message().starts_with(&format!("blacklist[0].{field}: ")), "{denied}");
    }
    let year_10000 = Some(prost_types::Timestamp { seconds: 253_402_300_800, nanos: 0 });
    let path = |path: &str| Some(prost_types::FieldMask { paths: texts(&[path]) });
    for (what, asked) in [
        ("first", pb::GetFlowsRequest { first: true, ..following() }),
        ("since", pb::GetFlowsRequest { since: year_10000, ..all() }),
        ("extensions", pb::GetFlowsRequest { extensions: Some(prost_types::Any::default()), ..all() }),
        ("field_mask", pb::GetFlowsRequest { field_mask: path("source.shoe_size"), ..all() }),
        ("field_mask", pb::GetFlowsRequest { field_mask: path("time.seconds"), ..all() }),
        ("field_mask", pb::GetFlowsRequest { field_mask: path("egress_allowed_by.name"), ..all() }),
    ] {
        let refused = lab.refused(asked).await;
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(what), "{refused}");
    }
}

/// A request of tomorrow: to leave out the filter that we do not know would be to tell too much.
#[tokio::test]
async fn filters_that_have_no_name_here_are_refused() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Filter {
        #[prost(string, repeated, tag = "4711")]
        planet: Vec<String>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Asked {
        #[prost(message, repeated, tag = "6")]
        whitelist: Vec<Filter>,
    }
    let lab = Lab::new("tomorrow").await;
    lab.hear(&[event(1, EventKind::New)]);
    let mut raw = tonic::client::Grpc::new(lab.channel.clone());
    raw.ready().await.unwrap();
    let asked = Asked { whitelist: vec![Filter { planet: texts(&["Mars"]) }] };
    let codec = tonic_prost::ProstCodec::<Asked, pb::GetFlowsResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/observer.Observer/GetFlows");
    let refused = raw.server_streaming(Request::new(asked), path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "there is no field 4711 of flow.FlowFilter here");
}

/// Requests of which bytes were changed, left out or doubled are understood or refused, and nothing else.
#[test]
fn hostile_requests_are_refused_or_understood() {
    use prost::Message;
    let filter = FlowFilter {
        source_ip: texts(&["198.51.100.0/24", "2001:db8::1"]),
        destination_label: texts(&["app in (web, api),!x", "reserved:world"]),
        destination_pod: texts(&["shop/w"]),
        node_name: texts(&["*/edge-*"]),
        verdict: vec![1, 2],
        drop_reason_desc: vec![133],
        event_type: vec![EventTypeFilter { r#type: 1, match_sub_type: true, sub_type: 133 }],
        tcp_flags: vec![TcpFlags { syn: true, ..TcpFlags::default() }],
        destination_port: texts(&["80"]),
        reply: vec![false],
        ..FlowFilter::default()
    };
    let time = Some(prost_types::Timestamp { seconds: 1_790_000_000, nanos: 5 });
    let asked = pb::GetFlowsRequest {
        number: 20,
        since: time,
        until: time,
        blacklist: vec![filter.clone()],
        whitelist: vec![filter],
        field_mask: Some(prost_types::FieldMask { paths: texts(&["l4.TCP.flags.SYN", "source.labels"]) }),
        ..all()
    };
    let good = asked.encode_to_vec();
    let flow = serde_json::json!({
        "IP": {"source": "198.51.100.7", "destination": "10.244.0.11"}, "source": {"labels": ["reserved:world"]},
        "l4": {"TCP": {"source_port": 1, "flags": {"SYN": true}}}, "verdict": "DROPPED", "node_name": "default/edge-1",
    });
    let mut seed = 0x5eed_u64;
    let mut draw = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below.max(1) as u64).unwrap()
    };
    let (mut understood, mut refused) = (0, 0);
    for _ in 0..30_000 {
        let mut bytes = good.clone();
        for _ in 0..=draw(3) {
            let at = draw(bytes.len());
            match draw(4) {
                0 => bytes.truncate(at),
                1 => drop(bytes.splice(at..at, good[..draw(good.len())].iter().copied())),
                2 => drop(bytes.drain(at..(at + draw(8)).min(bytes.len()))),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << draw(8)),
            }
        }
        let read = wire::read::<pb::GetFlowsRequest>(bytes.into()).and_then(|asked| asked::flows(&asked));
        match read {
            Ok((wanted, mask)) => {
                let _ = (wanted.filters.fits(&flow), mask.only(flow.clone()));
                understood += 1;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{status}");
                refused += 1;
            }
        }
    }
    assert!(understood > 300 && refused > 300, "{understood} understood, {refused} refused");
}

#[tokio::test]
async fn numbers_and_times_choose_as_hubbles_do() {
    let lab = Lab::new("spans").await;
    for sport in 1..=6 {
        lab.hear(&[event(sport, EventKind::New), event(100 + sport, EventKind::Drop(DropReason::NoRoute))]);
        // Hubble has no event for the end of a flow.
        lab.hear(&[event(1000, EventKind::End)]);
        std::thread::sleep(Duration::from_millis(3));
    }
    let ours = FlowFilter { verdict: vec![Verdict::Forwarded.into()], ..FlowFilter::default() };
    let told: Vec<_> = lab.flows(only(ours.clone())).await.unwrap().map(Result::unwrap).collect().await;
    let time = |sport: usize| told[sport - 1].time;
    let asked = || only(ours.clone());
    for (chosen, asked) in [
        (1..=6, asked()),
        (5..=6, pb::GetFlowsRequest { number: 2, ..asked() }),
        (1..=6, pb::GetFlowsRequest { number: 60, ..asked() }),
        (1..=2, pb::GetFlowsRequest { number: 2, first: true, ..asked() }),
        (1..=6, pb::GetFlowsRequest { first: true, ..asked() }),
        (3..=6, pb::GetFlowsRequest { since: time(3), ..asked() }),
        (1..=4, pb::GetFlowsRequest { until: time(4), ..asked() }),
        (3..=4, pb::GetFlowsRequest { since: time(3), until: time(4), ..asked() }),
        (4..=5, pb::GetFlowsRequest { until: time(5), number: 2, ..asked() }),
        // Where a time says where to begin, numbers count from there.
        (3..=4, pb::GetFlowsRequest { since: time(3), number: 2, ..asked() }),
        (3..=4, pb::GetFlowsRequest { since: time(3), number: 2, first: true, ..asked() }),
    ] {
        assert_eq!(lab.ports(asked.clone()).await, chosen.collect::<Vec<u64>>(), "{asked:?}");
    }
}

#[tokio::test]
async fn whoever_follows_hears_what_comes_and_as_much_of_the_past_as_was_asked_for() {
    let lab = Lab::new("follow").await;
    let old: Vec<_> = (1..=3).map(|sport| event(sport, EventKind::New)).collect();
    lab.hear(&old);
    let epoch = Some(prost_types::Timestamp::default());
    for (chosen, asked) in [
        (vec![4], following()),
        (vec![2, 3, 4], pb::GetFlowsRequest { number: 2, ..following() }),
        (vec![1, 2, 3, 4], pb::GetFlowsRequest { since: epoch, number: 1, ..following() }),
    ] {
        let mut follow = lab.flows(asked).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        lab.hear(&[event(4, EventKind::New)]);
        for sport in &chosen {
            let told = tokio::time::timeout(Duration::from_secs(5), follow.next()).await;
            assert_eq!(port(&json(&told.expect("nothing came").unwrap().unwrap())), *sport, "{chosen:?}");
        }
        // It is the past of the next round.
        lab.control.history.forget(1);
    }
}

#[tokio::test]
async fn masks_let_through_what_they_name() {
    let lab = Lab::new("mask").await;
    let identity = lab.web();
    lab.hear(&[FlowEvent { destination: identity, ..event(1, EventKind::Drop(DropReason::PolicyDenied)) }]);
    let paths =
        ["verdict", "source.identity", "l4.TCP.destination_port", "destination", "destination.labels", "l7"];
    let mask = || Some(prost_types::FieldMask { paths: texts(&paths) });
    let older = pb::get_flows_request::Experimental { field_mask: mask() };
    for asked in [
        pb::GetFlowsRequest { field_mask: mask(), ..all() },
        pb::GetFlowsRequest { experimental: Some(older), ..all() },
    ] {
        let told = json(&lab.flows(asked).await.unwrap().next().await.unwrap().unwrap());
        let labels = told["flow"]["destination"]["labels"].clone();
        assert!(labels.to_string().contains("k8s:app=web"), "{labels}");
        assert_eq!(
            told["flow"],
            serde_json::json!({
                "verdict": "DROPPED", "source": {"identity": 9}, "l4": {"TCP": {"destination_port": 8080}},
                "destination": {"identity": identity, "namespace": "shop", "pod_name": "web-1", "cluster_name": "default", "labels": labels},
            })
        );
        assert_eq!(told["node_name"], "default/edge-1");
        assert!(told["time"].is_string());
    }
    let empty = pb::GetFlowsRequest { field_mask: Some(prost_types::FieldMask::default()), ..all() };
    let whole = json(&lab.flows(empty).await.unwrap().next().await.unwrap().unwrap());
    assert_eq!(whole["flow"]["drop_reason_desc"], "POLICY_DENIED");
    assert_eq!(whole["flow"]["event_type"], serde_json::json!({"type": 1, "sub_type": 133}));
}

/// What the Unix socket says in Hubble's form is protobuf's JSON to the letter, for whatever may happen.
#[tokio::test]
async fn every_event_is_the_same_in_json_and_in_protobuf() {
    let lab = Lab::new("same").await;
    let teller = teller(&lab.control);
    let mut events: Vec<FlowEvent> =
        DropReason::ALL.iter().map(|reason| event(1, EventKind::Drop(*reason))).collect();
    for proto in [1, 6, 17, 47, 58, 132] {
        for (kind, is_reply) in [(EventKind::New, false), (EventKind::Update, true)] {
            let key = FlowKey { proto, ..event(1, kind).key };
            let backend = FlowKey { proto, ..event(1, kind).translated };
            let audit = proto == 17;
            events.push(FlowEvent {
                key,
                translated: backend,
                is_reply,
                icmp_type: 8,
                audit,
                ..event(1, kind)
            });
            events.push(FlowEvent { key, translated: key, tcp_flags: 0xff, ..event(1, kind) });
        }
    }
    let world = lab.control.world();
    for event in events {
        let time = "2026-11-24T12:30:01.250Z";
        let said = hubble::line(hubble::flow(&event, time, &teller, &world.compiled), time, &teller);
        let message: pb::GetFlowsResponse = wire::from_json(&said).unwrap();
        assert_eq!(json(&message), without_nothing(said), "{event:?}");
    }
}

/// Protobuf's JSON has no empty lists and no zeros.
fn without_nothing(mut value: serde_json::Value) -> serde_json::Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| *value != serde_json::json!([]) && *value != serde_json::json!(0));
        for field in fields.values_mut() {
            *field = without_nothing(field.take());
        }
    }
    value
}

/// `hubble observe` shows by what a policy's rule matched: `policy-verdict:L3-L4`.
#[tokio::test]
async fn verdicts_of_policies_say_by_what_they_fit_and_what_their_author_adds() {
    use sluice_policy::observed::Naming;
    let lab = Lab::new("matched").await;
    let mut told = std::collections::BTreeMap::new();
    for id in (1..100).map(RuleId) {
        let rule = Naming::rule(&lab.control.world().compiled, id);
        let Some(index) = rule.and_then(|rule| rule["index"].as_u64()) else { continue };
        lab.hear(&[FlowEvent { ingress_rule: id, ..event(1, EventKind::New) }]);
        let asked = pb::GetFlowsRequest { number: 1, ..all() };
        let flow = json(&lab.flows(asked).await.unwrap().next().await.unwrap().unwrap())["flow"].take();
        assert_eq!(flow["event_type"], serde_json::json!({"type": 5}));
        assert_eq!(flow["policy_log"], serde_json::json!(["by the shop"]));
        told.insert(index, flow["policy_match_type"].as_u64().unwrap());
    }
    // L3, L3-L4, L4, all, L3-proto, proto.
    assert_eq!(told.into_values().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn status_nodes_and_namespaces_are_told() {
    let mut lab = Lab::new("status").await;
    lab.hear(&[event(1, EventKind::New), event(2, EventKind::New), event(2, EventKind::End)]);
    let status = lab.client.server_status(pb::ServerStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.num_flows, status.max_flows, status.seen_flows), (2, 4095, 2));
    assert!(status.uptime_ns > 0 && (status.flows_rate - 2.0 / 60.0).abs() < 1e-9, "{status:?}");
    assert_eq!(status.version, format!("sluice v{}", env!("CARGO_PKG_VERSION")));
    // There is no dataplane in this test, and so no node that flows could come from.
    assert_eq!((status.num_connected_nodes, status.num_unavailable_nodes), (Some(0), Some(1)));
    assert_eq!(status.unavailable_nodes, ["default/edge-1"]);
    let nodes = lab.client.get_nodes(pb::GetNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(nodes.len(), 1);
    assert_eq!((nodes[0].name.as_str(), nodes[0].state()), ("default/edge-1", NodeState::NodeUnavailable));
    assert!(nodes[0].address.ends_with("hubble.sock"), "{}", nodes[0].address);
    let told = lab.client.get_namespaces(pb::GetNamespacesRequest {}).await.unwrap().into_inner();
    let shop = pb::Namespace { cluster: "default".to_owned(), namespace: "shop".to_owned() };
    assert_eq!(told.namespaces, [shop]);
}

#[tokio::test]
async fn there_are_no_events_of_an_agent_and_none_for_debugging() {
    let mut lab = Lab::new("agent").await;
    lab.hear(&[event(1, EventKind::New)]);
    let mut agent =
        lab.client.get_agent_events(pb::GetAgentEventsRequest::default()).await.unwrap().into_inner();
    assert!(agent.next().await.is_none());
    let mut debug =
        lab.client.get_debug_events(pb::GetDebugEventsRequest::default()).await.unwrap().into_inner();
    assert!(debug.next().await.is_none());
    let follow = pb::GetAgentEventsRequest { follow: true, ..Default::default() };
    let mut agent = lab.client.get_agent_events(follow).await.unwrap().into_inner();
    assert!(tokio::time::timeout(Duration::from_millis(50), agent.next()).await.is_err(), "it ended");
    let wrong = lab.client.get_agent_events(pb::GetAgentEventsRequest { first: true, ..follow }).await;
    assert_eq!(wrong.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn so_many_streams_and_no_more() {
    let lab = Lab::new("streams").await;
    // One client may not ask for all of them and for something else besides.
    let other =
        Endpoint::from_shared(format!("unix://{}", lab.folder.join("hubble.sock").display())).unwrap();
    let mut other = ObserverClient::new(other.connect().await.unwrap());
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(lab.flows(following()).await.unwrap());
    }
    assert_eq!(other.get_flows(all()).await.unwrap_err().code(), Code::ResourceExhausted);
    other.server_status(pb::ServerStatusRequest {}).await.unwrap();
    streams.pop();
    // The server has to hear of it.
    for _ in 0..100 {
        if other.get_flows(all()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place of a stream that ended is not free again");
}

#[tokio::test]
async fn an_address_that_is_taken_names_its_key() {
    let lab = Lab::new("taken").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = serve(Arc::clone(&lab.control), &Listen::Tcp(address.clone())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {address} (api.hubble: another address, or off)")
    );
    let socket = Listen::Unix(lab.folder.join("hubble.sock"));
    let error = format!("{:#}", serve(Arc::clone(&lab.control), &socket).await.unwrap_err());
    assert!(error.starts_with("api.hubble: cannot listen on "), "{error}");
}
