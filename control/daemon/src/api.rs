//! The API: HTTP on a Unix socket for `sluice`, and metrics and health on TCP for everyone else.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Deserialize;
use sluice_policy::sighted::Wanted;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use crate::reconcile::Control;
use crate::{events, families, views, watches};

type Shared = State<Arc<Control>>;

/// Serve until aborted.
pub async fn serve(control: Arc<Control>, socket: &Path, metrics: &str) -> Result<JoinHandle<()>> {
    let local = local(socket)?;
    let open = TcpListener::bind(metrics)
        .await
        .with_context(|| format!("cannot listen on {metrics} (api.metrics)"))?;
    let health = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(Arc::clone(&control));
    let all = Router::new()
        .route("/v1/status", get(|control: Shared| async move { Json(views::status(&control).await) }))
        .route("/v1/services", get(|c: Shared| async move { Json(views::services(&c).await) }))
        .route("/v1/policies", get(|c: Shared| async move { Json(c.world().compiled.show_policies()) }))
        .route("/v1/identities", get(|c: Shared| async move { Json(c.world().compiled.show_identities()) }))
        .route("/v1/endpoints", get(|c: Shared| async move { Json(c.world().compiled.show_endpoints()) }))
        .route("/v1/names", get(names))
        .route("/v1/nat", get(|c: Shared| async move { Json(views::nat(&c)) }))
        .route("/v1/flows", get(flows))
        .route("/v1/events", get(events::serve))
        .route("/v1/watch", get(watches::serve))
        .with_state(control)
        .merge(health.clone());
    Ok(tokio::spawn(async move {
        let both = tokio::join!(axum::serve(local, all), axum::serve(open, health));
        if let (Err(error), _) | (_, Err(error)) = both {
            tracing::error!("the API ended: {error}");
        }
    }))
}

/// Listen on a socket in the file system.
pub fn local(socket: &Path) -> Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // A socket that nobody answers on is a leftover of a process that was killed.
    if std::os::unix::net::UnixStream::connect(socket).is_err() {
        drop(std::fs::remove_file(socket));
    }
    UnixListener::bind(socket).with_context(|| {
        format!("cannot listen on {} (is another sluice-control running?)", socket.display())
    })
}

async fn names(control: Shared) -> Response {
    match views::names(&control).await {
        Ok(names) => Json(names).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn metrics_text(control: Shared) -> Response {
    let text = families::metrics(&control).await;
    ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

/// `ok`, or why not; with `?verbose` every condition by itself, as Kubernetes does it.
async fn readyz(
    control: Shared,
    Query(asked): Query<std::collections::HashMap<String, String>>,
) -> (StatusCode, String) {
    let conditions = control.conditions();
    let missing = conditions.iter().find_map(|(_, state)| state.as_ref().err());
    let code = if missing.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    if asked.contains_key("verbose") {
        return (code, views::verbose("readyz", &conditions));
    }
    match missing {
        None => (code, "ok\n".to_owned()),
        Some(why) => (code, format!("not ready: {why}\n")),
    }
}

/// This process answers; that is all that being alive takes.
async fn livez(Query(asked): Query<std::collections::HashMap<String, String>>) -> String {
    match asked.contains_key("verbose") {
        true => views::verbose("livez", &[("answering", Ok(()))]),
        false => "ok\n".to_owned(),
    }
}

/// What a request asks for; all that is given must hold.
#[derive(Debug, Default, Deserialize)]
struct Asked {
    ip: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
    limit: Option<usize>,
}

async fn flows(control: Shared, Query(asked): Query<Asked>) -> Response {
    let wanted = Wanted {
        ip: asked.ip.into_iter().collect(),
        port: asked.port.into_iter().collect(),
        protocol: asked.protocol.into_iter().collect(),
        ..Wanted::default()
    };
    let filter = match wanted.resolve(&control.world().compiled) {
        Ok(filter) => filter,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    match views::flows(&control, &filter, asked.limit.unwrap_or(1000)).await {
        Ok(list) => Json(list).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}
