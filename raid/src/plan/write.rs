//! Writes of parity levels.
//!
//! A write is cut into *units*: runs of member space in which the same data chunks are written over the whole length.
//! Each unit has its own lock and its own way of getting its parity, so a small write holds only what it touches.

use smallvec::SmallVec;

use crate::geometry::ParityRows;

/// Member space in which data chunks `first..first + count` of the row are written, and no others. A unit of several
/// rows writes all of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// First row.
    pub row: u64,
    /// Rows: more than one only if all of each is written.
    pub rows: u64,
    /// First byte in the chunks; zero with several rows.
    pub start: u64,
    /// Bytes in each chunk.
    pub len: u64,
    /// First data chunk that is written.
    pub first: u32,
    /// Data chunks that are written.
    pub count: u32,
}

impl Unit {
    /// First byte of the unit on every member.
    pub fn offset(&self, shape: &ParityRows) -> u64 {
        self.row * shape.chunk() + self.start
    }

    /// Bytes of the unit on every member.
    pub fn member_len(&self) -> u64 {
        self.rows * self.len
    }
}

/// Cuts the write of `len` bytes at array offset `offset` into units, none of which takes more than `most` bytes of
/// a member (a multiple of the chunk, or whole logical blocks below one).
pub fn split(shape: &ParityRows, offset: u64, len: u64, most: u64) -> SmallVec<[Unit; 4]> {
    let mut units = SmallVec::new();
    let row_bytes = shape.chunk() * u64::from(shape.data());
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let row = at / row_bytes;
        let from = at % row_bytes;
        let full = (end - at) / row_bytes;
        if from == 0 && full > 0 {
            let rows = full.min((most / shape.chunk()).max(1));
            push(
                &mut units,
                shape,
                row,
                rows,
                0..shape.chunk(),
                0..shape.data(),
                most,
            );
            at += rows * row_bytes;
        } else {
            let to = (end - row * row_bytes).min(row_bytes);
            partial(&mut units, shape, row, from..to, most);
            at = row * row_bytes + to;
        }
    }
    units
}

/// The units of one row of which the bytes `range` are written: at most three bands, cut where the first chunk's
/// written part begins and the last one's ends.
fn partial(
    units: &mut SmallVec<[Unit; 4]>,
    shape: &ParityRows,
    row: u64,
    range: std::ops::Range<u64>,
    most: u64,
) {
    let chunk = shape.chunk();
    // Below the number of data chunks, so they fit.
    let (first, last) = (
        (range.start / chunk) as u32,
        ((range.end - 1) / chunk) as u32,
    );
    let (head, tail) = (range.start % chunk, (range.end - 1) % chunk + 1);
    if first == last {
        push(units, shape, row, 1, head..tail, first..first + 1, most);
        return;
    }
    let (low, high) = (head.min(tail), head.max(tail));
    for band in [0..low, low..high, high..chunk] {
        let from = first + u32::from(band.start < head);
        let to = last + u32::from(band.end <= tail);
        if !band.is_empty() && from < to {
            push(units, shape, row, 1, band, from..to, most);
        }
    }
}

fn push(
    units: &mut SmallVec<[Unit; 4]>,
    shape: &ParityRows,
    row: u64,
    rows: u64,
    band: std::ops::Range<u64>,
    data: std::ops::Range<u32>,
    most: u64,
) {
    debug_assert!(rows == 1 || band == (0..shape.chunk()));
    let mut start = band.start;
    while start < band.end {
        let len = if rows > 1 {
            shape.chunk()
        } else {
            (band.end - start).min(most)
        };
        units.push(Unit {
            row,
            rows,
            start,
            len,
            first: data.start,
            count: data.end - data.start,
        });
        start += len;
    }
}

/// How the parity of a unit is got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// From the new data alone: nothing is read.
    Full,
    /// From the old parity, the old data and the new; a parity that cannot be read is left as it is.
    ReadModify,
    /// From the new data and the data that is not written.
    Reconstruct,
    /// From the new data and the data that is not written, of which some must be made from the rest of the row first.
    Recover,
    /// Only data is written: the members that hold parity are away, or nothing can be known of what it should be.
    NoParity,
}

/// What a planner must know about one row position of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Whether the member is there to be written.
    pub present: bool,
    /// Whether what it holds there can be read and believed.
    pub readable: bool,
}

/// The method that reads least, among those that what is readable allows; `data` are the row's data positions in
/// logical order, `parities` those of P and, with RAID-6, Q. None if more of the needed blocks are lost than parity can
/// make.
///
/// `trusted` says whether the parity agrees with the data: if not (the region awaits its resync), it is made anew
/// wherever that is possible, because modifying would carry the error on. Where it is not, what cannot be read stays
/// lost, and the parity says of it what it said before or nothing: data that was made of such a parity must not get
/// parities that agree with it.
pub fn choose(
    unit: &Unit,
    data: &[Position],
    parities: &[Position],
    trusted: bool,
) -> Option<Method> {
    let written = unit.first as usize..(unit.first + unit.count) as usize;
    let present = parities.iter().filter(|parity| parity.present);
    if present.clone().count() == 0 {
        return Some(Method::NoParity);
    }
    if written.len() == data.len() {
        return Some(Method::Full);
    }
    let replaced = &data[written.clone()];
    let known = replaced.iter().all(|old| old.readable);
    let modify = known && present.clone().all(|parity| parity.readable);
    let rest_readable =
        |(index, rest): (usize, &Position)| written.contains(&index) || rest.readable;
    let reconstruct = data.iter().enumerate().all(rest_readable);
    // A tie goes to the method that does not build on the old parity.
    let fewer = written.len() + present.count() < data.len() - written.len();
    match (modify, reconstruct) {
        (true, true) if fewer && trusted => Some(Method::ReadModify),
        (_, true) => Some(Method::Reconstruct),
        (true, false) => Some(Method::ReadModify),
        (false, false) if !trusted && replaced.iter().all(|old| old.present) => Some(if known {
            Method::ReadModify
        } else {
            Method::NoParity
        }),
        (false, false) => {
            let positions = data.iter().chain(parities);
            let lost = positions.filter(|position| !position.readable).count();
            (lost <= parities.len()).then_some(Method::Recover)
        }
    }
}
