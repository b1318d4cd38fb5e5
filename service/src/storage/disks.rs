//! DISKs: what the word on the command line stands for, who uses it, and what it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_block::{BlockDevice, Buffer, IoVec, Request, signature};
use weft_export::nbd::client::NbdDevice;
use weft_uring::{FileDevice, OpenOptions, ShardHandle};

use crate::api::{DiskUse, Error, ErrorKind, Result};
use crate::shards::on;

/// What a DISK came to: a device, and the shard that its stack lives on.
#[derive(Clone)]
pub struct Served {
    /// The device.
    pub device: Arc<dyn BlockDevice>,
    /// Where its queues are opened.
    pub home: ShardHandle,
    /// The same device, if a server elsewhere offers it.
    pub remote: Option<Arc<NbdDevice>>,
}

impl Served {
    /// A device of this machine.
    pub fn here(device: Arc<dyn BlockDevice>, home: ShardHandle) -> Self {
        Self {
            device,
            home,
            remote: None,
        }
    }
}

/// How a disk may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// By nobody else.
    Exclusive,
    /// With others that write in agreement, as several NBD clients do.
    Shared,
    /// With anybody: it only reads.
    Reading,
}

/// What the word stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// A file or block device.
    Path(&'a str),
    /// A logical volume.
    Volume(&'a str, &'a str),
    /// A remote disk.
    Url(&'a str),
    /// An array.
    Array(&'a str),
}

impl<'a> Reference<'a> {
    /// The meaning of `disk`.
    pub fn of(disk: &'a str) -> Self {
        if disk.starts_with('/') {
            return Self::Path(disk);
        }
        if disk.contains("://") {
            return Self::Url(disk);
        }
        match disk.split_once('/') {
            Some((vg, lv)) => Self::Volume(vg, lv),
            None => Self::Array(disk),
        }
    }
}

/// Who uses which disk, and the files that are open for it.
#[derive(Default)]
pub struct Claims {
    claimed: BTreeMap<String, Vec<(DiskUse, Access)>>,
    files: BTreeMap<String, Served>,
}

impl Claims {
    /// Notes that `user` takes `disk`.
    ///
    /// # Errors
    /// `InUse`, naming who has it.
    pub fn claim(&mut self, disk: &str, user: DiskUse, access: Access) -> Result<()> {
        let holders = self.claimed.entry(disk.to_owned()).or_default();
        let agree = |held: Access| {
            access == Access::Reading
                || held == Access::Reading
                || (access == Access::Shared && held == Access::Shared)
        };
        let conflict = holders.iter().find(|(_, held)| !agree(*held));
        if let Some((holder, _)) = conflict {
            let (noun, name) = (&holder.noun, &holder.name);
            return Err(Error::new(
                ErrorKind::InUse,
                disk,
                format!("{disk} is used by {noun} {name}"),
            ));
        }
        holders.push((user, access));
        Ok(())
    }

    /// Notes that `user` has let `disk` go; a file that nobody uses is closed.
    pub fn release(&mut self, disk: &str, user: &DiskUse) {
        let Some(holders) = self.claimed.get_mut(disk) else {
            return;
        };
        if let Some(place) = holders.iter().position(|(holder, _)| holder == user) {
            holders.remove(place);
        }
        if holders.is_empty() {
            self.claimed.remove(disk);
            self.files.remove(disk);
        }
    }

    /// Hands `disk` from one user to another.
    pub fn release_to(&mut self, disk: &str, from: &DiskUse, to: DiskUse) {
        let holders = self.claimed.get_mut(disk).into_iter().flatten();
        for (holder, _) in holders.filter(|(holder, _)| holder == from) {
            *holder = to.clone();
        }
    }

    /// Changes the name of a user.
    pub fn rename_user(&mut self, from: &DiskUse, to: &DiskUse) {
        for (holder, _) in self.claimed.values_mut().flatten() {
            if holder == from {
                *holder = to.clone();
            }
        }
    }

    /// Who uses `disk`, the first of several.
    pub fn user(&self, disk: &str) -> Option<&DiskUse> {
        self.claimed.get(disk)?.first().map(|(user, _)| user)
    }

    /// All disks in use.
    pub fn disks(&self) -> impl Iterator<Item = &str> {
        self.claimed.keys().map(String::as_str)
    }

    /// The open file at `path`.
    pub fn file(&self, path: &str) -> Option<&Served> {
        self.files.get(path)
    }

    /// Keeps the open file at `path` until its last user lets it go.
    pub fn keep_file(&mut self, path: &str, served: Served) {
        self.files.insert(path.to_owned(), served);
    }
}

/// Opens the file or block device at `path` for its one owner.
///
/// # Errors
/// `NotFound`, `Permission`, or `Busy` if another process or another of weft's objects has it.
pub fn open_file(path: &str, read_only: bool) -> Result<Arc<dyn BlockDevice>> {
    let options = OpenOptions {
        read_only,
        lock: !read_only,
        ..OpenOptions::default()
    };
    match FileDevice::open(path, &options) {
        Ok(device) => Ok(Arc::new(device)),
        Err(error) => Err(file_failure(path, &error)),
    }
}

/// Why the file at `path` could not be opened.
pub fn file_failure(path: &str, error: &weft_block::Error) -> Error {
    // The block contract has no word for a file that is not there; people do.
    let mut failure = Error::from_block(path, error);
    match std::fs::metadata(path).err().map(|error| error.kind()) {
        Some(std::io::ErrorKind::NotFound) => failure.kind = ErrorKind::NotFound,
        Some(std::io::ErrorKind::PermissionDenied) => failure.kind = ErrorKind::Permission,
        _ => {}
    }
    failure
}

/// The marks that `disk` carries.
///
/// # Errors
/// `Io` if it cannot be read.
pub async fn signatures(disk: &str, served: &Served) -> Result<Vec<signature::Signature>> {
    let device = served.device.clone();
    on(&served.home, disk, move || async move {
        let info = device.info();
        let block = u64::from(info.logical_block);
        let queue = device.open(&weft_uring::spawner())?;
        let whole = |bytes: usize| (bytes as u64).next_multiple_of(block).min(info.size);
        let (first, last) = (whole(signature::FIRST_BYTES), whole(signature::LAST_BYTES));
        let first = read(&*queue, 0, first).await?;
        let last = read(&*queue, info.size - last, last).await?;
        Ok(signature::recognise(&first, &last, info.size))
    })
    .await
}

async fn read(
    queue: &dyn weft_block::BlockQueue,
    offset: u64,
    len: u64,
) -> weft_block::Result<Buffer> {
    let len = usize::try_from(len).expect("a few hundred KiB");
    let completion = queue
        .submit(Request::read(offset, IoVec::zeroed(len)))
        .await;
    completion.result?;
    Ok(completion.buffer.into_buffer())
}

/// Whether `disk` may be overwritten.
///
/// # Errors
/// `Foreign`, naming what it holds, unless `force`.
pub async fn refuse_used(disk: &str, served: &Served, force: bool) -> Result<()> {
    let found = signatures(disk, served).await?;
    if force || found.is_empty() {
        return Ok(());
    }
    let holds = signature::in_words(&found);
    Err(Error::new(
        ErrorKind::Foreign,
        disk,
        format!(
            "{disk} holds {holds}; overwrite it with --force, or clear it with `weft disk wipe`"
        ),
    ))
}

/// Takes all marks off `disk`.
///
/// # Errors
/// `Io` if it cannot be written.
pub async fn wipe(disk: &str, served: &Served) -> Result<()> {
    let found = signatures(disk, served).await?;
    let device = served.device.clone();
    on(&served.home, disk, move || async move {
        let block = u64::from(device.info().logical_block);
        let queue = device.open(&weft_uring::spawner())?;
        for mark in found {
            let start = mark.offset / block * block;
            let end = (mark.offset + mark.len as u64).next_multiple_of(block);
            let mut bytes = read(&*queue, start, end - start).await?;
            let from = usize::try_from(mark.offset - start).expect("inside a block");
            bytes[from..from + mark.len].fill(0);
            queue
                .submit(Request::write(start, bytes.into()))
                .await
                .result?;
        }
        queue.submit(Request::flush()).await.result
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(noun: &str, name: &str) -> DiskUse {
        DiskUse {
            noun: noun.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_word_is_a_path_a_volume_a_url_or_an_array() {
        assert_eq!(Reference::of("/a/b"), Reference::Path("/a/b"));
        assert_eq!(Reference::of("vg/lv"), Reference::Volume("vg", "lv"));
        assert_eq!(Reference::of("nbd://h/x"), Reference::Url("nbd://h/x"));
        assert_eq!(Reference::of("tank"), Reference::Array("tank"));
    }

    #[test]
    fn writers_that_do_not_agree_are_kept_apart() {
        let mut claims = Claims::default();
        claims
            .claim("d", user("raid", "tank"), Access::Exclusive)
            .unwrap();
        let refused = claims
            .claim("d", user("vm", "web"), Access::Exclusive)
            .unwrap_err();
        assert_eq!(refused.message, "d is used by raid tank");
        claims
            .claim("d", user("export", "look"), Access::Reading)
            .unwrap();
        claims.release("d", &user("raid", "tank"));
        claims
            .claim("d", user("export", "a"), Access::Shared)
            .unwrap();
        claims
            .claim("d", user("export", "b"), Access::Shared)
            .unwrap();
        assert!(
            claims
                .claim("d", user("vm", "web"), Access::Exclusive)
                .is_err()
        );
    }

    #[test]
    fn a_disk_is_free_once_its_last_user_has_gone() {
        let mut claims = Claims::default();
        claims
            .claim("d", user("raid", "tank"), Access::Exclusive)
            .unwrap();
        claims.release("d", &user("raid", "other"));
        assert!(claims.user("d").is_some());
        claims.release("d", &user("raid", "tank"));
        assert_eq!(claims.disks().count(), 0);
    }
}
