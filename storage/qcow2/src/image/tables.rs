//! Where the bytes of the disk are.

use std::ops::Range;

use smallvec::SmallVec;
use weft_block::{Error, ErrorKind, Result};

use super::pages::Kind;
use super::redo::Place;
use super::state::{State, Stop};
use crate::format::{Geometry, L1Entry, Mapping, Version};

/// A part of the disk whose bytes are in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Its first byte on the disk.
    pub(crate) guest: u64,
    /// Bytes.
    pub(crate) len: u64,
    pub(crate) source: Source,
}

/// What a part of the disk is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// From the file, from this byte on.
    Data {
        host: u64,
        /// Whether it may be written there.
        copied: bool,
    },
    /// It reads as zeroes.
    Zero,
    /// From the backing file; as zeroes without one.
    Backing,
    /// From a compressed cluster, which begins at the disk's byte `cluster`.
    Compressed { cluster: u64, host: u64, len: u64 },
}

pub(crate) type Runs = SmallVec<[Run; 2]>;

impl Source {
    /// What a piece of the cluster at the disk's byte `cluster` is read from.
    fn of(piece: Piece, cluster: u64) -> Self {
        match piece {
            Piece::Compressed { host, len } => Self::Compressed { cluster, host, len },
            Piece::Data { host, copied } => Self::Data { host, copied },
            Piece::Zero(_) => Self::Zero,
            Piece::Absent(_) => Self::Backing,
        }
    }

    /// What follows `len` bytes later, if it is of the same kind.
    fn after(self, len: u64) -> Self {
        match self {
            Self::Data { host, copied } => Self::Data {
                host: host + len,
                copied,
            },
            other => other,
        }
    }
}

impl State {
    /// What the tables say of the cluster that holds the disk's byte `guest`.
    pub(crate) fn mapping(&mut self, guest: u64) -> Result<Mapping, Stop> {
        let Some(offset) = self.l2_place(guest)?.map(|(offset, _)| offset) else {
            return Ok(Mapping::UNALLOCATED);
        };
        let (version, geometry) = (self.header.version, self.geometry());
        let Some((page, at)) = self.pages.look(offset) else {
            return Err(Stop::Page(offset, Kind::L2));
        };
        let mapping = decode(&page[at..], version, geometry)?;
        if let Mapping::Plain {
            host: Some(host), ..
        } = mapping
            && self.header.extensions.data_file.is_none()
        {
            self.check_data(host)?;
        }
        Ok(mapping)
    }

    /// Where the L2 entry of the cluster that holds `guest` is, and whether it may be changed there.
    fn l2_place(&self, guest: u64) -> Result<Option<(u64, bool)>> {
        let geometry = self.geometry();
        let raw = self.l1.at(geometry.l1_index(guest));
        let Some(entry) = L1Entry::decode(raw, geometry)? else {
            return Ok(None);
        };
        let offset = entry.table + geometry.l2_index(guest) * geometry.l2_entry();
        Ok(Some((offset, entry.copied)))
    }

    /// Data lies apart from the tables that are known; writing it there would destroy the image.
    fn check_data(&self, host: u64) -> Result<()> {
        if self.is_apart(host..host.saturating_add(self.geometry().cluster())) {
            return Ok(());
        }
        let sentence =
            format!("an L2 entry says that data is at {host}, where the image's tables are");
        Err(Error::new(ErrorKind::Corrupt, sentence))
    }

    /// What was counted as free and is about to be used lies apart from the tables that are known.
    pub(crate) fn check_free(&self, bytes: Range<u64>) -> Result<()> {
        if self.is_apart(bytes.clone()) {
            return Ok(());
        }
        let sentence = format!(
            "the refcounts say that the file is free at {}, where the image's tables are",
            bytes.start
        );
        Err(Error::new(ErrorKind::Corrupt, sentence))
    }

    fn is_apart(&self, bytes: Range<u64>) -> bool {
        let tables = [
            0..self.geometry().cluster(),
            self.l1.offset()..self.l1.offset() + self.l1.bytes(),
            self.refcounts.offset()..self.refcounts.offset() + self.refcounts.bytes(),
        ];
        tables
            .iter()
            .all(|table| bytes.end <= table.start || table.end <= bytes.start)
    }

    /// The places of `range` of the disk, in order and without gaps, neighbours joined.
    pub(crate) fn runs(&mut self, range: Range<u64>) -> Result<Runs, Stop> {
        let cluster = self.geometry().cluster();
        let mut runs = Runs::new();
        let mut guest = range.start;
        while guest < range.end {
            let start = self.geometry().round_down(guest);
            let mapping = self.mapping(guest)?;
            let end = range.end.min(start + cluster);
            pieces(mapping, start, cluster, guest..end, |range, piece| {
                push(&mut runs, range, Source::of(piece, start));
            });
            guest = end;
        }
        Ok(runs)
    }

    /// Changes what the tables say of the cluster at `guest`.
    ///
    /// The step stops unless there is a table that may be changed; whoever changes several entries asks
    /// [`changeable`](Self::changeable) first.
    pub(crate) fn link(&mut self, guest: u64, mapping: Mapping) -> Result<(), Stop> {
        let offset = self.changeable(guest)?;
        self.need_room(2)?;
        let geometry = self.geometry();
        let (raw, bitmap) = mapping.encode(geometry);
        let (page, at) = self.pages.change(offset, geometry.l2_entry() as usize);
        page[at..at + 8].copy_from_slice(&raw.to_be_bytes());
        let first = (Place::L2(offset), raw);
        if geometry.extended_l2() {
            page[at + 8..at + 16].copy_from_slice(&bitmap.to_be_bytes());
            self.note(&[first, (Place::L2(offset + 8), bitmap)]);
        } else {
            self.note(&[first]);
        }
        Ok(())
    }

    /// Where the L2 entry of the cluster at `guest` can be changed at once.
    pub(crate) fn changeable(&mut self, guest: u64) -> Result<u64, Stop> {
        match self.l2_place(guest)? {
            Some((offset, true)) if self.pages.has(offset) => Ok(offset),
            Some((offset, true)) => Err(Stop::Page(offset, Kind::L2)),
            _ => Err(Stop::Table(self.geometry().l1_index(guest))),
        }
    }

    /// Nothing points at what `mapping` does any more.
    pub(crate) fn unlink_mapping(&mut self, mapping: Mapping) {
        let geometry = self.geometry();
        match mapping {
            Mapping::Compressed { host, len } => {
                let first = geometry.round_down(host);
                let count = geometry.clusters(host + len - first);
                self.unlink(first, count);
            }
            Mapping::Plain {
                host: Some(host), ..
            } if self.header.extensions.data_file.is_none() => {
                self.unlink(host, 1);
            }
            Mapping::Plain { .. } => {}
        }
    }
}

/// What the bytes of an L2 entry say.
pub(crate) fn decode(entry: &[u8], version: Version, geometry: Geometry) -> Result<Mapping> {
    let bitmap = if geometry.extended_l2() {
        word_at(entry, 8)
    } else {
        0
    };
    Mapping::decode(word_at(entry, 0), bitmap, version, geometry)
}

/// The word at a byte of a table.
pub(super) fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(raw)
}

/// What a mapping says of a part of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Compressed {
        host: u64,
        len: u64,
    },
    Data {
        host: u64,
        copied: bool,
    },
    /// Zeroes, with room at this byte if there is any.
    Zero(Option<u64>),
    /// Nothing, with room at this byte if there is any.
    Absent(Option<u64>),
}

/// Tells of `range`, which lies in the cluster at `start`, piece by piece.
pub(super) fn pieces(
    mapping: Mapping,
    start: u64,
    cluster: u64,
    range: Range<u64>,
    mut found: impl FnMut(Range<u64>, Piece),
) {
    let (host, copied, data, zero) = match mapping {
        Mapping::Compressed { host, len } => return found(range, Piece::Compressed { host, len }),
        Mapping::Plain {
            host,
            copied,
            data,
            zero,
        } => (host, copied, data, zero),
    };
    let part = cluster / u64::from(Geometry::SUBCLUSTERS);
    let mut guest = range.start;
    while guest < range.end {
        let first = ((guest - start) / part) as u32;
        let same = |mask: u32| {
            let rest = mask >> first;
            if rest & 1 == 1 {
                rest.trailing_ones()
            } else {
                rest.trailing_zeros()
            }
        };
        let count = same(data)
            .min(same(zero))
            .min(Geometry::SUBCLUSTERS - first);
        let end = range.end.min(start + u64::from(first + count) * part);
        let host = host.map(|host| host + (guest - start));
        let piece = match host {
            Some(host) if data >> first & 1 == 1 => Piece::Data { host, copied },
            host if zero >> first & 1 == 1 => Piece::Zero(host),
            host => Piece::Absent(host),
        };
        found(guest..end, piece);
        guest = end;
    }
}

/// Adds a run, joined to the last one where both are one.
fn push(runs: &mut Runs, range: Range<u64>, source: Source) {
    let len = range.end - range.start;
    if let Some(last) = runs.last_mut()
        && last.source.after(last.len) == source
    {
        last.len += len;
        return;
    }
    runs.push(Run {
        guest: range.start,
        len,
        source,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(mapping: Mapping, start: u64, cluster: u64, range: Range<u64>, runs: &mut Runs) {
        pieces(mapping, start, cluster, range, |range, piece| {
            push(runs, range, Source::of(piece, start));
        });
    }

    #[test]
    fn neighbours_are_joined_and_parts_are_told_apart() {
        let mut runs = Runs::new();
        add(Mapping::data(1 << 20), 0, 1 << 16, 4096..1 << 16, &mut runs);
        add(
            Mapping::data((1 << 20) + (1 << 16)),
            1 << 16,
            1 << 16,
            1 << 16..70_000,
            &mut runs,
        );
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].guest, runs[0].len), (4096, 70_000 - 4096));
        add(
            Mapping::data(0),
            2 << 16,
            1 << 16,
            2 << 16..3 << 16,
            &mut runs,
        );
        assert_eq!(runs.len(), 2);
        runs.clear();
        let mapping = Mapping::Plain {
            host: Some(1 << 20),
            copied: true,
            data: 0b1001,
            zero: 0b0110,
        };
        add(mapping, 0, 1 << 16, 0..1 << 16, &mut runs);
        let lens: Vec<_> = runs.iter().map(|run| run.len / 2048).collect();
        assert_eq!(lens, [1, 2, 1, 28]);
        assert_eq!(runs[1].source, Source::Zero);
        assert_eq!(
            runs[2].source,
            Source::Data {
                host: (1 << 20) + 3 * 2048,
                copied: true
            }
        );
        assert_eq!(runs[3].source, Source::Backing);
    }
}
