//! Where a new array's pieces lie on its members, as mdadm chooses it.
//!
//! Source: mdadm 4.x, `super1.c`. Superblock at 4 KiB, bitmap or partial parity log at 8 KiB, bad-block log after the
//! room for it, then headroom of some 0.1 % for later changes of shape, then the data at a multiple of 1 MiB. Numbers are sectors.

use weft_block::SECTOR;

use crate::bitmap::BitmapHead;
use crate::superblock::{PplPlace, SUPER_SECTOR};

const MIB: u64 = (1 << 20) / SECTOR;
/// Sectors from the superblock to the bitmap or the partial parity log.
const LOG_OFFSET: u64 = 8;
/// Sectors of a partial parity log.
const PPL: u64 = MIB;
/// Sectors of the bad-block log.
const BBLOG: u64 = 8;
/// What mdadm leaves for the superblock's block, the bad-block log and alignment.
const OVERHEAD: u64 = 24;
/// Most headroom.
const HEADROOM: u64 = 128 * MIB;

/// The places on a new member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// From the superblock to the bitmap or the partial parity log.
    pub(crate) log_offset: u64,
    /// Room for it.
    pub(crate) log_room: u64,
    /// From the superblock to the bad-block log.
    pub(crate) bblog_offset: u64,
    /// Of the bad-block log.
    pub(crate) bblog_size: u64,
    /// Where the data starts.
    pub(crate) data_offset: u64,
}

impl Layout {
    /// For members of `device` sectors in an array with chunks of `chunk` sectors (zero for none), with a partial
    /// parity log or with room for a bitmap.
    pub(crate) fn choose(device: u64, chunk: u64, ppl: bool) -> Self {
        let room = match ppl {
            true => PPL,
            false => bitmap_room(device),
        };
        let mut headroom = HEADROOM;
        while headroom << 10 > device && headroom > 0 && (chunk == 0 || headroom / 2 >= chunk * 2) {
            headroom >>= 1;
        }
        let data_offset = (OVERHEAD + room + headroom).next_multiple_of(MIB);
        Self::at(data_offset, room)
    }

    fn at(data_offset: u64, room: u64) -> Self {
        Self {
            log_offset: LOG_OFFSET,
            log_room: room,
            bblog_offset: LOG_OFFSET + room,
            bblog_size: BBLOG,
            data_offset,
        }
    }

    /// The partial parity log, in an array that has one.
    pub(crate) fn ppl(&self) -> PplPlace {
        PplPlace {
            sector: SUPER_SECTOR + self.log_offset,
            sectors: self.log_room,
        }
    }

    /// The place for the data and the logs of a new member of an array whose other members start theirs at
    /// `data_offset` and use `size` sectors, and which have that bitmap or partial parity log.
    pub(crate) fn joining(
        device: u64,
        data_offset: u64,
        size: u64,
        bitmap: Option<&BitmapHead>,
        ppl: Option<PplPlace>,
    ) -> Option<Self> {
        let bitmap = bitmap.map_or(0, |head| head.bytes() / SECTOR);
        let room = ppl.map_or(bitmap, |log| log.sectors).max(8);
        let least = SUPER_SECTOR + LOG_OFFSET + room + BBLOG;
        // Where the others have it if there is room, otherwise as early as can be, in whole MiB first.
        let places = [
            data_offset,
            least.next_multiple_of(MIB),
            least.next_multiple_of(8),
        ];
        let fits = |place: &u64| {
            *place >= least && place.checked_add(size).is_some_and(|end| end <= device)
        };
        let data_offset = places.into_iter().find(fits)?;
        Some(Self::at(data_offset, room))
    }
}

/// Sectors that mdadm leaves for the bitmap of a device.
fn bitmap_room(device: u64) -> u64 {
    const GIB: u64 = 1024 * MIB;
    if device < 128 {
        0
    } else if device - 128 >= 200 * GIB {
        256
    } else if device - 8 > 8 * GIB {
        128
    } else {
        8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_that_mdadm_chose() {
        // Seen on arrays that mdadm 4.2 made: 64 MiB members with 64 KiB chunks, and 512 MiB ones with 512 KiB chunks.
        let small = Layout::choose(131_072, 128, false);
        assert_eq!((small.data_offset, small.bblog_offset), (2048, 16));
        let logged = Layout::choose(131_072, 128, true);
        assert_eq!((logged.data_offset, logged.bblog_offset), (4096, 2056));
        assert_eq!((logged.ppl().sector, logged.ppl().sectors), (16, 2048));
        let demo = Layout::choose(1_048_576, 1024, false);
        assert_eq!(demo.data_offset, 4096);
        // A terabyte: 128 MiB of headroom, 128 KiB of bitmap.
        let large = Layout::choose(2 << 30, 1024, false);
        assert_eq!((large.bblog_offset, large.data_offset), (264, 264_192));
    }

    #[test]
    fn a_joining_member_is_like_the_others_if_it_can() {
        let like = Layout::joining(131_072, 2048, 128_000, None, None).expect("it fits");
        assert_eq!(like.data_offset, 2048);
        let tight = Layout::joining(128_040, 2048, 128_000, None, None).expect("it fits");
        assert_eq!(tight.data_offset, 32);
        assert_eq!(Layout::joining(128_000, 2048, 128_000, None, None), None);
    }
}
