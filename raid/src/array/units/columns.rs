//! What a unit writes to each slot: the new data and the parities that go with it.

use std::rc::Rc;

use smallvec::SmallVec;
use weft_block::{Buffer, Error, ErrorKind, Result};

use super::{Lane, Work};
use crate::array::lane::Route;
use crate::array::ppl::{Log, Logged};
use crate::array::state::MemberId;
use crate::parity::{self, Term, field};
use crate::plan::{self, Method, Position};
use crate::ppl::Entry;

/// One buffer for each slot of a unit that is written, by slot.
pub(super) type Columns = SmallVec<[Option<Buffer>; 8]>;

/// Slots that could not be read, their members, and why.
type Unread = Vec<(u32, Option<MemberId>, Error)>;

/// What was read of a row, by slot.
type Old = SmallVec<[(u32, Buffer); 8]>;

impl Lane {
    /// The new contents of every slot that the unit writes.
    pub(super) async fn columns(
        &self,
        work: &Work<'_>,
        route: &Rc<Route>,
        trusted: bool,
    ) -> Result<Columns> {
        let mut unreadable: SmallVec<[u32; 4]> = SmallVec::new();
        let mut route = Rc::clone(route);
        loop {
            let away = route.legs.iter().filter(|leg| leg.is_none()).count();
            if away > self.shared.geometry.tolerates() as usize {
                let why = format!("array {} has lost {away} members", self.shared.name);
                return Err(Error::new(ErrorKind::Offline, why));
            }
            let method = self.method(work, &route, &unreadable, trusted)?;
            match self.build(work, &route, method, &unreadable).await {
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

    /// How the parity is got, by what can be read now.
    fn method(
        &self,
        work: &Work<'_>,
        route: &Route,
        unreadable: &[u32],
        trusted: bool,
    ) -> Result<Method> {
        let (shape, unit) = (work.shape, work.unit);
        let range = work.range();
        let position = |slot: u32| {
            let leg = route.legs[slot as usize].as_ref();
            Position {
                present: leg.is_some(),
                readable: leg.is_some_and(|leg| leg.has(&range)) && !unreadable.contains(&slot),
            }
        };
        let data = (0..shape.data()).map(|index| position(shape.data_slot(unit.row, index)));
        let data: SmallVec<[Position; 8]> = data.collect();
        // A journal has all parities, so that of a member that is away is made as well.
        let parity = |slot: u32| Position {
            present: position(slot).present || self.shared.journal.is_some(),
            ..position(slot)
        };
        let parities: SmallVec<[Position; 2]> = match unit.rows {
            1 => shape.parity_slots(unit.row).map(parity).collect(),
            // A unit of several rows is written whole, and its parities lie on several slots.
            _ => SmallVec::from_elem(
                Position {
                    present: true,
                    readable: true,
                },
                shape.parities() as usize,
            ),
        };
        // A journal has whole stripes: what no parity can be made for cannot be written by it.
        let makes_all = |method: &Method| match method {
            Method::NoParity => false,
            Method::ReadModify => parities.iter().all(|parity| parity.readable),
            _ => true,
        };
        // A parity that is left as it was while its data changes says something else of the whole row. That may be so
        // of a block that is bad, but not of what lies beside it.
        let leaves_some = |method: &Method| match method {
            Method::NoParity => parities.iter().any(|parity| parity.present),
            Method::ReadModify => parities.iter().any(|p| p.present && !p.readable),
            _ => false,
        };
        let divisible = unit.rows == 1 && unit.len > self.grain();
        let method = plan::choose(&unit, &data, &parities, trusted)
            .filter(|method| self.shared.journal.is_none() || makes_all(method))
            .filter(|method| !(divisible && leaves_some(method)));
        method.ok_or_else(|| {
            let why = format!(
                "array {} cannot write here: more blocks of the row cannot be read than parity can make",
                self.shared.name
            );
            Error::new(ErrorKind::Io, why)
        })
    }

    /// Builds the columns by one method; the slots that could not be read if it cannot be.
    async fn build(
        &self,
        work: &Work<'_>,
        route: &Route,
        method: Method,
        unreadable: &[u32],
    ) -> Result<Columns, Unread> {
        let range = work.range();
        let wanted = wanted(work, route, method, unreadable);
        let len = range.end - range.start;
        let reads = self
            .read_slots(route, wanted.into_iter(), range.start, len)
            .await;
        if !reads.failed.is_empty() {
            return Err(reads.failed);
        }
        let mut old = reads.buffers;
        if method == Method::Recover {
            self.recover_data(work, &mut old);
        }
        let mut columns = self.new_data(work);
        match method {
            Method::NoParity => {}
            Method::ReadModify => self.modify_parity(work, &mut columns, &old),
            Method::Full | Method::Reconstruct | Method::Recover => {
                self.make_parity(work, &mut columns, &old);
            }
        }
        old.into_iter()
            .for_each(|(_, buffer)| self.pool.put(buffer));
        Ok(columns)
    }

    /// The request's data, copied once, by slot; parity places of several rows are left as they are.
    fn new_data(&self, work: &Work<'_>) -> Columns {
        let (shape, unit) = (work.shape, work.unit);
        let mut columns: Columns = (0..shape.members()).map(|_| None).collect();
        let len = unit.len as usize;
        for row in unit.row..unit.row + unit.rows {
            let at = (row - unit.row) as usize * len;
            for index in unit.first..unit.first + unit.count {
                let slot = shape.data_slot(row, index) as usize;
                let column = self.column(work, &mut columns, slot);
                work.copy(row, index, &mut column[at..at + len]);
            }
        }
        columns
    }

    /// What the partial parity log is to say of the unit before its columns are sent: an entry for each row whose
    /// parity is written.
    pub(super) fn changes(&self, work: &Work<'_>, columns: &Columns) -> SmallVec<[Logged; 1]> {
        if !self.shared.log.as_ref().is_some_and(Log::is_on) {
            return SmallVec::new();
        }
        let (shape, unit) = (work.shape, work.unit);
        let rows = unit.row..unit.row + unit.rows;
        let changes = rows.filter_map(|row| {
            let parity = columns[shape.parity_slot(row) as usize].as_deref()?;
            // Whole rows have all their parity in what is written.
            let partial = (unit.count < shape.data()).then(|| {
                let written = unit.first..unit.first + unit.count;
                let data = written
                    .filter_map(|index| columns[shape.data_slot(row, index) as usize].as_deref());
                let terms: SmallVec<[Term<'_>; 16]> = std::iter::once(parity)
                    .chain(data)
                    .map(|block| (1, block))
                    .collect();
                let mut partial = self.pool.take(parity.len());
                parity::sum(&mut partial, &terms);
                partial
            });
            Some(Logged {
                entry: Entry::of(shape, &unit, row, partial.as_deref()),
                partial,
            })
        });
        changes.collect()
    }

    fn column<'a>(&self, work: &Work<'_>, columns: &'a mut Columns, slot: usize) -> &'a mut Buffer {
        columns[slot].get_or_insert_with(|| self.pool.take(work.unit.member_len() as usize))
    }

    /// Makes the data that is neither written nor read from what was read of the row, and puts it there.
    fn recover_data(&self, work: &Work<'_>, old: &mut Old) {
        let (shape, row) = (work.shape, work.unit.row);
        let is_read = |slot: u32| old.iter().any(|(read, _)| *read == slot);
        let lost: SmallVec<[u32; 4]> = (0..shape.members())
            .filter(|&slot| !is_read(slot))
            .collect();
        let missing = (0..shape.data())
            .filter(|&index| !work.is_written(index))
            .map(|index| shape.data_slot(row, index))
            .filter(|slot| lost.contains(slot));
        let made: Old = missing
            .map(|slot| {
                let recipe = plan::recipe(shape, row, slot, &lost)
                    .expect("the method was chosen because parity can make it");
                let made = self.add_up(&recipe, old, work.unit.member_len());
                (slot, made.expect("all that could be read of the row was"))
            })
            .collect();
        old.extend(made);
    }

    /// Takes the old data out of the old parities and puts the new data in.
    fn modify_parity(&self, work: &Work<'_>, columns: &mut Columns, old: &Old) {
        let (shape, row) = (work.shape, work.unit.row);
        for parity in shape.parity_slots(row) {
            let Some((_, before)) = old.iter().find(|(slot, _)| *slot == parity) else {
                // Its member is away.
                continue;
            };
            let factor = |slot: u32| match Some(parity) == shape.q_slot(row) {
                true => field::power(shape.power(row, slot)),
                false => 1,
            };
            let mut terms: SmallVec<[Term<'_>; 16]> = SmallVec::new();
            terms.push((1, before));
            for index in (0..shape.data()).filter(|&index| work.is_written(index)) {
                let slot = shape.data_slot(row, index);
                let replaced = old.iter().find(|(read, _)| *read == slot);
                let versions = replaced.map(|(_, buffer)| &**buffer).into_iter();
                let versions = versions.chain(columns[slot as usize].as_deref());
                terms.extend(versions.map(|version| (factor(slot), version)));
            }
            let mut made = self.pool.take(work.unit.member_len() as usize);
            parity::sum(&mut made, &terms);
            drop(terms);
            columns[parity as usize] = Some(made);
        }
    }

    /// Computes the parities of each row from its data, new and read.
    fn make_parity(&self, work: &Work<'_>, columns: &mut Columns, old: &Old) {
        let (shape, unit) = (work.shape, work.unit);
        let len = unit.len as usize;
        for row in unit.row..unit.row + unit.rows {
            let place = (row - unit.row) as usize * len;
            let place = place..place + len;
            let slots: SmallVec<[u32; 2]> = shape.parity_slots(row).collect();
            let mut made: SmallVec<[Buffer; 2]> = slots
                .iter()
                .map(|&slot| {
                    let column = columns[slot as usize].take();
                    column.unwrap_or_else(|| self.pool.take(unit.member_len() as usize))
                })
                .collect();
            let data = (0..shape.data()).map(|index| {
                let slot = shape.data_slot(row, index);
                let read = old.iter().find(|(read, _)| *read == slot);
                let new = columns[slot as usize].as_deref();
                // Written data may have been read too, to make what is lost.
                let version = match work.is_written(index) {
                    true => new,
                    false => read.map(|(_, buffer)| &**buffer),
                };
                let version = version.expect("all data is written or was read");
                (slot, &version[place.clone()])
            });
            let data: SmallVec<[(u32, &[u8]); 8]> = data.collect();
            let mut parities = made.iter_mut().map(|buffer| &mut buffer[place.clone()]);
            if let Some(p) = parities.next() {
                parity::of_row(shape, row, &data, p, parities.next());
            }
            drop(data);
            for (slot, buffer) in slots.into_iter().zip(made) {
                columns[slot as usize] = Some(buffer);
            }
        }
    }
}

/// The slots that a method reads.
fn wanted(
    work: &Work<'_>,
    route: &Route,
    method: Method,
    unreadable: &[u32],
) -> SmallVec<[u32; 8]> {
    let (shape, row) = (work.shape, work.unit.row);
    let slots_of = |written: bool| {
        (0..shape.data())
            .filter(move |&index| work.is_written(index) == written)
            .map(move |index| shape.data_slot(row, index))
    };
    let range = work.range();
    let readable = |slot: &u32| route.whole(*slot, &range).is_some() && !unreadable.contains(slot);
    match method {
        Method::Full | Method::NoParity => SmallVec::new(),
        Method::ReadModify => {
            let parities = shape.parity_slots(row).filter(readable);
            slots_of(true).chain(parities).collect()
        }
        Method::Reconstruct => slots_of(false).collect(),
        Method::Recover => (0..shape.members()).filter(readable).collect(),
    }
}
