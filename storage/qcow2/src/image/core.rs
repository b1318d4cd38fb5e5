//! What the threads that use an image share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{BlockDevice, Error, ErrorKind, Info, RangeLocks, Result};

use super::bitmaps::Tracking;
use super::gate::Gate;
use super::publish::Turns;
use super::state::State;
use crate::format::{CompressionType, Geometry, Header, Version};
use crate::luks::Cipher;

/// Bytes that the file grows by at least, so that not every new cluster costs a system call.
const GROWTH: u64 = 4 << 20;

pub(crate) struct Core {
    /// Where the tables are, and the data unless it has a file of its own.
    pub(crate) file: Arc<dyn BlockDevice>,
    /// Where the data is, if not in the file.
    pub(crate) data_file: Option<Arc<dyn BlockDevice>>,
    pub(crate) backing: Option<Arc<dyn BlockDevice>>,
    pub(crate) cipher: Option<Arc<Cipher>>,
    /// The data is encrypted, and there is no key.
    locked: bool,
    pub(crate) geometry: Geometry,
    pub(crate) version: Version,
    pub(crate) compression: CompressionType,
    pub(crate) read_only: bool,
    /// Changes of tables are published before they are acknowledged, for nothing else lets them outlive the process.
    publishes_first: AtomicBool,
    /// What the image is as a device, but for its size.
    info: Info,
    /// Bytes of the disk.
    size: AtomicU64,
    /// Bytes of the file.
    file_size: AtomicU64,
    state: Mutex<State>,
    pub(crate) gate: Arc<Gate>,
    /// Held by the one control operation that is under way.
    pub(crate) control: futures_util::lock::Mutex<()>,
    /// Parts of the disk whose places are being changed.
    pub(crate) places: Arc<RangeLocks>,
    /// L2 tables, by index, that are being made.
    pub(crate) tables: Arc<RangeLocks>,
    /// Held by who makes refcount blocks.
    pub(crate) blocks: futures_util::lock::Mutex<()>,
    /// Pages that are being read, by their bytes in the file.
    pub(crate) loading: Arc<RangeLocks>,
    pub(crate) turns: Turns,
    pub(crate) tracking: Tracking,
}

impl Core {
    pub(crate) fn new(parts: Parts, state: State) -> Self {
        Self {
            info: parts.info(),
            file_size: AtomicU64::new(parts.file.info().size),
            file: parts.file,
            data_file: parts.data_file,
            backing: parts.backing,
            cipher: parts.cipher,
            locked: parts.locked,
            read_only: parts.read_only,
            publishes_first: AtomicBool::new(false),
            geometry: state.header.geometry,
            version: state.header.version,
            compression: state.header.compression,
            size: AtomicU64::new(state.header.size),
            state: Mutex::new(state),
            gate: Arc::default(),
            control: futures_util::lock::Mutex::default(),
            places: Arc::default(),
            tables: Arc::default(),
            blocks: futures_util::lock::Mutex::default(),
            loading: Arc::default(),
            turns: Turns::default(),
            tracking: Tracking::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a change of tables is acknowledged only when it is published.
    pub(crate) fn publishes_first(&self) -> bool {
        self.publishes_first.load(Ordering::Acquire)
    }

    pub(crate) fn publish_first(&self) {
        self.publishes_first.store(true, Ordering::Release);
    }

    /// Whether data goes to its place as it is.
    pub(crate) fn is_plain(&self) -> bool {
        self.cipher.is_none() && !self.locked
    }

    /// # Errors
    /// `Invalid` if the image is encrypted and was opened without its key.
    pub(crate) fn check_unlocked(&self) -> Result<()> {
        if self.locked {
            let sentence = "the image is encrypted, and was opened without its key";
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        Ok(())
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Bytes of the file, as far as is known.
    pub(crate) fn file_size(&self) -> u64 {
        self.file_size.load(Ordering::Acquire)
    }

    /// Bytes of where the data is.
    pub(crate) fn data_size(&self) -> u64 {
        match &self.data_file {
            Some(file) => file.info().size,
            None => self.file_size(),
        }
    }

    /// Bytes of the backing file; zero without one.
    pub(crate) fn backing_size(&self) -> u64 {
        self.backing
            .as_ref()
            .map_or(0, |backing| backing.info().size)
    }

    /// What the image is as a device.
    pub(crate) fn info(&self) -> Info {
        let size = self.size();
        Info {
            size: size - size % u64::from(self.info.logical_block),
            ..self.info.clone()
        }
    }

    /// Sees to it that the file has at least `end` bytes.
    pub(crate) fn grow_file(&self, end: u64) -> Result<()> {
        if end <= self.file_size() {
            return Ok(());
        }
        // Under the lock, so that nobody makes it shorter again.
        let _state = self.state();
        let size = self.file_size();
        if end <= size {
            return Ok(());
        }
        let wanted = end
            .max(size + GROWTH.min(size / 4))
            .next_multiple_of(self.geometry.cluster());
        self.file.set_len(wanted)?;
        self.file_size.store(wanted, Ordering::Release);
        Ok(())
    }

    /// # Errors
    /// `ReadOnly` if the image was opened so.
    pub(crate) fn check_changeable(&self) -> Result<()> {
        if !self.read_only {
            return Ok(());
        }
        let sentence = "the image is open for reading alone, and stays as it is";
        Err(Error::new(ErrorKind::ReadOnly, sentence))
    }

    /// Cuts the file to `size` bytes, which hold all that is used, if it can be cut.
    pub(crate) fn shrink_file(&self, size: u64) -> Result<()> {
        let mut state = self.state();
        if size >= self.file_size() || state.space.virgin == u64::MAX {
            return Ok(());
        }
        self.file.set_len(size)?;
        self.file_size.store(size, Ordering::Release);
        state.space.virgin = size >> self.geometry.cluster_bits();
        Ok(())
    }

    /// What the header says, as far as it is in memory.
    pub(crate) fn header(&self) -> Header {
        self.state().header.clone()
    }
}

/// What an image is made of.
pub(crate) struct Parts {
    pub(crate) file: Arc<dyn BlockDevice>,
    pub(crate) data_file: Option<Arc<dyn BlockDevice>>,
    pub(crate) backing: Option<Arc<dyn BlockDevice>>,
    /// What its data is encrypted with.
    pub(crate) cipher: Option<Arc<Cipher>>,
    /// It is encrypted, and there is no key.
    pub(crate) locked: bool,
    pub(crate) read_only: bool,
}

impl Parts {
    fn info(&self) -> Info {
        let below = self.data_file.as_ref().unwrap_or(&self.file).info();
        Info {
            physical_block: below.physical_block.max(4096),
            optimal_io: 0,
            volatile_cache: true,
            read_only: self.read_only,
            discard: true,
            fast_zeroes: true,
            ..below
        }
    }
}

/// Something is being written whose end memory must know. Dropped before that, because nobody waits any more, it ends all
/// writing: what the file holds and what memory says may differ.
pub(crate) struct Halfway<'a>(&'a Core);

impl<'a> Halfway<'a> {
    pub(crate) fn begin(core: &'a Core) -> Self {
        Self(core)
    }

    /// It has ended, and memory knows how.
    pub(crate) fn over(self) {
        std::mem::forget(self);
    }
}

impl Drop for Halfway<'_> {
    fn drop(&mut self) {
        let reason = "a change of its tables was given up halfway";
        self.0.state().fail(reason.into());
    }
}

/// The error of an image that contradicts itself.
pub(crate) fn corrupt(sentence: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, sentence)
}

/// The error of what an image cannot be asked for.
pub(crate) fn invalid(sentence: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, sentence)
}
