//! What a batch is made of: what units write, under as few meta blocks as can be.

use smallvec::SmallVec;
use weft_block::{Buffer, IoVec, SECTOR};

use super::ring::Place;
use crate::geometry::ParityRows;
use crate::journal::{BLOCK_BYTES, BLOCK_SECTORS, MetaBlock, Payload, Seed};
use crate::plan::Unit;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Stripes of one unit: what is said of them fits into one meta block.
pub(crate) struct Group {
    payloads: Vec<Payload>,
    /// The blocks, in the payloads' order.
    blocks: SmallVec<[Blocks; 4]>,
}

/// Where blocks of a group are in the columns.
struct Blocks {
    slot: u32,
    at: usize,
    len: usize,
}

impl Group {
    /// What a unit writes, by slot, of which everything lies at whole blocks.
    pub(crate) fn all_of(
        shape: &ParityRows,
        unit: &Unit,
        columns: &[Option<Buffer>],
        seed: Seed,
    ) -> Vec<Self> {
        let parity_bytes = 16 + 4 * shape.parities() as usize;
        let stripe_bytes = 20 * unit.count as usize + parity_bytes;
        let most = (MetaBlock::ROOM / stripe_bytes) as u64 * BLOCK;
        let mut groups = Vec::new();
        for row in unit.row..unit.row + unit.rows {
            let mut start = 0;
            while start < unit.len {
                let len = most.min(unit.len - start);
                let part = Unit {
                    row,
                    rows: 1,
                    start: unit.start + start,
                    len,
                    ..*unit
                };
                let at = ((row - unit.row) * unit.len + start) as usize;
                groups.push(Self::of(shape, &part, at, columns, seed));
                start += len;
            }
        }
        groups
    }

    /// What a part of one row writes, which is in the columns from `at` on.
    fn of(
        shape: &ParityRows,
        part: &Unit,
        at: usize,
        columns: &[Option<Buffer>],
        seed: Seed,
    ) -> Self {
        let mut group = Self {
            payloads: Vec::new(),
            blocks: SmallVec::new(),
        };
        let len = part.len as usize;
        let column = |slot: u32| {
            let column = columns[slot as usize].as_deref();
            column.expect("everything that a stripe writes is made")
        };
        for index in part.first..part.first + part.count {
            let slot = shape.data_slot(part.row, index);
            let first = (shape.logical(part.row, index) + part.start) / SECTOR;
            let blocks = column(slot)[at..at + len].chunks_exact(BLOCK_BYTES);
            let sectors = (first..).step_by(BLOCK_SECTORS as usize);
            group
                .payloads
                .extend(sectors.zip(blocks).map(|(sector, block)| {
                    let checksum = seed.checksum(block);
                    Payload::Data { sector, checksum }
                }));
            group.take(slot, at, len);
        }
        let parities: SmallVec<[u32; 2]> = shape.parity_slots(part.row).collect();
        let first = part.offset(shape);
        for start in (0..len).step_by(BLOCK_BYTES) {
            let place = at + start..at + start + BLOCK_BYTES;
            let checksum = |&slot: &u32| seed.checksum(&column(slot)[place.clone()]);
            group.payloads.push(Payload::Parity {
                sector: (first + start as u64) / SECTOR,
                checksums: parities.iter().map(checksum).collect(),
            });
            // Alone P is contiguous, two parities are not.
            match parities[..] {
                [_] => {}
                _ => parities
                    .iter()
                    .for_each(|&slot| group.take(slot, place.start, BLOCK_BYTES)),
            }
        }
        if let [p] = parities[..] {
            group.take(p, at, len);
        }
        group
    }

    fn take(&mut self, slot: u32, at: usize, len: usize) {
        self.blocks.push(Blocks { slot, at, len });
    }

    /// Blocks of the log that it takes if it has a meta block for itself.
    pub(super) fn blocks_at_most(&self) -> u64 {
        1 + self.payloads.iter().map(Payload::blocks).sum::<u64>()
    }
}

/// Meta blocks that have no place yet, with what belongs to them.
#[derive(Default)]
pub(super) struct Metas {
    metas: Vec<(MetaBlock, Vec<IoVec>)>,
    /// Bytes of payloads in the last of them.
    filled: usize,
}

impl Metas {
    /// One that names nothing.
    pub(super) fn beginning() -> Self {
        Self {
            metas: vec![Default::default()],
            filled: 0,
        }
    }

    /// Adds a group of these columns under the last meta block, or a new one if that is full.
    pub(super) fn add(&mut self, group: Group, columns: &[Option<IoVec>]) {
        let bytes: usize = group.payloads.iter().map(Payload::bytes).sum();
        if self.metas.is_empty() || self.filled + bytes > MetaBlock::ROOM {
            self.metas.push(Default::default());
            self.filled = 0;
        }
        self.filled += bytes;
        if let Some((meta, blocks)) = self.metas.last_mut() {
            meta.payloads.extend(group.payloads);
            blocks.extend(group.blocks.into_iter().filter_map(|blocks| {
                let column = columns[blocks.slot as usize].as_ref()?;
                Some(column.slice(blocks.at, blocks.len))
            }));
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.metas.len() as u64
    }

    /// Blocks of the log that they take.
    pub(super) fn blocks(&self) -> u64 {
        self.metas.iter().map(|(meta, _)| meta.blocks()).sum()
    }

    /// All of it as it is written from `at` on, in a log of `ring` blocks.
    pub(super) fn place(self, at: Place, ring: u64, seed: Seed) -> IoVec {
        let mut next = at;
        let mut parts = Vec::new();
        for (mut meta, blocks) in self.metas {
            (meta.seq, meta.position) = (next.seq, next.sector());
            next = Place {
                block: (next.block + meta.blocks()) % ring,
                seq: next.seq + 1,
            };
            parts.push(IoVec::copy_of(&meta.to_bytes(seed)));
            parts.extend(blocks);
        }
        IoVec::join(parts)
    }
}
