//! `weft raid`.

use std::time::Duration;

use weft_service::api::{
    Array, Examination, RaidAssemble, RaidCreate, RaidMember, RaidRepair, Result, SyncAction,
};

use super::{Nothing, disk_argument, disk_arguments};
use crate::args::{RaidCommand, RaidCreateArgs};
use crate::client::Client;
use crate::render::{Output, SyncProgress, details, tables};

/// How often `wait` asks.
const WAIT_POLL: Duration = Duration::from_millis(250);

pub(super) async fn run(client: &Client, output: &Output, command: RaidCommand) -> Result<()> {
    match command {
        RaidCommand::Create(args) => {
            let array: Array = client.post("/v1/raid", &create(args)?).await?;
            output.show(&array, details::array);
        }
        RaidCommand::Assemble { name, disks, force } => {
            let request = RaidAssemble {
                name,
                disks: disk_arguments(&disks)?,
                force,
            };
            let array: Array = client.post("/v1/raid/assemble", &request).await?;
            output.show(&array, details::array);
        }
        RaidCommand::Stop { name } => {
            client
                .post::<Nothing>(&format!("/v1/raid/{name}/stop"), &())
                .await?;
            output.done(&format!(
                "array {name} is stopped; its data stays on the members"
            ));
        }
        RaidCommand::List => {
            let arrays: Vec<Array> = client.get("/v1/raid").await?;
            output.show(&arrays, |arrays| tables::arrays(arrays));
        }
        RaidCommand::Show { name } => {
            let array: Array = client.get(&format!("/v1/raid/{name}")).await?;
            output.show(&array, details::array);
        }
        RaidCommand::Examine { disk } => {
            let request = RaidMember {
                disk: disk_argument(&disk)?,
                force: false,
            };
            let found: Examination = client.post("/v1/raid/examine", &request).await?;
            output.show(&found, details::examination);
        }
        RaidCommand::Fail { name, disk } => member(client, output, &name, "fail", &disk).await?,
        RaidCommand::Remove { name, disk } => {
            member(client, output, &name, "remove", &disk).await?;
        }
        RaidCommand::Add { name, disk, force } => {
            let request = RaidMember {
                disk: disk_argument(&disk)?,
                force,
            };
            let array: Array = client
                .post(&format!("/v1/raid/{name}/add"), &request)
                .await?;
            output.show(&array, details::array);
        }
        RaidCommand::Check { name } => {
            let array: Array = client.post(&format!("/v1/raid/{name}/check"), &()).await?;
            output.show(&array, details::array);
        }
        RaidCommand::Repair { name, from_data } => {
            let request = RaidRepair { from_data };
            let array: Array = client
                .post(&format!("/v1/raid/{name}/repair"), &request)
                .await?;
            output.show(&array, details::array);
        }
        RaidCommand::Wait { name } => wait(client, output, &name).await?,
    }
    Ok(())
}

fn create(args: RaidCreateArgs) -> Result<RaidCreate> {
    Ok(RaidCreate {
        name: args.name,
        level: args.level,
        disks: disk_arguments(&args.disks)?,
        spares: disk_arguments(&args.spares)?,
        chunk_bytes: args.chunk.map(|size| size.0),
        layout: args.layout,
        consistency: args.consistency,
        assume_clean: args.assume_clean,
        force: args.force,
    })
}

async fn member(
    client: &Client,
    output: &Output,
    name: &str,
    verb: &str,
    disk: &str,
) -> Result<()> {
    let request = RaidMember {
        disk: disk_argument(disk)?,
        force: false,
    };
    let array: Array = client
        .post(&format!("/v1/raid/{name}/{verb}"), &request)
        .await?;
    output.show(&array, details::array);
    Ok(())
}

async fn wait(client: &Client, output: &Output, name: &str) -> Result<()> {
    let mut progress = SyncProgress::new(name);
    let array = loop {
        let array: Array = client.get(&format!("/v1/raid/{name}")).await?;
        if array.sync.action == SyncAction::Idle {
            break array;
        }
        progress.update(&array.sync);
        tokio::time::sleep(WAIT_POLL).await;
    };
    progress.finish();
    output.show(&array, details::array);
    Ok(())
}
