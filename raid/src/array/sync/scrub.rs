//! Check and repair: whether the members agree, who lies if they do not, and making the liar say what the others do.
//!
//! Nothing is ever made to agree with the odd one out: where it cannot be known who is right, it is said and left, unless
//! the caller takes the data for true.

use std::ops::Range;

use futures_util::future::join_all;
use smallvec::SmallVec;
use weft_block::{Buffer, Error, ErrorKind, IoVec, Request, Result};

use super::{has_parity, windows};
use crate::array::copies::pieces;
use crate::array::lane::Lane;
use crate::array::state::MemberId;
use crate::array::{Array, State};
use crate::geometry::Shape;
use crate::plan::{self, Verdict};

/// Places that a report names; the rest is counted.
const MOST_NAMED: usize = 64;

/// What a scrub does about what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrub {
    /// It is counted and located.
    Check,
    /// Whoever is known to lie is rewritten.
    Repair,
    /// And where nobody is known to lie, the data, or the first leg, is taken for true.
    RepairFromData,
}

/// Blocks of one place that do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// First byte in the members' data; with RAID-10 of the array.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The slots that lie; none if it cannot be known.
    pub liars: SmallVec<[u32; 2]>,
    /// Whether the members agree there now.
    pub repaired: bool,
}

impl Mismatch {
    fn goes_on_in(&self, next: &Self) -> bool {
        self.offset + self.len == next.offset
            && self.liars == next.liars
            && self.repaired == next.repaired
    }
}

/// What a scrub has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubReport {
    /// What was asked for.
    pub scrub: Scrub,
    /// Whether it went to the end.
    pub complete: bool,
    /// Blocks, of the members' logical block size, that do not agree.
    pub mismatches: u64,
    /// Those of them for which it is known who lies.
    pub located: u64,
    /// Those of them that agree now.
    pub repaired: u64,
    /// Blocks that could not be read and not be made.
    pub unreadable: u64,
    /// The first of the places.
    pub places: Vec<Mismatch>,
}

/// A scrub that runs or has run.
#[derive(Debug, Clone)]
pub(crate) struct Scrubbing {
    /// Bytes of member space that are done, while it runs.
    pub(crate) cursor: Option<u64>,
    pub(crate) report: ScrubReport,
}

impl State {
    /// Notes what was found, if the scrub still runs.
    fn found(&mut self, block: u64, mismatch: Mismatch) {
        let Some(scrubbing) = &mut self.scrubbing else {
            return;
        };
        let blocks = mismatch.len / block;
        let report = &mut scrubbing.report;
        report.mismatches += blocks;
        report.located += blocks * u64::from(!mismatch.liars.is_empty());
        report.repaired += blocks * u64::from(mismatch.repaired);
        let room = report.places.len() < MOST_NAMED;
        match report.places.last_mut() {
            // Blocks of one damage are one place.
            Some(last) if last.goes_on_in(&mismatch) => last.len += mismatch.len,
            _ if room => report.places.push(mismatch),
            _ => {}
        }
    }
}

impl Array {
    /// Begins to compare all members; a [`Syncer`](super::Syncer) does it, after resync and rebuild.
    ///
    /// # Errors
    /// `Invalid` for RAID-0 or a lone leg, which have nothing to compare, `Degraded` while a member is away, `Busy` while
    /// another scrub runs.
    pub fn scrub(&self, scrub: Scrub) -> Result<()> {
        let report = ScrubReport {
            scrub,
            complete: false,
            mismatches: 0,
            located: 0,
            repaired: 0,
            unreadable: 0,
            places: Vec::new(),
        };
        self.scrub_from(report, 0)
    }

    /// Goes on with a scrub that had come so far, as [`scrub_position`](Self::scrub_position) told before the array was
    /// stopped.
    ///
    /// # Errors
    /// As [`scrub`](Self::scrub).
    pub fn scrub_from(&self, report: ScrubReport, position: u64) -> Result<()> {
        let name = &self.shared().name;
        let refuse = |kind, why: &str| Err(Error::new(kind, format!("array {name} {why}")));
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        if self.shared().geometry.tolerates() == 0 {
            return refuse(
                ErrorKind::Invalid,
                "has no redundancy, so there is nothing to compare",
            );
        }
        let mut state = self.core.state();
        if !state.is_whole(&self.shared().geometry) {
            return refuse(
                ErrorKind::Degraded,
                "lacks a member; it can be compared once it is whole",
            );
        }
        if state.reshaping.is_some() {
            return refuse(
                ErrorKind::Busy,
                "changes its shape; it can be compared afterwards",
            );
        }
        if state
            .scrubbing
            .as_ref()
            .is_some_and(|running| running.cursor.is_some())
        {
            return refuse(ErrorKind::Busy, "is being compared already");
        }
        let position = position.min(self.shared().geometry.sync_size()) / 4096 * 4096;
        state.scrubbing = Some(Scrubbing {
            cursor: Some(position),
            report: ScrubReport {
                complete: false,
                ..report
            },
        });
        Ok(())
    }

    /// Bytes of member space that the scrub that runs has done, of the array's space with RAID-10.
    pub fn scrub_position(&self) -> Option<u64> {
        let state = self.core.state();
        state.scrubbing.as_ref()?.cursor
    }

    /// What the last scrub has found, or the one that runs has so far.
    pub fn scrub_report(&self) -> Option<ScrubReport> {
        let state = self.core.state();
        state
            .scrubbing
            .as_ref()
            .map(|scrubbing| scrubbing.report.clone())
    }
}

impl Lane {
    /// Compares up to `most` bytes of each member.
    pub(super) async fn scrub_step(&self, most: u64) -> Result<()> {
        let size = self.shared.geometry.sync_size();
        let next = {
            let mut state = self.shared.state();
            let whole = state.is_whole(&self.shared.geometry);
            let Some(scrubbing) = &mut state.scrubbing else {
                return Ok(());
            };
            if !whole {
                // It was lost meanwhile: what is left cannot be compared.
                scrubbing.cursor = None;
            }
            scrubbing
                .cursor
                .map(|start| (start..size.min(start + most), scrubbing.report.scrub))
        };
        let Some((range, scrub)) = next else {
            return Ok(());
        };
        {
            let _guard = self.shared.locks.exclusive(range.clone()).await;
            for result in join_all(windows(&range).map(|part| self.scrub_window(part, scrub))).await
            {
                result?;
            }
        }
        let mut state = self.shared.state();
        if let Some(scrubbing) = &mut state.scrubbing
            && scrubbing.cursor == Some(range.start)
        {
            scrubbing.report.complete = range.end >= size;
            scrubbing.cursor = Some(range.end).filter(|&end| end < size);
        }
        Ok(())
    }

    /// Compares a window, row by row or piece by piece.
    async fn scrub_window(&self, range: Range<u64>, scrub: Scrub) -> Result<()> {
        for part in pieces(&self.shared.geometry, &range, u64::MAX) {
            self.scrub_part(part, scrub).await?;
        }
        Ok(())
    }

    /// Where what belongs together at `offset` lies: slots, and their bytes of member space.
    fn belonging(&self, offset: u64) -> SmallVec<[(u32, u64); 8]> {
        match self.shared.geometry.shape() {
            Shape::Parity(rows) => (0..rows.members()).map(|slot| (slot, offset)).collect(),
            _ => {
                let places = self.shared.geometry.places(offset).into_iter();
                places.map(|place| (place.slot, place.offset)).collect()
            }
        }
    }

    /// Compares a part that lies in one row: as a whole first, since nearly all of it agrees.
    async fn scrub_part(&self, range: Range<u64>, scrub: Scrub) -> Result<()> {
        let route = self.route();
        let len = range.end - range.start;
        let places = self.belonging(range.start);
        let reads = self.read_places(&route, places.into_iter(), len).await;
        let block = self.shared.block as u64;
        if !reads.failed.is_empty() {
            let offline = |(_, id, error): (u32, Option<MemberId>, Error)| {
                Some((id?, error)).filter(|(_, error)| error.kind() == ErrorKind::Offline)
            };
            let gone: Vec<(MemberId, Error)> =
                reads.failed.into_iter().filter_map(offline).collect();
            if !gone.is_empty() {
                // The next step sees that a member is away.
                return self.fail_members(gone).await;
            }
            if len > block {
                return self.scrub_halves(range, scrub).await;
            }
            return self.scrub_unreadable(range).await;
        }
        let blocks: SmallVec<[(u32, &[u8]); 8]> = reads
            .buffers
            .iter()
            .map(|(slot, buffer)| (*slot, &**buffer))
            .collect();
        let verdict = self.judge(range.start, &blocks);
        drop(blocks);
        if verdict != Verdict::Agree && len > block {
            reads
                .buffers
                .into_iter()
                .for_each(|(_, buffer)| self.pool.put(buffer));
            return self.scrub_halves(range, scrub).await;
        }
        let mismatch = match verdict {
            Verdict::Agree => None,
            Verdict::Lies(liars) => Some((liars.clone(), liars)),
            Verdict::Unknown => Some((SmallVec::new(), self.to_trust(range.start))),
        };
        if let Some((liars, wrong)) = mismatch {
            let repairs = match scrub {
                Scrub::Check => false,
                Scrub::Repair => !liars.is_empty(),
                Scrub::RepairFromData => true,
            };
            let repaired = repairs && self.scrub_rewrite(&range, &wrong, &reads.buffers).await?;
            let found = Mismatch {
                offset: range.start,
                len,
                liars,
                repaired,
            };
            self.shared.state().found(block, found);
        }
        reads
            .buffers
            .into_iter()
            .for_each(|(_, buffer)| self.pool.put(buffer));
        Ok(())
    }

    async fn scrub_halves(&self, range: Range<u64>, scrub: Scrub) -> Result<()> {
        let block = self.shared.block as u64;
        let middle = range.start + ((range.end - range.start) / 2).next_multiple_of(block);
        for half in [range.start..middle, middle..range.end] {
            Box::pin(self.scrub_part(half, scrub)).await?;
        }
        Ok(())
    }

    /// A block of some member cannot be read: it is made from the others and written back, as any reader would do.
    async fn scrub_unreadable(&self, range: Range<u64>) -> Result<()> {
        let route = self.route();
        let len = range.end - range.start;
        let mut lost = false;
        for (slot, offset) in self.belonging(range.start) {
            let Some(leg) = &route.legs[slot as usize] else {
                continue;
            };
            let mended = match has_parity(&self.shared.geometry) {
                true => self
                    .mend(slot, leg.id, offset, len)
                    .await
                    .map(|made| self.pool.put(made)),
                false => {
                    let read = Request::read(range.start, self.pool.take(len as usize).into());
                    self.copies_mend(&read, Some(leg.id)).await
                }
            };
            lost |= mended.is_err();
        }
        if lost && let Some(scrubbing) = &mut self.shared.state().scrubbing {
            scrubbing.report.unreadable += 1;
        }
        Ok(())
    }

    fn judge(&self, offset: u64, blocks: &[(u32, &[u8])]) -> Verdict {
        match self.shared.geometry.shape() {
            Shape::Parity(rows) => plan::judge_row(rows, offset / rows.chunk(), blocks),
            _ => plan::judge_copies(blocks),
        }
    }

    /// The slots that are made anew if the data, or the first leg, is taken for true.
    fn to_trust(&self, offset: u64) -> SmallVec<[u32; 2]> {
        match self.shared.geometry.shape() {
            Shape::Parity(rows) => rows.parity_slots(offset / rows.chunk()).collect(),
            _ => self.belonging(offset)[1..]
                .iter()
                .map(|(slot, _)| *slot)
                .collect(),
        }
    }

    /// Makes the blocks of slots from the others that were read, and writes them; members that do not take them are
    /// failed. Whether all agree now.
    async fn scrub_rewrite(
        &self,
        range: &Range<u64>,
        wrong: &[u32],
        read: &[(u32, Buffer)],
    ) -> Result<bool> {
        let (offset, len) = (range.start, range.end - range.start);
        let route = self.route();
        for (slot, place) in self.belonging(offset) {
            if !wrong.contains(&slot) {
                continue;
            }
            let made = match self.shared.geometry.shape() {
                Shape::Parity(rows) => plan::recipe(rows, offset / rows.chunk(), slot, wrong)
                    .and_then(|recipe| self.add_up(&recipe, read, len)),
                _ => {
                    let right = read.iter().find(|(other, _)| !wrong.contains(other));
                    right.map(|(_, right)| Buffer::copy_of(right))
                }
            };
            let leg = route.legs[slot as usize].as_ref();
            let (Some(leg), Some(made)) = (leg, made) else {
                return Ok(false);
            };
            self.rewrite(&[(leg, place)], IoVec::from(made), false)
                .await?;
        }
        Ok(self.shared.state().is_whole(&self.shared.geometry))
    }
}
