//! Opening a group, and mending what a power cut or an absent disk left behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_block::{Error, ErrorKind, Result, Spawner};

use super::areas::{Copy, HeaderState, Member};
use super::bytes::Bytes;
use super::commit::{padded, place, write_header, write_text};
use super::scan::Found;
use super::{Access, Group, Host};
use crate::format::AreaHeader;

impl Group {
    /// Takes a group that was found into use, and mends its disks: copies of the metadata that are stale, missing or
    /// damaged are written anew, labels put right, and disks that have left the group freed of it. What could not be
    /// mended is among the [`problems`](Self::problems).
    ///
    /// # Errors
    /// `Corrupt` if two disks hold different metadata with the same version.
    pub async fn open(found: Found, host: Arc<dyn Host>, spawner: &Spawner) -> Result<Self> {
        if let Some(conflict) = found.conflict {
            return Err(Error::new(ErrorKind::Corrupt, conflict));
        }
        let winner = Copy {
            model: Arc::clone(&found.model),
            bytes: Arc::clone(&found.text),
        };
        let mut group = Self::of(found.members, &winner, found.problems, host, Access::Write);
        for member in &mut group.members {
            let mended = member.mend(&winner, spawner).await;
            group
                .problems
                .extend(mended.err().map(|error| error.sentence()));
        }
        for mut member in found.outdated {
            let freed = match Bytes::open(&member.disk, spawner) {
                Ok(bytes) => member.forget_group(&bytes).await,
                Err(error) => Err(error),
            };
            group
                .problems
                .extend(freed.err().map(|error| error.sentence()));
        }
        Ok(group)
    }

    /// Takes a group that was found into use without writing anything; changes are refused.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_read_only(found: Found, host: Arc<dyn Host>) -> Result<Self> {
        if let Some(conflict) = found.conflict {
            return Err(Error::new(ErrorKind::Corrupt, conflict));
        }
        let winner = Copy {
            model: found.model,
            bytes: found.text,
        };
        let (members, problems) = (found.members, found.problems);
        Ok(Self::of(members, &winner, problems, host, Access::Read))
    }

    fn of(
        members: Vec<Member>,
        winner: &Copy,
        problems: Vec<String>,
        host: Arc<dyn Host>,
        access: Access,
    ) -> Self {
        Self {
            model: Arc::clone(&winner.model),
            members,
            problems,
            host,
            active: BTreeMap::new(),
            access,
        }
    }
}

impl Member {
    async fn mend(&mut self, winner: &Copy, spawner: &Spawner) -> Result<()> {
        if self.disk.device.info().read_only {
            return Ok(());
        }
        let bytes = Bytes::open(&self.disk, spawner)?;
        for index in 0..self.areas.len() {
            self.mend_area(index, winner, &bytes).await?;
        }
        self.mark_used(&bytes, true).await
    }

    async fn mend_area(&mut self, index: usize, winner: &Copy, bytes: &Bytes) -> Result<()> {
        let area = &self.areas[index];
        let current = |copy: &Copy| copy.bytes == winner.bytes;
        let is_current = area.copy.as_ref().is_some_and(current);
        let committed = match area.header {
            HeaderState::Unusable => return Ok(()),
            HeaderState::Known(header) if header.is_ignored() => return Ok(()),
            HeaderState::Known(_) if is_current => return Ok(()),
            // Only the header is lost: the text is where it was found.
            HeaderState::Damaged(found) if is_current => found,
            HeaderState::Known(_) | HeaderState::Damaged(_) => {
                let location = place(area, bytes, &winner.bytes).map_err(|error| {
                    let name = &self.disk.name;
                    Error::new(
                        ErrorKind::NoSpace,
                        format!("the metadata area of {name} is full"),
                    )
                    .with_source(error)
                })?;
                write_text(bytes, area, &location, &padded(&winner.bytes)).await?;
                bytes.flush().await?;
                location
            }
        };
        let header = AreaHeader {
            committed,
            ..AreaHeader::empty(area.place.offset, area.place.size)
        };
        write_header(bytes, &header).await?;
        bytes.flush().await?;
        let area = &mut self.areas[index];
        area.header = HeaderState::Known(header);
        area.copy = Some(winner.clone());
        area.problem = None;
        Ok(())
    }
}
