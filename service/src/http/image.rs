//! `image`, of those that serve as disks.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Answer, Body};
use crate::api::{ImageDisk, ImageWanted};
use crate::daemon::Daemon;

type Shared = State<Arc<Daemon>>;

pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/image", get(list))
        .route("/v1/image/show", post(show))
}

async fn list(State(daemon): Shared) -> Answer<Vec<ImageDisk>> {
    Ok(Json(daemon.storage.images().await))
}

async fn show(State(daemon): Shared, Body(request): Body<ImageWanted>) -> Answer<ImageDisk> {
    Ok(Json(daemon.storage.image(&request.disk).await?))
}
