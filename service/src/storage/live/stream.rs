//! An image in use takes over all that it has from below, and rests on nothing then.

use std::sync::Arc;

use weft_block::{BlockDevice, BlockQueue, ExtentKind, LocalBoxFuture, Spawner};
use weft_qcow2::Image;
use weft_uring::{ShardHandle, spawner};

use super::job::{Job, JobRecord, Work, paced};
use super::open::on;
use super::{Link, OpenImage, user};
use crate::api::{Error, ErrorKind, ImageDisk, RaidSync, Result, SyncAction};
use crate::storage::pace::Pace;
use crate::storage::{State, Storage};

/// The copy of what is below, from the start to the end of the disk. What was copied before is passed over, so that it
/// need not be remembered how far an earlier one was.
struct Stream {
    image: Image,
    queue: Box<dyn BlockQueue>,
    at: u64,
    size: u64,
}

impl Work for Stream {
    fn step<'a>(
        &'a mut self,
        bytes: u64,
        spawner: &'a Spawner,
    ) -> LocalBoxFuture<'a, weft_block::Result<bool>> {
        Box::pin(async move {
            if self.at >= self.size {
                return Ok(true);
            }
            // What holds nothing anywhere is passed over at once.
            let rest = self.size - self.at;
            let extents = self.queue.extents(self.at, rest).await?;
            let mut end = self.at;
            for extent in extents {
                end = extent.offset + extent.len;
                if extent.kind == ExtentKind::Data {
                    end = end.min(extent.offset + bytes);
                    self.image.fill(extent.offset..end, spawner).await?;
                    break;
                }
            }
            self.at = end;
            Ok(self.at >= self.size)
        })
    }

    fn done(&self) -> u64 {
        self.at
    }
}

impl Storage {
    /// Begins to copy what an image in use has from below into it, at the pace that is wanted. When that is done it rests on nothing.
    ///
    /// # Errors
    /// `NotFound` if it is not open, `Invalid` if it rests on nothing or has snapshots, `InUse` or `Busy` if it cannot be
    /// changed now.
    pub async fn stream_image(&self, disk: &str, wanted: &RaidSync) -> Result<ImageDisk> {
        let mut state = self.state.lock().await;
        let key = state.changeable_image(disk)?.word.key();
        let record = JobRecord {
            action: SyncAction::Stream,
            pace: paced(Pace::default(), disk, wanted)?,
        };
        self.begin_stream(&mut state, &key, record).await?;
        let open = state.open_image_of(&key)?;
        Ok(state.describe_image(&key, open))
    }

    pub(super) async fn begin_stream(
        &self,
        state: &mut State,
        key: &str,
        record: JobRecord,
    ) -> Result<()> {
        let Some(open) = state.images.get_mut(key) else {
            return Err(Error::not_found("image", key));
        };
        let invalid = |why: &str| {
            let message = format!("{key} {why}");
            Err(Error::new(ErrorKind::Invalid, key, message))
        };
        if open.links.len() == 1 {
            return invalid("rests on nothing already");
        }
        if open.has_snapshots().await? {
            return invalid(
                "has snapshots, which rest on what is below as well and would be lost: delete them first",
            );
        }
        self.remember_job(key, Some(&record))?;
        let (image, size) = (open.image()?, open.switch.info().size);
        let make = move || {
            let queue = image.open(&spawner())?;
            Ok(Stream {
                image,
                queue,
                at: 0,
                size,
            })
        };
        let job = Job::start(record, size, &open.switch, &open.home, &self.jobs, make);
        open.job = Some(job);
        open.trouble = None;
        Ok(())
    }
}

impl OpenImage {
    pub(super) async fn has_snapshots(&self) -> Result<bool> {
        let (image, disk) = (self.image()?, self.links[0].disk.clone());
        let found = on(&self.home, &disk, move || async move {
            image.snapshots(&spawner()).await
        });
        Ok(!found.await?.is_empty())
    }

    /// Writes into the image that it rests on nothing, and opens it so.
    async fn stand_alone(&mut self) -> Result<()> {
        let paused = self.switch.pause().await;
        let alone = async {
            forget_backing(&self.links[0], &self.home).await?;
            self.close_top().await?;
            self.links[0].reopen(None, false, &self.home).await
        };
        match alone.await {
            Ok(link) => {
                let replaced = paused.replace(Arc::clone(&link.device)).await;
                replaced.map_err(|error| Error::from_block(&link.disk, &error))?;
                self.links = vec![link];
                Ok(())
            }
            Err(error) => {
                self.go_on(paused).await;
                Err(error)
            }
        }
    }
}

async fn forget_backing(link: &Link, home: &ShardHandle) -> Result<()> {
    let image = link.image.clone();
    on(home, &link.disk, move || async move {
        match image {
            Some(image) => image.set_backing(None, &spawner()).await,
            None => Ok(()),
        }
    })
    .await
}

impl State {
    /// Lets go what an image whose stream is done has rested on.
    pub(super) async fn finish_stream(&mut self, key: &str) -> Result<()> {
        let Some(open) = self.images.get_mut(key) else {
            return Ok(());
        };
        let below: Vec<String> = open.links[1..]
            .iter()
            .flat_map(Link::disks)
            .map(str::to_owned)
            .collect();
        open.stand_alone().await?;
        open.claimed.retain(|disk| !below.contains(disk));
        let user = user(&open.word);
        for disk in below {
            self.release_below(&disk, &user).await;
        }
        Ok(())
    }
}
