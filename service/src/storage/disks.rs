//! DISKs: what the word on the command line stands for, who uses it, and what it holds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;

use weft_block::{BlockDevice, Buffer, IoVec, Request, signature};
use weft_export::nbd::client::NbdDevice;
use weft_uring::{FileDevice, OpenOptions, ShardHandle};

pub use super::live::{ImageWord, Renames};
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
    /// With those that only read: it reads too, and what it reads stays as it is.
    Fixed,
    /// By nobody else, not even to read: its user alone can tell what it means.
    Alone,
}

impl Access {
    /// Whether it writes.
    pub fn writes(self) -> bool {
        !matches!(self, Self::Reading | Self::Fixed)
    }

    fn agrees(self, other: Self) -> bool {
        match (self, other) {
            (Self::Alone, _) | (_, Self::Alone) => false,
            (Self::Fixed, other) | (other, Self::Fixed) => !other.writes(),
            (Self::Reading, _) | (_, Self::Reading) => true,
            (one, other) => one == Self::Shared && other == Self::Shared,
        }
    }
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
    /// The image in another disk: an [`ImageWord`].
    Image(&'a str),
}

impl<'a> Reference<'a> {
    /// The meaning of `disk`.
    pub fn of(disk: &'a str) -> Self {
        if ImageWord::is_meant_by(disk) {
            return Self::Image(disk);
        }
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

/// What `disk` is called for short: the last part of its name.
pub fn last_part(disk: &str) -> String {
    let inner = match Reference::of(disk) {
        Reference::Image(word) => word.parse::<ImageWord>().map(|word| word.inner),
        _ => Ok(disk.to_owned()),
    };
    match inner {
        Ok(inner) if inner != disk => last_part(&inner),
        _ => {
            let last = disk.trim_end_matches('/').rsplit('/').next();
            last.unwrap_or_default().to_owned()
        }
    }
}

/// The word by which `disk` is claimed: an image's, without what it may name.
pub fn key(disk: &str) -> Cow<'_, str> {
    match Reference::of(disk) {
        Reference::Image(word) => match word.parse::<ImageWord>() {
            Ok(word) => Cow::Owned(word.key()),
            Err(_) => Cow::Borrowed(disk),
        },
        _ => Cow::Borrowed(disk),
    }
}

/// What tells a file from others, whatever path leads to it.
fn identity(disk: &str) -> Option<(u64, u64)> {
    let Reference::Path(path) = Reference::of(disk) else {
        return None;
    };
    let metadata = std::fs::metadata(path).ok()?;
    Some(match metadata.file_type().is_block_device() {
        // Each of its nodes is another file and the same disk. No file system has this number.
        true => (u64::MAX, metadata.rdev()),
        false => (metadata.dev(), metadata.ino()),
    })
}

/// Who uses which disk, and the files that are open for it.
#[derive(Default)]
pub struct Claims {
    claimed: BTreeMap<String, Claimed>,
    files: BTreeMap<String, Served>,
}

#[derive(Default)]
struct Claimed {
    identity: Option<(u64, u64)>,
    holders: Vec<(DiskUse, Access)>,
}

impl Claims {
    /// Notes that `user` takes `disk`.
    ///
    /// # Errors
    /// `InUse`, naming who has it.
    pub fn claim(&mut self, disk: &str, user: DiskUse, access: Access) -> Result<()> {
        self.check(disk, access, None)?;
        let claimed = self.claimed.entry(key(disk).into_owned()).or_default();
        claimed.identity = identity(disk);
        claimed.holders.push((user, access));
        Ok(())
    }

    /// Notes that `user`, who has `disk`, bears others there only as far as `access` does.
    ///
    /// # Errors
    /// `InUse`, naming who else has it.
    pub fn tighten(&mut self, disk: &str, user: &DiskUse, access: Access) -> Result<()> {
        self.check(disk, access, Some(user))?;
        self.change_access(disk, user, access);
        Ok(())
    }

    /// Whether all who have `disk`, but for one, agree with `access`.
    fn check(&self, disk: &str, access: Access, but: Option<&DiskUse>) -> Result<()> {
        let (key, identity) = (key(disk), identity(disk));
        let is_same = |name: &str, claimed: &Claimed| {
            name == key || (identity.is_some() && claimed.identity == identity)
        };
        let same = self.claimed.iter().filter(|(name, one)| is_same(name, one));
        let holders = same.flat_map(|(_, one)| &one.holders);
        let mut others = holders.filter(|(holder, _)| Some(holder) != but);
        match others.find(|(_, held)| !held.agrees(access)) {
            None => Ok(()),
            Some((holder, _)) => {
                let (noun, name) = (&holder.noun, &holder.name);
                let message = format!("{disk} is used by {noun} {name}");
                Err(Error::new(ErrorKind::InUse, disk, message))
            }
        }
    }

    /// Notes that `user` has let `disk` go; a file that nobody uses is closed. Tells whether nobody uses it any more.
    pub fn release(&mut self, disk: &str, user: &DiskUse) -> bool {
        let key = key(disk);
        let Some(Claimed { holders, .. }) = self.claimed.get_mut(&*key) else {
            return false;
        };
        if let Some(place) = holders.iter().position(|(holder, _)| holder == user) {
            holders.remove(place);
        }
        let free = holders.is_empty();
        if free {
            self.claimed.remove(&*key);
            self.files.remove(&*key);
        }
        free
    }

    /// Hands `disk` from one user to another.
    pub fn release_to(&mut self, disk: &str, from: &DiskUse, to: DiskUse) {
        let claimed = self.claimed.get_mut(&*key(disk)).into_iter();
        let holders = claimed.flat_map(|claimed| &mut claimed.holders);
        for (holder, _) in holders.filter(|(holder, _)| holder == from) {
            *holder = to.clone();
        }
    }

    /// Changes how `user` shares `disk`.
    pub fn change_access(&mut self, disk: &str, user: &DiskUse, access: Access) {
        let claimed = self.claimed.get_mut(&*key(disk)).into_iter();
        let holders = claimed.flat_map(|claimed| &mut claimed.holders);
        for (_, held) in holders.filter(|(holder, _)| holder == user) {
            *held = access;
        }
    }

    /// The users of one disk use another one from now on, as which it is known.
    pub fn rename_disk(&mut self, from: &str, to: &str) {
        if let Some(claimed) = self.claimed.remove(from) {
            self.claimed.insert(to.to_owned(), claimed);
        }
        if let Some(served) = self.files.remove(from) {
            self.files.insert(to.to_owned(), served);
        }
    }

    /// Those who use one disk use another one from now on, which others may use too.
    pub fn move_users(&mut self, from: &str, to: &str) {
        let moved = self.claimed.remove(&*key(from));
        let (to, identity) = (key(to), identity(to));
        let claimed = self.claimed.entry(to.into_owned()).or_default();
        claimed.identity = identity;
        let holders = moved.into_iter().flat_map(|one| one.holders);
        claimed.holders.extend(holders);
    }

    /// Changes the name of a user.
    pub fn rename_user(&mut self, from: &DiskUse, to: &DiskUse) {
        let all = self.claimed.values_mut();
        for (holder, _) in all.flat_map(|claimed| &mut claimed.holders) {
            if holder == from {
                *holder = to.clone();
            }
        }
    }

    /// Who uses `disk`, the first of several.
    pub fn user(&self, disk: &str) -> Option<&DiskUse> {
        self.users(disk).next()
    }

    /// All who use `disk`.
    pub fn users(&self, disk: &str) -> impl Iterator<Item = &DiskUse> {
        let claimed = self.claimed.get(&*key(disk)).into_iter();
        claimed.flat_map(|claimed| claimed.holders.iter().map(|(user, _)| user))
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

/// Why an object cannot be brought back of whose disks none is there; `why` says it of each.
pub(super) fn all_absent(name: &str, why: &[String]) -> Error {
    let message = format!("none of its disks is there: {}", why.join("; "));
    Error::new(ErrorKind::NotFound, name, message)
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
        assert_eq!(Reference::of("qcow2:/a"), Reference::Image("qcow2:/a"));
        for (disk, last) in [
            ("/a/b.raw", "b.raw"),
            ("vg/lv", "lv"),
            ("qcow2:/a/b.qcow2,allow=/c/d", "b.qcow2"),
            ("qcow2:tank", "tank"),
        ] {
            assert_eq!(last_part(disk), last);
        }
    }

    #[test]
    fn what_must_stay_as_it_is_has_no_writer() {
        let mut claims = Claims::default();
        claims
            .claim("/base", user("image", "/one"), Access::Fixed)
            .unwrap();
        claims
            .claim("/base", user("image", "/two"), Access::Fixed)
            .unwrap();
        claims
            .claim("/base", user("export", "look"), Access::Reading)
            .unwrap();
        for writing in [Access::Shared, Access::Exclusive, Access::Alone] {
            let refused = claims.claim("/base", user("vm", "web"), writing);
            let message = refused.unwrap_err().message;
            assert_eq!(message, "/base is used by image /one");
        }
    }

    #[test]
    fn who_reads_beside_others_cannot_have_it_alone() {
        let mut claims = Claims::default();
        let (one, two) = (user("image", "/one"), user("image", "/two"));
        for user in [&one, &two] {
            claims.claim("/base", user.clone(), Access::Fixed).unwrap();
        }
        let refused = claims.tighten("/base", &one, Access::Alone).unwrap_err();
        assert_eq!(refused.message, "/base is used by image /two");
        claims.release("/base", &two);
        claims.tighten("/base", &one, Access::Alone).unwrap();
        assert!(claims.claim("/base", two, Access::Reading).is_err());
    }

    #[test]
    fn one_file_is_one_disk_whatever_it_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(at("a"), "x").unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        let mut claims = Claims::default();
        claims
            .claim(&at("a"), user("image", "a"), Access::Alone)
            .unwrap();
        for other in [at("link"), at("./a")] {
            let refused = claims.claim(&other, user("vm", "web"), Access::Reading);
            assert_eq!(refused.unwrap_err().kind, ErrorKind::InUse, "{other}");
        }
        claims.release(&at("a"), &user("image", "a"));
        claims
            .claim(&at("link"), user("vm", "web"), Access::Exclusive)
            .unwrap();
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
