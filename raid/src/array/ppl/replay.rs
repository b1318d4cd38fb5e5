//! After a crash: parity is made again where the logs say that a change was under way.

use std::ops::Range;

use smallvec::SmallVec;
use weft_block::{Buffer, Error, ErrorKind, IoVec, Request, Result};

use super::Log;
use crate::array::Array;
use crate::array::lane::Lane;
use crate::array::state::MemberId;
use crate::geometry::{ParityRows, Shape};
use crate::parity::{self, Term};
use crate::plan::Unit;
use crate::ppl::{
    APART, Entry, HEADER_BYTES, Header, PplError, has_several_headers, parity_checksum,
};
use crate::superblock::PplPlace;

/// What a member's log says.
enum Found {
    /// What may have been under way, and where its partial parity lies on the device.
    Named(Header, u64),
    /// A header was being written: what it would have named had not begun, and what was there before it was done.
    Torn,
    /// Nothing was logged.
    Absent,
}

/// What the logs could do.
#[derive(Debug, Default)]
struct Replayed {
    /// Changes whose parity was made.
    changes: u64,
    /// Something is not as this crate or md leaves it: everything is to be compared.
    mismatch: bool,
    /// Member space in which data that was being written cannot be read.
    torn: Vec<Range<u64>>,
    /// Why what was being written may be wrong, if it may be.
    doubt: Option<String>,
}

/// A change whose partial parity was read.
struct Interrupted {
    unit: Unit,
    /// Of the parity.
    slot: u32,
    partial: Option<Buffer>,
}

impl Interrupted {
    /// What was changed, on every member.
    fn range(&self, rows: &ParityRows) -> Range<u64> {
        let start = self.unit.offset(rows);
        start..start + self.unit.len
    }

    /// The partial parity of a part of it.
    fn partial(&self, part: &Range<u64>) -> Option<&[u8]> {
        let partial = self.partial.as_deref()?;
        Some(&partial[part.start as usize..part.end as usize])
    }

    /// The slots whose data was changed.
    fn written(&self, rows: &ParityRows) -> impl Iterator<Item = u32> {
        let (rows, unit) = (*rows, self.unit);
        (unit.first..unit.first + unit.count).map(move |index| rows.data_slot(unit.row, index))
    }
}

impl Lane {
    /// Makes the parity of everything that the logs name from what is on the members, durably. Nothing else is under
    /// way, and nothing was written since the crash.
    async fn replay_log(&self, log: &Log) -> Result<Replayed> {
        let Shape::Parity(rows) = self.shared.geometry.shape() else {
            return Ok(Replayed::default());
        };
        let places: Vec<(u32, MemberId, PplPlace)> = {
            let state = self.shared.state();
            let members = state.members.iter();
            members
                .filter(|member| !member.duty.is_replacing())
                .filter_map(|member| {
                    Some((member.duty.slot()?, member.id, member.superblock.ppl()?))
                })
                .collect()
        };
        let whole = self.shared.state().is_whole(&self.shared.geometry);
        let mut replayed = Replayed::default();
        let mut named = Vec::new();
        for (slot, id, place) in places {
            match self.newest_header(log, id, place).await {
                Found::Named(header, at) => named.push((slot, id, place, header, at)),
                Found::Torn => replayed.mismatch = true,
                Found::Absent => {
                    replayed.mismatch = true;
                    replayed.doubt =
                        (!whole).then(|| format!("slot {slot} has no partial parity log"));
                }
            }
        }
        let newest = named.iter().map(|(_, _, _, header, _)| header.generation);
        let newest = newest.max().unwrap_or(0);
        for (slot, id, place, header, at) in named {
            // What a log that goes on by itself names may have been under way whatever is in the others.
            let last = header.generation == newest || header.generation & APART != 0;
            for change in self.interrupted(rows, slot, id, (header, at), place).await {
                match change {
                    Some(change) => {
                        let doubt = self.replay_change(rows, &change, &mut replayed).await?;
                        replayed.doubt = replayed.doubt.or(doubt.filter(|_| last));
                    }
                    None => replayed.mismatch = true,
                }
            }
        }
        let failed = self.flush_members().await;
        self.fail_members(failed).await?;
        Ok(replayed)
    }

    /// The newest header of a member's log, found as md finds it: from the start on, behind each its partial parity and
    /// then the next, as long as they get newer.
    async fn newest_header(&self, log: &Log, id: MemberId, place: PplPlace) -> Found {
        let Range { start, end } = place.bytes();
        let mut newest: Option<(Header, u64)> = None;
        let mut at = start;
        while at + HEADER_BYTES as u64 <= end {
            let read = Request::read(at, IoVec::zeroed(HEADER_BYTES));
            let completion = self.queue(id).submit(read).await;
            let mut bytes = [0; HEADER_BYTES];
            if completion.result.is_err() {
                // What was being written was being written here.
                return match newest {
                    Some((header, at)) => Found::Named(header, at),
                    None => Found::Torn,
                };
            }
            completion.buffer.copy_out(0, &mut bytes);
            let header = match (Header::parse(&bytes, log.signature), &newest) {
                (Ok(header), Some((newer, _))) if header.generation < newer.generation => break,
                (Ok(header), _) => header,
                (Err(PplError::Absent), None) => return Found::Absent,
                (Err(_), None) => return Found::Torn,
                (Err(_), Some(_)) => break,
            };
            let len = header.len_with_parity();
            newest = Some((header, at + HEADER_BYTES as u64));
            at += len;
            if !has_several_headers(end - start) {
                break;
            }
        }
        newest.map_or(Found::Absent, |(header, at)| Found::Named(header, at))
    }

    /// The changes that a header names, each with its partial parity; none for one that cannot be used.
    async fn interrupted(
        &self,
        rows: &ParityRows,
        slot: u32,
        id: MemberId,
        (header, mut at): (Header, u64),
        place: PplPlace,
    ) -> Vec<Option<Interrupted>> {
        let end = place.bytes().end;
        let mut found = Vec::new();
        for entry in header.entries {
            let from = at;
            at += u64::from(entry.partial);
            let unit = entry
                .change(rows)
                .filter(|_| entry.slot == slot && at <= end);
            let partial = match unit {
                Some(_) => self.partial_parity(id, &entry, from).await,
                None => None,
            };
            found.push(unit.zip(partial).map(|(unit, partial)| Interrupted {
                unit,
                slot,
                partial,
            }));
        }
        found
    }

    /// The partial parity of an entry; none within if the entry has none, none at all if it was torn.
    async fn partial_parity(&self, id: MemberId, entry: &Entry, at: u64) -> Option<Option<Buffer>> {
        if entry.partial == 0 {
            return Some(None);
        }
        let read = Request::read(at, IoVec::zeroed(entry.partial as usize));
        let completion = self.queue(id).submit(read).await;
        completion.result.ok()?;
        let partial = completion.buffer.into_buffer();
        (parity_checksum(&partial) == entry.checksum).then_some(Some(partial))
    }

    /// Makes the parity of one change, if all that it changed is there. Otherwise, what may be wrong if it was under way.
    async fn replay_change(
        &self,
        rows: &ParityRows,
        change: &Interrupted,
        replayed: &mut Replayed,
    ) -> Result<Option<String>> {
        let route = self.route();
        let range = change.range(rows);
        // Where a block of it is marked as lost, the others of the change are put right all the same.
        let leg = |slot: u32| route.legs[slot as usize].as_ref();
        let is_away = |slot: &u32| !leg(*slot).is_some_and(|leg| leg.has_place(&range));
        if change.written(rows).any(|slot| is_away(&slot)) {
            // Alone, a change on a member that is away is the parity's, which is old or new.
            return Ok((change.unit.count > 1).then(|| {
                format!(
                    "what was being written at byte {} of its members when one of them was lost may be wrong",
                    range.start
                )
            }));
        }
        replayed.changes += 1;
        self.remake(rows, change, 0..change.unit.len, replayed)
            .await?;
        Ok(None)
    }

    /// Makes the parity of a part of a change: by halves where something cannot be read, down to the blocks.
    async fn remake(
        &self,
        rows: &ParityRows,
        change: &Interrupted,
        part: Range<u64>,
        replayed: &mut Replayed,
    ) -> Result<()> {
        let route = self.route();
        let (offset, len) = (change.range(rows).start + part.start, part.end - part.start);
        let reads = self
            .read_slots(&route, change.written(rows), offset, len)
            .await;
        if let Some((_, member, error)) = reads.failed.into_iter().next() {
            // Nothing is read of a block that is marked, and so of no member.
            let is_marked = member.is_none();
            if error.kind() == ErrorKind::Offline && !is_marked {
                return Err(
                    error.in_context("a member went away while the array was being started")
                );
            }
            let block = u64::from(self.shared.info.logical_block);
            if len <= block {
                if is_marked {
                    // It stays lost until it is written.
                    return Ok(());
                }
                if !self.remake_data(rows, change, &part).await? {
                    replayed.torn.push(offset..offset + len);
                }
                return Ok(());
            }
            let middle = part.start + (len / 2).next_multiple_of(block);
            for half in [part.start..middle, middle..part.end] {
                Box::pin(self.remake(rows, change, half, replayed)).await?;
            }
            return Ok(());
        }
        self.remake_slot(change.slot, offset, change.partial(&part), reads.buffers)
            .await
    }

    /// Makes the data of a change that is of one block and cannot be read: the parity is the old one or the new, and
    /// what it makes with the partial parity is the old data or the new. Whether that was possible.
    async fn remake_data(
        &self,
        rows: &ParityRows,
        change: &Interrupted,
        part: &Range<u64>,
    ) -> Result<bool> {
        let route = self.route();
        let (offset, len) = (change.range(rows).start + part.start, part.end - part.start);
        let parity = [change.slot].into_iter();
        let reads = self.read_slots(&route, parity, offset, len).await;
        let slot = change
            .written(rows)
            .next()
            .filter(|_| change.unit.count == 1);
        let (Some(slot), true) = (slot, reads.failed.is_empty()) else {
            return Ok(false);
        };
        self.remake_slot(slot, offset, change.partial(part), reads.buffers)
            .await?;
        Ok(true)
    }

    /// Writes to a slot what the blocks and the partial parity come to.
    async fn remake_slot(
        &self,
        slot: u32,
        offset: u64,
        partial: Option<&[u8]>,
        blocks: SmallVec<[(u32, Buffer); 8]>,
    ) -> Result<()> {
        let len = blocks.first().map_or(0, |(_, block)| block.len());
        let terms = blocks.iter().map(|(_, block)| &**block).chain(partial);
        let terms: SmallVec<[Term<'_>; 16]> = terms.map(|block| (1, block)).collect();
        let mut made = self.pool.take(len);
        parity::sum(&mut made, &terms);
        drop(terms);
        for (_, block) in blocks {
            self.pool.put(block);
        }
        let route = self.route();
        let Some(leg) = &route.legs[slot as usize] else {
            return Ok(());
        };
        let completion = leg.submit(Request::write(offset, made.into())).await;
        self.pool.put_vector(completion.buffer);
        let failed = completion.result.err().map(|error| (leg.id, error));
        self.fail_members(failed.into_iter().collect()).await
    }
}

impl Array {
    /// Puts right what the logs name before the array takes requests; what remains to be resynced is in its state.
    ///
    /// # Errors
    /// `Degraded` if what was being written may be wrong and nobody said to start all the same.
    pub(crate) async fn recover_by_log(&self, lane: &Lane, force: bool) -> Result<()> {
        let shared = &self.shared();
        let Some(log) = &shared.log else {
            return Ok(());
        };
        let replayed = lane.replay_log(log).await?;
        if let Some(doubt) = replayed.doubt.filter(|_| !force) {
            let why = format!(
                "array {} cannot start: it is degraded and was not stopped cleanly, and {doubt}; bring the missing \
                 member back, or assemble it by force",
                shared.name
            );
            return Err(Error::new(ErrorKind::Degraded, why));
        }
        let mut state = shared.state();
        let whole = state.is_whole(&shared.geometry);
        // Without a single entry it may be that the array was never in sync; md thinks so, too.
        if whole && (replayed.mismatch || replayed.changes == 0) {
            return Ok(());
        }
        state.intent.resynced(&(0..shared.geometry.sync_size()));
        if whole {
            for range in &replayed.torn {
                state.intent.doubt(range);
            }
        }
        state.resync_total = state.intent.resync_bytes();
        shared.resync_changed(&state);
        state.note(format!(
            "{} writes that a crash had interrupted were put right by the partial parity log",
            replayed.changes
        ));
        Ok(())
    }
}
