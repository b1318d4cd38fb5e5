//! Where the bytes of an image are: for who shows it, measures it or copies it.

use std::ops::Range;

use weft_block::{Result, Spawner};

use super::Image;
use super::lane::Lane;
use super::state::{State, Stop};
use super::tables::{Piece, pieces};

/// Clusters that are looked at in one step.
const STEP: u64 = 512;

/// What an image itself says of a part of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is read from this byte on of the image's file, or of its data file.
    Data(u64),
    /// It is compressed.
    Compressed,
    /// It reads as zeroes, and has room at this byte if it has any.
    Zero(Option<u64>),
    /// The image has nothing here: it reads as the backing file does, or as zeroes without one. It may have room at this
    /// byte all the same, beside parts of the cluster that it has.
    Absent(Option<u64>),
}

/// A part of the disk with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its first byte on the disk.
    pub offset: u64,
    /// Bytes, never zero.
    pub len: u64,
    /// Where it is.
    pub place: Place,
}

impl Place {
    /// What follows `len` bytes later, if it is of the same kind.
    fn after(self, len: u64) -> Self {
        match self {
            Self::Data(host) => Self::Data(host + len),
            Self::Zero(Some(host)) => Self::Zero(Some(host + len)),
            Self::Absent(Some(host)) => Self::Absent(Some(host + len)),
            other => other,
        }
    }
}

impl Image {
    /// What the image itself says of `len` bytes at `offset`, in order and without gaps, neighbours of a kind as one; the
    /// backing file is not asked. A part ends with the table that maps it, or with the range.
    ///
    /// # Errors
    /// `Corrupt`, and as reading the file.
    pub async fn parts(&self, offset: u64, len: u64, spawner: &Spawner) -> Result<Vec<Part>> {
        let lane = Lane::open(&self.core, spawner)?;
        let _pass = self.core.gate.wait().await;
        let geometry = self.core.geometry;
        let end = offset.saturating_add(len).min(self.core.size());
        let mut parts = Vec::new();
        let mut at = offset;
        while at < end {
            let reach = geometry.l2_reach();
            let table_end = (at - at % reach).saturating_add(reach).min(end);
            if self.core.state().l1.at(geometry.l1_index(at)) == 0 {
                add(&mut parts, at..table_end, Place::Absent(None));
                at = table_end;
                continue;
            }
            let stop = geometry
                .round_down(at)
                .saturating_add(STEP * geometry.cluster())
                .min(table_end);
            for (range, place) in lane.step(|state| state.places(at..stop)).await? {
                add(&mut parts, range, place);
            }
            at = stop;
        }
        Ok(parts)
    }
}

impl From<Piece> for Place {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Compressed { .. } => Self::Compressed,
            Piece::Data { host, .. } => Self::Data(host),
            Piece::Zero(host) => Self::Zero(host),
            Piece::Absent(host) => Self::Absent(host),
        }
    }
}

impl State {
    fn places(&mut self, range: Range<u64>) -> Result<Vec<(Range<u64>, Place)>, Stop> {
        let geometry = self.geometry();
        let mut places = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let start = geometry.round_down(at);
            let end = range.end.min(start + geometry.cluster());
            let mapping = self.mapping(at)?;
            pieces(
                mapping,
                start,
                geometry.cluster(),
                at..end,
                |range, piece| {
                    places.push((range, piece.into()));
                },
            );
            at = end;
        }
        Ok(places)
    }
}

/// Adds a part, joined to the last one where both are one.
fn add(parts: &mut Vec<Part>, range: Range<u64>, place: Place) {
    let len = range.end - range.start;
    if let Some(last) = parts.last_mut()
        && last.offset + last.len == range.start
        && last.place.after(last.len) == place
    {
        last.len += len;
        return;
    }
    parts.push(Part {
        offset: range.start,
        len,
        place,
    });
}
