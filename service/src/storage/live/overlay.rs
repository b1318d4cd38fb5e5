//! A new image becomes the top of one that is in use: what was there stays as it is from now on.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use weft_block::{BlockDevice, Paused};
use weft_qcow2::create;
use weft_qcow2::format::Backing;
use weft_qcow2::luks::MasterKey;
use weft_uring::{FileDevice, ShardHandle, spawner};

use super::open::{name_of, on, open_for_use, policy};
use super::{ImageWord, Link, OpenImage, secrets, user};
use crate::api::{Error, ErrorKind, ImageDisk, Result};
use crate::storage::disks::{Access, Reference, file_failure};
use crate::storage::images::{Format, Preallocation, read_options};
use crate::storage::{State, Storage};

/// Who remembers disks by their words, and can learn another one.
pub trait Renames: Sync {
    /// What was remembered by the word `from`, whatever it allows, is `to` from now on. It is durable when this returns.
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<()>>;
}

impl Storage {
    /// Makes an image in the file `path` the top of the open image `disk`, whose users go on. From then on the disk has
    /// the new image's word.
    ///
    /// # Errors
    /// `NotFound` if `disk` is not open, `InUse` if it cannot be changed under who uses it, `Exists` or `Invalid` for the
    /// new file, and as writing. The disk is what it was then.
    pub async fn overlay_image(
        &self,
        disk: &str,
        path: &str,
        options: &[(String, String)],
        renames: &dyn Renames,
    ) -> Result<ImageDisk> {
        let mut state = self.state.lock().await;
        let key = state.changeable_image(disk)?.word.key();
        if !matches!(Reference::of(path), Reference::Path(_)) {
            let message = format!("{path} is no path: a new image is made in a file");
            return Err(Error::new(ErrorKind::Invalid, path, message));
        }
        if std::fs::symlink_metadata(path).is_ok() {
            let message = format!("{path} exists already and is left alone");
            return Err(Error::new(ErrorKind::Exists, path, message));
        }
        let open = &state.images[&key];
        let word = open.word_in(path, &open.links)?;
        let made = state.images[&key].make_over(&word, options).await;
        let done = match made {
            Ok(made) => state.put_over(&key, &word, made, renames).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            state.logs.forget(path);
            // What matters is the first error.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        let open = state.open_image_of(&word.key())?;
        Ok(state.describe_image(&word.key(), open))
    }
}

/// A new image's file, and what it is encrypted with.
struct Made {
    file: Arc<FileDevice>,
    key: Option<Arc<MasterKey>>,
}

impl OpenImage {
    /// The word of an image in `disk` over some of these. Where the files do not lie beside it, it allows them by name.
    pub(super) fn word_in(&self, disk: &str, below: &[Link]) -> Result<ImageWord> {
        let mut word = ImageWord::of(disk);
        word.allow_any = self.word.allow_any;
        word.key_files.clone_from(&self.word.key_files);
        let below = || below.iter().flat_map(Link::disks);
        let (first, rule) = (name_of(disk)?, policy(&word)?);
        let mut beside = true;
        for disk in below() {
            // The folder of a new file is there, the file is not.
            beside &= rule.allows(&first, &name_of(disk)?);
        }
        if !beside {
            word.allow = below().map(str::to_owned).collect();
        }
        Ok(word)
    }

    /// Makes the new image's file, which nobody knows of yet. Over an encrypted image it is encrypted too.
    async fn make_over(&self, word: &ImageWord, options: &[(String, String)]) -> Result<Made> {
        let path = word.inner.as_str();
        let read = read_options(options, self.switch.info().size)?;
        if let Some((key, _)) = read.unknown.first() {
            let message = format!("{path}: there is no option {key}");
            return Err(Error::new(ErrorKind::Invalid, path, message));
        }
        let secret = self.links[0].key.is_some();
        let odd = read.preallocation != Preallocation::Off || read.image.data_file.is_some();
        if odd || (read.encryption.is_some() && !secret) {
            let message = format!(
                "{path}: an overlay that is made in use has no data file, no room in advance, and no key but those of the disk"
            );
            return Err(Error::new(ErrorKind::Unsupported, path, message));
        }
        let mut made = read.image;
        let mut key = None;
        if secret {
            let (area, new) = secrets::new_key(word, read.encryption.unwrap_or_default()).await?;
            (made.encryption, key) = (Some(area), Some(new));
        }
        made.backing = Some(Backing {
            path: self.links[0].name_for(path)?,
            format: Some(Format::Qcow2.name().to_owned()),
        });
        let opening = weft_uring::OpenOptions {
            fill_last_block: true,
            ..weft_uring::OpenOptions::default()
        };
        let file = FileDevice::create_with(path, 0, &opening);
        let file = Arc::new(file.map_err(|error| file_failure(path, &error))?);
        let device = Arc::clone(&file);
        on(&self.home, path, move || async move {
            create(&*device, &made, &spawner()).await
        })
        .await?;
        Ok(Made { file, key })
    }
}

impl State {
    /// An open image that may be exchanged under its users.
    pub(super) fn changeable_image(&self, disk: &str) -> Result<&OpenImage> {
        let open = self.open_image_of(disk)?;
        let key = open.word.key();
        let refused = |why: String| Err(Error::new(ErrorKind::InUse, disk, why));
        open.check_idle()?;
        if open.read_only {
            return refused(format!("{key} is open for reading alone"));
        }
        // Arrays and groups keep the names of their disks in ways that do not change in use.
        let mut users = self.claims.users(&key);
        let fixed = users.find(|user| !matches!(user.noun.as_str(), "export" | "vm"));
        match fixed {
            Some(user) => {
                let (noun, name) = (&user.noun, &user.name);
                refused(format!(
                    "{key} is used by {noun} {name}, which knows it by this name"
                ))
            }
            None => Ok(open),
        }
    }

    /// Exchanges the open image `key` for one in `file` that rests on it, whose word is `word`.
    async fn put_over(
        &mut self,
        key: &str,
        word: &ImageWord,
        made: Made,
        renames: &dyn Renames,
    ) -> Result<()> {
        let disk = word.inner.clone();
        self.claims.claim(&disk, user(word), Access::Alone)?;
        let exchanged = match self.images.get_mut(key) {
            Some(open) => open.exchange(word, made, renames).await,
            None => Err(Error::not_found("image", key)),
        };
        let links = match exchanged {
            Ok(links) => links,
            Err(error) => {
                self.claims.release(&disk, &user(word));
                return Err(error);
            }
        };
        if let Some(mut open) = self.images.remove(key) {
            let (old, new) = (user(&open.word), user(word));
            self.claims
                .change_access(&open.word.inner, &old, Access::Fixed);
            self.claims.rename_user(&old, &new);
            self.claims.rename_disk(key, &word.key());
            open.claimed.push(disk);
            open.word = word.clone();
            open.links = links;
            self.images.insert(word.key(), open);
        }
        Ok(())
    }
}

impl OpenImage {
    /// Holds the users back, closes the top, opens it for reading alone below the new image, and lets them go on there.
    async fn exchange(
        &mut self,
        word: &ImageWord,
        made: Made,
        renames: &dyn Renames,
    ) -> Result<Vec<Link>> {
        let paused = self.switch.pause().await;
        self.close_top().await?;
        match self.join_over(word, made, &paused, renames).await {
            Ok((old, new)) => {
                let replaced = paused.replace(Arc::clone(&new.device)).await;
                replaced.map_err(|error| Error::from_block(&word.inner, &error))?;
                // What nobody writes any more others may read.
                let shared = old.lock.as_ref().map(|lock| lock.lock_to_read());
                if let Some(Err(error)) = shared {
                    tracing::warn!(disk = old.disk, error = error.sentence(), "still locked");
                }
                let below = self.links[1..].iter().cloned();
                Ok([new, old].into_iter().chain(below).collect())
            }
            Err(error) => {
                self.go_on(paused).await;
                Err(error)
            }
        }
    }

    /// Opens the image that is on top now for reading alone, and the new one over it; tells all who know the name.
    async fn join_over(
        &self,
        word: &ImageWord,
        Made { file, key }: Made,
        paused: &Paused,
        renames: &dyn Renames,
    ) -> Result<(Link, Link)> {
        let old = self.links[0].reopen(self.below(), true, &self.home).await?;
        let new = Link {
            disk: word.inner.clone(),
            format: Format::Qcow2,
            device: file.clone(),
            file: file.clone(),
            lock: Some(file),
            data_file: None,
            key,
            logs: self.links[0].logs.clone(),
            image: None,
        };
        let below = Some(Arc::clone(&old.device));
        let new = new.reopen(below, false, &self.home).await?;
        let fits = paused.accepts(&new.device.info());
        fits.map_err(|error| Error::from_block(&word.inner, &error))?;
        // Nothing is acknowledged on top of the old image before all who know its name know the new one.
        renames.rename(&self.word.key(), &word.to_string()).await?;
        Ok((old, new))
    }

    /// What the top rests on.
    pub(super) fn below(&self) -> Option<Arc<dyn BlockDevice>> {
        self.links.get(1).map(|link| Arc::clone(&link.device))
    }

    /// Opens the top anew for those who were held back, as it was closed and nothing came of it.
    pub(super) async fn go_on(&mut self, paused: Paused) {
        let reopened = self.links[0].reopen(self.below(), false, &self.home).await;
        let exchanged = match reopened {
            Ok(link) => {
                let device = Arc::clone(&link.device);
                self.links[0] = link;
                let replaced = paused.replace(device).await;
                replaced.map_err(|error| Error::from_block(&self.word.inner, &error))
            }
            // They go on with what is there: a closed image takes requests.
            Err(error) => Err(error),
        };
        if let Err(error) = exchanged {
            tracing::error!(image = %self.word, error = error.message, "not opened anew");
        }
    }
}

impl Link {
    /// What an image in `disk` calls this one: by its name alone if it lies in the same folder, so that both can be moved
    /// together.
    pub(super) fn name_for(&self, disk: &str) -> Result<String> {
        if let (Reference::Path(own), Reference::Path(disk)) =
            (Reference::of(&self.disk), Reference::of(disk))
        {
            let (own, disk) = (Path::new(own), Path::new(disk));
            if own.parent() == disk.parent()
                && let Some(name) = own.file_name().and_then(|name| name.to_str())
            {
                return Ok(name.to_owned());
            }
        }
        Ok(name_of(&self.disk)?.to_string())
    }

    /// The DISKs that it takes.
    pub(super) fn disks(&self) -> impl Iterator<Item = &str> {
        let data = self.data_file.as_ref().map(|(disk, _)| disk.as_str());
        std::iter::once(self.disk.as_str()).chain(data)
    }

    /// The same image opened anew over the same file, whose earlier opening must be closed.
    pub(super) async fn reopen(
        &self,
        below: Option<Arc<dyn BlockDevice>>,
        read_only: bool,
        home: &ShardHandle,
    ) -> Result<Self> {
        let redo = match read_only {
            true => None,
            false => Some(self.logs.memory(&self.disk)?),
        };
        let options = weft_qcow2::OpenOptions {
            read_only,
            redo,
            backing: below,
            data_file: self.data_file.as_ref().map(|(_, file)| Arc::clone(file)),
            key: self.key.clone(),
            ..weft_qcow2::OpenOptions::default()
        };
        let file = Arc::clone(&self.file);
        let image = open_for_use(&self.disk, file, options, home).await?;
        Ok(Self {
            device: Arc::new(image.clone()),
            image: Some(image),
            ..self.clone()
        })
    }
}
