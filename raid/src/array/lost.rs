//! Blocks that a member does not hold: marked in its bad-block log, and cleared when they are written.

use std::ops::Range;

use weft_block::{IoVec, Request, Result, SECTOR};

use super::Array;
use super::copies::pieces;
use super::lane::Lane;
use super::meta::{Meta, Step};
use super::state::MemberId;
use crate::bad_blocks::{bad_block_log, overlaps, with, without};
use crate::geometry::Shape;

impl Lane {
    /// Marks ranges of member space as lost, each on its member. Whether all of them could take it into their logs; if
    /// not, nothing is marked. It is durable when this returns.
    ///
    /// Whoever marks a block names all blocks that are lost with it: when a power cut tears the log of one member,
    /// what it may not hold is known from the logs of the others.
    pub(crate) async fn mark_lost(&self, lost: &[(MemberId, Range<u64>)]) -> Result<bool> {
        let mut meta = self.shared.core.meta.lock().await;
        let changes: Option<Vec<_>> = {
            let state = self.shared.state();
            if state.reshaping.is_some() {
                // The logs count from where the data starts, and that moves.
                return Ok(false);
            }
            let change = |(id, range): &(MemberId, Range<u64>)| {
                let member = state.member(*id)?;
                let bad = with(&member.bad, range);
                let bytes = usize::from(member.superblock.bblog_size) * SECTOR as usize;
                bad_block_log(&bad, member.superblock.data_offset, bytes)?;
                Some((*id, bad))
            };
            lost.iter().map(change).collect()
        };
        let Some(changes) = changes else {
            return Ok(false);
        };
        self.put_lost(&mut meta, changes, true).await?;
        Ok(true)
    }

    /// A range was written on members: what was lost of it is there again.
    pub(crate) async fn clear_lost(&self, ids: &[MemberId], range: &Range<u64>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut meta = self.shared.core.meta.lock().await;
        // Below a mark may lie what was there long ago: it goes only once what was written is there for good.
        let flushes = ids
            .iter()
            .map(|&id| (id, self.queue(id).submit(Request::flush())));
        let failed = super::meta::settle(flushes.collect()).await;
        self.drop_members(&mut meta, failed).await?;
        let changes = {
            let state = self.shared.state();
            let members = ids.iter().filter_map(|&id| state.member(id));
            members
                .filter(|member| overlaps(&member.bad, range))
                .map(|member| (member.id, without(&member.bad, range)))
                .collect()
        };
        self.put_lost(&mut meta, changes, false).await
    }

    /// Writes logs, then the superblocks, which say whether a log counts.
    async fn put_lost(
        &self,
        meta: &mut Meta,
        changes: Vec<(MemberId, Vec<Range<u64>>)>,
        more: bool,
    ) -> Result<()> {
        let ids: Vec<MemberId> = changes.iter().map(|(id, _)| *id).collect();
        let dirt = {
            let mut state = self.shared.state();
            for (id, bad) in changes {
                if let Some(member) = state.member_mut(id) {
                    member.bad = bad.into();
                }
            }
            state.dirt
        };
        if ids.is_empty() {
            return Ok(());
        }
        self.shared.changed();
        self.write_logs(meta, &ids).await?;
        // Fewer entries are read right by the old superblock, more are not.
        if more {
            self.write_superblocks(meta, dirt, Step::One).await?;
        }
        Ok(())
    }

    /// Writes the logs of members, one after the other: a power cut tears one of them at most.
    pub(crate) async fn write_logs(&self, meta: &mut Meta, ids: &[MemberId]) -> Result<()> {
        for &id in ids {
            let write = {
                let mut state = self.shared.state();
                let Some(member) = state.member_mut(id) else {
                    continue;
                };
                let superblock = &mut member.superblock;
                // A log of another unit is read as it is, and written in sectors.
                superblock.bblog_shift = 0;
                let bytes = usize::from(superblock.bblog_size) * SECTOR as usize;
                let log = bad_block_log(&member.bad, superblock.data_offset, bytes);
                let sector = superblock.bblog_sector();
                log.zip(sector)
                    .map(|(log, sector)| Request::write_fua(sector * SECTOR, IoVec::copy_of(&log)))
            };
            let Some(write) = write else { continue };
            if let Err(error) = self.queue(id).submit(write).await.result {
                self.drop_members(meta, vec![(id, error)]).await?;
            }
        }
        Ok(())
    }
}

impl Array {
    /// What members whose logs were torn may not hold: what belongs to what the others do not hold, for where a block is
    /// lost, the parity or the copies that cannot be trusted without it are marked with it. Whether there are such members.
    pub(crate) fn guess_lost(&self, torn_logs: &[MemberId]) -> bool {
        let mut state = self.core.state();
        let known: Vec<(u32, Range<u64>)> = state
            .members
            .iter()
            .filter(|member| !member.duty.is_replacing())
            .filter_map(|member| Some((member.duty.slot()?, member)))
            .flat_map(|(slot, member)| member.bad.iter().map(move |bad| (slot, bad.clone())))
            .collect();
        for &id in torn_logs {
            let Some(member) = state.member_mut(id) else {
                continue;
            };
            let Some(own) = member.duty.slot() else {
                continue;
            };
            let guessed = known
                .iter()
                .flat_map(|(slot, bad)| self.belonging_to(*slot, bad, own));
            let guessed = guessed.fold(Vec::new(), |all, bad| with(&all, &bad));
            let bytes: u64 = guessed.iter().map(|bad| bad.end - bad.start).sum();
            let path = member.path.clone();
            member.bad = guessed.into();
            if bytes > 0 {
                state.note(format!(
                    "the bad-block log of {path} was torn by a power cut: {bytes} bytes that belong to what others have \
                     lost count as lost there, until they are written"
                ));
            }
        }
        !torn_logs.is_empty()
    }

    /// The ranges of slot `own` that go with a range of `slot`: the same one, but for the copies of RAID-10.
    fn belonging_to(&self, slot: u32, range: &Range<u64>, own: u32) -> Vec<Range<u64>> {
        let geometry = &self.shared().geometry;
        let Shape::Copies(copies) = geometry.shape() else {
            return vec![range.clone()];
        };
        let chunks = pieces(geometry, range, u64::MAX).filter_map(|piece| {
            let places = copies.places(copies.origin(slot, piece.start)?);
            let place = places.into_iter().find(|place| place.slot == own)?;
            Some(place.offset..place.offset + (piece.end - piece.start))
        });
        chunks.collect()
    }
}
