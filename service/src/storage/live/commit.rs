//! What an image in use has of its own goes into one below it, which takes its place.
//!
//! The one below is opened to be written, and all above it anew over that opening, so that no part of the chain goes by
//! tables that are old. Until the end nothing rests on what was copied: the upper images hide it.

use std::sync::Arc;

use weft_block::{BlockDevice, BlockQueue, Info, Paused, Spawner};
use weft_copy::Mirror;
use weft_uring::{FileDevice, ShardHandle, spawner};

use super::copying::Copying;
use super::job::{Job, JobRecord};
use super::mirror::Steps;
use super::open::on;
use super::overlay::Renames;
use super::own::Above;
use super::{Link, OpenImage, user};
use crate::api::{Error, ErrorKind, ImageDisk, ImageJoin, Result, SyncAction};
use crate::storage::disks::{Access, Reference, Served};
use crate::storage::images::{Format, open_path};
use crate::storage::{State, Storage};

impl Storage {
    /// Begins to copy what the open image has of its own, and those between, into one below, while its users go on. When
    /// that is done they have the one below; or the image is left on top, over the one that has taken those between. A
    /// daemon that is killed before that begins it anew.
    ///
    /// # Errors
    /// `NotFound` if the image is not open, `Invalid` if it does not rest on such an image or one above that has snapshots,
    /// `InUse` or `Busy` if one of them cannot be changed now, `Unsupported` if the one below cannot be written. Nothing
    /// has changed then.
    pub async fn commit_image(&self, wanted: &ImageJoin) -> Result<ImageDisk> {
        let mut state = self.state.lock().await;
        let open = state.changeable_image(&wanted.disk)?;
        let key = open.word.key();
        let upper = usize::from(wanted.below);
        let depth = match &wanted.base {
            None => open.depth_below(upper)?,
            Some(base) => open.depth_of(Some(base))?,
        };
        let base = Some(open.links[depth].disk.as_str());
        let record = JobRecord {
            below: wanted.below,
            ..JobRecord::new(SyncAction::Commit, base, &key, &wanted.sync)?
        };
        self.begin_commit(&mut state, &key, record).await?;
        let open = state.open_image_of(&key)?;
        Ok(state.describe_image(&key, open))
    }

    pub(super) async fn begin_commit(
        &self,
        state: &mut State,
        key: &str,
        record: JobRecord,
    ) -> Result<()> {
        let Some(open) = state.images.get_mut(key) else {
            return Err(Error::not_found("image", key));
        };
        let depth = open.depth_of(record.to.as_deref())?;
        open.check_committed(usize::from(record.below), depth)
            .await?;
        let (base, user) = (open.links[depth].disk.clone(), user(&open.word));
        state.claims.tighten(&base, &user, Access::Alone)?;
        let begun = match self.remember_job(key, Some(&record)) {
            Ok(()) => open.begin_commit(depth, record, &self.jobs).await,
            Err(error) => Err(error),
        };
        if begun.is_err() {
            state.claims.change_access(&base, &user, Access::Fixed);
            self.forget_job(key);
        }
        begun
    }
}

impl OpenImage {
    /// How deep in the chain the image is that lies in `disk`: the one below the top unless told.
    ///
    /// # Errors
    /// `Invalid` if there is none.
    pub(super) fn depth_of(&self, disk: Option<&str>) -> Result<usize> {
        let key = self.word.key();
        let missing = match disk {
            None if self.links.len() > 1 => return Ok(1),
            None => format!("{key} rests on nothing"),
            Some(disk) => {
                let mut below = self.links.iter().skip(1);
                if let Some(place) = below.position(|link| link.disk == disk) {
                    return Ok(place + 1);
                }
                format!("{key} does not rest on {disk}; see `weft image show {key}`")
            }
        };
        Err(Error::new(ErrorKind::Invalid, key, missing))
    }

    /// How deep the image is that the one at `upper` rests on.
    fn depth_below(&self, upper: usize) -> Result<usize> {
        if upper + 1 < self.links.len() {
            return Ok(upper + 1);
        }
        let link = &self.links[upper.min(self.links.len() - 1)];
        let message = format!("{} rests on nothing", link.disk);
        Err(Error::new(ErrorKind::Invalid, &link.disk, message))
    }

    /// Refuses to commit those from `upper` on into the one at `depth` if that would change more than where they lie.
    async fn check_committed(&self, upper: usize, depth: usize) -> Result<()> {
        let size = |depth: usize| self.links[depth].device.info().size;
        if upper > 0 && (depth <= upper || size(depth) > size(upper)) {
            let (key, base) = (self.word.key(), &self.links[depth].disk);
            let why = match depth > upper {
                true => "is longer than what it would take, and more of it would be seen",
                false => "is the one right below the top, which has nothing between them",
            };
            let message = format!("{key}: {base} {why}");
            return Err(Error::new(ErrorKind::Invalid, key, message));
        }
        for link in &self.links[upper..depth] {
            if link.has_snapshots(&self.home).await? {
                let disk = &link.disk;
                let message = format!(
                    "{disk} has snapshots, which rest on what is below as well and would be lost: delete them first"
                );
                return Err(Error::new(ErrorKind::Invalid, disk, message));
            }
        }
        let base = &self.links[depth];
        if base.data_file.is_some() {
            let disk = &base.disk;
            let message = format!(
                "{disk} keeps its data in another file, which is not written beside a job: commit when nobody uses the image"
            );
            return Err(Error::new(ErrorKind::Unsupported, disk, message));
        }
        Ok(())
    }

    async fn begin_commit(
        &mut self,
        depth: usize,
        record: JobRecord,
        jobs: &Arc<tokio::sync::Notify>,
    ) -> Result<()> {
        let word = self.word_at(depth)?;
        let paused = self.switch.pause().await;
        self.close_top().await?;
        let opened = self.open_below(usize::from(record.below), depth).await;
        let begun = match opened {
            Ok(mirror) => {
                // Those below the top are written by nobody.
                let device = match record.below {
                    true => Arc::clone(&self.links[0].device),
                    false => Arc::new(mirror.clone()),
                };
                let replaced = paused.replace(device).await;
                let replaced = replaced.map_err(|error| Error::from_block(&word, &error));
                replaced.map(|()| mirror)
            }
            Err(error) => {
                self.close_below(depth, paused).await?;
                Err(error)
            }
        };
        let mirror = begun?;
        self.copying = Some(match record.below {
            true => Copying::Below { depth },
            false => Copying::Commit {
                depth,
                mirror: mirror.clone(),
                word,
            },
        });
        let total = mirror.progress().1;
        let make = move || Ok(Steps(mirror));
        let job = Job::start(record, total, &self.switch, &self.home, jobs, make);
        self.job = Some(job);
        self.trouble = None;
        Ok(())
    }

    /// What the disk at `depth` is called when it is the top.
    fn word_at(&self, depth: usize) -> Result<String> {
        let link = &self.links[depth];
        match link.format {
            Format::Raw => Ok(link.disk.clone()),
            Format::Qcow2 => {
                let word = self.word_in(&link.disk, &self.links[depth + 1..])?;
                Ok(word.to_string())
            }
        }
    }

    /// Opens the image at `depth` to be written, and those above it anew over it; the answer copies into it what those
    /// from `upper` on have.
    async fn open_below(&mut self, upper: usize, depth: usize) -> Result<Mirror> {
        let base = self.links[depth].writable()?;
        let below = self.links.get(depth + 1);
        let below = below.map(|link| Arc::clone(&link.device));
        let base = base.opened(below, false, &self.home).await?;
        self.links[depth] = base;
        let size = self.links[upper].device.info().size;
        self.links[depth].grow(size, &self.home).await?;
        self.reopen_above(depth).await?;
        let above = self.links[upper..depth].iter();
        let above = above.filter_map(|link| link.image.clone()).collect();
        let (top, base) = (&self.links[upper], &self.links[depth]);
        let (source, target) = (Arc::clone(&top.device), Arc::clone(&base.device));
        Mirror::below(source, target, Arc::new(Above(above)))
            .map_err(|error| Error::from_block(&base.disk, &error))
    }

    /// Opens those above `depth` anew over what is there now.
    pub(super) async fn reopen_above(&mut self, depth: usize) -> Result<()> {
        for place in (0..depth).rev() {
            let below = Some(Arc::clone(&self.links[place + 1].device));
            let reopened = self.links[place].reopen(below, place > 0, &self.home);
            self.links[place] = reopened.await?;
        }
        Ok(())
    }

    /// Lets the users go on over an image at `depth` that nobody writes any more.
    ///
    /// # Errors
    /// As writing and opening: they go on with what is there, for a closed image takes requests.
    pub(super) async fn close_below(&mut self, depth: usize, paused: Paused) -> Result<()> {
        self.close_top().await?;
        if let Err(error) = self.links[depth].close(&self.home).await {
            // What is not published there is hidden, and the file is an image all the same.
            let (disk, error) = (&self.links[depth].disk, error.message);
            tracing::warn!(disk, error, "closed uncleanly");
        }
        let below = self.links.get(depth + 1);
        let below = below.map(|link| Arc::clone(&link.device));
        let base = self.links[depth].opened(below, true, &self.home).await?;
        self.links[depth] = base;
        self.reopen_above(depth).await?;
        let device = Arc::clone(&self.links[0].device);
        let replaced = paused.replace(device).await;
        replaced.map_err(|error| Error::from_block(&self.word.key(), &error))?;
        let base = &self.links[depth];
        if let Some(lock) = &base.lock
            && let Err(error) = lock.lock_to_read()
        {
            let error = error.sentence();
            tracing::warn!(disk = base.disk, error, "still locked");
        }
        Ok(())
    }
}

impl Link {
    /// The same over a file that can be written, which is locked for that.
    fn writable(&self) -> Result<Self> {
        let failed = |error: weft_block::Error| Error::from_block(&self.disk, &error);
        if let Some(lock) = &self.lock {
            lock.lock_to_write().map_err(failed)?;
        }
        if !self.file.info().read_only {
            return Ok(self.clone());
        }
        let Some(lock) = &self.lock else {
            let disk = &self.disk;
            let message = format!("{disk} is open for reading alone and cannot be written");
            return Err(Error::new(ErrorKind::Unsupported, disk, message));
        };
        let file = match open_path(lock.path(), false, false) {
            Ok(file) => file,
            Err(error) => {
                // What matters is the first error.
                let _ = lock.lock_to_read();
                return Err(error);
            }
        };
        let file: Arc<dyn BlockDevice> = Arc::new(Locked {
            file,
            _lock: Arc::clone(lock),
        });
        Ok(Self {
            device: Arc::clone(&file),
            file,
            ..self.clone()
        })
    }

    /// The same image opened anew; a raw disk is as it is.
    async fn opened(
        &self,
        below: Option<Arc<dyn BlockDevice>>,
        read_only: bool,
        home: &ShardHandle,
    ) -> Result<Self> {
        match self.format {
            Format::Raw => Ok(self.clone()),
            Format::Qcow2 => self.reopen(below, read_only, home).await,
        }
    }

    /// Publishes all that was written to it.
    async fn close(&self, home: &ShardHandle) -> Result<()> {
        let Some(image) = self.image.clone().filter(|_| !self.device.info().read_only) else {
            return Ok(());
        };
        on(home, &self.disk, move || async move {
            image.close(&spawner()).await
        })
        .await?;
        self.logs.forget(&self.disk);
        Ok(())
    }

    /// Makes it as large as the disk over it: what is gained reads as zeroes, as it did.
    async fn grow(&self, size: u64, home: &ShardHandle) -> Result<()> {
        if self.device.info().size >= size {
            return Ok(());
        }
        let (image, device) = (self.image.clone(), Arc::clone(&self.device));
        on(home, &self.disk, move || async move {
            match image {
                Some(image) => image.resize(size, &spawner()).await,
                None => device.set_len(size),
            }
        })
        .await
    }
}

impl State {
    /// Puts the image below in the place of the top; if that fails the users go on with the top.
    pub(super) async fn finish_commit(
        &mut self,
        key: &str,
        outcome: weft_block::Result<()>,
        renames: &dyn Renames,
    ) -> Result<()> {
        let copying = self.images.get(key).and_then(|open| open.copying.as_ref());
        let turned = match (outcome, copying) {
            (Ok(()), Some(Copying::Below { depth })) => {
                let depth = *depth;
                self.end_copy(key, true).await?;
                return self.lets_go_between(key, Some(depth)).await;
            }
            (Ok(()), _) => self.turn_to_below(key, renames).await,
            (Err(error), _) => Err(Error::from_block(key, &error)),
        };
        if turned.is_err()
            && let Err(error) = self.end_copy(key, false).await
        {
            tracing::error!(image = key, error = error.message, "its commit stays");
        }
        turned
    }

    async fn turn_to_below(&mut self, key: &str, renames: &dyn Renames) -> Result<()> {
        let Some(open) = self.images.get(key) else {
            return Ok(());
        };
        let Some(Copying::Commit {
            depth,
            mirror,
            word,
        }) = &open.copying
        else {
            return Ok(());
        };
        let (depth, word) = (*depth, word.clone());
        let device = Arc::clone(&open.links[depth].device);
        open.turn(mirror.clone(), device, &word, renames).await?;
        let Some(mut open) = self.images.remove(key) else {
            return Ok(());
        };
        open.copying = None;
        if let Some(job) = open.job.take() {
            job.end().await;
        }
        if let Err(error) = open.close_top().await {
            // It is no part of the disk any more.
            let error = error.message;
            tracing::warn!(image = key, error, "closed uncleanly");
        }
        self.let_go_above(&mut open, depth).await;
        self.stands_at(key, open, &word).await
    }

    /// Gives back the images above `depth` of one that is not used through them any more.
    async fn let_go_above(&mut self, open: &mut OpenImage, depth: usize) {
        let above: Vec<Link> = open.links.drain(..depth).collect();
        let user = user(&open.word);
        let disks: Vec<String> = above
            .iter()
            .flat_map(Link::disks)
            .map(str::to_owned)
            .collect();
        drop(above);
        open.claimed.retain(|disk| !disks.contains(disk));
        for disk in disks {
            self.release_below(&disk, &user).await;
        }
    }

    /// Those who have used the image `key` use what is left of its chain by the name `word`.
    async fn stands_at(&mut self, key: &str, mut open: OpenImage, word: &str) -> Result<()> {
        let old = user(&open.word);
        if let Reference::Image(word) = Reference::of(word) {
            open.word = word.parse()?;
            let key_now = open.word.key();
            self.claims.rename_user(&old, &user(&open.word));
            self.claims.rename_disk(key, &key_now);
            self.images.insert(key_now, open);
            return Ok(());
        }
        // A raw disk is used as any other.
        self.claims.move_users(key, word);
        if matches!(Reference::of(word), Reference::Path(_) | Reference::Url(_)) {
            let served = Served::here(Arc::clone(&open.links[0].device), open.home.clone());
            self.claims.keep_file(word, served);
        }
        drop(open);
        self.release_below(word, &old).await;
        Ok(())
    }
}

/// A file that is written by one opening while the lock is another one's.
struct Locked {
    file: Arc<FileDevice>,
    _lock: Arc<FileDevice>,
}

impl BlockDevice for Locked {
    fn info(&self) -> Info {
        self.file.info()
    }

    fn open(&self, spawner: &Spawner) -> weft_block::Result<Box<dyn BlockQueue>> {
        self.file.open(spawner)
    }

    fn max_queues(&self) -> usize {
        self.file.max_queues()
    }

    fn set_len(&self, size: u64) -> weft_block::Result<()> {
        self.file.set_len(size)
    }
}
