//! `weft vg`.

use weft_service::api::{DiskList, Group, Rename, Result, VgCreate, VgImport};

use super::{Nothing, disk_arguments};
use crate::args::VgCommand;
use crate::client::{Client, path};
use crate::render::{Output, details, tables};

pub(super) async fn run(client: &Client, output: &Output, command: VgCommand) -> Result<()> {
    match command {
        VgCommand::Create(args) => {
            let request = VgCreate {
                name: args.name,
                disks: disk_arguments(&args.disks)?,
                extent_bytes: args.extent_size.map(|size| size.0),
                metadata_bytes: args.metadata_size.map(|size| size.0),
                metadata_copies: args.metadata_copies,
                force: args.force,
            };
            let group: Group = client.post("/v1/vg", &request).await?;
            output.show(&group, details::group);
        }
        VgCommand::Extend { name, disks } => {
            with_disks(client, output, &name, "extend", &disks).await?
        }
        VgCommand::Grow { name, disks } => {
            with_disks(client, output, &name, "grow", &disks).await?
        }
        VgCommand::Reduce { name, disks } => {
            with_disks(client, output, &name, "reduce", &disks).await?
        }
        VgCommand::Rename { name, to } => {
            let group: Group = client
                .post(&path(["vg", &name, "rename"]), &Rename { to })
                .await?;
            output.show(&group, details::group);
        }
        VgCommand::Remove { name } => {
            client.delete::<Nothing>(&path(["vg", &name])).await?;
            output.done(&format!(
                "group {name} is removed; its disks carry no label now"
            ));
        }
        VgCommand::List => {
            let groups: Vec<Group> = client.get("/v1/vg").await?;
            output.show(&groups, |groups| tables::groups(groups));
        }
        VgCommand::Show { name } => {
            let group: Group = client.get(&path(["vg", &name])).await?;
            output.show(&group, details::group);
        }
        VgCommand::Check { name } => {
            let group: Group = client.post(&path(["vg", &name, "check"]), &()).await?;
            output.show(&group, details::group);
        }
        VgCommand::Deactivate { name } => {
            client
                .post::<Nothing>(&path(["vg", &name, "deactivate"]), &())
                .await?;
            output.done(&format!(
                "group {name} is not served any more; its volumes stay"
            ));
        }
        VgCommand::Import { disks } => {
            let request = VgImport {
                disks: disk_arguments(&disks)?,
            };
            let group: Group = client.post("/v1/vg/import", &request).await?;
            output.show(&group, details::group);
        }
    }
    Ok(())
}

async fn with_disks(
    client: &Client,
    output: &Output,
    name: &str,
    verb: &str,
    disks: &[String],
) -> Result<()> {
    let request = DiskList {
        disks: disk_arguments(disks)?,
    };
    let group: Group = client.post(&path(["vg", name, verb]), &request).await?;
    output.show(&group, details::group);
    Ok(())
}
