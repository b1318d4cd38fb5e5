//! More of each member for an array that runs.

use weft_block::{Bytes, Result, SECTOR};

use super::form::Form;
use super::grow::MemberSize;
use crate::array::{Array, Lane};
use crate::geometry::Shape;
use crate::level::Level;

impl Array {
    /// The array with more of its members in use.
    pub(super) fn form_of_size(&self, lane: &Lane, size: MemberSize) -> Result<Form> {
        self.check_whole(lane)?;
        let mut form = Form::of(lane);
        let geometry = &lane.shared.geometry;
        let superblock = &mut form.superblock;
        let far = matches!(geometry.shape(), Shape::Copies(copies) if copies.has_far_part());
        if far || superblock.level == Level::Raid0 {
            return self.invalid(
                "only the levels with redundancy grow with their members, and not RAID-10 with far \
                 copies",
            );
        }
        let room = {
            let state = self.core.state();
            let holders = state
                .members
                .iter()
                .filter(|member| member.duty.slot().is_some());
            let rooms = holders.map(|member| {
                (member.device.info().size / SECTOR).saturating_sub(member.superblock.data_offset)
            });
            rooms.min().unwrap_or(0)
        };
        let unit = u64::from(superblock.chunk).max(2);
        let wanted = match size {
            MemberSize::Max => room,
            MemberSize::Bytes(bytes) => bytes / SECTOR,
        };
        let wanted = wanted / unit * unit;
        let (now, bytes) = (superblock.size, |sectors: u64| Bytes(sectors * SECTOR));
        if wanted > room {
            return self.invalid(&format!(
                "its smallest member has room for {}, not for {}",
                bytes(room / unit * unit),
                bytes(wanted)
            ));
        }
        if wanted <= now {
            return self.invalid(&format!(
                "it uses {} of each member and cannot use fewer; {} would be used",
                bytes(now),
                bytes(wanted)
            ));
        }
        superblock.size = wanted;
        form.resync_from = Some(geometry.sync_size());
        Ok(form)
    }
}
