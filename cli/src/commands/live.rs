//! `weft image` of images that the daemon has open.

use std::time::Duration;

use weft_service::api::{
    Disk, DiskUse, Error, ErrorKind, ImageBackup, ImageDisk, ImageJoin, ImageMirror, ImageOverlay,
    ImageSnapshot, ImageSnapshotWanted, ImageSync, ImageWanted, Result,
};
use weft_service::storage::disks::ImageWord;

use super::{Nothing, absolute, disk_argument};
use crate::args::{ImageCommitArgs, ImageSyncArgs, LiveCommand, SnapshotCommand};
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
        LiveCommand::Wait { disk } => wait(client, output, &disk).await?,
        one => output.show(&one_image(client, one).await?, tables::open_one),
    }
    Ok(())
}

/// Asks for what is answered with an image as it is then.
async fn one_image(client: &Client, command: LiveCommand) -> Result<ImageDisk> {
    match command {
        LiveCommand::Show { disk } => client.post("/v1/image/show", &wanted(&disk)?).await,
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
            client.post("/v1/image/overlay", &request).await
        }
        LiveCommand::Stream { sync: args, base } => {
            let ImageSync { disk, sync } = sync(args)?;
            let base = base.as_deref().map(disk_argument).transpose()?;
            let request = ImageJoin {
                disk,
                base,
                below: false,
                sync,
            };
            client.post("/v1/image/stream", &request).await
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
            client.post("/v1/image/backup", &request).await
        }
        LiveCommand::Mirror {
            sync: args,
            target,
            force,
        } => {
            let ImageSync { disk, sync } = sync(args)?;
            let request = ImageMirror {
                disk,
                target: disk_argument(&target)?,
                force,
                sync,
            };
            client.post("/v1/image/mirror", &request).await
        }
        LiveCommand::Sync(args) => client.post("/v1/image/sync", &sync(args)?).await,
        LiveCommand::Cancel { disk } => client.post("/v1/image/cancel", &wanted(&disk)?).await,
        LiveCommand::List | LiveCommand::Wait { .. } => {
            unreachable!("these are answered otherwise")
        }
    }
}

fn sync(args: ImageSyncArgs) -> Result<ImageSync> {
    Ok(ImageSync {
        disk: disk_argument(&args.disk)?,
        sync: args.pace.into(),
    })
}

async fn wait(client: &Client, output: &Output, disk: &str) -> Result<()> {
    let mut disk = disk_argument(disk)?;
    let mut progress = SyncProgress::new(&disk);
    let image = loop {
        let request = wanted(&disk)?;
        let image = match client.post::<ImageDisk>("/v1/image/show", &request).await {
            Err(error) if error.is_not_found() => {
                let moved: Option<String> = client.post("/v1/image/moved", &request).await?;
                let Some(place) = moved else {
                    return Err(error);
                };
                progress.finish();
                if !ImageWord::is_meant_by(&place) {
                    let moved = serde_json::json!({ "disk": place });
                    output.show(&moved, |_| format!("the disk is {place} now\n"));
                    return Ok(());
                }
                disk = place;
                continue;
            }
            shown => shown?,
        };
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

/// Does what is asked of snapshots if a daemon has the image open; tells whether it has.
pub(super) fn snapshot(command: &SnapshotCommand, output: &Output) -> Result<bool> {
    let path = match command {
        SnapshotCommand::Create { path, .. }
        | SnapshotCommand::List { path }
        | SnapshotCommand::Apply { path, .. }
        | SnapshotCommand::Delete { path, .. } => path,
    };
    if_open(path, async |client, disk| {
        ask(client, output, command, disk).await
    })
}

/// `error`, which says by whom a file is used if it is the daemon.
pub(super) fn who_has_it(error: Error) -> Error {
    let (ErrorKind::Busy, Some(file)) = (error.kind, &error.object) else {
        return error;
    };
    let told = with_daemon(async |client| {
        let path = disk_argument(file)?;
        let disks: Vec<Disk> = client.get("/v1/disk").await?;
        let found = disks.into_iter().find(|disk| disk.path == path);
        Ok(found.and_then(|disk| disk.used_by))
    });
    let Ok(Some(Some(DiskUse { noun, name }))) = told else {
        return error;
    };
    let message = match noun.as_str() {
        "image" => format!(
            "{file} is in use: the daemon has the image {name} open; see `weft image show qcow2:{name}`"
        ),
        _ => format!("{file} is in use by {noun} {name} of the daemon"),
    };
    Error { message, ..error }
}

/// Begins a commit if a daemon has the image open; tells whether it has.
pub(super) fn commit(args: &ImageCommitArgs, output: &Output) -> Result<bool> {
    if_open(&args.path, async |client, disk| {
        let request = ImageJoin {
            disk: match ImageWord::is_meant_by(disk) {
                true => disk.to_owned(),
                false => ImageWord::of(disk).to_string(),
            },
            base: args.base.as_deref().map(disk_argument).transpose()?,
            below: args.below,
            sync: args.pace.clone().into(),
        };
        let shown: ImageDisk = client.post("/v1/image/commit", &request).await?;
        output.show(&shown, tables::open_one);
        Ok(())
    })
}

/// Lets `ask` go to the daemon that has the image at `path` open; tells whether one has. A plain path is the image in it.
pub(super) fn if_open(
    path: &str,
    ask: impl AsyncFnOnce(&Client, &str) -> Result<()>,
) -> Result<bool> {
    let answered = with_daemon(
        async |client| match ask(client, &disk_argument(path)?).await {
            Err(error) if error.is_not_found() && !ImageWord::is_meant_by(path) => Ok(false),
            asked => asked.map(|()| true),
        },
    );
    Ok(answered?.unwrap_or(false))
}

/// What `ask` says of the daemon that answers, if one does. None is started.
fn with_daemon<T>(ask: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<Option<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::general(ErrorKind::Io, format!("weft cannot start: {error}")))?;
    runtime.block_on(async {
        // A state folder that cannot be told is none of this command's matters.
        let Ok(Some(client)) = Client::find().await else {
            return Ok(None);
        };
        ask(&client).await.map(Some)
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
