//! What a group is made of, for those who show it. Sizes are in bytes.

use weft_block::SECTOR;

use super::Group;
use crate::format::Id;
use crate::model::{LogicalVolume, Mapping, PhysicalVolume, Segment};

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeReport {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub id: Id,
    /// `linear`, `striped`, or a type that is not activated here.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// What can be done with it.
    pub state: VolumeState,
    /// Tags.
    pub tags: Vec<String>,
    /// Where its bytes are.
    pub segments: Vec<SegmentReport>,
}

/// What can be done with a logical volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    /// It is active.
    Active,
    /// It can be activated.
    Inactive,
    /// A physical volume that it needs is missing.
    Partial,
    /// It has segments of a type not known here, or is a hidden part of such a volume.
    Unsupported,
}

impl VolumeState {
    /// The name that the API shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Partial => "partial",
            Self::Unsupported => "unsupported",
        }
    }
}

/// A run of bytes of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// `linear`, `striped`, or a type that is not known here.
    pub kind: String,
    /// Bytes in a chunk, if it is striped.
    pub stripe_size: u64,
    /// For each stripe the disk's name and the first byte there.
    pub stripes: Vec<(String, u64)>,
}

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolumeReport {
    /// The disk's name, or where it was last seen.
    pub disk: String,
    /// Its identifier.
    pub id: Id,
    /// Bytes that hold extents.
    pub size: u64,
    /// Bytes in free extents.
    pub free: u64,
    /// Whether it is not here, or holds old data.
    pub missing: bool,
    /// Names of the logical volumes that rest on it.
    pub volumes: Vec<String>,
}

impl Group {
    /// The logical volumes, hidden ones among them.
    pub fn volume_reports(&self) -> Vec<VolumeReport> {
        let lvs = self.model.logical_volumes.iter();
        lvs.map(|lv| VolumeReport {
            name: lv.name.clone(),
            id: lv.id,
            kind: lv.kind().to_owned(),
            size: lv.extents() * self.model.extent_bytes(),
            state: self.state(lv),
            tags: lv.tags.clone(),
            segments: lv
                .segments
                .iter()
                .map(|one| self.segment_report(one))
                .collect(),
        })
        .collect()
    }

    /// The physical volumes.
    pub fn physical_volume_reports(&self) -> Vec<PhysicalVolumeReport> {
        let extent = self.model.extent_bytes();
        let missing = self.missing();
        let free = self.model.free_runs();
        let pvs = self.model.physical_volumes.iter().zip(free).enumerate();
        pvs.map(|(index, (pv, free))| PhysicalVolumeReport {
            disk: self.disk_name(pv),
            id: pv.id,
            size: pv.extent_count * extent,
            free: free.iter().map(|run| run.count * extent).sum(),
            missing: missing.contains(&pv.id),
            volumes: self
                .model
                .volumes_on(index)
                .into_iter()
                .map(String::from)
                .collect(),
        })
        .collect()
    }

    fn disk_name(&self, pv: &PhysicalVolume) -> String {
        match self.member(pv.id) {
            Some(member) => member.disk.name.clone(),
            None => pv.device.clone(),
        }
    }

    fn state(&self, lv: &LogicalVolume) -> VolumeState {
        if self.active_volume(lv.id).is_some() {
            return VolumeState::Active;
        }
        if lv.unknown_type().is_some() || !lv.is_visible() {
            return VolumeState::Unsupported;
        }
        let missing = self.missing();
        let mut stripes = lv.segments.iter().flat_map(Segment::stripes);
        let partial =
            stripes.any(|stripe| missing.contains(&self.model.physical_volumes[stripe.pv].id));
        match partial {
            true => VolumeState::Partial,
            false => VolumeState::Inactive,
        }
    }

    fn segment_report(&self, segment: &Segment) -> SegmentReport {
        let extent = self.model.extent_bytes();
        let (kind, stripe_size) = match &segment.mapping {
            Mapping::Other { name } => (name.as_str(), 0),
            Mapping::Striped { .. } if segment.is_linear() => ("linear", 0),
            Mapping::Striped { stripe_size, .. } => ("striped", stripe_size * SECTOR),
        };
        let stripes = segment.stripes().iter().map(|stripe| {
            let pv = &self.model.physical_volumes[stripe.pv];
            let offset = pv.extent_start * SECTOR + stripe.start * extent;
            (self.disk_name(pv), offset)
        });
        SegmentReport {
            offset: segment.start * extent,
            size: segment.count * extent,
            kind: kind.to_owned(),
            stripe_size,
            stripes: stripes.collect(),
        }
    }
}
