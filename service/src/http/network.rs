//! `net`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};

use super::{Answer, Body};
use crate::api::{NetCreate, NetStretch, Network, Port, PortAdd};
use crate::daemon::Daemon;

type Shared = State<Arc<Daemon>>;

pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/net", get(list).post(create))
        .route("/v1/net/{name}", get(show).delete(remove))
        .route("/v1/net/{name}/stretch", post(stretch).delete(unstretch))
        .route("/v1/net/{name}/port", post(port_add))
        .route("/v1/net/{name}/port/{port}", delete(port_remove))
}

async fn list(State(daemon): Shared) -> Answer<Vec<Network>> {
    Ok(Json(daemon.network.list().await))
}

async fn show(State(daemon): Shared, Path(name): Path<String>) -> Answer<Network> {
    Ok(Json(daemon.network.show(&name).await?))
}

async fn create(State(daemon): Shared, Body(request): Body<NetCreate>) -> Answer<Network> {
    Ok(Json(daemon.network.create(&request).await?))
}

async fn remove(State(daemon): Shared, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(daemon.network.remove(&name).await?))
}

async fn stretch(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<NetStretch>,
) -> Answer<Network> {
    Ok(Json(daemon.stretch(&name, &request).await?))
}

async fn unstretch(State(daemon): Shared, Path(name): Path<String>) -> Answer<Network> {
    Ok(Json(daemon.network.unstretch(&name).await?))
}

async fn port_add(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<PortAdd>,
) -> Answer<Port> {
    Ok(Json(daemon.add_port(&name, &request).await?))
}

async fn port_remove(
    State(daemon): Shared,
    Path((name, port)): Path<(String, String)>,
) -> Answer<()> {
    Ok(Json(daemon.remove_port(&name, &port).await?))
}
