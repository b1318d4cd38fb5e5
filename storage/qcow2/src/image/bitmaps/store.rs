//! How bitmaps come into memory and back into the file.

use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use weft_block::Result;

use super::super::bits::Bits;
use super::super::core::corrupt;
use super::super::lane::Lane;
use super::super::table::Table;
use super::{Bitmap, has_bitmaps};
use crate::format::{
    Area, BitmapEntry, BitmapTableEntry, BitmapsExtension, Geometry, Header, autoclear,
};

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
    pub(super) async fn tell_in_use(
        self: &Rc<Self>,
        others: impl Fn(&Arc<Bitmap>) -> bool,
    ) -> Result<()> {
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
