//! Persistent bitmaps: which parts of the disk were written since.
//!
//! They are in memory while the image is open to be written. Before the first change of one its entry in the file says
//! that it is in use, so that nobody believes it after a crash; closing the image writes it back. The directory is
//! written anew beside the old one, and one change of the header makes it count.

use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{Error, ErrorKind, Result, Spawner};

use super::Image;
use super::bits::Bits;
use super::core::corrupt;
use super::lane::Lane;
use super::table::Table;
use crate::format::{
    Area, BitmapEntry, BitmapTableEntry, BitmapsExtension, Geometry, Header, MAX_BITMAPS, MAX_NAME,
    autoclear,
};

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
        if self.core.read_only {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "the image was opened read-only",
            ));
        }
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

impl Lane {
    /// Reads the bitmaps of an image that is being opened.
    pub(crate) async fn load_bitmaps(&self) -> Result<()> {
        let header = self.core.header();
        let Some(bitmaps) = header.extensions.bitmaps.filter(|_| has_bitmaps(&header)) else {
            return Ok(());
        };
        for entry in self.bitmap_directory(&header, bitmaps).await? {
            let bits = match entry.in_use {
                true => None,
                false => Some(Arc::new(self.load_bits(&entry).await?)),
            };
            self.core.tracking.bitmaps().push(Arc::new(Bitmap {
                told: AtomicBool::new(entry.in_use),
                entry: Mutex::new(entry),
                bits: Mutex::new(bits),
                changed: AtomicBool::new(false),
            }));
        }
        self.core.tracking.look_again();
        Ok(())
    }

    /// The entries of the bitmap directory in the file.
    pub(crate) async fn bitmap_directory(
        &self,
        header: &Header,
        bitmaps: BitmapsExtension,
    ) -> Result<Vec<BitmapEntry>> {
        let directory = bitmaps.directory;
        if directory.offset + directory.len > self.core.file_size() {
            return Err(corrupt(
                "the bitmap directory lies beyond the end of the file",
            ));
        }
        let bytes = self.read_area(directory).await?;
        BitmapEntry::parse_directory(&bytes, bitmaps.count, header.geometry)
    }

    /// The bytes of a part of the file that begins with a cluster.
    async fn read_area(&self, area: Area) -> Result<Vec<u8>> {
        let block = u64::from(self.core.file.info().logical_block);
        let bytes = self
            .read_file(area.offset, area.len.next_multiple_of(block) as usize)
            .await?;
        Ok(bytes[..area.len as usize].to_vec())
    }

    /// The table of a bitmap.
    pub(crate) async fn bitmap_table(&self, entry: &BitmapEntry) -> Result<Table> {
        let len = u64::from(entry.table_entries) * 8;
        if entry.table_offset + len > self.core.geometry.round_up(self.core.file_size()) {
            return Err(corrupt(format!(
                "the table of bitmap {} lies beyond the file",
                entry.name
            )));
        }
        let bytes = match len {
            0 => Vec::new(),
            len => {
                self.read_area(Area {
                    offset: entry.table_offset,
                    len,
                })
                .await?
            }
        };
        Ok(Table::parse(entry.table_offset, &bytes, 512))
    }

    async fn load_bits(&self, entry: &BitmapEntry) -> Result<Bits> {
        let geometry = self.core.geometry;
        let bits = Bits::new(self.core.size(), entry.granularity_bits)?;
        let table = self.bitmap_table(entry).await?;
        if (table.entries().len() as u64) < entry.entries_for(self.core.size(), geometry) {
            return Err(corrupt(format!(
                "the table of bitmap {} is too short",
                entry.name
            )));
        }
        for (index, &raw) in table.entries().iter().enumerate() {
            let bytes = match BitmapTableEntry::decode(raw, geometry)? {
                BitmapTableEntry::Zeroes => continue,
                BitmapTableEntry::Ones => vec![0xff; geometry.cluster() as usize],
                BitmapTableEntry::At(offset) => {
                    let cluster = self.read_file(offset, geometry.cluster() as usize).await?;
                    cluster.to_vec()
                }
            };
            bits.load(index as u64, &bytes);
        }
        Ok(bits)
    }

    /// Says in the file that the bitmaps which record, and those that `others` picks, are in use; durably.
    async fn tell_in_use(self: &Rc<Self>, others: impl Fn(&Arc<Bitmap>) -> bool) -> Result<()> {
        let tracking = &self.core.tracking;
        let _writing = tracking.writing.lock().await;
        let bitmaps = tracking.bitmaps().clone();
        let tell = |bitmap: &&Arc<Bitmap>| {
            !bitmap.told.load(Ordering::Acquire) && (bitmap.records() || others(bitmap))
        };
        let wanted: Vec<_> = bitmaps.iter().filter(tell).cloned().collect();
        let header = self.core.header();
        if let Some(extension) = header.extensions.bitmaps
            && !wanted.is_empty()
        {
            let mut entries = self.bitmap_directory(&header, extension).await?;
            for entry in &mut entries {
                entry.in_use |= wanted
                    .iter()
                    .any(|bitmap| bitmap.entry().name == entry.name);
            }
            let block = self.core.file.info().logical_block as usize;
            let mut bytes = BitmapEntry::write_directory(&entries);
            bytes.resize(bytes.len().next_multiple_of(block), 0);
            self.write_file(extension.directory.offset, &bytes).await?;
            self.flush_or_fail().await?;
        }
        for bitmap in wanted {
            bitmap.told.store(true, Ordering::Release);
        }
        tracking.look_again();
        Ok(())
    }

    /// Records a write in the bitmaps, before it begins.
    pub(crate) async fn record(self: &Rc<Self>, range: Range<u64>) -> Result<()> {
        while !self.core.tracking.record(range.clone()) {
            self.tell_in_use(|_| false).await?;
        }
        Ok(())
    }

    /// Writes back what the bitmaps say, so that they can be believed. No request is under way.
    pub(crate) async fn store_bitmaps(self: &Rc<Self>) -> Result<()> {
        let tracking = &self.core.tracking;
        let _writing = tracking.writing.lock().await;
        if !tracking.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let stored = self.store_all().await;
        if stored.is_err() {
            tracking.changed.store(true, Ordering::Release);
        }
        tracking.look_again();
        stored
    }

    async fn store_all(self: &Rc<Self>) -> Result<()> {
        let bitmaps = self.core.tracking.bitmaps().clone();
        let mut unused = Vec::new();
        for bitmap in bitmaps
            .iter()
            .filter(|bitmap| bitmap.changed.load(Ordering::Acquire))
        {
            self.store_bits(bitmap, &mut unused).await?;
        }
        let header = self.core.header();
        let old = match header.extensions.bitmaps.filter(|_| has_bitmaps(&header)) {
            Some(extension) => self.bitmap_directory(&header, extension).await?,
            None => Vec::new(),
        };
        for entry in &old {
            if !bitmaps
                .iter()
                .any(|bitmap| bitmap.entry().name == entry.name)
            {
                self.unused_table(entry, &mut unused).await?;
            }
        }
        let entries: Vec<_> = bitmaps.iter().map(|bitmap| written(bitmap)).collect();
        let extension = self.write_directory(&entries).await?;
        self.change_header(|header| {
            header.extensions.bitmaps = extension;
            let bit = if extension.is_some() {
                autoclear::BITMAPS
            } else {
                0
            };
            header.autoclear = header.autoclear & !autoclear::BITMAPS | bit;
        })
        .await?;
        for bitmap in &bitmaps {
            bitmap.changed.store(false, Ordering::Release);
            bitmap
                .told
                .store(bitmap.bits().is_none(), Ordering::Release);
        }
        if let Some(extension) = header.extensions.bitmaps.filter(|_| has_bitmaps(&header)) {
            unused.push((extension.directory.offset, extension.directory.len));
        }
        let geometry = self.core.geometry;
        let mut state = self.core.state();
        for (offset, len) in unused {
            state.unlink(offset, geometry.clusters(len));
        }
        Ok(())
    }

    /// Writes the bits of a bitmap whose entry says that it is in use, or that the file does not know yet. Clusters that
    /// are of no use after that are added to `unused`.
    async fn store_bits(
        self: &Rc<Self>,
        bitmap: &Bitmap,
        unused: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let (geometry, entry) = (self.core.geometry, bitmap.entry().clone());
        let Some(bits) = bitmap.bits() else {
            return Ok(());
        };
        let old = self.bitmap_table(&entry).await?;
        let count = entry.entries_for(self.core.size(), geometry);
        let mut entries = Vec::new();
        for index in 0..count {
            let place = match BitmapTableEntry::decode(old.at(index), geometry)? {
                BitmapTableEntry::At(offset) => Some(offset),
                _ => None,
            };
            entries.push(self.store_cluster(&bits, index, place, unused).await?);
        }
        for index in count..old.entries().len() as u64 {
            if let BitmapTableEntry::At(offset) = BitmapTableEntry::decode(old.at(index), geometry)?
            {
                unused.push((offset, geometry.cluster()));
            }
        }
        let mut bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.encode().to_be_bytes())
            .collect();
        let mut offset = entry.table_offset;
        let same = geometry.clusters(old.bytes()) == geometry.clusters(bytes.len() as u64);
        if offset == 0 || !same {
            if offset != 0 {
                unused.push((offset, old.bytes()));
            }
            let clusters = geometry.clusters(bytes.len() as u64).max(1);
            offset = self
                .allocate(|state| state.allocate_exactly(clusters))
                .await?
                .host;
        }
        bytes.resize(
            geometry
                .round_up(bytes.len() as u64)
                .max(geometry.cluster()) as usize,
            0,
        );
        // Clusters are counted before anything in the file points at them.
        self.publish().await?;
        self.write_file(offset, &bytes).await?;
        let mut entry = bitmap.entry();
        (entry.table_offset, entry.table_entries) = (offset, count as u32);
        Ok(())
    }

    async fn store_cluster(
        &self,
        bits: &Bits,
        index: u64,
        place: Option<u64>,
        unused: &mut Vec<(u64, u64)>,
    ) -> Result<BitmapTableEntry> {
        let len = self.core.geometry.cluster();
        let bytes = bits.cluster(index, len);
        let plain = if bytes.iter().all(|&byte| byte == 0) {
            Some(BitmapTableEntry::Zeroes)
        } else if bits.is_full(index, len) {
            Some(BitmapTableEntry::Ones)
        } else {
            None
        };
        if let Some(plain) = plain {
            unused.extend(place.map(|offset| (offset, len)));
            return Ok(plain);
        }
        let offset = match place {
            Some(offset) => offset,
            None => self.allocate(|state| state.allocate(1)).await?.host,
        };
        self.write_file(offset, &bytes).await?;
        Ok(BitmapTableEntry::At(offset))
    }

    /// The clusters of a bitmap that is to go.
    async fn unused_table(&self, entry: &BitmapEntry, unused: &mut Vec<(u64, u64)>) -> Result<()> {
        let table = self.bitmap_table(entry).await?;
        for &raw in table.entries() {
            if let BitmapTableEntry::At(offset) = BitmapTableEntry::decode(raw, self.core.geometry)?
            {
                unused.push((offset, self.core.geometry.cluster()));
            }
        }
        unused.push((table.offset(), table.bytes()));
        Ok(())
    }

    /// Writes a directory where nothing is; durably.
    async fn write_directory(
        self: &Rc<Self>,
        entries: &[BitmapEntry],
    ) -> Result<Option<BitmapsExtension>> {
        if entries.is_empty() {
            self.publish().await?;
            return Ok(None);
        }
        let geometry: Geometry = self.core.geometry;
        let mut bytes = BitmapEntry::write_directory(entries);
        let len = bytes.len() as u64;
        let clusters = geometry.clusters(len);
        let offset = self
            .allocate(|state| state.allocate_exactly(clusters))
            .await?
            .host;
        bytes.resize(geometry.round_up(len) as usize, 0);
        self.write_file(offset, &bytes).await?;
        self.publish().await?;
        let directory = Area { offset, len };
        Ok(Some(BitmapsExtension {
            count: entries.len() as u32,
            directory,
        }))
    }

    /// Gives the bitmaps the size of the disk, which is about to change.
    pub(crate) async fn resize_bitmaps(self: &Rc<Self>, size: u64) -> Result<()> {
        self.tell_in_use(|_| true).await?;
        for bitmap in self.core.tracking.bitmaps().iter() {
            if let Some(bits) = bitmap.bits() {
                bitmap.set_bits(bits.resized(size)?);
                bitmap.changed.store(true, Ordering::Release);
                self.core.tracking.changed.store(true, Ordering::Release);
            }
        }
        Ok(())
    }
}

/// The entry of a bitmap that was written back.
fn written(bitmap: &Bitmap) -> BitmapEntry {
    let mut entry = bitmap.entry().clone();
    entry.in_use = bitmap.bits().is_none();
    entry
}

/// Whether what the header says of bitmaps is true.
pub(crate) fn has_bitmaps(header: &Header) -> bool {
    header.autoclear & autoclear::BITMAPS != 0
}

fn invalid(sentence: String) -> Error {
    Error::new(ErrorKind::Invalid, sentence)
}
