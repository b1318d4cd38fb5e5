//! Persistent bitmaps: which parts of the disk were written since.
//!
//! They are in memory while the image is open to be written. Before the first change of one its entry in the file says
//! that it is in use, so that nobody believes it after a crash; closing the image writes it back. The directory is
//! written anew beside the old one, and one change of the header makes it count.

mod store;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{Error, ErrorKind, Result, Spawner};

use super::Image;
use super::bits::Bits;
use super::core::invalid;
use super::lane::Lane;
use crate::format::{BitmapEntry, Header, MAX_BITMAPS, MAX_NAME, autoclear};

/// What a bitmap is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that a bit stands for.
    pub granularity: u64,
    /// Whether writes are recorded in it.
    pub recording: bool,
    /// Whether somebody did not write it back, so that what it says is worth nothing. It can only be removed.
    pub inconsistent: bool,
    /// Bytes of the disk whose bits are set, in whole granules; zero of an inconsistent one.
    pub dirty: u64,
}

/// The bitmaps of an image that is open.
#[derive(Debug, Default)]
pub(crate) struct Tracking {
    bitmaps: Mutex<Vec<Arc<Bitmap>>>,
    /// Some bitmap records writes.
    recording: AtomicBool,
    /// Some that records does not say in the file yet that it is in use.
    untold: AtomicBool,
    /// What is in memory must be written back.
    changed: AtomicBool,
    /// Held by who writes the directory.
    writing: futures_util::lock::Mutex<()>,
}

/// A bitmap that is open.
#[derive(Debug)]
struct Bitmap {
    /// As the directory must say it.
    entry: Mutex<BitmapEntry>,
    /// Nothing of an inconsistent one.
    bits: Mutex<Option<Arc<Bits>>>,
    /// The table in the file has other bits.
    changed: AtomicBool,
    /// The directory in the file says that it is in use, or does not know it.
    told: AtomicBool,
}

impl Bitmap {
    fn entry(&self) -> MutexGuard<'_, BitmapEntry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bits(&self) -> Option<Arc<Bits>> {
        self.bits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_bits(&self, bits: Bits) {
        *self.bits.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(bits));
    }

    fn records(&self) -> bool {
        self.entry().auto && self.bits().is_some()
    }
}

impl Tracking {
    fn bitmaps(&self) -> MutexGuard<'_, Vec<Arc<Bitmap>>> {
        self.bitmaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a write, which has not begun yet. False if it must be told in the file first that bitmaps are in use.
    pub(crate) fn record(&self, range: Range<u64>) -> bool {
        if !self.recording.load(Ordering::Acquire) {
            return true;
        }
        if self.untold.load(Ordering::Acquire) {
            return false;
        }
        for bitmap in self.bitmaps().iter().filter(|bitmap| bitmap.records()) {
            if let Some(bits) = bitmap.bits() {
                bits.set(range.clone());
                bitmap.changed.store(true, Ordering::Release);
            }
        }
        self.changed.store(true, Ordering::Release);
        true
    }

    /// After a change of the list.
    fn look_again(&self) {
        let bitmaps = self.bitmaps();
        let records = |bitmap: &&Arc<Bitmap>| bitmap.records();
        let untold = |bitmap: &Arc<Bitmap>| !bitmap.told.load(Ordering::Acquire);
        self.recording.store(
            bitmaps.iter().any(|bitmap| bitmap.records()),
            Ordering::Release,
        );
        let some = bitmaps.iter().filter(records).any(untold);
        self.untold.store(some, Ordering::Release);
    }

    fn find(&self, name: &str) -> Result<Arc<Bitmap>> {
        let bitmaps = self.bitmaps();
        let found = bitmaps.iter().find(|bitmap| bitmap.entry().name == name);
        found
            .cloned()
            .ok_or_else(|| invalid(format!("the image has no bitmap {name}")))
    }

    /// The bitmap, with bits that can be believed.
    fn find_sound(&self, name: &str) -> Result<(Arc<Bitmap>, Arc<Bits>)> {
        let bitmap = self.find(name)?;
        let bits = bitmap.bits().ok_or_else(|| {
            invalid(format!(
                "bitmap {name} was not written back when the image was last in use, and can only be removed"
            ))
        })?;
        Ok((bitmap, bits))
    }
}

impl Image {
    /// The bitmaps, in the order of the directory.
    pub fn bitmaps(&self) -> Vec<BitmapInfo> {
        let bitmaps = self.core.tracking.bitmaps();
        let info = |bitmap: &Arc<Bitmap>| {
            let (entry, bits) = (bitmap.entry(), bitmap.bits());
            BitmapInfo {
                name: entry.name.clone(),
                granularity: entry.granularity(),
                recording: entry.auto,
                inconsistent: bits.is_none(),
                dirty: bits.map_or(0, |bits| bits.set_count() << entry.granularity_bits),
            }
        };
        bitmaps.iter().map(info).collect()
    }

    /// The parts of the disk that the bitmap says were written, in order.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap, or it is inconsistent.
    pub fn dirty(&self, name: &str) -> Result<Vec<Range<u64>>> {
        let (_, bits) = self.core.tracking.find_sound(name)?;
        Ok(bits.runs(self.core.size()))
    }

    /// Makes a bitmap with no bit set, which records writes from now on if `recording`. It is in the file when the image
    /// is closed.
    ///
    /// # Errors
    /// `Invalid` for a name that is taken, empty or too long, or a granularity that is no power of two from 512 bytes to
    /// 2 GiB; `Unsupported` in version 2; `ReadOnly`.
    pub fn create_bitmap(&self, name: &str, granularity: u64, recording: bool) -> Result<()> {
        self.check_bitmaps()?;
        let tracking = &self.core.tracking;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(invalid(format!(
                "the name of a bitmap has 1 to {MAX_NAME} bytes"
            )));
        }
        if !granularity.is_power_of_two() || !(1 << 9..=1 << 31).contains(&granularity) {
            return Err(invalid(format!(
                "a bit stands for a power of two of bytes, from 512 to 2 GiB, not for {granularity}"
            )));
        }
        if tracking.find(name).is_ok() {
            return Err(invalid(format!("the image has a bitmap {name} already")));
        }
        if tracking.bitmaps().len() as u32 >= MAX_BITMAPS {
            return Err(invalid(format!(
                "an image has at most {MAX_BITMAPS} bitmaps"
            )));
        }
        let entry = BitmapEntry {
            name: name.into(),
            table_offset: 0,
            table_entries: 0,
            in_use: false,
            auto: recording,
            granularity_bits: granularity.trailing_zeros() as u8,
            extra: Vec::new(),
        };
        let bits = Bits::new(self.core.size(), entry.granularity_bits)?;
        tracking.bitmaps().push(Arc::new(Bitmap {
            entry: Mutex::new(entry),
            bits: Mutex::new(Some(Arc::new(bits))),
            changed: AtomicBool::new(true),
            told: AtomicBool::new(true),
        }));
        tracking.changed.store(true, Ordering::Release);
        tracking.look_again();
        Ok(())
    }

    /// Removes a bitmap. Its room is free when the image is closed.
    ///
    /// # Errors
    /// `Invalid` if there is no such bitmap, `ReadOnly`.
    pub fn remove_bitmap(&self, name: &str) -> Result<()> {
        self.check_bitmaps()?;
        let tracking = &self.core.tracking;
        tracking.find(name)?;
        tracking
            .bitmaps()
            .retain(|bitmap| bitmap.entry().name != name);
        tracking.changed.store(true, Ordering::Release);
        tracking.look_again();
        Ok(())
    }

    /// Clears all bits of a bitmap.
    ///
    /// # Errors
    /// As [`dirty`](Self::dirty), `ReadOnly`, and as writing.
    pub async fn clear_bitmap(&self, name: &str, spawner: &Spawner) -> Result<()> {
        let (bitmap, bits) = self.for_bitmap(name, spawner).await?;
        bits.clear();
        self.bitmap_changed(&bitmap);
        Ok(())
    }

    /// Says whether writes are recorded in a bitmap.
    ///
    /// # Errors
    /// As [`dirty`](Self::dirty), `ReadOnly`, and as writing.
    pub async fn set_recording(
        &self,
        name: &str,
        recording: bool,
        spawner: &Spawner,
    ) -> Result<()> {
        let (bitmap, _) = self.for_bitmap(name, spawner).await?;
        bitmap.entry().auto = recording;
        self.bitmap_changed(&bitmap);
        self.core.tracking.look_again();
        Ok(())
    }

    /// Sets in a bitmap the bits of `parts` of the disk too: those of another bitmap, of this image or another.
    ///
    /// # Errors
    /// As [`dirty`](Self::dirty), `ReadOnly`, and as writing.
    pub async fn merge_bitmap(
        &self,
        name: &str,
        parts: &[Range<u64>],
        spawner: &Spawner,
    ) -> Result<()> {
        let (bitmap, bits) = self.for_bitmap(name, spawner).await?;
        parts.iter().for_each(|part| bits.set(part.clone()));
        self.bitmap_changed(&bitmap);
        Ok(())
    }

    fn check_bitmaps(&self) -> Result<()> {
        self.core.check_changeable()?;
        if self.core.version == crate::format::Version::V2 {
            let sentence = "an image of version 2 (compat=0.10) has no bitmaps";
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        Ok(())
    }

    async fn for_bitmap(&self, name: &str, spawner: &Spawner) -> Result<(Arc<Bitmap>, Arc<Bits>)> {
        self.check_bitmaps()?;
        let found = self.core.tracking.find_sound(name)?;
        Lane::open(&self.core, spawner)?
            .tell_in_use(|bitmap| Arc::ptr_eq(bitmap, &found.0))
            .await?;
        Ok(found)
    }

    fn bitmap_changed(&self, bitmap: &Bitmap) {
        bitmap.changed.store(true, Ordering::Release);
        self.core.tracking.changed.store(true, Ordering::Release);
    }
}

/// Whether what the header says of bitmaps is true.
pub(crate) fn has_bitmaps(header: &Header) -> bool {
    header.autoclear & autoclear::BITMAPS != 0
}
