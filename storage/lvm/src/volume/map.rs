//! From a volume's bytes to the bytes of the devices below.

use std::sync::Arc;

use smallvec::SmallVec;
use weft_block::{BlockDevice, Error, ErrorKind, Info, Result, SECTOR};

use crate::model::{LogicalVolume, Mapping, VolumeGroup};

/// Where a volume's bytes are.
pub(crate) struct Map {
    /// `VG/LV`.
    pub(super) name: String,
    pub(super) info: Info,
    /// Each device once.
    pub(super) devices: Vec<Arc<dyn BlockDevice>>,
    /// In order, without gaps, from zero.
    spans: Vec<Span>,
}

/// A run of the volume's bytes with one rule.
struct Span {
    start: u64,
    end: u64,
    /// Bytes in a chunk; the whole span with one column.
    chunk: u64,
    columns: SmallVec<[Column; 2]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Column {
    /// Index in the map's devices.
    device: usize,
    /// First byte there.
    offset: u64,
}

/// Bytes of one device that belong to a range of the volume: one run there, in pieces here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) device: usize,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Places in the range: first byte from its start, and bytes.
    pub(super) pieces: SmallVec<[(u64, u64); 4]>,
}

impl Map {
    /// The map of a volume, given the device of each physical volume of the group (none where it is missing).
    ///
    /// # Errors
    /// `Unsupported` for a segment type not known here, `Offline` where a physical volume is missing, `Corrupt` where
    /// one is smaller than the metadata says.
    pub(crate) fn new(
        group: &VolumeGroup,
        volume: &LogicalVolume,
        devices: &[Option<Arc<dyn BlockDevice>>],
    ) -> Result<Self> {
        let name = format!("{}/{}", group.name, volume.name);
        if let Some(kind) = volume.unknown_type() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("volume {name} has segments of type {kind}, which weft does not activate"),
            ));
        }
        let mut map = Self {
            name,
            info: Info::new(volume.extents() * group.extent_bytes(), 512),
            devices: Vec::new(),
            spans: Vec::new(),
        };
        let mut known = vec![None; devices.len()];
        for segment in &volume.segments {
            let Mapping::Striped {
                stripe_size,
                stripes,
            } = &segment.mapping
            else {
                continue;
            };
            let mut columns = SmallVec::new();
            for stripe in stripes {
                let end = stripe.start + segment.stripe_extents();
                let device = match known[stripe.pv] {
                    Some(device) => device,
                    None => map.add_device(group, stripe.pv, devices)?,
                };
                known[stripe.pv] = Some(device);
                map.check_end(group, stripe.pv, device, end)?;
                let pv = &group.physical_volumes[stripe.pv];
                let offset = (pv.extent_start + stripe.start * group.extent_size) * SECTOR;
                columns.push(Column { device, offset });
            }
            let start = segment.start * group.extent_bytes();
            map.add_span(Span {
                start,
                end: start + segment.count * group.extent_bytes(),
                chunk: stripe_size * SECTOR,
                columns,
            });
        }
        map.complete_info(group, volume)?;
        Ok(map)
    }

    fn add_device(
        &mut self,
        group: &VolumeGroup,
        pv: usize,
        devices: &[Option<Arc<dyn BlockDevice>>],
    ) -> Result<usize> {
        let Some(device) = &devices[pv] else {
            let pv = &group.physical_volumes[pv];
            return Err(Error::new(
                ErrorKind::Offline,
                format!(
                    "volume {} needs physical volume {} (last seen as {}), which is missing",
                    self.name, pv.id, pv.device
                ),
            ));
        };
        self.devices.push(Arc::clone(device));
        Ok(self.devices.len() - 1)
    }

    fn check_end(&self, group: &VolumeGroup, pv: usize, device: usize, end: u64) -> Result<()> {
        let (size, pv) = (
            self.devices[device].info().size,
            &group.physical_volumes[pv],
        );
        let end = (pv.extent_start + end * group.extent_size) * SECTOR;
        if end <= size {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "volume {} uses bytes up to {end} of physical volume {}, whose device has {size} bytes",
                self.name, pv.id
            ),
        ))
    }

    /// Adds a span, joined with the last one if it goes on there.
    fn add_span(&mut self, mut span: Span) {
        if span.columns.len() == 1 {
            span.chunk = span.end - span.start;
        }
        if let (Some(last), [column]) = (self.spans.last_mut(), &span.columns[..])
            && let [before] = last.columns[..]
            && before.device == column.device
            && before.offset + (last.end - last.start) == column.offset
        {
            last.end = span.end;
            last.chunk = last.end - last.start;
            return;
        }
        self.spans.push(span);
    }

    /// The volume is as strict as the strictest device below and as able as all of them.
    fn complete_info(&mut self, group: &VolumeGroup, volume: &LogicalVolume) -> Result<()> {
        let below: Vec<Info> = self.devices.iter().map(|device| device.info()).collect();
        let writable = volume.is_writable() && group.status.iter().any(|word| word == "WRITE");
        let info = &mut self.info;
        for one in &below {
            info.logical_block = info.logical_block.max(one.logical_block);
            info.physical_block = info.physical_block.max(one.physical_block);
            info.optimal_io = info.optimal_io.max(one.optimal_io);
            info.memory_alignment = info.memory_alignment.max(one.memory_alignment);
        }
        info.physical_block = info.physical_block.max(info.logical_block);
        info.volatile_cache = below.iter().any(|one| one.volatile_cache);
        info.read_only = !writable || below.iter().any(|one| one.read_only);
        info.discard = below.iter().any(|one| one.discard);
        info.fast_zeroes = below.iter().all(|one| one.fast_zeroes);
        if let [span] = &self.spans[..]
            && span.columns.len() > 1
        {
            let row = span.chunk * span.columns.len() as u64;
            info.optimal_io = u32::try_from(row).unwrap_or(info.optimal_io);
        }
        let block = u64::from(info.logical_block);
        let aligned = self.spans.iter().all(|span| {
            let mut offsets = span.columns.iter().map(|column| column.offset);
            span.end.is_multiple_of(block)
                && span.chunk.is_multiple_of(block)
                && offsets.all(|offset| offset.is_multiple_of(block))
        });
        if aligned {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "volume {} is not aligned to the {block}-byte blocks of its physical volumes",
                self.name
            ),
        ))
    }

    /// The device and offset there of a range that lies in one run of one device; `None` if it must be split.
    pub(super) fn direct(&self, offset: u64, len: u64) -> Option<(usize, u64)> {
        let span = self.span(offset)?;
        let (column, below, run) = span.place(offset);
        (len <= run).then_some((column, below))
    }

    /// The device, the offset there and the bytes that follow in the same run, of a byte of the volume.
    pub(super) fn run(&self, offset: u64) -> Option<(usize, u64, u64)> {
        Some(self.span(offset)?.place(offset))
    }

    /// The range in parts, one for each run on a device.
    pub(super) fn split(&self, offset: u64, len: u64) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let Some((device, below, run)) = self.run(at) else {
                break;
            };
            let piece = (at - offset, run.min(end - at));
            at += piece.1;
            // The last part of a device is the only one that can go on here.
            let last = parts.iter_mut().rev().find(|part| part.device == device);
            match last {
                Some(part) if part.offset + part.len == below => {
                    part.len += piece.1;
                    part.pieces.push(piece);
                }
                _ => parts.push(Part {
                    device,
                    offset: below,
                    len: piece.1,
                    pieces: SmallVec::from_slice(&[piece]),
                }),
            }
        }
        parts
    }

    fn span(&self, offset: u64) -> Option<&Span> {
        if let [span] = &self.spans[..] {
            return (offset < span.end).then_some(span);
        }
        let index = self.spans.partition_point(|span| span.end <= offset);
        self.spans.get(index)
    }
}

impl Span {
    /// Device, offset there, and bytes to the end of the run, of a byte in the span.
    fn place(&self, offset: u64) -> (usize, u64, u64) {
        let inside = offset - self.start;
        if let [column] = self.columns[..] {
            return (column.device, column.offset + inside, self.end - offset);
        }
        let (number, rest) = (inside / self.chunk, inside % self.chunk);
        let width = self.columns.len() as u64;
        let column = self.columns[(number % width) as usize];
        let below = column.offset + number / width * self.chunk + rest;
        (column.device, below, self.chunk - rest)
    }
}
