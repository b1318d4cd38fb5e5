//! Changing the shape of rows with parity: in which order the data moves from one geometry to the other, on the same
//! members. Pure arithmetic.
//!
//! The array's bytes are moved in order, from the first on or from the last. Those that have been moved lie as the new
//! geometry says, the others as the old one says; the place between is the *position*. A byte's new place may be where
//! another byte lies that has not been moved. So a step is never so large that it writes over what would have to be
//! read again after a crash: everything from the recorded position on. What makes room for the first step is the
//! *shift*: the new geometry's data starts so many bytes before the old one's (or behind, where the last bytes go
//! first).
//!
//! Source: Linux `drivers/md/raid5.c`, `reshape_request` and `raid5_run`, for the order and the unit.

use std::ops::Range;

use weft_block::{Error, ErrorKind, Result, SECTOR};

use crate::geometry::{Geometry, ParityRows, Shape};
use crate::superblock::{Features, Superblock};

/// How data moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moves {
    before: ParityRows,
    after: ParityRows,
    /// Bytes that the new data starts behind the old: on every member, or where it is least aside.
    shift: i64,
    backwards: bool,
}

impl Moves {
    /// From one geometry to another whose member space has as many bytes; none if there is no such way.
    pub(crate) fn new(
        before: &Geometry,
        after: &Geometry,
        shift: i64,
        backwards: bool,
    ) -> Option<Self> {
        let (&Shape::Parity(old), &Shape::Parity(new)) = (before.shape(), after.shape()) else {
            return None;
        };
        let same = before.member_size() == after.member_size();
        let grows = match backwards {
            // The last bytes would come to lie where others are.
            true => new.data() == old.data(),
            false => new.data() >= old.data(),
        };
        (same && grows).then_some(Self {
            before: old,
            after: new,
            shift,
            backwards,
        })
    }

    /// Bytes that the new data starts behind the old, on every member.
    pub(crate) fn shift(&self) -> i64 {
        self.shift
    }

    /// As many bytes as `shifts` says of the members: md may have moved them differently far, and what is least aside
    /// counts.
    pub(crate) fn over(self, shifts: impl Iterator<Item = i64>) -> Self {
        let least = match self.backwards {
            true => shifts.min(),
            false => shifts.max(),
        };
        Self {
            shift: least.unwrap_or(self.shift),
            ..self
        }
    }

    /// Bytes of the larger chunk: what the shift is a multiple of.
    pub(crate) fn larger_chunk(&self) -> u64 {
        self.before.chunk().max(self.after.chunk())
    }

    /// Bytes of the array that md moves at once: every position is a multiple of it.
    fn unit(&self) -> u64 {
        self.larger_chunk() * u64::from(self.after.data())
    }

    fn old_row(&self) -> u64 {
        self.before.chunk() * u64::from(self.before.data())
    }

    /// Bytes of the array before.
    pub(crate) fn old_size(&self) -> u64 {
        self.before.rows() * self.old_row()
    }

    /// Bytes of the array afterwards; what is more than before comes as zeroes.
    pub(crate) fn new_size(&self) -> u64 {
        self.after.rows() * self.after.chunk() * u64::from(self.after.data())
    }

    /// The position when nothing has been moved.
    pub(crate) fn first(&self) -> u64 {
        match self.backwards {
            true => self.new_size(),
            false => 0,
        }
    }

    /// The position when everything has.
    pub(crate) fn last(&self) -> u64 {
        match self.backwards {
            true => 0,
            false => self.new_size(),
        }
    }

    /// Bytes that have been moved.
    pub(crate) fn done(&self, position: u64) -> u64 {
        position.abs_diff(self.first())
    }

    /// Whether a position is one at which a reshape can be.
    pub(crate) fn is_position(&self, position: u64) -> bool {
        position <= self.new_size() && position.is_multiple_of(self.unit())
    }

    /// Whether array byte `offset` has been moved.
    pub(crate) fn is_moved(&self, position: u64, offset: u64) -> bool {
        match self.backwards {
            true => offset >= position,
            false => offset < position,
        }
    }

    /// The bytes of the array that can be moved next, of which `most` bytes are taken, or one unit; none if its place is
    /// needed, which no step before this one leaves behind.
    pub(crate) fn step(&self, position: u64, most: u64) -> Option<Range<u64>> {
        let (chunk, unit) = (self.larger_chunk() as i128, self.unit());
        let shift = i128::from(self.shift);
        let most = (most / unit).max(1) * unit;
        if self.backwards {
            // Old data ends here, so new data must begin behind it.
            let rows = position.div_ceil(self.old_row());
            let end = i128::from(rows * self.before.chunk());
            let least = (end - shift + chunk - 1).div_euclid(chunk).max(0) as u64 * unit;
            let start = least.max(position.saturating_sub(most));
            return (start < position).then_some(start..position);
        }
        let size = self.new_size();
        let free = match position < self.old_size() {
            // Old data begins here, so new data must end before it.
            true => {
                let start = position / self.old_row() * self.before.chunk();
                (i128::from(start) - shift).div_euclid(chunk)
            }
            false => i128::MAX,
        };
        let free = u64::try_from(free.max(0)).unwrap_or(u64::MAX);
        let end = free.saturating_mul(unit).min(position + most).min(size);
        (end > position).then_some(position..end)
    }

    /// The member space, as the new geometry counts it, that holds what has been moved.
    pub(crate) fn new_space(&self, position: u64) -> Range<u64> {
        let row = self.after.chunk() * u64::from(self.after.data());
        let place = position / row * self.after.chunk();
        match self.backwards {
            true => place..self.after.rows() * self.after.chunk(),
            false => 0..place,
        }
    }

    /// The member space, as the old geometry counts it, that holds what has not.
    pub(crate) fn old_space(&self, position: u64) -> Range<u64> {
        let size = self.before.rows() * self.before.chunk();
        match self.backwards {
            true => 0..(position.div_ceil(self.old_row()) * self.before.chunk()).min(size),
            false => (position / self.old_row() * self.before.chunk()).min(size)..size,
        }
    }
}

/// The change of shape that a superblock tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) before: Geometry,
    pub(crate) after: Geometry,
    pub(crate) moves: Moves,
    /// Byte of the array that it has reached.
    pub(crate) position: u64,
}

impl Change {
    /// What `superblock` tells of, if it tells of any.
    ///
    /// # Errors
    /// `Unsupported` for one that cannot be gone on with, `Invalid` for numbers that make none.
    pub(crate) fn of(superblock: &Superblock) -> Result<Option<Self>> {
        if !superblock.features.has(Features::RESHAPE) {
            return Ok(None);
        }
        let change = superblock.reshape;
        let refuse = |why: &str| {
            let why = format!("its change of shape cannot be gone on with: {why}");
            Err(Error::new(ErrorKind::Unsupported, why))
        };
        if !superblock.level.has_parity() || change.new_level != superblock.level.number() {
            return refuse("only rows with parity change, and not their level");
        }
        let members = i64::from(superblock.raid_disks) - i64::from(change.delta_disks);
        let Ok(members) = u32::try_from(members) else {
            return refuse("it had no members before");
        };
        let old = Superblock {
            raid_disks: members,
            ..superblock.clone()
        };
        let new = Superblock {
            chunk: change.new_chunk,
            layout: change.new_layout,
            ..superblock.clone()
        };
        let (before, after) = (Geometry::of(&old, &[])?, Geometry::of(&new, &[])?);
        if before.member_size() != after.member_size() {
            return refuse("its members' data is no multiple of both chunks");
        }
        let backwards =
            change.delta_disks < 0 || superblock.features.has(Features::RESHAPE_BACKWARDS);
        let shift = superblock.shift() * SECTOR as i64;
        let Some(moves) = Moves::new(&before, &after, shift, backwards) else {
            return refuse("the array becomes smaller");
        };
        let position = change.position.saturating_mul(SECTOR);
        if !moves.is_position(position) {
            return refuse("its position is not between two rows of the array");
        }
        Ok(Some(Self {
            before,
            after,
            moves,
            position,
        }))
    }
}

#[cfg(test)]
mod tests;
