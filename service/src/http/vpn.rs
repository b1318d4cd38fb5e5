//! `vpn`. Keys have characters that paths have not, so peers are named in the body.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Answer, Body};
use crate::api::{
    PeerAdd, PeerName, Vpn, VpnCreate, VpnExport, VpnExported, VpnImport, VpnImported,
};
use crate::daemon::Daemon;

type Shared = State<Arc<Daemon>>;

pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/vpn", get(list).post(create))
        .route("/v1/vpn/import", post(import))
        .route("/v1/vpn/{name}", get(show).delete(remove))
        .route("/v1/vpn/{name}/peer", post(peer_add))
        .route("/v1/vpn/{name}/peer/remove", post(peer_remove))
        .route("/v1/vpn/{name}/export", post(export))
}

async fn list(State(daemon): Shared) -> Answer<Vec<Vpn>> {
    Ok(Json(daemon.tunnels.list().await))
}

async fn show(State(daemon): Shared, Path(name): Path<String>) -> Answer<Vpn> {
    Ok(Json(daemon.tunnels.show(&name).await?))
}

async fn create(State(daemon): Shared, Body(request): Body<VpnCreate>) -> Answer<Vpn> {
    let created = daemon.tunnels.create(&request, &daemon.network).await;
    Ok(Json(created?))
}

async fn import(State(daemon): Shared, Body(request): Body<VpnImport>) -> Answer<VpnImported> {
    let imported = daemon.tunnels.import(&request, &daemon.network).await;
    Ok(Json(imported?))
}

async fn remove(State(daemon): Shared, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(daemon.tunnels.remove(&name, &daemon.network).await?))
}

async fn peer_add(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<PeerAdd>,
) -> Answer<Vpn> {
    Ok(Json(daemon.tunnels.add_peer(&name, &request).await?))
}

async fn peer_remove(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<PeerName>,
) -> Answer<Vpn> {
    let removed = daemon.tunnels.remove_peer(&name, &request.peer).await;
    Ok(Json(removed?))
}

async fn export(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<VpnExport>,
) -> Answer<VpnExported> {
    let exported = daemon
        .tunnels
        .export(&name, &request, &daemon.network)
        .await;
    Ok(Json(exported?))
}
