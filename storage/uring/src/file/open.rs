//! Opening: what the caller wants, what the file is, and that nobody else has it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use weft_block::{BUFFER_ALIGNMENT, Error, ErrorKind, Info, Result, SECTOR};

use super::errors::cannot;
use super::lock;
use crate::sys;

/// Whether I/O goes past the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direct {
    /// Block devices directly, files through the page cache.
    #[default]
    Auto,
    /// Directly (`O_DIRECT`), or an error where the file system cannot.
    On,
    /// Through the page cache.
    Off,
}

/// How requests reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// What was measured to be best: through the page cache, what it answers at once, and the ring for the rest; directly,
    /// the ring; for a file in memory and where there is no ring, plain system calls.
    #[default]
    Auto,
    /// All through the ring. A queue cannot be opened on a thread without one.
    Ring,
    /// All with plain system calls, which block the thread.
    Sync,
}

/// How to open a [`FileDevice`](crate::FileDevice).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOptions {
    /// Refuse writes, and open the file for reading alone.
    pub read_only: bool,
    /// Whether I/O goes past the page cache.
    pub direct: Direct,
    /// How requests reach the kernel.
    pub engine: Engine,
    /// Whether to lock the file against all others, QEMU among them: writers exclusively, readers against writers, block
    /// devices always exclusively (against mounts and the kernel's own arrays and volumes too).
    pub lock: bool,
    /// Whether a file that ends within a block goes on to the end of that block, with zeroes: images end so. Otherwise
    /// what is beyond the last whole block is no part of the device, as with the kernel's loop devices.
    pub fill_last_block: bool,
    /// Whether a power cut may take along what was written: nothing is made durable, and a flush costs nothing. For a file
    /// that is made once more if that happens. QEMU calls it `cache=unsafe`.
    pub volatile: bool,
    /// Whether room is taken for what a regular file gains at the moment it becomes longer, and not piece by piece as it is
    /// written: so writing takes a fifth less processor time on ext4. For a file that is then written from end to end.
    pub takes_room: bool,
}

impl Default for OpenOptions {
    /// Read and write, locked, and what was measured to be best.
    fn default() -> Self {
        Self {
            read_only: false,
            direct: Direct::Auto,
            engine: Engine::Auto,
            lock: true,
            fill_last_block: false,
            volatile: false,
            takes_room: false,
        }
    }
}

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Block,
}

/// An open file and what is known about it.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) engine: Engine,
    pub(super) direct: bool,
    /// Whether its last block is whole although the file ends within it.
    pub(super) fill_last_block: bool,
    /// Whether nothing is made durable.
    pub(super) volatile: bool,
    /// Whether it becomes longer with room for what it gains.
    pub(super) takes_room: bool,
    /// Whether it lives in memory, where nothing waits for a disk.
    pub(super) in_memory: bool,
    /// Everything but the size.
    info: Info,
    size: AtomicU64,
    /// Operations that this file refused once and will not be asked for again.
    pub(super) refuses: Refusals,
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    pub(super) punch: AtomicBool,
    pub(super) zero_range: AtomicBool,
    pub(super) no_wait_read: AtomicBool,
    pub(super) no_wait_write: AtomicBool,
}

impl Drop for OpenFile {
    /// The kernel keeps the file of a request a little longer than the request, and with the file its lock: whoever opens
    /// it next would find it in use.
    fn drop(&mut self) {
        lock::release(&self.file);
    }
}

impl OpenFile {
    pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let kind = kind_of_file(path)?;
        let direct = match options.direct {
            Direct::Auto => kind == Kind::Block,
            Direct::On => true,
            Direct::Off => false,
        };
        let mut flags = libc::O_CLOEXEC;
        if direct {
            flags |= libc::O_DIRECT;
        }
        if kind == Kind::Block && options.lock {
            flags |= libc::O_EXCL;
        }
        let opened = File::options()
            .read(true)
            .write(!options.read_only)
            .custom_flags(flags)
            .open(path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => in_use(path),
            Some(libc::EINVAL) if direct => no_direct(path),
            _ => cannot(path, "opened", error),
        })?;
        Self::from_file(file, path, kind, direct, options)
    }

    fn from_file(
        file: File,
        path: &Path,
        kind: Kind,
        direct: bool,
        options: &OpenOptions,
    ) -> Result<Self> {
        if options.lock {
            lock::acquire(&file, options.read_only).map_err(|error| {
                match error.raw_os_error() {
                    None | Some(libc::EAGAIN | libc::EACCES) => in_use(path),
                    _ => cannot(path, "locked", error),
                }
            })?;
        }
        let mut info = match kind {
            Kind::Regular => regular_info(&file),
            Kind::Block => block_info(&file),
        }
        .map_err(|error| cannot(path, "examined", error))?;
        info.read_only = options.read_only;
        if direct {
            require_direct(&file, path, &mut info)?;
        }
        let in_memory = kind == Kind::Regular && is_in_memory(&file);
        let this = Self {
            in_memory,
            size: AtomicU64::new(info.size),
            file,
            path: path.to_owned(),
            kind,
            engine: options.engine,
            direct,
            fill_last_block: options.fill_last_block && kind == Kind::Regular,
            volatile: options.volatile,
            takes_room: options.takes_room && kind == Kind::Regular && !in_memory,
            info,
            refuses: Refusals::default(),
        };
        this.refresh()?;
        Ok(this)
    }

    pub(super) fn info(&self) -> Info {
        let mut info = self.info.clone();
        info.size = self.size();
        info.discard &= !self.refuses.punch.load(Ordering::Relaxed);
        info
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Asks the kernel for the size again. What is beyond the last whole block is not part of the device, or is all of it.
    pub(super) fn refresh(&self) -> Result<u64> {
        let asked = match self.kind {
            Kind::Regular => self.file.metadata().map(|metadata| metadata.len()),
            Kind::Block => sys::block_geometry(&self.file).map(|geometry| geometry.size),
        };
        let bytes = asked.map_err(|error| cannot(&self.path, "examined", error))?;
        let block = u64::from(self.info.logical_block);
        let size = match self.fill_last_block {
            true => bytes.next_multiple_of(block),
            false => bytes - bytes % block,
        };
        self.size.store(size, Ordering::Release);
        Ok(size)
    }
}

/// Looks before opening: opening a FIFO would hang, and a terminal has side effects.
fn kind_of_file(path: &Path) -> Result<Kind> {
    let metadata = std::fs::metadata(path).map_err(|error| cannot(path, "opened", error))?;
    let file_type = metadata.file_type();
    if file_type.is_file() {
        Ok(Kind::Regular)
    } else if file_type.is_block_device() {
        Ok(Kind::Block)
    } else {
        let sentence = format!("{} is neither a file nor a block device", path.display());
        Err(Error::new(ErrorKind::Invalid, sentence))
    }
}

pub(super) fn in_use(path: &Path) -> Error {
    let sentence = format!(
        "{} is in use: another program has it open, or the kernel, or another part of this program",
        path.display()
    );
    Error::new(ErrorKind::Busy, sentence)
}

fn no_direct(path: &Path) -> Error {
    let sentence = format!(
        "{} cannot be opened for direct I/O: its file system has none",
        path.display()
    );
    Error::new(ErrorKind::Unsupported, sentence)
}

fn regular_info(file: &File) -> io::Result<Info> {
    let metadata = file.metadata()?;
    let mut info = Info::new(metadata.len(), SECTOR as u32);
    let preferred = u32::try_from(metadata.blksize()).unwrap_or(4096);
    // The page cache reads the rest of a page before it changes a part of it.
    info.physical_block = preferred.clamp(512, 4096);
    info.discard = true;
    info.fast_zeroes = true;
    Ok(info)
}

/// Such file systems refuse reads that must not wait, although theirs never do.
fn is_in_memory(file: &File) -> bool {
    use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
    fstatfs(file)
        .is_ok_and(|answer| [TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&answer.filesystem_type()))
}

fn block_info(file: &File) -> io::Result<Info> {
    let geometry = sys::block_geometry(file)?;
    let mut info = Info::new(geometry.size, geometry.logical_block);
    info.physical_block = geometry.physical_block.max(geometry.logical_block);
    info.optimal_io = geometry.optimal_io;
    let device = file.metadata()?.rdev();
    let limits = Limits::of(device);
    info.volatile_cache = limits.text("write_cache").as_deref() != Some("write through");
    info.discard = limits.number("discard_max_bytes") > 0;
    info.fast_zeroes = limits.number("write_zeroes_max_bytes") > 0;
    Ok(info)
}

/// A block device's queue limits in sysfs.
struct Limits {
    queue: PathBuf,
}

impl Limits {
    fn of(device: u64) -> Self {
        let (major, minor) = (libc::major(device), libc::minor(device));
        let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let own = device.join("queue");
        // A partition's limits are those of its disk.
        let queue = if own.exists() {
            own
        } else {
            device.join("../queue")
        };
        Self { queue }
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.queue.join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }
}

/// Fills in what direct I/O asks of memory and offsets.
fn require_direct(file: &File, path: &Path, info: &mut Info) -> Result<()> {
    // Without an answer, what every file system takes: the page size.
    let (memory, offset) = sys::direct_alignment(file).unwrap_or((4096, info.logical_block));
    if memory as usize > BUFFER_ALIGNMENT || offset > 65536 {
        return Err(no_direct(path));
    }
    info.memory_alignment = memory;
    info.logical_block = info.logical_block.max(offset);
    info.physical_block = info.physical_block.max(info.logical_block);
    Ok(())
}
