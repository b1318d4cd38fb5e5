//! `weft lv`.

use weft_service::api::{LvCreate, Rename, Resize, Result, Volume, VolumeKind};

use super::{Nothing, volume_argument};
use crate::args::{LvCommand, LvType};
use crate::client::{Client, path};
use crate::render::{Output, details, tables};

pub(super) async fn run(client: &Client, output: &Output, command: LvCommand) -> Result<()> {
    match command {
        LvCommand::Create {
            volume,
            size,
            kind,
            stripes,
            stripe_size,
        } => {
            let (vg, lv) = volume_argument(&volume)?;
            let request = LvCreate {
                size,
                kind: match kind {
                    LvType::Linear => VolumeKind::Linear,
                    LvType::Striped => VolumeKind::Striped,
                },
                stripes,
                stripe_bytes: stripe_size.map(|size| size.0),
            };
            let volume: Volume = client.post(&path(["lv", vg, lv]), &request).await?;
            output.show(&volume, details::volume);
        }
        LvCommand::List => {
            let volumes: Vec<Volume> = client.get("/v1/lv").await?;
            output.show(&volumes, |volumes| tables::volumes(volumes));
        }
        LvCommand::Show { volume } => {
            let (vg, lv) = volume_argument(&volume)?;
            let volume: Volume = client.get(&path(["lv", vg, lv])).await?;
            output.show(&volume, details::volume);
        }
        LvCommand::Resize { volume, size } => {
            let (vg, lv) = volume_argument(&volume)?;
            let target = path(["lv", vg, lv, "resize"]);
            let volume: Volume = client.post(&target, &Resize { size }).await?;
            output.show(&volume, details::volume);
        }
        LvCommand::Rename { volume, to } => {
            let (vg, lv) = volume_argument(&volume)?;
            let target = path(["lv", vg, lv, "rename"]);
            let volume: Volume = client.post(&target, &Rename { to }).await?;
            output.show(&volume, details::volume);
        }
        LvCommand::Remove { volume } => {
            let (vg, lv) = volume_argument(&volume)?;
            client.delete::<Nothing>(&path(["lv", vg, lv])).await?;
            output.done(&format!("volume {volume} is removed"));
        }
    }
    Ok(())
}
