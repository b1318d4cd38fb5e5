//! RAID-4 and RAID-5: writes, unit by unit.

use std::rc::Rc;

use smallvec::SmallVec;
use weft_block::{Buffer, Completion, Error, ErrorKind, IoVec, Op, Request, Result};

use super::Lane;
use super::lane::Route;
use super::queue::fua;
use super::state::MemberId;
use crate::geometry::{ParityRows, Shape};
use crate::parity;
use crate::plan::{self, Method, Position, Unit};

/// Bytes of each member that a unit takes at most.
const UNIT: u64 = 256 << 10;
/// Bytes of all members that one request has in flight at most.
const REQUEST_BYTES: u64 = 8 << 20;
/// Units of one request in flight at most.
const REQUEST_UNITS: usize = 32;

/// One buffer for each slot of a unit that is written, by slot.
type Columns = SmallVec<[Option<Buffer>; 8]>;

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
}

impl Work<'_> {
    fn parity_slot(&self) -> u32 {
        self.shape.parity_slot(self.unit.row)
    }

    fn is_written(&self, index: u32) -> bool {
        (self.unit.first..self.unit.first + self.unit.count).contains(&index)
    }

    /// Copies the new data of chunk `index` of row `row` out of the request.
    fn copy(&self, row: u64, index: u32, into: &mut [u8]) {
        if self.request.buffer.is_empty() {
            into.fill(0);
            return;
        }
        let logical = self.shape.logical(row, index) + self.unit.start;
        let at = (logical - self.request.offset) as usize;
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
        let units = plan::split(shape, request.offset, request.len, UNIT);
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
        let error = match self.try_unit(&work).await {
            Tried::Written => return Ok(()),
            Tried::Failed(error) => return Err(error),
            Tried::Unreadable(error) => error,
        };
        // Two blocks of a row are lost somewhere in it: what lies beside them can be written all the same.
        let (unit, block) = (work.unit, u64::from(self.shared.info.logical_block));
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
        let start = work.unit.offset(work.shape);
        let range = start..start + work.unit.member_len();
        let _guard = self.shared.locks.exclusive(range.clone()).await;
        let writing = match self.begin(range.clone()).await {
            Ok(writing) => writing,
            Err(error) => return Tried::Failed(error),
        };
        let trusted = !self.shared.needs_resync(&range);
        let route = self.route();
        let columns = match self.columns(work, &route, trusted).await {
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
        // Members may have gone while the old data was read.
        let route = self.route();
        match self.send(work, &route, columns, start).await {
            Ok(()) => {
                writing.done();
                Tried::Written
            }
            Err(error) => Tried::Failed(error),
        }
    }

    /// The new contents of every slot that the unit writes.
    async fn columns(&self, work: &Work<'_>, route: &Rc<Route>, trusted: bool) -> Result<Columns> {
        let (shape, unit) = (work.shape, work.unit);
        let start = unit.offset(shape);
        let range = start..start + unit.member_len();
        let mut unreadable: SmallVec<[u32; 4]> = SmallVec::new();
        let mut route = Rc::clone(route);
        loop {
            let away = route.legs.iter().filter(|leg| leg.is_none()).count();
            if away > self.shared.geometry.tolerates() as usize {
                let why = format!("array {} has lost {away} members", self.shared.name);
                return Err(Error::new(ErrorKind::Offline, why));
            }
            let position = |slot: u32| {
                let leg = route.legs[slot as usize].as_ref();
                Position {
                    present: leg.is_some(),
                    readable: leg.is_some_and(|leg| leg.has(&range)) && !unreadable.contains(&slot),
                }
            };
            let data: SmallVec<[Position; 8]> = (0..shape.data())
                .map(|index| position(shape.data_slot(unit.row, index)))
                .collect();
            // A unit of several rows is written whole, and its parity lies on several slots.
            let parity = match unit.rows {
                1 => position(work.parity_slot()),
                _ => Position {
                    present: true,
                    readable: true,
                },
            };
            let Some(method) = plan::choose(&unit, &data, parity, trusted) else {
                let why = format!(
                    "array {} cannot write here: two blocks of the row cannot be read",
                    self.shared.name
                );
                return Err(Error::new(ErrorKind::Io, why));
            };
            match self.build(work, &route, method).await {
                Ok(columns) => return Ok(columns),
                Err(failed) => {
                    let mut gone = Vec::new();
                    for (slot, id, error) in failed {
                        unreadable.push(slot);
                        if let (Some(id), ErrorKind::Offline) = (id, error.kind()) {
                            gone.push((id, error));
                        }
                    }
                    self.fail_members(gone).await?;
                    route = self.route();
                }
            }
        }
    }

    /// Builds the columns by one method; the slots that could not be read if it cannot be.
    async fn build(
        &self,
        work: &Work<'_>,
        route: &Route,
        method: Method,
    ) -> Result<Columns, Vec<(u32, Option<MemberId>, Error)>> {
        let (shape, unit) = (work.shape, work.unit);
        let slot_of = |index: u32| shape.data_slot(unit.row, index);
        let indexes = 0..shape.data();
        let wanted: SmallVec<[u32; 8]> = match method {
            Method::Full | Method::NoParity => SmallVec::new(),
            Method::ReadModify => {
                let old = indexes.filter(|&index| work.is_written(index)).map(slot_of);
                old.chain([work.parity_slot()]).collect()
            }
            Method::Reconstruct => indexes
                .filter(|&index| !work.is_written(index))
                .map(slot_of)
                .collect(),
        };
        let offset = unit.offset(shape);
        let reads = self
            .read_slots(route, wanted.into_iter(), offset, unit.member_len())
            .await;
        if !reads.failed.is_empty() {
            return Err(reads.failed);
        }
        let mut columns = self.new_data(work);
        if method != Method::NoParity {
            self.add_parity(work, &mut columns, &reads.buffers);
        }
        reads
            .buffers
            .into_iter()
            .for_each(|(_, buffer)| self.pool.put(buffer));
        Ok(columns)
    }

    /// The request's data, copied once, by slot; parity places of several rows are left as they are.
    fn new_data(&self, work: &Work<'_>) -> Columns {
        let (shape, unit) = (work.shape, work.unit);
        let mut columns: Columns = (0..self.shared.geometry.members()).map(|_| None).collect();
        let len = unit.len as usize;
        for row in unit.row..unit.row + unit.rows {
            let at = (row - unit.row) as usize * len;
            for index in unit.first..unit.first + unit.count {
                let slot = shape.data_slot(row, index) as usize;
                let column =
                    columns[slot].get_or_insert_with(|| self.pool.take(unit.member_len() as usize));
                work.copy(row, index, &mut column[at..at + len]);
            }
        }
        columns
    }

    /// Computes the parity of each row from the new data and what was read.
    fn add_parity(&self, work: &Work<'_>, columns: &mut Columns, read: &[(u32, Buffer)]) {
        let (shape, unit) = (work.shape, work.unit);
        let len = unit.len as usize;
        for row in unit.row..unit.row + unit.rows {
            let at = (row - unit.row) as usize * len;
            let slot = shape.parity_slot(row) as usize;
            let mut parity = columns[slot]
                .take()
                .unwrap_or_else(|| self.pool.take(unit.member_len() as usize));
            let new = columns.iter().flatten().map(|column| &column[at..at + len]);
            let old = read.iter().map(|(_, buffer)| &buffer[..]);
            let sources: SmallVec<[&[u8]; 16]> = new.chain(old).collect();
            parity::xor(&mut parity[at..at + len], &sources);
            drop(sources);
            columns[slot] = Some(parity);
        }
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
        let zeroes = matches!(work.request.op, Op::WriteZeroes { .. }) && whole;
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
            } else if fua(work.request.op) {
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
        self.outcome(failed).await?;
        self.clear_lost(&healed, &range).await
    }
}
