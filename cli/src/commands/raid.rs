//! `weft raid`.

use std::time::Duration;

use weft_service::api::{
    Array, Examination, RaidAssemble, RaidCreate, RaidGrow, RaidMember, RaidRepair, RaidReplace,
    RaidSync, RaidWriteMostly, Result, SyncAction,
};

use super::{Nothing, disk_argument, disk_arguments};
use crate::args::{RaidCommand, RaidCreateArgs, RaidGrowArgs};
use crate::client::{Client, path};
use crate::render::{Output, SyncProgress, details, tables};

/// How often `wait` asks.
const WAIT_POLL: Duration = Duration::from_millis(250);

pub(super) async fn run(client: &Client, output: &Output, command: RaidCommand) -> Result<()> {
    match command {
        RaidCommand::Stop { name } => {
            client
                .post::<Nothing>(&path(["raid", &name, "stop"]), &())
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
            let array: Array = client.get(&path(["raid", &name])).await?;
            output.show(&array, details::array);
        }
        RaidCommand::Examine { disk } => {
            let found: Examination = client.post("/v1/raid/examine", &member(&disk)?).await?;
            output.show(&found, details::examination);
        }
        RaidCommand::Wait { name } => wait(client, output, &name).await?,
        change => output.show(&changed(client, change).await?, details::array),
    }
    Ok(())
}

/// Makes a change of which the array is shown afterwards.
async fn changed(client: &Client, command: RaidCommand) -> Result<Array> {
    let of = |name: &str, verb: &str| path(["raid", name, verb]);
    match command {
        RaidCommand::Create(args) => client.post("/v1/raid", &create(args)?).await,
        RaidCommand::Assemble { name, disks, force } => {
            let request = RaidAssemble {
                name,
                disks: disk_arguments(&disks)?,
                force,
            };
            client.post("/v1/raid/assemble", &request).await
        }
        RaidCommand::Fail { name, disk } => client.post(&of(&name, "fail"), &member(&disk)?).await,
        RaidCommand::Remove { name, disk } => {
            client.post(&of(&name, "remove"), &member(&disk)?).await
        }
        RaidCommand::Add {
            name,
            disk,
            journal,
            force,
        } => {
            let request = RaidMember {
                force,
                journal,
                ..member(&disk)?
            };
            client.post(&of(&name, "add"), &request).await
        }
        RaidCommand::Replace {
            name,
            old,
            new,
            force,
        } => {
            let request = RaidReplace {
                old: disk_argument(&old)?,
                disk: disk_argument(&new)?,
                force,
            };
            client.post(&of(&name, "replace"), &request).await
        }
        RaidCommand::Grow(args) => {
            let (name, request) = grow(args)?;
            client.post(&of(&name, "grow"), &request).await
        }
        RaidCommand::WriteMostly { name, disk, off } => {
            let request = RaidWriteMostly {
                disk: disk_argument(&disk)?,
                write_mostly: !off,
            };
            client.post(&of(&name, "write-mostly"), &request).await
        }
        RaidCommand::Check { name } => client.post(&of(&name, "check"), &()).await,
        RaidCommand::Repair { name, from_data } => {
            let request = RaidRepair { from_data };
            client.post(&of(&name, "repair"), &request).await
        }
        RaidCommand::Sync(args) => {
            let request = RaidSync::from(args.pace);
            client.post(&of(&args.name, "sync"), &request).await
        }
        RaidCommand::Stop { .. }
        | RaidCommand::List
        | RaidCommand::Show { .. }
        | RaidCommand::Examine { .. }
        | RaidCommand::Wait { .. } => unreachable!("they change nothing that is shown"),
    }
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
        journal: args.journal.as_deref().map(disk_argument).transpose()?,
        assume_clean: args.assume_clean,
        force: args.force,
    })
}

fn grow(args: RaidGrowArgs) -> Result<(String, RaidGrow)> {
    let request = RaidGrow {
        disks: disk_arguments(&args.disks)?,
        members: args.members,
        level: args.level,
        layout: args.layout,
        chunk_bytes: args.chunk.map(|size| size.0),
        size: args.size,
        consistency: args.consistency,
        force: args.force,
    };
    Ok((args.name, request))
}

fn member(disk: &str) -> Result<RaidMember> {
    Ok(RaidMember {
        disk: disk_argument(disk)?,
        journal: false,
        force: false,
    })
}

async fn wait(client: &Client, output: &Output, name: &str) -> Result<()> {
    let mut progress = SyncProgress::new(name);
    let array = loop {
        let array: Array = client.get(&path(["raid", name])).await?;
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
