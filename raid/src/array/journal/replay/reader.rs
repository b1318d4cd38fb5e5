//! The log as it lies on its device.

use smallvec::SmallVec;
use weft_block::{Buffer, IoVec, Request, SECTOR};

use super::super::ring::Place;
use super::super::{Device, Journal};
use crate::array::Lane;
use crate::geometry::ParityRows;
use crate::journal::{BLOCK_BYTES, BLOCK_SECTORS, MetaBlock, Payload, Seed};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Blocks of the log that are read at once.
const READ_BLOCKS: u64 = 256;

/// The log while it is read.
pub(super) struct Reader<'a> {
    lane: &'a Lane,
    device: Device,
    pub(super) blocks: u64,
    seed: Seed,
    /// Blocks that were read ahead, without those that cannot be read.
    window: Vec<Option<Buffer>>,
    /// The first of them.
    start: u64,
}

impl Reader<'_> {
    /// A block of the log; none if it cannot be read.
    async fn block(&mut self, block: u64) -> Option<&[u8; BLOCK_BYTES]> {
        let inside = self.start..self.start + self.window.len() as u64;
        if !inside.contains(&block) {
            self.fetch(block).await;
        }
        let index = (block - self.start) as usize;
        let read = self.window.get(index)?.as_deref()?;
        read.try_into().ok()
    }

    async fn fetch(&mut self, first: u64) {
        let count = READ_BLOCKS.min(self.blocks - first);
        let queue = self.lane.queue(self.device.id);
        let at = |block: u64| self.device.base + block * BLOCK;
        let read = Request::read(at(first), IoVec::zeroed((count * BLOCK) as usize));
        let completion = queue.submit(read).await;
        let window = if completion.result.is_ok() {
            let bytes = completion.buffer.into_buffer();
            let blocks = bytes.chunks_exact(BLOCK_BYTES);
            blocks.map(|block| Some(Buffer::copy_of(block))).collect()
        } else {
            // One of them was torn.
            let mut window = Vec::new();
            for block in first..first + count {
                let read = Request::read(at(block), IoVec::zeroed(BLOCK_BYTES));
                let completion = queue.submit(read).await;
                let read = completion.result.is_ok();
                window.push(read.then(|| completion.buffer.into_buffer()));
            }
            window
        };
        (self.start, self.window) = (first, window);
    }

    /// The meta block that the log begins with, at sector `tail`.
    pub(super) async fn first(&mut self, tail: u64) -> Option<MetaBlock> {
        let (block, seed) = (tail / BLOCK_SECTORS, self.seed);
        if !tail.is_multiple_of(BLOCK_SECTORS) || block >= self.blocks {
            return None;
        }
        MetaBlock::parse(self.block(block).await?, tail, seed).ok()
    }

    /// The meta block at `at` with the blocks that it names; none if the log ends here.
    pub(super) async fn next(&mut self, at: Place) -> Option<(MetaBlock, Vec<Buffer>)> {
        let seed = self.seed;
        let meta = MetaBlock::parse(self.block(at.block).await?, at.sector(), seed).ok()?;
        if meta.seq != at.seq || meta.blocks() > self.blocks {
            return None;
        }
        let mut block = at.block;
        let mut read = Vec::new();
        let sums = meta.payloads.iter().flat_map(|payload| match payload {
            Payload::Data { checksum, .. } => SmallVec::<[u32; 2]>::from_slice(&[*checksum]),
            Payload::Parity { checksums, .. } => checksums.clone(),
            Payload::Flush { .. } => SmallVec::new(),
        });
        for sum in sums {
            block = (block + 1) % self.blocks;
            let bytes = self.block(block).await?;
            if seed.checksum(bytes) != sum {
                return None;
            }
            read.push(Buffer::copy_of(bytes));
        }
        Some((meta, read))
    }
}

impl Lane {
    /// Whether the log has something behind its beginning.
    pub(super) async fn has_logged(&self, journal: &Journal, device: Device) -> bool {
        let (mut reader, tail) = self.reader(journal, device);
        let Some(first) = reader.first(tail).await else {
            return false;
        };
        let next = Place {
            block: (tail / BLOCK_SECTORS + first.blocks()) % reader.blocks,
            seq: first.seq + 1,
        };
        reader.next(next).await.is_some()
    }

    pub(super) fn reader(&self, journal: &Journal, device: Device) -> (Reader<'_>, u64) {
        let reader = Reader {
            lane: self,
            device,
            blocks: journal.state().ring.blocks(),
            seed: journal.seed,
            window: Vec::new(),
            start: 0,
        };
        let state = self.shared.state();
        let superblock = state.journal().map(|member| &member.superblock);
        let tail = superblock.map_or(0, |superblock| superblock.recovery_offset);
        (reader, tail)
    }
}

/// The stripe that a payload belongs to, by its number from the start of the members, and the slots of its blocks. None
/// if this array has no such place.
pub(super) fn place(rows: &ParityRows, payload: &Payload) -> Option<(u64, SmallVec<[u32; 2]>)> {
    let row_bytes = rows.chunk() * u64::from(rows.data());
    let bytes = |sector: u64| {
        let bytes = sector.checked_mul(SECTOR)?;
        bytes.is_multiple_of(BLOCK).then_some(bytes)
    };
    let (row, start, slots) = match payload {
        Payload::Data { sector, .. } => {
            let offset = bytes(*sector)?;
            let (row, within) = (offset / row_bytes, offset % row_bytes);
            let index = (within / rows.chunk()) as u32;
            let slot = rows.data_slot(row, index);
            (row, within % rows.chunk(), SmallVec::from_slice(&[slot]))
        }
        Payload::Parity { sector, checksums } => {
            let offset = bytes(*sector)?;
            let row = offset / rows.chunk();
            let slots: SmallVec<[u32; 2]> = rows.parity_slots(row).collect();
            if slots.len() != checksums.len() {
                return None;
            }
            (row, offset % rows.chunk(), slots)
        }
        Payload::Flush { .. } => return Some((0, SmallVec::new())),
    };
    (row < rows.rows()).then(|| ((row * rows.chunk() + start) / BLOCK, slots))
}
