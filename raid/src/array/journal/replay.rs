//! After a crash: what the journal has whole is written to the members.
//!
//! A stripe whose data and parities are there is written as it is, in the order of the log. Of a stripe whose parities
//! are not there nothing has got to the members: it was torn, or md kept it in the journal alone (its write-back mode).
//! Its parities are made then, and it is logged whole before it is written.

mod reader;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use reader::place;
use smallvec::SmallVec;
use weft_block::{Buffer, Error, ErrorKind, IoVec, Request, Result};

use super::batch::{Group, Metas};
use super::ring::Place;
use super::{Device, Journal, Lane};
use crate::array::state::MemberId;
use crate::array::{Array, Step};
use crate::geometry::{ParityRows, Shape};
use crate::journal::{BLOCK_BYTES, BLOCK_SECTORS, MetaBlock, Payload, SEQ_GAP};
use crate::parity;
use crate::plan::Unit;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Blocks of stripes that are kept until they are written: what is whole is written before there are more.
const KEPT_BLOCKS: usize = 16 << 10;
/// Blocks of stripes without parities that are kept at most (1 GiB).
const MOST_CACHED: usize = 256 << 10;

/// What the log has of a stripe.
#[derive(Default)]
struct Stripe {
    /// By slot.
    blocks: BTreeMap<u32, IoVec>,
    /// The parities are there, so it is whole.
    whole: bool,
}

impl Stripe {
    /// Whether it has data of stripe `number`. Parities alone say nothing: what belongs to them was flushed.
    fn has_data(&self, rows: &ParityRows, number: u64) -> bool {
        let row = number * BLOCK / rows.chunk();
        let mut slots = self.blocks.keys();
        slots.any(|&slot| rows.data_index(row, slot).is_some())
    }

    /// Its blocks, by slot.
    fn columns(&self, rows: &ParityRows) -> Vec<Option<IoVec>> {
        let slots = 0..rows.members();
        slots.map(|slot| self.blocks.get(&slot).cloned()).collect()
    }
}

/// What was found out of the log so far.
#[derive(Default)]
struct Found {
    /// By their number from the start of the members.
    stripes: BTreeMap<u64, Stripe>,
    /// Those of which more was logged after they were whole: what is to be written of them first.
    done: BTreeMap<u64, Stripe>,
    kept: usize,
    /// Stripes that were written.
    replayed: u64,
    /// Members that did not take something.
    failed: Vec<(MemberId, Error)>,
    /// The log names what this array does not have.
    strange: bool,
}

impl Found {
    /// A stripe that is whole is over: what comes now is another change of it. What it has newer than the one before
    /// takes that one's place.
    fn settle(&mut self, rows: &ParityRows, number: u64) {
        let whole = self.stripes.remove(&number);
        if let Some(whole) = whole.filter(|whole| whole.has_data(rows, number)) {
            let known = self.done.entry(number).or_default();
            known.blocks.extend(whole.blocks);
        }
    }
}

/// What came of a log.
enum Replayed {
    /// So many stripes were written.
    Stripes(u64),
    /// There is no log where the superblock says that it begins.
    Unreadable,
    /// It names what this array does not have; what it named before that was written.
    Strange,
}

impl Lane {
    /// Writes to the members what the log has whole, durably. Nothing else is under way, and nothing was written since
    /// the crash.
    async fn replay_journal(&self, journal: &Journal, device: Device) -> Result<Replayed> {
        let Shape::Parity(rows) = self.shared.geometry.shape() else {
            return Ok(Replayed::Stripes(0));
        };
        let (mut reader, tail) = self.reader(journal, device);
        let blocks = reader.blocks;
        let Some(first) = reader.first(tail).await else {
            let seq = self.shared.state().now.seconds() << 20;
            let head = Place { block: 0, seq };
            journal.state().ring.begin_anew(blocks, head);
            return Ok(Replayed::Unreadable);
        };
        let mut at = Place {
            block: tail / BLOCK_SECTORS,
            seq: first.seq,
        };
        let mut found = Found::default();
        let mut passed = 0;
        while let Some((meta, read)) = reader.next(at).await {
            // A log that bites its own tail is none.
            found.strange |= passed + meta.blocks() > blocks;
            if found.strange || !self.understand(rows, &meta, read, &mut found).await? {
                found.strange = true;
                break;
            }
            passed += meta.blocks();
            at = Place {
                block: (at.block + meta.blocks()) % blocks,
                seq: at.seq + 1,
            };
        }
        self.write_whole(rows, &mut found).await;
        journal.state().ring.begin_anew(blocks, at);
        if !found.stripes.is_empty() {
            let room = (blocks - passed).saturating_sub(2);
            self.write_cached(journal, rows, &mut found, (at, room))
                .await?;
        }
        self.fail_members(std::mem::take(&mut found.failed)).await?;
        if found.replayed > 0 {
            let failed = self.flush_members().await;
            self.fail_members(failed).await?;
        }
        Ok(match found.strange {
            true => Replayed::Strange,
            false => Replayed::Stripes(found.replayed),
        })
    }

    /// Takes up what a meta block names. Whether all of it has a place in this array.
    async fn understand(
        &self,
        rows: &ParityRows,
        meta: &MetaBlock,
        blocks: Vec<Buffer>,
        found: &mut Found,
    ) -> Result<bool> {
        let places: Option<Vec<_>> = meta.payloads.iter().map(|one| place(rows, one)).collect();
        let Some(places) = places else {
            return Ok(false);
        };
        let mut blocks = blocks.into_iter();
        for (payload, (stripe, slots)) in meta.payloads.iter().zip(places) {
            if let Payload::Flush { sectors } = payload {
                for stripe in sectors.iter().map(|sector| sector / BLOCK_SECTORS) {
                    found.stripes.remove(&stripe);
                    found.done.remove(&stripe);
                }
                continue;
            }
            let is_data = matches!(payload, Payload::Data { .. });
            // What comes after the parities is a change of its own.
            if is_data && found.stripes.get(&stripe).is_some_and(|known| known.whole) {
                found.settle(rows, stripe);
            }
            let known = found.stripes.entry(stripe).or_default();
            known.whole = !is_data;
            for (slot, block) in slots.into_iter().zip(&mut blocks) {
                known.blocks.insert(slot, block.into());
                found.kept += 1;
            }
        }
        if found.kept > KEPT_BLOCKS {
            self.write_whole(rows, found).await;
            found.kept = found.stripes.values().map(|one| one.blocks.len()).sum();
            if found.kept > MOST_CACHED {
                let why = format!(
                    "array {} cannot start: its journal holds more data that is nowhere else than fits into memory; \
                     assemble it under Linux once",
                    self.shared.name
                );
                return Err(Error::new(ErrorKind::NoSpace, why));
            }
        }
        Ok(true)
    }

    /// Writes all stripes that are whole; those that are not stay.
    async fn write_whole(&self, rows: &ParityRows, found: &mut Found) {
        let done = std::mem::take(&mut found.done);
        self.write_stripes(done.into_iter(), found).await;
        let all = std::mem::take(&mut found.stripes);
        let (whole, cached): (BTreeMap<_, _>, _) = all.into_iter().partition(|(_, one)| one.whole);
        found.stripes = cached;
        let whole = whole
            .into_iter()
            .filter(|(number, one)| one.has_data(rows, *number));
        self.write_stripes(whole, found).await;
    }

    /// Writes stripes to whoever holds their slots.
    async fn write_stripes(&self, stripes: impl Iterator<Item = (u64, Stripe)>, found: &mut Found) {
        let route = self.route();
        let mut sent = Vec::new();
        for (number, stripe) in stripes {
            found.replayed += 1;
            for (slot, block) in stripe.blocks {
                let Some(leg) = &route.legs[slot as usize] else {
                    continue;
                };
                let range = number * BLOCK..(number + 1) * BLOCK;
                let bad = leg.is_bad(&range);
                let write = leg.submit(Request::write(range.start, block));
                let id = leg.id;
                sent.push(async move {
                    let result = write.await.result;
                    (id, range, bad, result)
                });
            }
        }
        for (id, range, bad, result) in join_all(sent).await {
            let result = match result {
                Ok(()) if bad => self.clear_lost(&[id], &range).await,
                result => result,
            };
            if let Err(error) = result {
                found.failed.push((id, error));
            }
        }
    }

    /// Makes the parities of stripes that are in the journal alone, logs them whole behind the end of the log, from where
    /// on it begins then, and writes them. `room` is what the log has left, in blocks.
    async fn write_cached(
        &self,
        journal: &Journal,
        rows: &ParityRows,
        found: &mut Found,
        (at, room): (Place, u64),
    ) -> Result<()> {
        self.fail_members(std::mem::take(&mut found.failed)).await?;
        let failed = self.flush_members().await;
        self.fail_members(failed).await?;
        let mut whole = Vec::new();
        let mut metas = Metas::default();
        for (number, stripe) in std::mem::take(&mut found.stripes) {
            let (stripe, groups) = self.made_whole(journal, rows, number, stripe).await?;
            for group in groups {
                metas.add(group, &stripe.columns(rows));
            }
            whole.push((number, stripe));
        }
        // Where the log is too full for that, a second crash while they are written finds them in the journal as before,
        // which only costs something if a member is lost as well.
        if metas.blocks() <= room {
            let seq = at.seq + SEQ_GAP;
            self.log_whole(journal, metas, Place { seq, ..at }).await?;
        }
        self.write_stripes(whole.into_iter(), found).await;
        Ok(())
    }

    /// A stripe of which the journal has only data, with all that its row has there.
    async fn made_whole(
        &self,
        journal: &Journal,
        rows: &ParityRows,
        number: u64,
        stripe: Stripe,
    ) -> Result<(Stripe, Vec<Group>)> {
        let offset = number * BLOCK;
        let unit = Unit {
            row: offset / rows.chunk(),
            rows: 1,
            start: offset % rows.chunk(),
            len: BLOCK,
            first: 0,
            count: rows.data(),
        };
        let mut columns: Vec<Option<Buffer>> = (0..rows.members()).map(|_| None).collect();
        for (slot, block) in stripe.blocks {
            columns[slot as usize] = Some(block.into_buffer());
        }
        let route = self.route();
        for slot in (0..unit.count).map(|index| rows.data_slot(unit.row, index)) {
            if columns[slot as usize].is_some() {
                continue;
            }
            let there = route.whole(slot, &(offset..offset + BLOCK));
            let made = match there {
                Some(leg) => self.mend(slot, leg.id, offset, BLOCK).await,
                None => self.make_buffer(slot, offset, BLOCK).await,
            };
            columns[slot as usize] = Some(made.map_err(|error| {
                let name = &self.shared.name;
                error.in_context(format!(
                    "array {name} cannot start: what its journal has of byte {offset} of the members cannot be completed"
                ))
            })?);
        }
        let (mut p, mut q) = (Buffer::zeroed(BLOCK_BYTES), Buffer::zeroed(BLOCK_BYTES));
        let data = columns.iter().enumerate().filter_map(|(slot, block)| {
            let slot = slot as u32;
            rows.data_index(unit.row, slot)?;
            Some((slot, block.as_deref()?))
        });
        let data: SmallVec<[(u32, &[u8]); 8]> = data.collect();
        let second = rows.q_slot(unit.row).map(|_| &mut q[..]);
        parity::of_row(rows, unit.row, &data, &mut p, second);
        drop(data);
        for (slot, made) in rows.parity_slots(unit.row).zip([p, q]) {
            columns[slot as usize] = Some(made);
        }
        let groups = Group::all_of(rows, &unit, &columns, journal.seed);
        let blocks = (0..).zip(columns);
        let blocks = blocks.filter_map(|(slot, column)| Some((slot, column?.into())));
        let stripe = Stripe {
            blocks: blocks.collect(),
            whole: true,
        };
        Ok((stripe, groups))
    }

    /// Logs stripes at `at`, and lets the log begin there.
    async fn log_whole(&self, journal: &Journal, metas: Metas, at: Place) -> Result<()> {
        let device = self.journal_device()?;
        let ring = journal.state().ring.blocks();
        let head = Place {
            block: (at.block + metas.blocks()) % ring,
            seq: at.seq + metas.count(),
        };
        let blocks = metas.place(at, ring, journal.seed);
        self.write_log_blocks(device, at, ring, blocks).await?;
        let mut meta = self.shared.core.meta.lock().await;
        let dirt = {
            let mut state = self.shared.state();
            if let Some(member) = state.member_mut(device.id) {
                member.superblock.recovery_offset = at.sector();
            }
            state.dirt
        };
        self.write_superblocks(&mut meta, dirt, Step::One).await?;
        journal.state().ring.begin_anew(ring, head);
        Ok(())
    }
}

impl Array {
    /// Puts right what the journal names before the array takes requests. Whether it named something.
    ///
    /// # Errors
    /// `Degraded` if what was being written may be wrong and nobody said to start all the same.
    pub(crate) async fn recover_by_journal(&self, lane: &Lane, force: bool) -> Result<bool> {
        let shared = self.shared();
        let Some(journal) = &shared.journal else {
            return Ok(false);
        };
        // Without its journal it starts only if it was told to, and has none any more.
        let device = lane.journal_device()?;
        let replayed = lane.replay_journal(journal, device).await?;
        let mut state = shared.state();
        let why = match replayed {
            Replayed::Stripes(0) => return Ok(false),
            Replayed::Stripes(count) => {
                state.note(format!(
                    "{count} stripes that a crash had interrupted were written from the journal"
                ));
                return Ok(true);
            }
            Replayed::Unreadable => "its journal cannot be read",
            Replayed::Strange => "its journal names what the array does not have",
        };
        if state.is_whole(&shared.geometry) {
            state.intent.resync_from(0);
            state.resync_total = state.intent.resync_bytes();
            shared.resync_changed(&state);
            state.note(format!("{why}, so all members are compared"));
            return Ok(true);
        }
        if force {
            state.note(format!("{why}, so what was being written may be wrong"));
            return Ok(true);
        }
        drop(state);
        let why = format!(
            "array {} cannot start: it is degraded, and {why}, so what was being written when it stopped may be wrong; \
             bring the missing member back, or assemble it by force",
            shared.name
        );
        Err(Error::new(ErrorKind::Degraded, why))
    }

    /// Whether the journal names what the members may not have.
    pub(crate) async fn awaits_replay(&self, lane: &Lane) -> Result<bool> {
        match &self.shared().journal {
            Some(journal) => Ok(lane.has_logged(journal, lane.journal_device()?).await),
            None => Ok(false),
        }
    }
}
