//! Disks, arrays, volume groups, volumes: opened, joined, described and let go.
//!
//! Everything that changes what exists goes through one lock and is done when it is answered; data paths and
//! background work run on the stacks' shards and take no part in it.

mod arrays;
mod away;
mod describe;
pub mod disks;
pub mod exports;
mod groups;
mod grow;
pub mod images;
mod live;
mod members;
mod pace;
mod rebuild;
mod scrubs;
mod volumes;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Mutex;
use weft_block::signature;

use crate::api::{Advice, Disk, DiskCreate, DiskUse, Error, ErrorKind, Result};
use crate::shards::Shards;
use crate::store::Store;
use arrays::RunningArray;
use disks::{Access, Claims, ImageWord, Reference, Served};
use groups::RunningGroup;
use live::OpenImage;

// What drives an array in the background as the daemon does: for who measures it.
pub use pace::Pace;
pub use rebuild::{Keeper, Upkeep};

/// The storage of one daemon.
pub struct Storage {
    store: Arc<dyn Store>,
    shards: Arc<Shards>,
    state: Mutex<State>,
    /// What an earlier daemon had may not be free yet.
    restoring: AtomicBool,
    /// A job of an image has come to its end.
    jobs: Arc<tokio::sync::Notify>,
}

#[derive(Default)]
struct State {
    logs: live::Logs,
    claims: Claims,
    arrays: BTreeMap<String, RunningArray>,
    groups: BTreeMap<String, RunningGroup>,
    /// By their words without what they may name.
    images: BTreeMap<String, OpenImage>,
    moved: live::Moved,
    troubles: Vec<Advice>,
}

impl Storage {
    /// Nothing open yet; [`restore`](Self::restore) brings back what the store remembers.
    /// What must be found by the next daemon only as long as the host has power is below `run`.
    pub fn start(store: Arc<dyn Store>, shards: Arc<Shards>, run: &Path) -> Self {
        let state = State {
            logs: live::Logs::below(run),
            ..State::default()
        };
        Self {
            store,
            shards,
            state: Mutex::new(state),
            restoring: AtomicBool::new(true),
            jobs: Arc::default(),
        }
    }

    /// Brings back the arrays and groups that ran when the last daemon ended. What cannot come back is a trouble that
    /// `status` shows.
    pub async fn restore(&self) {
        let mut state = self.state.lock().await;
        self.restore_arrays(&mut state).await;
        self.restore_groups(&mut state).await;
    }

    /// What could not be brought back.
    pub async fn troubles(&self) -> Vec<Advice> {
        self.state.lock().await.troubles.clone()
    }

    /// All that an earlier daemon had was asked for: what is in use from now on is somebody else's.
    pub fn restored(&self) {
        self.restoring.store(false, Ordering::Relaxed);
    }

    /// Stops all groups, arrays and images, cleanly, what rests on others before these; the next daemon brings them back.
    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        while let Some(object) = state.topmost() {
            match object {
                Object::Image(key) => state.close_image(&key).await,
                Object::Group(name) => drop(state.groups.remove(&name)),
                Object::Array(name) => {
                    if let Err(error) = self.halt_array(&mut state, &name).await {
                        tracing::warn!(array = name, error = error.message, "stopped uncleanly");
                    }
                }
            }
        }
    }

    /// Takes a disk for a user of another family, who gives it back by [`release`](Self::release).
    ///
    /// # Errors
    /// `NotFound`, `InUse`, or whatever keeps it from being opened.
    pub async fn take(&self, disk: &str, user: DiskUse, access: Access) -> Result<Served> {
        let mut state = self.state.lock().await;
        match self.restoring.load(Ordering::Relaxed) {
            true => {
                let taken = state.take_when_free(&self.shards, disk, user, access);
                taken.await
            }
            false => state.take(&self.shards, disk, user, access).await,
        }
    }

    /// Gives back all that `user` has taken.
    pub async fn release(&self, user: &DiskUse) {
        let mut state = self.state.lock().await;
        let disks: Vec<String> = state.claims.disks().map(str::to_owned).collect();
        for disk in disks {
            state.release(&disk, user).await;
        }
        self.forget_jobs(&state);
    }

    /// Makes a disk file, all holes.
    ///
    /// # Errors
    /// `Exists`, `NotFound` (its folder), `Invalid` (its size), `NoSpace`.
    pub async fn create_disk(&self, request: &DiskCreate) -> Result<Disk> {
        let DiskCreate { path, size_bytes } = request;
        if Path::new(path).exists() {
            return Err(Error::new(
                ErrorKind::Exists,
                path,
                format!("{path} exists already and is left alone"),
            ));
        }
        let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
        if !folder.is_dir() {
            let folder = folder.display();
            let message = format!("{path} cannot be made: there is no folder {folder}");
            return Err(Error::new(ErrorKind::NotFound, path, message));
        }
        if *size_bytes == 0 || size_bytes % weft_block::SECTOR != 0 {
            let message = format!("{path}: a disk has a whole number of 512-byte sectors");
            return Err(Error::new(ErrorKind::Invalid, path, message));
        }
        weft_uring::FileDevice::create(path, *size_bytes)
            .map_err(|error| Error::from_block(path, &error))?;
        Ok(Disk {
            path: path.clone(),
            size_bytes: *size_bytes,
            signatures: Vec::new(),
            used_by: None,
            trouble: None,
        })
    }

    /// The disks in use.
    pub async fn disks(&self) -> Vec<Disk> {
        let state = self.state.lock().await;
        let describe = |path: &str| Disk {
            path: path.to_owned(),
            size_bytes: state.size_of(path),
            signatures: Vec::new(),
            used_by: state.claims.user(path).cloned(),
            trouble: None,
        };
        state
            .claims
            .disks()
            .filter(|disk| disk.starts_with('/') || ImageWord::is_meant_by(disk))
            .map(describe)
            .collect()
    }

    /// What disks hold, and who uses them.
    pub async fn inspect_disks(&self, disks: &[String]) -> Vec<Disk> {
        let mut state = self.state.lock().await;
        let mut found = Vec::new();
        for disk in disks {
            let used_by = state.claims.user(disk).cloned();
            let looked = self.look(&mut state, disk).await;
            let (size_bytes, marks, trouble) = match looked {
                Ok((size, marks)) => (size, marks, None),
                Err(error) => (0, Vec::new(), Some(error.message)),
            };
            let signatures = marks.iter().map(|mark| mark.format.to_string()).collect();
            found.push(Disk {
                path: disk.clone(),
                size_bytes,
                signatures,
                used_by,
                trouble,
            });
        }
        found
    }

    async fn look(
        &self,
        state: &mut State,
        disk: &str,
    ) -> Result<(u64, Vec<signature::Signature>)> {
        let served = state.find(&self.shards, disk, true).await?;
        let marks = disks::signatures(disk, &served).await?;
        Ok((served.device.info().size, marks))
    }

    /// Takes all signatures off disks that nobody uses.
    ///
    /// # Errors
    /// `InUse`, `Busy`, or `Io`; disks before the one that failed are wiped.
    pub async fn wipe_disks(&self, disks: &[String]) -> Result<()> {
        let mut state = self.state.lock().await;
        for disk in disks {
            let user = DiskUse {
                noun: "wipe".to_owned(),
                name: disk.clone(),
            };
            let served = state
                .take(&self.shards, disk, user.clone(), Access::Exclusive)
                .await?;
            let wiped = disks::wipe(disk, &served).await;
            state.release(disk, &user).await;
            wiped?;
        }
        Ok(())
    }
}

/// This host's name, as superblocks and metadata tell it.
fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    let short = name.split('.').next().unwrap_or_default();
    if short.is_empty() {
        "localhost".to_owned()
    } else {
        short.to_owned()
    }
}

/// What tells this boot of the host from others; empty where that cannot be told.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The time since 1970.
fn unix_time() -> std::time::Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

/// What runs here and can be stopped.
enum Object {
    Image(String),
    Group(String),
    Array(String),
}

/// How advice calls one of the objects that use disks.
fn object(user: &DiskUse) -> String {
    format!("{} {}", user.noun, user.name)
}

impl State {
    /// Forgets that an object could not be brought back; tells whether that was so.
    fn is_no_trouble(&mut self, user: &DiskUse) -> bool {
        let (before, object) = (self.troubles.len(), object(user));
        self.troubles.retain(|advice| advice.object != object);
        self.troubles.len() < before
    }

    /// Opens what `disk` stands for and notes who has it.
    async fn take(
        &mut self,
        shards: &Shards,
        disk: &str,
        user: DiskUse,
        access: Access,
    ) -> Result<Served> {
        self.claims.claim(disk, user.clone(), access)?;
        let found = match Reference::of(disk) {
            Reference::Image(word) => self.take_image(shards, word, access).await,
            _ => self.find(shards, disk, !access.writes()).await,
        };
        match (&found, Reference::of(disk)) {
            (Ok(served), Reference::Path(_) | Reference::Url(_)) => {
                self.claims.keep_file(disk, served.clone());
            }
            (Ok(_), _) => {}
            (Err(_), _) => {
                self.claims.release(disk, &user);
            }
        }
        found
    }

    /// Takes several disks for one user: all of them, or none.
    async fn take_all(
        &mut self,
        shards: &Shards,
        disks: &[String],
        user: &DiskUse,
    ) -> Result<Vec<Served>> {
        let mut taken = Vec::with_capacity(disks.len());
        for (place, disk) in disks.iter().enumerate() {
            match self
                .take(shards, disk, user.clone(), Access::Exclusive)
                .await
            {
                Ok(served) => taken.push(served),
                Err(error) => {
                    self.release_all(&disks[..place], user).await;
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    async fn release_all(&mut self, disks: &[String], user: &DiskUse) {
        for disk in disks {
            self.release(disk, user).await;
        }
    }

    /// One that no other running object rests on, if there is any at all.
    fn topmost(&self) -> Option<Object> {
        let runs = |user: &DiskUse| match user.noun.as_str() {
            "raid" => self.arrays.contains_key(&user.name),
            "vg" => self.groups.contains_key(&user.name),
            "image" => self.images.contains_key(&ImageWord::of(&user.name).key()),
            // Copies of images.
            "backup" | "mirror" => self.images.contains_key(&user.name),
            _ => false,
        };
        let is_free = |disk: &str| !self.claims.users(disk).any(runs);
        let mut images = self.images.keys();
        let mut arrays = self.arrays.keys();
        let mut groups = self.groups.iter();
        let volumes_are_free = |(name, group): &(&String, &RunningGroup)| {
            let mut volumes = group.volumes.keys();
            volumes.all(|volume| is_free(&format!("{name}/{volume}")))
        };
        None.or_else(|| images.find(|key| is_free(key)).cloned().map(Object::Image))
            .or_else(|| {
                groups
                    .find(volumes_are_free)
                    .map(|(name, _)| Object::Group(name.clone()))
            })
            .or_else(|| {
                arrays
                    .find(|name| is_free(name))
                    .cloned()
                    .map(Object::Array)
            })
    }

    /// What `disk` stands for, opened if it is not yet.
    async fn find(&mut self, shards: &Shards, disk: &str, read_only: bool) -> Result<Served> {
        if let Some(served) = self.claims.file(disk) {
            return Ok(served.clone());
        }
        match Reference::of(disk) {
            Reference::Path(path) => {
                let device = disks::open_file(path, read_only)?;
                Ok(Served::here(device, shards.place()?))
            }
            Reference::Array(name) => match self.arrays.get(name) {
                Some(array) => Ok(array.served()),
                None => Err(Error::new(
                    ErrorKind::NotFound,
                    name,
                    format!("{name} is neither a running array nor a file here"),
                )),
            },
            Reference::Volume(vg, lv) => {
                let group = self
                    .groups
                    .get(vg)
                    .ok_or_else(|| Error::not_found("group", vg))?;
                group.served(vg, lv)
            }
            Reference::Url(url) => exports::remote(url, shards.place()?).await,
            Reference::Image(word) => self.find_image(shards, word).await,
        }
    }
}
