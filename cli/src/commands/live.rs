//! `weft image` of images that the daemon has open.

use std::time::Duration;

use weft_service::api::{
    Error, ErrorKind, ImageBackup, ImageDisk, ImageOverlay, ImageSnapshot, ImageSnapshotWanted,
    ImageSync, ImageWanted, RaidSync, Result,
};
use weft_service::storage::disks::ImageWord;

use super::{Nothing, absolute, disk_argument};
use crate::args::{ImageSyncArgs, LiveCommand, SnapshotCommand};
use crate::client::Client;
use crate::render::{Output, SyncProgress, images as tables};

/// How often a job is looked at while it is waited for.
const WAIT_POLL: Duration = Duration::from_millis(200);

pub(super) async fn run(client: &Client, output: &Output, command: LiveCommand) -> Result<()> {
    match command {
        LiveCommand::List => {
            let open: Vec<ImageDisk> = client.get("/v1/image").await?;
            output.show(&open, |open| tables::open(open));
        }
        LiveCommand::Show { disk } => {
            let shown: ImageDisk = client.post("/v1/image/show", &wanted(&disk)?).await?;
            output.show(&shown, tables::open_one);
        }
        LiveCommand::Overlay {
            disk,
            path,
            options,
        } => {
            let request = ImageOverlay {
                disk: disk_argument(&disk)?,
                path: absolute(&path)?,
                options,
            };
            let shown: ImageDisk = client.post("/v1/image/overlay", &request).await?;
            output.show(&shown, tables::open_one);
        }
        LiveCommand::Stream(args) => {
            let shown: ImageDisk = client.post("/v1/image/stream", &sync(args)?).await?;
            output.show(&shown, tables::open_one);
        }
        LiveCommand::Backup {
            sync: args,
            target,
            bitmap,
        } => {
            let ImageSync { disk, sync } = sync(args)?;
            let request = ImageBackup {
                disk,
                target: disk_argument(&target)?,
                bitmap,
                sync,
            };
            let shown: ImageDisk = client.post("/v1/image/backup", &request).await?;
            output.show(&shown, tables::open_one);
        }
        LiveCommand::Sync(args) => {
            let shown: ImageDisk = client.post("/v1/image/sync", &sync(args)?).await?;
            output.show(&shown, tables::open_one);
        }
        LiveCommand::Cancel { disk } => {
            let shown: ImageDisk = client.post("/v1/image/cancel", &wanted(&disk)?).await?;
            output.show(&shown, tables::open_one);
        }
        LiveCommand::Wait { disk } => wait(client, output, &disk).await?,
    }
    Ok(())
}

fn sync(args: ImageSyncArgs) -> Result<ImageSync> {
    Ok(ImageSync {
        disk: disk_argument(&args.disk)?,
        sync: RaidSync {
            paused: (args.pause || args.resume).then_some(args.pause),
            floor_bytes: args.floor.map(|size| size.0),
            ceiling_bytes: args.ceiling.map(|size| size.0),
        },
    })
}

async fn wait(client: &Client, output: &Output, disk: &str) -> Result<()> {
    let request = wanted(disk)?;
    let mut progress = SyncProgress::new(disk);
    let image = loop {
        let image: ImageDisk = client.post("/v1/image/show", &request).await?;
        match &image.job {
            Some(job) => progress.update(job),
            None => break image,
        }
        tokio::time::sleep(WAIT_POLL).await;
    };
    progress.finish();
    if let Some(trouble) = image.trouble {
        return Err(Error::new(ErrorKind::Io, disk, trouble));
    }
    output.show(&image, tables::open_one);
    Ok(())
}

/// Does what is asked of snapshots if a daemon has the image open; tells whether it has. A plain path is the image in it.
pub(super) fn snapshot(command: &SnapshotCommand, output: &Output) -> Result<bool> {
    let path = match command {
        SnapshotCommand::Create { path, .. }
        | SnapshotCommand::List { path }
        | SnapshotCommand::Apply { path, .. }
        | SnapshotCommand::Delete { path, .. } => path,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::general(ErrorKind::Io, format!("weft cannot start: {error}")))?;
    runtime.block_on(async {
        // A state folder that cannot be told is none of this command's matters.
        let Ok(Some(client)) = Client::find().await else {
            return Ok(false);
        };
        match ask(&client, output, command, &disk_argument(path)?).await {
            Err(error) if error.is_not_found() && !ImageWord::is_meant_by(path) => Ok(false),
            asked => asked.map(|()| true),
        }
    })
}

async fn ask(
    client: &Client,
    output: &Output,
    command: &SnapshotCommand,
    disk: &str,
) -> Result<()> {
    let wanted = |tag: &str| ImageSnapshotWanted {
        disk: disk.to_owned(),
        tag: tag.to_owned(),
    };
    match command {
        SnapshotCommand::Create { path, tag } => {
            let request = wanted(tag);
            let made = client.post("/v1/image/snapshot/create", &request);
            let made: ImageSnapshot = made.await?;
            output.show(&made, |made| tables::snapshot_made(path, made));
        }
        SnapshotCommand::List { .. } => {
            let request = ImageWanted {
                disk: disk.to_owned(),
            };
            let all = client.post("/v1/image/snapshot/list", &request);
            let all: Vec<ImageSnapshot> = all.await?;
            output.show(&all, |all| tables::snapshots(all));
        }
        SnapshotCommand::Apply { tag, .. } => {
            let request = wanted(tag);
            let applied = client.post::<Nothing>("/v1/image/snapshot/apply", &request);
            applied.await?;
        }
        SnapshotCommand::Delete { path, tag } => {
            let request = wanted(tag);
            let deleted = client.post::<Nothing>("/v1/image/snapshot/delete", &request);
            deleted.await?;
            output.done(&format!("snapshot {tag} of {path} is deleted"));
        }
    }
    Ok(())
}

fn wanted(disk: &str) -> Result<ImageWanted> {
    Ok(ImageWanted {
        disk: disk_argument(disk)?,
    })
}
