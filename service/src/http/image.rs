//! `image`, of those that serve as disks.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Answer, Body};
use crate::api::{
    ImageBackup, ImageBitmap, ImageBitmapWanted, ImageDisk, ImageJoin, ImageMirror, ImageOverlay,
    ImageSnapshot, ImageSnapshotWanted, ImageSync, ImageWanted,
};
use crate::daemon::Daemon;

type Shared = State<Arc<Daemon>>;

pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/image", get(list))
        .route("/v1/image/show", post(show))
        .route("/v1/image/moved", post(moved))
        .route("/v1/image/overlay", post(overlay))
        .route("/v1/image/stream", post(stream))
        .route("/v1/image/commit", post(commit))
        .route("/v1/image/backup", post(backup))
        .route("/v1/image/mirror", post(mirror))
        .route("/v1/image/sync", post(sync))
        .route("/v1/image/cancel", post(cancel))
        .route("/v1/image/bitmap/list", post(bitmaps))
        .route("/v1/image/bitmap/change", post(bitmap_change))
        .route("/v1/image/snapshot/list", post(snapshots))
        .route("/v1/image/snapshot/create", post(snapshot_create))
        .route("/v1/image/snapshot/apply", post(snapshot_apply))
        .route("/v1/image/snapshot/delete", post(snapshot_delete))
}

async fn list(State(daemon): Shared) -> Answer<Vec<ImageDisk>> {
    Ok(Json(daemon.storage.images().await))
}

async fn show(State(daemon): Shared, Body(request): Body<ImageWanted>) -> Answer<ImageDisk> {
    Ok(Json(daemon.storage.image(&request.disk).await?))
}

async fn moved(State(daemon): Shared, Body(request): Body<ImageWanted>) -> Answer<Option<String>> {
    Ok(Json(daemon.storage.image_moved(&request.disk).await?))
}

async fn overlay(State(daemon): Shared, Body(request): Body<ImageOverlay>) -> Answer<ImageDisk> {
    Ok(Json(daemon.overlay_image(&request).await?))
}

async fn stream(State(daemon): Shared, Body(request): Body<ImageJoin>) -> Answer<ImageDisk> {
    Ok(Json(daemon.storage.stream_image(&request).await?))
}

async fn commit(State(daemon): Shared, Body(request): Body<ImageJoin>) -> Answer<ImageDisk> {
    Ok(Json(daemon.storage.commit_image(&request).await?))
}

async fn backup(State(daemon): Shared, Body(request): Body<ImageBackup>) -> Answer<ImageDisk> {
    Ok(Json(daemon.storage.backup_image(&request).await?))
}

async fn mirror(State(daemon): Shared, Body(request): Body<ImageMirror>) -> Answer<ImageDisk> {
    Ok(Json(daemon.storage.mirror_image(&request).await?))
}

async fn sync(State(daemon): Shared, Body(request): Body<ImageSync>) -> Answer<ImageDisk> {
    let ImageSync { disk, sync } = request;
    Ok(Json(daemon.storage.pace_image_job(&disk, &sync).await?))
}

async fn cancel(State(daemon): Shared, Body(request): Body<ImageWanted>) -> Answer<ImageDisk> {
    Ok(Json(daemon.storage.cancel_image_job(&request.disk).await?))
}

async fn bitmaps(
    State(daemon): Shared,
    Body(request): Body<ImageWanted>,
) -> Answer<Vec<ImageBitmap>> {
    Ok(Json(daemon.storage.image_bitmaps(&request.disk).await?))
}

async fn bitmap_change(
    State(daemon): Shared,
    Body(request): Body<ImageBitmapWanted>,
) -> Answer<Vec<ImageBitmap>> {
    Ok(Json(daemon.storage.change_image_bitmap(&request).await?))
}

async fn snapshots(
    State(daemon): Shared,
    Body(request): Body<ImageWanted>,
) -> Answer<Vec<ImageSnapshot>> {
    Ok(Json(daemon.storage.image_snapshots(&request.disk).await?))
}

async fn snapshot_create(
    State(daemon): Shared,
    Body(request): Body<ImageSnapshotWanted>,
) -> Answer<ImageSnapshot> {
    let ImageSnapshotWanted { disk, tag } = request;
    Ok(Json(
        daemon.storage.create_image_snapshot(&disk, &tag).await?,
    ))
}

async fn snapshot_apply(
    State(daemon): Shared,
    Body(request): Body<ImageSnapshotWanted>,
) -> Answer<()> {
    let ImageSnapshotWanted { disk, tag } = request;
    Ok(Json(
        daemon.storage.apply_image_snapshot(&disk, &tag).await?,
    ))
}

async fn snapshot_delete(
    State(daemon): Shared,
    Body(request): Body<ImageSnapshotWanted>,
) -> Answer<()> {
    let ImageSnapshotWanted { disk, tag } = request;
    Ok(Json(
        daemon.storage.delete_image_snapshot(&disk, &tag).await?,
    ))
}
