//! The daemon itself.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::Answer;
use crate::api::Status;
use crate::daemon::Daemon;

pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/daemon", get(show))
        .route("/v1/daemon/stop", post(stop))
        .route("/v1/daemon/stop-if-idle", post(stop_if_idle))
        .route("/v1/status", get(status))
}

#[derive(Serialize)]
struct Shown {
    pid: u32,
    version: &'static str,
    rootless: bool,
}

async fn show(State(daemon): State<Arc<Daemon>>) -> Json<Shown> {
    Json(Shown {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION"),
        rootless: daemon.is_rootless(),
    })
}

async fn stop(State(daemon): State<Arc<Daemon>>) -> Json<()> {
    daemon.stop();
    Json(())
}

async fn stop_if_idle(State(daemon): State<Arc<Daemon>>) -> Answer<bool> {
    Ok(Json(daemon.stop_if_idle().await?))
}

async fn status(State(daemon): State<Arc<Daemon>>) -> Answer<Status> {
    Ok(Json(daemon.status().await?))
}
