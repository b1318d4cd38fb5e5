//! `disk`, `raid`, `vg`, `lv` and `export`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Answer, Body};
use crate::api::{
    Array, Disk, DiskCreate, DiskList, Examination, Export, ExportAdd, Group, LvCreate,
    RaidAssemble, RaidCreate, RaidGrow, RaidMember, RaidRepair, RaidReplace, RaidSync,
    RaidWriteMostly, Rename, Resize, VgCreate, VgImport, Volume,
};
use crate::daemon::Daemon;

type Shared = State<Arc<Daemon>>;

pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/disk", get(disks).post(disk_create))
        .route("/v1/disk/inspect", post(disk_inspect))
        .route("/v1/disk/wipe", post(disk_wipe))
        .route("/v1/raid", get(arrays).post(raid_create))
        .route("/v1/raid/assemble", post(raid_assemble))
        .route("/v1/raid/examine", post(raid_examine))
        .route("/v1/raid/{name}", get(array))
        .route("/v1/raid/{name}/stop", post(raid_stop))
        .route("/v1/raid/{name}/fail", post(raid_fail))
        .route("/v1/raid/{name}/remove", post(raid_remove))
        .route("/v1/raid/{name}/add", post(raid_add))
        .route("/v1/raid/{name}/replace", post(raid_replace))
        .route("/v1/raid/{name}/grow", post(raid_grow))
        .route("/v1/raid/{name}/write-mostly", post(raid_write_mostly))
        .route("/v1/raid/{name}/check", post(raid_check))
        .route("/v1/raid/{name}/sync", post(raid_sync))
        .route("/v1/raid/{name}/repair", post(raid_repair))
        .route("/v1/vg", get(groups).post(vg_create))
        .route("/v1/vg/import", post(vg_import))
        .route("/v1/vg/{name}", get(group).delete(vg_remove))
        .route("/v1/vg/{name}/extend", post(vg_extend))
        .route("/v1/vg/{name}/grow", post(vg_grow))
        .route("/v1/vg/{name}/reduce", post(vg_reduce))
        .route("/v1/vg/{name}/rename", post(vg_rename))
        .route("/v1/vg/{name}/check", post(vg_check))
        .route("/v1/vg/{name}/deactivate", post(vg_deactivate))
        .route("/v1/lv", get(volumes))
        .route(
            "/v1/lv/{vg}/{lv}",
            get(volume).post(lv_create).delete(lv_remove),
        )
        .route("/v1/lv/{vg}/{lv}/resize", post(lv_resize))
        .route("/v1/lv/{vg}/{lv}/rename", post(lv_rename))
        .route("/v1/export", get(exports).post(export_add))
        .route("/v1/export/{name}", axum::routing::delete(export_remove))
}

async fn disks(State(daemon): Shared) -> Answer<Vec<Disk>> {
    Ok(Json(daemon.storage.disks().await))
}

async fn disk_create(State(daemon): Shared, Body(request): Body<DiskCreate>) -> Answer<Disk> {
    Ok(Json(daemon.storage.create_disk(&request).await?))
}

async fn disk_inspect(State(daemon): Shared, Body(request): Body<DiskList>) -> Answer<Vec<Disk>> {
    Ok(Json(daemon.storage.inspect_disks(&request.disks).await))
}

async fn disk_wipe(State(daemon): Shared, Body(request): Body<DiskList>) -> Answer<()> {
    Ok(Json(daemon.storage.wipe_disks(&request.disks).await?))
}

async fn arrays(State(daemon): Shared) -> Answer<Vec<Array>> {
    Ok(Json(daemon.storage.arrays().await))
}

async fn array(State(daemon): Shared, Path(name): Path<String>) -> Answer<Array> {
    Ok(Json(daemon.storage.array(&name).await?))
}

async fn raid_create(State(daemon): Shared, Body(request): Body<RaidCreate>) -> Answer<Array> {
    Ok(Json(daemon.storage.create_array(&request).await?))
}

async fn raid_assemble(State(daemon): Shared, Body(request): Body<RaidAssemble>) -> Answer<Array> {
    Ok(Json(daemon.storage.assemble_array(&request).await?))
}

async fn raid_examine(
    State(daemon): Shared,
    Body(request): Body<RaidMember>,
) -> Answer<Examination> {
    Ok(Json(daemon.storage.examine_disk(&request.disk).await?))
}

async fn raid_stop(State(daemon): Shared, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(daemon.storage.stop_array(&name).await?))
}

async fn raid_fail(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<RaidMember>,
) -> Answer<Array> {
    Ok(Json(
        daemon.storage.fail_member(&name, &request.disk).await?,
    ))
}

async fn raid_remove(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<RaidMember>,
) -> Answer<Array> {
    Ok(Json(
        daemon.storage.remove_member(&name, &request.disk).await?,
    ))
}

async fn raid_add(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<RaidMember>,
) -> Answer<Array> {
    Ok(Json(daemon.storage.add_member(&name, &request).await?))
}

async fn raid_replace(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<RaidReplace>,
) -> Answer<Array> {
    let RaidReplace { old, disk, force } = request;
    let storage = &daemon.storage;
    Ok(Json(
        storage.replace_member(&name, &old, &disk, force).await?,
    ))
}

async fn raid_grow(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<RaidGrow>,
) -> Answer<Array> {
    Ok(Json(daemon.storage.grow_array(&name, &request).await?))
}

async fn raid_write_mostly(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<RaidWriteMostly>,
) -> Answer<Array> {
    let storage = &daemon.storage;
    let set = storage.set_write_mostly(&name, &request.disk, request.write_mostly);
    Ok(Json(set.await?))
}

async fn raid_check(State(daemon): Shared, Path(name): Path<String>) -> Answer<Array> {
    let check = weft_raid::Scrub::Check;
    Ok(Json(daemon.storage.scrub_array(&name, check).await?))
}

async fn raid_sync(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<RaidSync>,
) -> Answer<Array> {
    Ok(Json(daemon.storage.pace_array(&name, &request).await?))
}

async fn raid_repair(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<RaidRepair>,
) -> Answer<Array> {
    let repair = match request.from_data {
        true => weft_raid::Scrub::RepairFromData,
        false => weft_raid::Scrub::Repair,
    };
    Ok(Json(daemon.storage.scrub_array(&name, repair).await?))
}

async fn groups(State(daemon): Shared) -> Answer<Vec<Group>> {
    Ok(Json(daemon.storage.groups().await))
}

async fn group(State(daemon): Shared, Path(name): Path<String>) -> Answer<Group> {
    Ok(Json(daemon.storage.group(&name).await?))
}

async fn vg_create(State(daemon): Shared, Body(request): Body<VgCreate>) -> Answer<Group> {
    Ok(Json(daemon.storage.create_group(&request).await?))
}

async fn vg_import(State(daemon): Shared, Body(request): Body<VgImport>) -> Answer<Group> {
    Ok(Json(daemon.storage.import_group(&request.disks).await?))
}

async fn vg_remove(State(daemon): Shared, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(daemon.storage.remove_group(&name).await?))
}

async fn vg_extend(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<DiskList>,
) -> Answer<Group> {
    Ok(Json(
        daemon.storage.extend_group(&name, &request.disks).await?,
    ))
}

async fn vg_grow(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<DiskList>,
) -> Answer<Group> {
    Ok(Json(
        daemon.storage.grow_group(&name, &request.disks).await?,
    ))
}

async fn vg_reduce(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<DiskList>,
) -> Answer<Group> {
    Ok(Json(
        daemon.storage.reduce_group(&name, &request.disks).await?,
    ))
}

async fn vg_rename(
    State(daemon): Shared,
    Path(name): Path<String>,
    Body(request): Body<Rename>,
) -> Answer<Group> {
    Ok(Json(daemon.storage.rename_group(&name, &request.to).await?))
}

async fn vg_check(State(daemon): Shared, Path(name): Path<String>) -> Answer<Group> {
    Ok(Json(daemon.storage.check_group(&name).await?))
}

async fn vg_deactivate(State(daemon): Shared, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(daemon.storage.deactivate_group(&name).await?))
}

async fn volumes(State(daemon): Shared) -> Answer<Vec<Volume>> {
    Ok(Json(daemon.storage.volumes().await))
}

type VolumePath = Path<(String, String)>;

async fn volume(State(daemon): Shared, Path((vg, lv)): VolumePath) -> Answer<Volume> {
    Ok(Json(daemon.storage.volume(&vg, &lv).await?))
}

async fn lv_create(
    State(daemon): Shared,
    Path((vg, lv)): VolumePath,
    Body(request): Body<LvCreate>,
) -> Answer<Volume> {
    Ok(Json(
        daemon.storage.create_volume(&vg, &lv, &request).await?,
    ))
}

async fn lv_remove(State(daemon): Shared, Path((vg, lv)): VolumePath) -> Answer<()> {
    Ok(Json(daemon.storage.remove_volume(&vg, &lv).await?))
}

async fn lv_resize(
    State(daemon): Shared,
    Path((vg, lv)): VolumePath,
    Body(request): Body<Resize>,
) -> Answer<Volume> {
    let volume = daemon.storage.resize_volume(&vg, &lv, request.size).await?;
    daemon.attach.notify_resize(&format!("{vg}/{lv}")).await;
    Ok(Json(volume))
}

async fn lv_rename(
    State(daemon): Shared,
    Path((vg, lv)): VolumePath,
    Body(request): Body<Rename>,
) -> Answer<Volume> {
    Ok(Json(
        daemon.storage.rename_volume(&vg, &lv, &request.to).await?,
    ))
}

async fn exports(State(daemon): Shared) -> Answer<Vec<Export>> {
    Ok(Json(daemon.exports().await))
}

async fn export_add(State(daemon): Shared, Body(request): Body<ExportAdd>) -> Answer<Export> {
    Ok(Json(daemon.add_export(&request).await?))
}

async fn export_remove(State(daemon): Shared, Path(name): Path<String>) -> Answer<()> {
    Ok(Json(daemon.remove_export(&name).await?))
}
