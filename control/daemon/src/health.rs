//! `healthCheckNodePort`: on each service's port, how many of its backends are on our node, as kube-proxy tells it. Load
//! balancers in front ask there before they send clients of services with `externalTrafficPolicy: Local`.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::reconcile::Control;

/// How soon a port follows its service.
const EVERY: Duration = Duration::from_millis(200);

/// Keep a listener on every port that a service names, until aborted.
pub async fn serve(control: Arc<Control>) {
    let mut open: BTreeMap<u16, JoinHandle<()>> = BTreeMap::new();
    let mut seen = None;
    loop {
        let generation = control.world().generation;
        if seen != Some(generation) {
            seen = Some(generation);
            follow(&control, &mut open).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn follow(control: &Arc<Control>, open: &mut BTreeMap<u16, JoinHandle<()>>) {
    let wanted = ports(control);
    open.retain(|port, task| {
        let stays = wanted.contains_key(port) && !task.is_finished();
        if !stays {
            task.abort();
        }
        stays
    });
    for port in wanted.keys().filter(|port| !open.contains_key(port)).copied().collect::<Vec<_>>() {
        // Without IPv6 on this host there is no address for both.
        let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
            bound => bound,
        };
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!("health of services cannot be told on port {port}: {error}");
                continue;
            }
        };
        let shared = Arc::clone(control);
        let answer = move || async move { answer(&shared, port) };
        let router = Router::new().fallback(get(answer));
        open.insert(port, tokio::spawn(async move { drop(axum::serve(listener, router).await) }));
    }
}

fn ports(control: &Control) -> BTreeMap<u16, (String, String, usize)> {
    let world = control.world();
    world.compiled.frontends.health_ports(&world.compiled.objects)
}

fn answer(control: &Control, port: u16) -> Response {
    let Some((namespace, name, local)) = ports(control).remove(&port) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // The dataplane is what a proxy's health is here.
    let up = control.link.is_up();
    let status = if local > 0 && up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local,
        "serviceProxyHealthy": up,
    });
    (status, [("x-load-balancing-endpoint-weight", local.to_string())], Json(body)).into_response()
}
