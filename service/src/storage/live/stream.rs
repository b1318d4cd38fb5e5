//! An image in use takes over what it has from below, and rests on nothing then, or on an image further down.

use std::sync::Arc;

use weft_block::{BlockDevice, BlockQueue, Extent, ExtentKind, LocalBoxFuture, Spawner};
use weft_qcow2::format::Backing;
use weft_qcow2::{Image, Zeroes};
use weft_uring::{ShardHandle, spawner};

use super::job::{Job, JobRecord, Work};
use super::open::on;
use super::own::own;
use super::{Link, OpenImage, user};
use crate::api::{Error, ErrorKind, ImageDisk, ImageJoin, Result, SyncAction};
use crate::storage::{State, Storage};

/// Bytes of a disk that are looked at together for what images in between have.
const LOOK: u64 = 64 << 20;

/// The copy of what is below, from the start to the end of the disk. What was copied before is passed over, so that it
/// need not be remembered how far an earlier one was.
struct Stream {
    image: Image,
    queue: Box<dyn BlockQueue>,
    /// Those whose data it takes over, if it is to rest on another one then.
    between: Option<Vec<Image>>,
    at: u64,
    size: u64,
}

impl Stream {
    /// The next part that is to be taken over; none to the end of the disk, or of what was looked at.
    async fn next(&mut self, spawner: &Spawner) -> weft_block::Result<Option<Extent>> {
        let rest = self.size - self.at;
        let Some(between) = &self.between else {
            let extents = self.queue.extents(self.at, rest).await?;
            let mut extents = extents.into_iter();
            let next = extents.find(|extent| {
                self.at = extent.offset;
                let data = extent.kind == ExtentKind::Data;
                if !data {
                    self.at += extent.len;
                }
                data
            });
            return Ok(next);
        };
        let end = self.at + rest.min(LOOK);
        let extents = own(between, self.at..end, spawner).await?;
        self.at = extents.first().map_or(end, |extent| extent.offset);
        Ok(extents.first().copied())
    }
}

impl Work for Stream {
    fn step<'a>(
        &'a mut self,
        bytes: u64,
        spawner: &'a Spawner,
    ) -> LocalBoxFuture<'a, weft_block::Result<bool>> {
        Box::pin(async move {
            // What holds nothing anywhere is passed over at once.
            while self.at < self.size {
                let Some(part) = self.next(spawner).await? else {
                    continue;
                };
                let end = part.offset + part.len.min(bytes);
                let zeroes = match self.between {
                    Some(_) => Zeroes::Own,
                    None => Zeroes::Absent,
                };
                self.image.fill(part.offset..end, zeroes, spawner).await?;
                self.at = end;
                break;
            }
            Ok(self.at >= self.size)
        })
    }

    fn done(&self) -> u64 {
        self.at
    }
}

impl Storage {
    /// Begins to copy what an image in use has from below into it, at the pace that is wanted. When that is done it rests on
    /// nothing, or on the one that was named.
    ///
    /// # Errors
    /// `NotFound` if it is not open, `Invalid` if it rests on nothing, or not on such an image, or has snapshots, `InUse` or
    /// `Busy` if it cannot be changed now.
    pub async fn stream_image(&self, wanted: &ImageJoin) -> Result<ImageDisk> {
        let mut state = self.state.lock().await;
        let key = state.changeable_image(&wanted.disk)?.word.key();
        let base = wanted.base.as_deref();
        let record = JobRecord::new(SyncAction::Stream, base, &key, &wanted.sync)?;
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
        let between = open.to_take_over(record.to.as_deref()).await?;
        self.remember_job(key, Some(&record))?;
        let (image, size) = (open.image()?, open.switch.info().size);
        let make = move || {
            let queue = image.open(&spawner())?;
            Ok(Stream {
                image,
                queue,
                between,
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
    /// The images between the top and the one in `base`, if it is not the whole chain that the top is to take over.
    async fn to_take_over(&self, base: Option<&str>) -> Result<Option<Vec<Image>>> {
        let key = self.word.key();
        let invalid = |why: String| {
            let message = format!("{key} {why}");
            Err(Error::new(ErrorKind::Invalid, &key, message))
        };
        if self.links.len() == 1 {
            return invalid("rests on nothing already".to_owned());
        }
        if self.links[0].has_snapshots(&self.home).await? {
            return invalid(
                "has snapshots, which rest on what is below as well and would be lost: delete them first"
                    .to_owned(),
            );
        }
        let Some(base) = base else {
            return Ok(None);
        };
        let depth = self.depth_of(Some(base))?;
        let (between, base) = (&self.links[1..depth], &self.links[depth]);
        if between.is_empty() {
            return invalid(format!("rests on {} already", base.disk));
        }
        let size = self.switch.info().size.min(base.device.info().size);
        if let Some(short) = between.iter().find(|link| link.device.info().size < size) {
            let (short, base) = (&short.disk, &base.disk);
            return invalid(format!(
                "would read what is in {base} beyond the end of {short}, which is shorter: let it take over {base} as well"
            ));
        }
        let images = between.iter().filter_map(|link| link.image.clone());
        Ok(Some(images.collect()))
    }

    /// Writes into the image that it rests on what is at `depth`, or on nothing, and opens it so.
    async fn rest_on(&mut self, depth: Option<usize>) -> Result<()> {
        let below = depth.map_or(&[][..], |depth| &self.links[depth..]).to_vec();
        let paused = self.switch.pause().await;
        let renamed = async {
            let top = &self.links[0];
            let backing = match below.first() {
                None => None,
                Some(link) => Some(Backing {
                    path: link.name_for(&top.disk)?,
                    format: Some(link.format.name().to_owned()),
                }),
            };
            top.name_backing(backing, &self.home).await?;
            self.close_top().await?;
            let device = below.first().map(|link| Arc::clone(&link.device));
            top.reopen(device, false, &self.home).await
        };
        match renamed.await {
            Ok(link) => {
                let replaced = paused.replace(Arc::clone(&link.device)).await;
                replaced.map_err(|error| Error::from_block(&link.disk, &error))?;
                self.links = [link].into_iter().chain(below).collect();
                Ok(())
            }
            Err(error) => {
                self.go_on(paused).await;
                Err(error)
            }
        }
    }
}

impl Link {
    pub(super) async fn has_snapshots(&self, home: &ShardHandle) -> Result<bool> {
        let Some(image) = self.image.clone() else {
            return Ok(false);
        };
        let found = on(home, &self.disk, move || async move {
            image.snapshots(&spawner()).await
        });
        Ok(!found.await?.is_empty())
    }

    async fn name_backing(&self, backing: Option<Backing>, home: &ShardHandle) -> Result<()> {
        let image = self.image.clone();
        on(home, &self.disk, move || async move {
            match image {
                Some(image) => image.set_backing(backing, &spawner()).await,
                None => Ok(()),
            }
        })
        .await
    }
}

impl State {
    /// Lets go what an image whose stream is done has rested on.
    pub(super) async fn finish_stream(&mut self, key: &str) -> Result<()> {
        let Some(open) = self.images.get_mut(key) else {
            return Ok(());
        };
        let base = open.job.as_ref().and_then(|job| job.record().to);
        let depth = match &base {
            Some(disk) => Some(open.depth_of(Some(disk))?),
            None => None,
        };
        self.lets_go_between(key, depth).await
    }

    /// Lets an image rest on what is at `depth`, or on nothing, and gives back those between.
    pub(super) async fn lets_go_between(&mut self, key: &str, depth: Option<usize>) -> Result<()> {
        let Some(open) = self.images.get_mut(key) else {
            return Ok(());
        };
        let end = depth.unwrap_or(open.links.len());
        let between = open.links[1..end].iter().flat_map(Link::disks);
        let between: Vec<String> = between.map(str::to_owned).collect();
        open.rest_on(depth).await?;
        open.claimed.retain(|disk| !between.contains(disk));
        let user = user(&open.word);
        for disk in between {
            self.release_below(&disk, &user).await;
        }
        Ok(())
    }
}
