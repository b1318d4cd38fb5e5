//! Blocks that a member does not hold: marked in its bad-block log, and cleared when they are written.

use std::ops::Range;

use weft_block::{IoVec, Request, Result, SECTOR};

use super::lane::Lane;
use super::meta::{Meta, Step};
use super::state::MemberId;
use crate::bad_blocks::{bad_block_log, overlaps, with, without};

impl Lane {
    /// Marks a range of member space as lost on members. Whether all of them could take it into their logs; if not,
    /// nothing is marked. It is durable when this returns.
    pub(crate) async fn mark_lost(&self, ids: &[MemberId], range: &Range<u64>) -> Result<bool> {
        let mut meta = self.shared.meta.lock().await;
        let changes: Option<Vec<_>> = {
            let state = self.shared.state();
            let change = |&id: &MemberId| {
                let member = state.member(id)?;
                let bad = with(&member.bad, range);
                let bytes = usize::from(member.superblock.bblog_size) * SECTOR as usize;
                bad_block_log(&bad, member.superblock.data_offset, bytes)?;
                Some((id, bad))
            };
            ids.iter().map(change).collect()
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
        let mut meta = self.shared.meta.lock().await;
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
        if changes.is_empty() {
            return Ok(());
        }
        let mut writes = Vec::new();
        let dirt = {
            let mut state = self.shared.state();
            for (id, bad) in changes {
                let Some(member) = state.member_mut(id) else {
                    continue;
                };
                let superblock = &mut member.superblock;
                // A log of another unit is read as it is, and written in sectors.
                superblock.bblog_shift = 0;
                let bytes = usize::from(superblock.bblog_size) * SECTOR as usize;
                let log = bad_block_log(&bad, superblock.data_offset, bytes);
                if let (Some(log), Some(sector)) = (log, superblock.bblog_sector()) {
                    writes.push((
                        id,
                        Request::write_fua(sector * SECTOR, IoVec::copy_of(&log)),
                    ));
                }
                member.bad = bad.into();
            }
            state.dirt
        };
        self.shared.changed();
        let sent = writes
            .into_iter()
            .map(|(id, write)| (id, self.queue(id).submit(write)));
        let failed = super::meta::settle(sent.collect()).await;
        if !failed.is_empty() {
            return self.drop_members(meta, failed).await;
        }
        // Fewer entries are read right by the old superblock, more are not.
        if more {
            self.write_superblocks(meta, dirt, Step::One).await?;
        }
        Ok(())
    }
}
