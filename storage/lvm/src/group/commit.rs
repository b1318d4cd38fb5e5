//! The commit protocol.

use std::sync::Arc;

use futures_util::future::join_all;
use weft_block::{BUFFER_ALIGNMENT, Buffer, Error, ErrorKind, IoVec, Result, Spawner};

use super::areas::{Copy, HeaderState, MetadataArea};
use super::bytes::Bytes;
use super::{Access, Group};
use crate::format::{AreaHeader, IGNORED, Location, Ring, checksum};
use crate::model::{Origin, VolumeGroup, check, metadata_text};

/// A metadata area that a commit writes.
struct Target {
    member: usize,
    area: usize,
    /// Where the new text goes.
    location: Location,
}

impl Group {
    /// Makes `next` the state of the group on all its disks, and then here.
    ///
    /// # Errors
    /// With the old state whole on the disks and here; only where the very last step failed on every disk is it open
    /// what they say, and the group refuses further changes until it is opened again.
    pub(super) async fn commit(
        &mut self,
        mut next: VolumeGroup,
        description: String,
        spawner: &Spawner,
    ) -> Result<()> {
        self.check_access()?;
        next.seqno = self.model.seqno + 1;
        next.origin = Origin {
            description,
            host: self.host.name(),
            time: self.host.unix_time(),
        };
        check(&next)?;
        let mut text = metadata_text(&next).into_bytes();
        text.push(0);
        let vector = padded(&text);
        let mut open = Vec::new();
        for member in &self.members {
            open.push(Bytes::open(&member.disk, spawner)?);
        }
        self.choose_areas(&next);
        let targets = self.targets(&open, &text)?;
        if let Err(error) = self.prepare(&open, &targets, &vector).await {
            self.revert(&open, &targets).await;
            return Err(self.unchanged(error));
        }
        self.publish(&open, &targets).await?;
        let copy = Copy {
            bytes: text.into(),
            model: Arc::new(next),
        };
        for target in &targets {
            self.area_mut(target).copy = Some(copy.clone());
        }
        self.model = copy.model;
        Ok(())
    }

    pub(super) fn check_access(&self) -> Result<()> {
        let name = &self.model.name;
        let (kind, problem) = match self.access {
            Access::Write => return Ok(()),
            Access::Read => (ErrorKind::ReadOnly, "was opened for reading only"),
            Access::Unknown => (
                ErrorKind::Offline,
                "must be opened again: the last change to it may or may not be on its disks",
            ),
        };
        Err(Error::new(kind, format!("volume group {name} {problem}")))
    }

    /// With a limit on copies, sees to it that so many areas are in use. The choice is written with the next headers.
    fn choose_areas(&mut self, next: &VolumeGroup) {
        let limit = match next.metadata_copies {
            0 => usize::MAX,
            copies => usize::try_from(copies).unwrap_or(usize::MAX),
        };
        let in_use = self
            .members
            .iter()
            .flat_map(|member| &member.areas)
            .filter(|area| area.is_active())
            .count();
        let mut wanting = limit.saturating_sub(in_use);
        for area in self.members.iter_mut().flat_map(|member| &mut member.areas) {
            if let HeaderState::Known(header) = &mut area.header
                && header.is_ignored()
                && wanting > 0
            {
                header.committed.flags &= !IGNORED;
                wanting -= 1;
            }
        }
    }

    fn targets(&self, open: &[Bytes], text: &[u8]) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            for (index, area) in member.areas.iter().enumerate() {
                if !area.is_active() {
                    continue;
                }
                let location = place(area, &open[number], text).map_err(|error| {
                    let disk = &member.disk.name;
                    Error::new(
                        ErrorKind::NoSpace,
                        format!("the metadata area of {disk} is full"),
                    )
                    .with_source(error)
                })?;
                targets.push(Target {
                    member: number,
                    area: index,
                    location,
                });
            }
        }
        if targets.is_empty() {
            let name = &self.model.name;
            return Err(Error::new(
                ErrorKind::Offline,
                format!("volume group {name} has no disk here that keeps its metadata"),
            ));
        }
        Ok(targets)
    }

    /// Writes text and precommit slots, all of it durably.
    async fn prepare(&self, open: &[Bytes], targets: &[Target], text: &IoVec) -> Result<()> {
        for target in targets {
            let area = self.area(target);
            write_text(&open[target.member], area, &target.location, text).await?;
        }
        flush_all(open, targets).await?;
        for target in targets {
            let area = self.area(target);
            let header = AreaHeader {
                committed: area.committed(),
                precommitted: target.location,
                ..AreaHeader::empty(area.place.offset, area.place.size)
            };
            write_header(&open[target.member], &header).await?;
        }
        flush_all(open, targets).await
    }

    /// Takes the precommit back as far as that works, and unmakes the text: a search of the ring is not to find it.
    async fn revert(&self, open: &[Bytes], targets: &[Target]) {
        for target in targets {
            let (area, bytes) = (self.area(target), &open[target.member]);
            let header = AreaHeader {
                committed: area.committed(),
                ..AreaHeader::empty(area.place.offset, area.place.size)
            };
            // The error that led here is the one to tell.
            let _ = write_header(bytes, &header).await;
            let _ = bytes
                .write(area.place.offset + target.location.offset, &[0; 512])
                .await;
            let _ = bytes.flush().await;
        }
    }

    /// Commits: from the first header on that is written, the new state counts.
    async fn publish(&mut self, open: &[Bytes], targets: &[Target]) -> Result<()> {
        let mut written = Vec::new();
        for target in targets {
            let place = self.area(target).place;
            let header = AreaHeader {
                committed: target.location,
                ..AreaHeader::empty(place.offset, place.size)
            };
            written.push(
                write_header(&open[target.member], &header)
                    .await
                    .map(|()| header),
            );
        }
        let flushes = targets.iter().zip(written).map(async |(target, written)| {
            let header = written?;
            open[target.member].flush().await.map(|()| header)
        });
        let flushed = join_all(flushes).await;
        let mut failure = None;
        let mut done = 0;
        for (target, flushed) in targets.iter().zip(flushed) {
            match flushed {
                Ok(header) => {
                    let area = self.area_mut(target);
                    area.header = HeaderState::Known(header);
                    area.problem = None;
                    done += 1;
                }
                Err(error) => {
                    self.problems.push(error.sentence());
                    self.area_mut(target).header = HeaderState::Damaged(target.location);
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if done == 0 => {
                self.access = Access::Unknown;
                let name = &self.model.name;
                Err(error.in_context(format!(
                    "the change to volume group {name} may or may not be on its disks; open it again"
                )))
            }
            _ => Ok(()),
        }
    }

    fn unchanged(&self, error: Error) -> Error {
        let name = &self.model.name;
        error.in_context(format!("volume group {name} is unchanged"))
    }

    fn area(&self, target: &Target) -> &MetadataArea {
        &self.members[target.member].areas[target.area]
    }

    fn area_mut(&mut self, target: &Target) -> &mut MetadataArea {
        &mut self.members[target.member].areas[target.area]
    }
}

/// Where a text goes in an area.
pub(super) fn place(
    area: &MetadataArea,
    bytes: &Bytes,
    text: &[u8],
) -> Result<Location, crate::format::RingFull> {
    let ring = Ring::new(area.place.size, bytes.block());
    let size = text.len() as u64;
    Ok(Location {
        offset: ring.place(&area.committed(), size)?,
        size,
        checksum: checksum(text),
        flags: 0,
    })
}

/// A text in memory that all the disks are written from, with zeroes after it to the end of any block.
pub(super) fn padded(text: &[u8]) -> IoVec {
    let mut buffer = Buffer::zeroed(text.len().next_multiple_of(BUFFER_ALIGNMENT));
    buffer[..text.len()].copy_from_slice(text);
    buffer.into()
}

/// Writes a text that is [`padded`], to the end of its last block.
pub(super) async fn write_text(
    bytes: &Bytes,
    area: &MetadataArea,
    location: &Location,
    text: &IoVec,
) -> Result<()> {
    let ring = Ring::new(area.place.size, bytes.block());
    let mut written = 0;
    for part in ring.parts(location.offset, location.size) {
        if part.is_empty() {
            continue;
        }
        let until = part.end.next_multiple_of(bytes.block());
        let until = until.min(area.place.size);
        let piece = text.slice(written, (until - part.start) as usize);
        written += (part.end - part.start) as usize;
        let offset = area.place.offset + part.start;
        bytes.write_vector(offset, piece).await?;
    }
    Ok(())
}

/// Writes a header to the place that it names.
pub(super) async fn write_header(bytes: &Bytes, header: &AreaHeader) -> Result<()> {
    bytes.write(header.start, &header.to_bytes()).await
}

async fn flush_all(open: &[Bytes], targets: &[Target]) -> Result<()> {
    let mut members: Vec<usize> = targets.iter().map(|target| target.member).collect();
    members.dedup();
    // Together: the disks take their time side by side.
    let flushes = members.into_iter().map(|member| open[member].flush());
    join_all(flushes).await.into_iter().collect()
}
