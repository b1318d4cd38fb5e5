//! Disks become physical volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_block::signature::{self, Format, Signature};
use weft_block::{Error, ErrorKind, Result, Spawner};

use super::areas::{HeaderState, Known, Member, MetadataArea, examine};
use super::bytes::{Bytes, check_writable};
use super::{Access, Disk, Group, Host, new_id};
use crate::format::{
    Area, AreaHeader, HEADER_BYTES, IGNORED, Id, LABEL_SECTOR, PvLabel, label_sector,
};
use crate::model::VolumeGroup;
use crate::plan::{self, NewGroup};

/// Where the metadata area starts.
const METADATA_START: u64 = 4096;

/// Data starts at a multiple of this, as in LVM2.
const DATA_ALIGNMENT: u64 = 1 << 20;

/// Bytes of the largest metadata area.
const MAX_METADATA: u64 = 1 << 30;

/// How a group, or the physical volumes that join it, are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOptions {
    /// Bytes in an extent, a power of two. 4 MiB.
    pub extent_size: u64,
    /// Bytes for metadata on each disk, at least; rounded up so that data starts at a whole MiB. 1 MiB less 4 KiB.
    pub metadata_size: u64,
    /// How many disks keep the metadata; zero for all.
    pub metadata_copies: u64,
    /// Whether disks that hold something else are taken all the same.
    pub force: bool,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            extent_size: 4 << 20,
            metadata_size: DATA_ALIGNMENT - METADATA_START,
            metadata_copies: 0,
            force: false,
        }
    }
}

/// A disk that was looked at and may become a physical volume.
struct Candidate {
    disk: Disk,
    bytes: Bytes,
    id: Option<Id>,
    /// Foreign marks, which `force` allows to wipe.
    marks: Vec<Signature>,
}

impl Group {
    /// Makes a volume group of `disks`. They become physical volumes; one that is a physical volume without a group
    /// keeps its identifier.
    ///
    /// # Errors
    /// `Busy` for a disk that holds something else or belongs to a group, unless forced; `Invalid` for a name, size or
    /// number that cannot be; what keeps a disk from being written. Nothing is written before all disks were looked at.
    pub async fn create(
        name: &str,
        disks: &[Disk],
        options: &GroupOptions,
        host: Arc<dyn Host>,
        spawner: &Spawner,
    ) -> Result<Self> {
        let model = plan::new_group(NewGroup {
            name: name.to_owned(),
            id: new_id(&*host),
            extent_size: options.extent_size,
            metadata_copies: options.metadata_copies,
        })?;
        let mut group = Self {
            model: Arc::new(model),
            members: Vec::new(),
            problems: Vec::new(),
            host,
            active: BTreeMap::new(),
            access: Access::Write,
        };
        if disks.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("volume group {name} needs one disk at least"),
            ));
        }
        group
            .join(disks, options, "created volume group", spawner)
            .await?;
        Ok(group)
    }

    /// Adds `disks` to the group.
    ///
    /// # Errors
    /// As [`create`](Self::create), and as every change.
    pub async fn extend(
        &mut self,
        disks: &[Disk],
        options: &GroupOptions,
        spawner: &Spawner,
    ) -> Result<()> {
        self.check_changeable()?;
        self.join(disks, options, "extended volume group", spawner)
            .await
    }

    async fn join(
        &mut self,
        disks: &[Disk],
        options: &GroupOptions,
        verb: &str,
        spawner: &Spawner,
    ) -> Result<()> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for disk in disks {
            let members = self.members.iter().map(|member| &member.disk);
            let others = candidates.iter().map(|candidate| &candidate.disk);
            if let Some(twin) = members.chain(others).find(|one| is_same(one, disk)) {
                let (one, other) = (&disk.name, &twin.name);
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("{one} is named twice, or is the same disk as {other}"),
                ));
            }
            candidates.push(look_at(disk, options.force, spawner).await?);
        }
        let mut next = VolumeGroup::clone(&self.model);
        let mut labels = Vec::new();
        for candidate in &candidates {
            let label = self.plan_label(candidate, options)?;
            let (id, start) = (label.id, label.data_areas[0].offset);
            let (name, size) = (&candidate.disk.name, label.device_size);
            plan::add_physical_volume(&mut next, id, name, size, start)?;
            labels.push(label);
        }
        let joined = self.members.len();
        let copies = usize::try_from(options.metadata_copies.max(self.model.metadata_copies));
        for (candidate, label) in candidates.into_iter().zip(labels) {
            let in_use = self.members.iter().flat_map(|member| &member.areas);
            let in_use = in_use.filter(|area| area.is_active()).count();
            let ignored = matches!(copies, Ok(copies) if copies > 0 && in_use >= copies);
            let member = prepare(candidate, label, ignored).await;
            match member {
                Ok(member) => self.members.push(member),
                Err(error) => return Err(self.undo_join(joined, error, spawner).await),
            }
        }
        let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        let description = format!("weft: {verb} {} with {}", next.name, names.join(" "));
        if let Err(error) = self.commit(next, description, spawner).await {
            if self.access == Access::Unknown {
                return Err(error);
            }
            return Err(self.undo_join(joined, error, spawner).await);
        }
        for member in &mut self.members[joined..] {
            let bytes = Bytes::open(&member.disk, spawner)?;
            // The group counts already; opening it again would mend the mark.
            if let Err(error) = member.mark_used(&bytes, true).await {
                self.problems.push(error.sentence());
            }
        }
        Ok(())
    }

    /// Takes the labels off disks that were to join.
    async fn undo_join(&mut self, joined: usize, error: Error, spawner: &Spawner) -> Error {
        for member in self.members.split_off(joined) {
            // The error that led here is the one to tell.
            let _ = wipe(&member.disk, spawner).await;
        }
        error
    }

    fn plan_label(&self, candidate: &Candidate, options: &GroupOptions) -> Result<PvLabel> {
        let info = candidate.disk.device.info();
        let size = options.metadata_size;
        if !(2 * METADATA_START..=MAX_METADATA).contains(&size) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("a metadata size of {size} bytes is not between 8 KiB and 1 GiB"),
            ));
        }
        // Whole stripes of an array below, where that is known.
        let alignment = match u64::from(info.optimal_io) {
            stripe
                if stripe > 0
                    && !DATA_ALIGNMENT.is_multiple_of(stripe)
                    && stripe.is_multiple_of(4096) =>
            {
                DATA_ALIGNMENT.next_multiple_of(stripe)
            }
            _ => DATA_ALIGNMENT,
        };
        let data = (METADATA_START + size).next_multiple_of(alignment);
        Ok(PvLabel {
            id: candidate.id.unwrap_or_else(|| new_id(&*self.host)),
            device_size: info.size,
            data_areas: vec![Area {
                offset: data,
                size: 0,
            }],
            metadata_areas: vec![Area {
                offset: METADATA_START,
                size: data - METADATA_START,
            }],
            flags: 0,
            bootloader_areas: Vec::new(),
        })
    }
}

fn is_same(one: &Disk, other: &Disk) -> bool {
    one.name == other.name || Arc::ptr_eq(&one.device, &other.device)
}

/// Refuses a disk that may not be taken.
async fn look_at(disk: &Disk, force: bool, spawner: &Spawner) -> Result<Candidate> {
    check_writable(disk)?;
    let (name, size) = (&disk.name, disk.device.info().size);
    let bytes = Bytes::open(disk, spawner)?;
    let busy = |what: String| {
        Error::new(
            ErrorKind::Busy,
            format!("{name} {what}; wipe it first, or say that it may be overwritten"),
        )
    };
    let mut id = None;
    match examine(disk, &mut Known::default(), spawner).await {
        Ok(None) => {}
        Ok(Some(member)) => {
            let mut copies = member.areas.iter().filter_map(|area| area.copy.as_ref());
            let group = copies.next().map(|copy| copy.model.name.clone());
            match group {
                Some(group) if !force => {
                    return Err(busy(format!("belongs to volume group {group}")));
                }
                None if member.is_marked_used() && !force => {
                    return Err(busy("belongs to a volume group that is not here".into()));
                }
                _ => {}
            }
            // A volume of another group that is taken by force is a new one.
            id = (!member.is_marked_used() && group.is_none()).then_some(member.label.id);
        }
        Err(error) if !force => return Err(error),
        Err(_) => {}
    }
    let first = bytes.read(0, signature::FIRST_BYTES as u64).await?;
    let last_len = (signature::LAST_BYTES as u64).min(size);
    let last = bytes.read(size - last_len, last_len).await?;
    let mut marks = signature::recognise(&first, &last, size);
    marks.retain(|mark| mark.format != Format::LvmPhysicalVolume);
    if !marks.is_empty() && !force {
        return Err(busy(format!("holds {}", signature::in_words(&marks))));
    }
    Ok(Candidate {
        disk: disk.clone(),
        bytes,
        id,
        marks,
    })
}

/// Writes an empty metadata area, then the label: from that on it is a physical volume.
async fn prepare(candidate: Candidate, label: PvLabel, ignored: bool) -> Result<Member> {
    let Candidate {
        disk, bytes, marks, ..
    } = candidate;
    let place = label.metadata_areas[0];
    for mark in &marks {
        bytes.write(mark.offset, &vec![0; mark.len]).await?;
    }
    // An old ring must not be mistaken for this group's history.
    bytes.zero(0, label.data_areas[0].offset).await?;
    let mut header = AreaHeader::empty(place.offset, place.size);
    if ignored {
        header.committed.flags = IGNORED;
    }
    bytes.write(place.offset, &header.to_bytes()).await?;
    bytes.flush().await?;
    let sector = label_sector(LABEL_SECTOR, &label);
    bytes.write(LABEL_SECTOR * HEADER_BYTES, &sector).await?;
    bytes.flush().await?;
    Ok(Member {
        disk,
        label_sector: LABEL_SECTOR,
        stray_label: false,
        label,
        areas: vec![MetadataArea {
            place,
            header: HeaderState::Known(header),
            copy: None,
            problem: None,
        }],
    })
}

/// Takes every mark that is recognised off a disk, LVM2's among them. The data stays.
///
/// # Errors
/// What keeps the disk from being read or written.
pub async fn wipe(disk: &Disk, spawner: &Spawner) -> Result<()> {
    check_writable(disk)?;
    let bytes = Bytes::open(disk, spawner)?;
    let size = bytes.size();
    let first = bytes.read(0, signature::FIRST_BYTES as u64).await?;
    let last_len = (signature::LAST_BYTES as u64).min(size);
    let last = bytes.read(size - last_len, last_len).await?;
    for mark in signature::recognise(&first, &last, size) {
        bytes.write(mark.offset, &vec![0; mark.len]).await?;
    }
    bytes.flush().await
}
