//! `vm`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Answer, Body};
use crate::api::{Machine, Stop, VmRun};
use crate::daemon::Daemon;

type Shared = State<Arc<Daemon>>;

pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/vm", get(list).post(run))
        .route("/v1/vm/{name}", get(show).delete(remove))
        .route("/v1/vm/{name}/stop", post(stop))
        .route("/v1/vm/{name}/kill", post(kill))
}

async fn list(State(daemon): Shared) -> Answer<Vec<Machine>> {
    Ok(Json(daemon.machines().await))
}

async fn show(State(daemon): Shared, Path(name): Path<String>) -> Answer<Machine> {
    Ok(Json(daemon.machine(&name).await?))
}

async fn run(State(daemon): Shared, Body(request): Body<VmRun>) -> Answer<Machine> {
    Ok(Json(daemon.run_machine(&request).await?))
}

async fn stop(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<Stop>,
) -> Answer<()> {
    Ok(Json(
        daemon
            .attach
            .stop(&name, Duration::from_secs(request.seconds))
            .await?,
    ))
}

async fn kill(State(daemon): Shared, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(daemon.attach.kill(&name).await?))
}

async fn remove(State(daemon): Shared, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(daemon.remove_machine(&name).await?))
}
