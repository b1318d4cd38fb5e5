//! Rows with parity: writes, unit by unit.

mod columns;
mod edges;

use std::ops::Range;
use std::rc::Rc;

use columns::Columns;
use edges::Edge;
use smallvec::SmallVec;
use weft_block::{Completion, Error, ErrorKind, IoVec, Op, Request, Result};

use super::Lane;
use super::journal::Entry;
use super::lane::Route;
use super::ppl::{Change, Log};
use super::queue::fua;
use super::state::MemberId;
use crate::geometry::{ParityRows, Shape};
use crate::plan::{self, Unit};

/// Bytes of each member that a unit takes at most.
const UNIT: u64 = 256 << 10;
/// Bytes of all members that one request has in flight at most.
const REQUEST_BYTES: u64 = 8 << 20;
/// Units of one request in flight at most.
const REQUEST_UNITS: usize = 32;

/// What keeps the logs from forgetting a unit before it is on the members.
struct InLog {
    change: Option<Change>,
    _entry: Option<Entry>,
}

/// What came of a unit.
enum Tried {
    Written,
    /// Nothing was sent: what is needed beside the new data cannot be read.
    Unreadable(Error),
    Failed(Error),
}

/// A unit while it is written.
#[derive(Clone, Copy)]
struct Work<'a> {
    shape: &'a ParityRows,
    unit: Unit,
    request: &'a Request,
    /// What is there beside the request, where the unit is larger.
    edges: &'a [Edge],
}

impl Work<'_> {
    /// The unit's bytes on every member.
    fn range(&self) -> Range<u64> {
        let start = self.unit.offset(self.shape);
        start..start + self.unit.member_len()
    }

    fn is_written(&self, index: u32) -> bool {
        (self.unit.first..self.unit.first + self.unit.count).contains(&index)
    }

    /// Copies the new data of chunk `index` of row `row` out of the request.
    fn copy(&self, row: u64, index: u32, into: &mut [u8]) {
        let logical = self.shape.logical(row, index) + self.unit.start;
        for edge in self.edges {
            edge.copy(logical, into);
        }
        let end = logical + into.len() as u64;
        let new = self.request.offset.max(logical)..self.request.end().min(end);
        let into = &mut into[(new.start - logical) as usize..(new.end - logical) as usize];
        if self.request.buffer.is_empty() {
            into.fill(0);
            return;
        }
        let at = (new.start - self.request.offset) as usize;
        self.request.buffer.copy_out(at, into);
    }
}

impl Lane {
    /// A write or write-zeroes.
    pub(crate) async fn rows_write(self: Rc<Self>, request: Request) -> Completion {
        let Shape::Parity(shape) = self.shared.geometry.shape() else {
            unreachable!("the queue sends only parity levels here");
        };
        let width = u64::from(self.shared.geometry.members());
        let log = self.shared.log.as_ref().map(Log::room);
        let journal = self.shared.journal.as_ref();
        let room = log.or(journal.map(|journal| journal.room(shape)));
        let most = room.map_or(UNIT, |room| room.min(UNIT));
        let (start, end) = self.with_edges(&request);
        let units = plan::split(shape, start, end - start, most);
        let mut rest = units.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take(REQUEST_UNITS).take_while(|unit| {
                bytes += unit.member_len() * width;
                bytes <= REQUEST_BYTES
            });
            let (now, later) = rest.split_at(fitting.count().max(1));
            rest = later;
            if let Err(error) = self.write_units(shape, now, &request).await {
                return request.failed(error);
            }
        }
        self.reclaim_beside();
        request.done()
    }

    async fn write_units(
        &self,
        shape: &ParityRows,
        units: &[Unit],
        request: &Request,
    ) -> Result<()> {
        let work = |unit: &Unit| {
            let unit = *unit;
            self.write_unit(Work {
                shape,
                unit,
                request,
                edges: &[],
            })
        };
        if let [unit] = units {
            return work(unit).await;
        }
        // All run to their end, whichever fails.
        let results = futures_util::future::join_all(units.iter().map(work)).await;
        results.into_iter().collect()
    }

    async fn write_unit(&self, work: Work<'_>) -> Result<()> {
        if let Some(apart) = self.apart(&work) {
            for unit in apart {
                Box::pin(self.write_unit(Work { unit, ..work })).await?;
            }
            return Ok(());
        }
        let error = match self.try_unit(&work).await {
            Tried::Written => return Ok(()),
            Tried::Failed(error) => return Err(error),
            Tried::Unreadable(error) => error,
        };
        // More blocks of a row are lost than parity can make: what lies beside them can be written all the same.
        let (unit, block) = (work.unit, self.grain());
        if unit.rows > 1 || unit.len <= block {
            return Err(error);
        }
        let half = (unit.len / 2).next_multiple_of(block);
        for (start, len) in [(0, half), (half, unit.len - half)] {
            let unit = Unit {
                start: unit.start + start,
                len,
                ..unit
            };
            Box::pin(self.write_unit(Work { unit, ..work })).await?;
        }
        Ok(())
    }

    async fn try_unit(&self, work: &Work<'_>) -> Tried {
        let range = work.range();
        let start = range.start;
        let _guard = self.shared.locks.exclusive(range.clone()).await;
        let writing = match self.begin(range.clone()).await {
            Ok(writing) => writing,
            Err(error) => return Tried::Failed(error),
        };
        let trusted = match self.settle(&range).await {
            Ok(trusted) => trusted,
            Err(error) => {
                writing.done();
                return Tried::Failed(error);
            }
        };
        let route = self.route();
        let (columns, edges) = match self.columns_with_edges(work, &route, trusted).await {
            Ok(columns) => columns,
            Err(error) => {
                // Nothing of it was sent.
                writing.done();
                return match error.kind() {
                    ErrorKind::Io => Tried::Unreadable(error),
                    _ => Tried::Failed(error),
                };
            }
        };
        let work = &Work {
            edges: &edges,
            ..*work
        };
        let (columns, logged) = match self.logged(work, columns).await {
            Ok(logged) => logged,
            Err(error) => {
                writing.done();
                return Tried::Failed(error);
            }
        };
        // Members may have gone while the old data was read.
        let route = self.route();
        if self.shared.log.is_some()
            && let Err(error) = self.recorded_without(&route).await
        {
            writing.done();
            return Tried::Failed(error);
        }
        match self.send(work, &route, columns, start).await {
            Ok(()) => {
                if let Some(change) = logged.change {
                    change.done();
                }
                writing.done();
                Tried::Written
            }
            Err(error) => Tried::Failed(error),
        }
    }

    /// Waits until what the unit changes is in whichever log the array has; with what is to be sent then.
    async fn logged(&self, work: &Work<'_>, columns: Columns) -> Result<(Columns, InLog)> {
        let change = self.log(self.changes(work, &columns)).await?;
        let (entry, columns) = self.journal(work.shape, &work.unit, columns).await?;
        let logged = InLog {
            change,
            _entry: entry,
        };
        Ok((columns, logged))
    }

    /// Waits until members that are away are out of the others' superblocks: what is written without them is not logged
    /// if one of them has the parity, and after a crash nothing must take them for whole.
    async fn recorded_without(&self, route: &Route) -> Result<()> {
        match route.legs.iter().any(Option::is_none) {
            true => self.fail_members(Vec::new()).await,
            false => Ok(()),
        }
    }

    /// The parts that a unit is written in, if not at once: what goes to a member that is away lives in the parity
    /// alone, and a log can put that right only if nothing else of the row changes with it.
    fn apart(&self, work: &Work<'_>) -> Option<SmallVec<[Unit; 4]>> {
        let unit = work.unit;
        if unit.count == 1 || !self.shared.log.as_ref().is_some_and(Log::is_on) {
            return None;
        }
        let route = self.route();
        let range = work.range();
        let is_away = |slot: u32| route.whole(slot, &range).is_none();
        if unit.rows > 1 {
            let any_away = (0..work.shape.members()).any(is_away);
            let rows = (unit.row..unit.row + unit.rows).map(|row| Unit {
                row,
                rows: 1,
                ..unit
            });
            return any_away.then(|| rows.collect());
        }
        let written = unit.first..unit.first + unit.count;
        let away = written
            .clone()
            .find(|&index| is_away(work.shape.data_slot(unit.row, index)))?;
        let parts = [written.start..away, away..away + 1, away + 1..written.end];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        Some(
            parts
                .map(|part| Unit {
                    first: part.start,
                    count: part.end - part.start,
                    ..unit
                })
                .collect(),
        )
    }

    /// Writes the columns; members that fail are out before this returns.
    async fn send(
        &self,
        work: &Work<'_>,
        route: &Route,
        columns: Columns,
        offset: u64,
    ) -> Result<()> {
        let whole = work.unit.rows > 1 || work.unit.count == work.shape.data();
        let zeroes =
            matches!(work.request.op, Op::WriteZeroes { .. }) && whole && work.edges.is_empty();
        // What is in the journal is durable.
        let durable = fua(work.request.op) && !self.is_journaled();
        let len = work.unit.member_len();
        let range = offset..offset + len;
        let mut healed: SmallVec<[MemberId; 2]> = SmallVec::new();
        let mut sent: SmallVec<[_; 8]> = SmallVec::new();
        for (leg, column) in route.legs.iter().zip(columns) {
            let Some(column) = column else { continue };
            let Some(leg) = leg else {
                self.pool.put(column);
                continue;
            };
            let request = if zeroes {
                self.pool.put(column);
                // The parity of zeroes is zero.
                Request {
                    op: work.request.op,
                    offset,
                    len,
                    buffer: IoVec::empty(),
                }
            } else if durable {
                Request::write_fua(offset, column.into())
            } else {
                Request::write(offset, column.into())
            };
            if leg.is_bad(&range) {
                healed.push(leg.id);
            }
            sent.push((leg.id, leg.submit(request)));
        }
        let mut failed = Vec::new();
        for (id, completion) in sent {
            let completion = completion.await;
            self.pool.put_vector(completion.buffer);
            if let Err(error) = completion.result {
                failed.push((id, error));
            }
        }
        if fua(work.request.op) && !durable && !self.is_journaled() {
            // The journal has failed meanwhile.
            failed.extend(self.flush_members().await);
        }
        self.outcome(failed).await?;
        self.clear_lost(&healed, &range).await
    }
}
