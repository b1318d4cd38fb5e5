//! The device over a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use weft_block::{BlockDevice, BlockQueue, Error, ErrorKind, Info, Result, SECTOR, Spawner};

use super::cached::Cached;
use super::errors::cannot;
use super::lock;
use super::open::{Engine, Kind, OpenFile, OpenOptions, in_use};
use super::queue::{FileQueue, Way};
use crate::executor::Core;

/// A regular file or a block device as a [`BlockDevice`]. The lock it holds goes away with it and all its queues.
///
/// Queues run on weft's own executor through its ring; on any other thread they do their I/O synchronously, unless the
/// engine is [`Ring`](Engine::Ring).
#[derive(Debug, Clone)]
pub struct FileDevice {
    file: Arc<OpenFile>,
}

impl FileDevice {
    /// Opens an existing file or block device.
    ///
    /// # Errors
    /// `Busy` if somebody else holds it, `Invalid` if there is no such file or it is no disk, `Unsupported` if direct I/O
    /// was asked for and cannot be had.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let file = OpenFile::open(path.as_ref(), options)?;
        Ok(Self {
            file: Arc::new(file),
        })
    }

    /// Makes a new file of `size` bytes, all holes, and opens it. The file and its name are durable when this returns.
    ///
    /// # Errors
    /// `Invalid` if the file exists, cannot be made there, or `size` is not a multiple of 512; `NoSpace`.
    pub fn create(path: impl AsRef<Path>, size: u64) -> Result<Self> {
        Self::create_with(path, size, &OpenOptions::default())
    }

    /// [`create`](Self::create), opened as `options` say; durable unless it is volatile.
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`open`](Self::open).
    pub fn create_with(path: impl AsRef<Path>, size: u64, options: &OpenOptions) -> Result<Self> {
        let path = path.as_ref();
        check_size(path, size)?;
        let made = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let file = made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let sentence = format!("{} exists already and was not changed", path.display());
                Error::new(ErrorKind::Invalid, sentence)
            }
            _ => cannot(path, "created", error),
        })?;
        let made = match options.volatile {
            true => file.set_len(size),
            false => set_size(&file, size).and_then(|()| sync_folder_of(path)),
        };
        let opened = made
            .map_err(|error| cannot(path, "created", error))
            .and_then(|()| Self::open(path, options));
        if opened.is_err() {
            // It is ours and of no use; what matters is the first error.
            let _ = std::fs::remove_file(path);
        }
        opened
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Makes the lock of a writer, who writes no more, that of a reader: others may read too.
    ///
    /// # Errors
    /// `Io` if the kernel refuses; the lock is what it was then.
    pub fn lock_to_read(&self) -> Result<()> {
        let done = lock::only_read(&self.file.file);
        done.map_err(|error| cannot(&self.file.path, "locked", error))
    }

    /// Makes the lock of a reader that of a writer, for somebody who writes through another opening that has no lock.
    ///
    /// # Errors
    /// `Busy` if others have it; the lock is what it was then.
    pub fn lock_to_write(&self) -> Result<()> {
        let done = lock::also_write(&self.file.file);
        done.map_err(|error| match error.raw_os_error() {
            None => in_use(&self.file.path),
            Some(_) => cannot(&self.file.path, "locked", error),
        })
    }

    /// Whether it is a block device rather than a regular file.
    pub fn is_block_device(&self) -> bool {
        self.file.kind == Kind::Block
    }

    /// Asks for the size again, after somebody else changed it, and gives it.
    ///
    /// # Errors
    /// `Offline` if a block device is gone.
    pub fn refresh(&self) -> Result<u64> {
        self.file.refresh()
    }

    /// Gives a regular file another size, durably. Shrinking throws away what was beyond; the caller sees to it that no
    /// request is in flight there.
    ///
    /// # Errors
    /// `Unsupported` for a block device, `ReadOnly`, `NoSpace`, `Invalid` if `size` is not a multiple of 512.
    pub fn resize(&self, size: u64) -> Result<u64> {
        self.give_size(size, set_size)
    }

    fn give_size(&self, size: u64, give: impl Fn(&File, u64) -> io::Result<()>) -> Result<u64> {
        let path = &self.file.path;
        if self.file.kind == Kind::Block {
            let sentence = format!("{} is a block device and keeps its size", path.display());
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        if self.file.info().read_only {
            let sentence = format!("{} was opened read-only", path.display());
            return Err(Error::new(ErrorKind::ReadOnly, sentence));
        }
        check_size(path, size)?;
        give(&self.file.file, size).map_err(|error| cannot(path, "resized", error))?;
        self.file.refresh()
    }
}

fn check_size(path: &Path, size: u64) -> Result<()> {
    if size.is_multiple_of(SECTOR) {
        return Ok(());
    }
    let sentence = format!(
        "{} cannot have {size} bytes: a disk has whole sectors of {SECTOR} bytes",
        path.display()
    );
    Err(Error::new(ErrorKind::Invalid, sentence))
}

fn set_size(file: &File, size: u64) -> io::Result<()> {
    file.set_len(size)?;
    file.sync_all()
}

/// Makes a file longer with room for what it gains, where the file system can take it in advance.
fn lengthen(file: &File, before: u64, size: u64) -> io::Result<()> {
    let (start, len) = (before as libc::off_t, (size - before) as libc::off_t);
    loop {
        match fallocate(file, FallocateFlags::empty(), start, len) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return file.set_len(size),
            Err(error) => {
                // Some of it may have been taken. What matters is the first error.
                let _ = file.set_len(before);
                return Err(error.into());
            }
        }
    }
}

/// Makes a new name durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

impl BlockDevice for FileDevice {
    fn info(&self) -> Info {
        self.file.info()
    }

    fn open(&self, _spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        let ring = Core::try_current().and_then(|core| core.reactor().ring().cloned());
        let way = match (self.file.engine, ring) {
            (Engine::Sync, _) | (Engine::Auto, None) => Way::Sync,
            (Engine::Ring, Some(ring)) => Way::Ring(ring),
            (Engine::Auto, Some(_)) if self.file.in_memory => Way::Sync,
            (Engine::Auto, Some(ring)) if self.file.direct => Way::Ring(ring),
            (Engine::Auto, Some(ring)) => Way::Cached(ring, Cached::default()),
            (Engine::Ring, None) => {
                let sentence = format!(
                    "{} cannot be opened with io_uring: this thread has no ring",
                    self.file.path.display()
                );
                return Err(Error::new(ErrorKind::Unsupported, sentence));
            }
        };
        Ok(Box::new(FileQueue::new(self.file.clone(), way)))
    }

    fn set_len(&self, size: u64) -> Result<()> {
        let before = self.file.size();
        let give = |file: &File, size| match self.file.takes_room && size > before {
            true => lengthen(file, before, size),
            false => file.set_len(size),
        };
        self.give_size(size, give).map(|_| ())
    }
}
