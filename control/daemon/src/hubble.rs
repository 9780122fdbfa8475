//! Hubble's gRPC service, for the `hubble` command and whoever else speaks to Cilium's observer: the same flows and
//! filters as on the Unix socket, in protobuf.
//!
//! Whatever a request says that we do not know or cannot evaluate is refused: nobody gets more than was asked for.

mod asked;
mod connections;
mod namespaces;
#[cfg(test)]
mod tests;
pub mod wire;

use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::serve::ListenerExt;
use sluice_policy::config::Listen;
use sluice_policy::hubble;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::http;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;
use tower::util::MapResponseLayer;

use crate::api;
use crate::history::KEPT;
use crate::reconcile::Control;
use crate::telling::{Told, tell, teller};
use proto::observer as pb;
use proto::observer::observer_server::{Observer, ObserverServer};
use proto::relay::NodeState;

pub use namespaces::Namespaces;

/// Made from `proto/`; see `build.rs`.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unused_qualifications,
    reason = "others write this"
)]
mod proto {
    pub mod flow {
        tonic::include_proto!("flow");
    }
    pub mod observer {
        tonic::include_proto!("observer");
    }
    pub mod relay {
        tonic::include_proto!("relay");
    }
}

/// Streams that are told at a time, of all clients together.
const STREAMS: usize = 64;
/// Clients at a time; more wait until one goes.
const CLIENTS: usize = 64;
/// What one client may ask at a time.
const CALLS: u32 = 64;
/// Filters and masks of people and programs are a few hundred bytes.
const REQUEST_BYTES: usize = 64 << 10;
/// Clients that do not answer for so long are gone.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The names under which clients ask whether we are well: the command's own, that of the service, and all of us.
const HEALTHY: [&str; 3] = ["hubble.server.Observer", "observer.Observer", ""];
/// By this clients learn the server's version.
const VERSION_HEADER: &str = "hubble-server-version";
const VERSION: &str = env!("CARGO_PKG_VERSION");

struct Service {
    control: Arc<Control>,
    /// Where we are to be found.
    address: String,
    streams: Arc<Semaphore>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    fn place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Status> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{STREAMS} streams are told already: try again later"))
        })
    }

    /// We have no events of an agent, and none for debugging: whoever follows them hears nothing.
    fn nothing<T: Send + 'static>(&self, first: bool, follow: bool) -> Result<Answers<T>, Status> {
        asked::first_or_follow(first, follow)?;
        if !follow {
            return Ok(Box::pin(tokio_stream::empty()));
        }
        let place = self.place()?;
        Ok(Box::pin(tokio_stream::pending().map(move |nothing| {
            let _held = &place;
            nothing
        })))
    }
}

#[tonic::async_trait]
impl Observer for Service {
    type GetFlowsStream = Answers<pb::GetFlowsResponse>;
    type GetAgentEventsStream = Answers<pb::GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<pb::GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<pb::GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let (wanted, mask) = asked::flows(request.get_ref())?;
        let place = self.place()?;
        let teller = teller(&self.control);
        let told = tell(Arc::clone(&self.control), wanted, move |told| match told {
            Told::Flow { flow, time, .. } => hubble::line(mask.only(flow), time, &teller),
            Told::Lost { count, at, time } => hubble::lost(count, at, time, &teller),
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told).map(move |told| {
            let _held = &place;
            wire::from_json(&told)
        }))))
    }

    async fn get_agent_events(
        &self,
        request: Request<pb::GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let asked = request.get_ref();
        self.nothing(asked.first, asked.follow).map(Response::new)
    }

    async fn get_debug_events(
        &self,
        request: Request<pb::GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        let asked = request.get_ref();
        self.nothing(asked.first, asked.follow).map(Response::new)
    }

    async fn get_nodes(
        &self,
        _: Request<pb::GetNodesRequest>,
    ) -> Result<Response<pb::GetNodesResponse>, Status> {
        let (fill, up) = (self.control.history.fill(), self.control.link.is_up());
        let state = if up { NodeState::NodeConnected } else { NodeState::NodeUnavailable };
        let node = pb::Node {
            name: teller(&self.control).name(),
            version: version(),
            address: self.address.clone(),
            state: state.into(),
            tls: Some(pb::Tls::default()),
            uptime_ns: nanoseconds(fill.uptime),
            num_flows: fill.kept,
            max_flows: KEPT as u64,
            seen_flows: fill.seen,
        };
        Ok(Response::new(pb::GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        _: Request<pb::GetNamespacesRequest>,
    ) -> Result<Response<pb::GetNamespacesResponse>, Status> {
        let cluster = &self.control.gateway.options.cluster;
        let names = self.control.namespaces.list(crate::history::now()).into_iter();
        let namespaces = names.map(|namespace| pb::Namespace { cluster: cluster.clone(), namespace });
        Ok(Response::new(pb::GetNamespacesResponse { namespaces: namespaces.collect() }))
    }

    /// The one node there is counts as connected while its dataplane is.
    async fn server_status(
        &self,
        _: Request<pb::ServerStatusRequest>,
    ) -> Result<Response<pb::ServerStatusResponse>, Status> {
        let (fill, up) = (self.control.history.fill(), self.control.link.is_up());
        let unavailable = if up { Vec::new() } else { vec![teller(&self.control).name()] };
        Ok(Response::new(pb::ServerStatusResponse {
            num_flows: fill.kept,
            max_flows: KEPT as u64,
            seen_flows: fill.seen,
            uptime_ns: nanoseconds(fill.uptime),
            num_connected_nodes: Some(u32::from(up)),
            num_unavailable_nodes: Some(u32::from(!up)),
            unavailable_nodes: unavailable,
            version: version(),
            flows_rate: fill.rate,
        }))
    }
}

fn version() -> String {
    format!("sluice v{VERSION}")
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Everything that a client may call.
async fn routes(control: Arc<Control>, address: String) -> Result<Routes> {
    let (reporter, health) = health_reporter();
    for name in HEALTHY {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let service = Service { control, address, streams: Arc::new(Semaphore::new(STREAMS)) };
    Ok(Routes::new(ObserverServer::new(service).max_decoding_message_size(REQUEST_BYTES))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

/// Serve until aborted.
pub async fn serve(control: Arc<Control>, listen: &Listen) -> Result<JoinHandle<()>> {
    let routes = routes(control, listen.to_string()).await?;
    let layer = MapResponseLayer::new(|mut response: http::Response<tonic::body::Body>| {
        response.headers_mut().insert(VERSION_HEADER, http::HeaderValue::from_static(VERSION));
        response
    });
    let server = Server::builder()
        .layer(layer)
        .max_concurrent_streams(CALLS)
        .http2_keepalive_interval(Some(SILENCE))
        .http2_keepalive_timeout(Some(SILENCE))
        .add_routes(routes);
    let key = "api.hubble: another address, or off";
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address} ({key})"))?;
            let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
            Ok(spawn(server.serve_with_incoming(connections::bounded(listener, CLIENTS))))
        }
        Listen::Unix(path) => {
            let listener = api::local(path).context("api.hubble")?;
            Ok(spawn(server.serve_with_incoming(connections::bounded(listener, CLIENTS))))
        }
    }
}

fn spawn(
    serving: impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!("the Hubble API ended: {error}");
        }
    })
}
