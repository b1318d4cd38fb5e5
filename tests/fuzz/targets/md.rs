//! md superblocks and bitmaps, from a member's disk.

use weft_raid::bitmap::BitmapHead;
use weft_raid::superblock::{Superblock, SuperblockError};

/// Sectors of the disk that the superblock is said to be on: 1 GiB.
const DEVICE_SECTORS: u64 = 2 << 20;

/// Where the checksum is (md_p.h, `sb_csum`).
const CHECKSUM: std::ops::Range<usize> = 216..220;

pub(super) fn superblock(bytes: &[u8]) {
    let read = Superblock::parse(bytes, DEVICE_SECTORS);
    if let Err(SuperblockError::Checksum { computed, .. }) = &read {
        let mut mended = bytes.to_vec();
        mended[CHECKSUM].copy_from_slice(&computed.to_le_bytes());
        return read_again(&Superblock::parse(&mended, DEVICE_SECTORS));
    }
    read_again(&read);
}

fn read_again(read: &Result<Superblock, SuperblockError>) {
    match read {
        Ok(superblock) => {
            let written = superblock.to_bytes(512);
            let again = Superblock::parse(&written, DEVICE_SECTORS);
            assert_eq!(again.as_ref().ok(), Some(superblock));
            let _ = (superblock.role(), superblock.name(), superblock.used());
            let _ = (
                superblock.bitmap_sector(),
                superblock.bitmap_room(),
                superblock.bblog_sector(),
            );
        }
        Err(error) => {
            let _ = (error.kind(), error.to_string());
        }
    }
}

pub(super) fn bitmap(bytes: &[u8]) {
    // The UUID and the size that the array has are taken from the bytes themselves, so that both checks are passed.
    let uuid = bytes
        .get(8..24)
        .and_then(|uuid| uuid.try_into().ok())
        .unwrap_or([0; 16]);
    let sync_size = bytes
        .get(40..48)
        .and_then(|size| size.try_into().ok())
        .map_or(0, u64::from_le_bytes);
    match BitmapHead::parse(bytes, &uuid, sync_size, 4096) {
        Ok(head) => {
            let again = BitmapHead::parse(&head.to_bytes(), &uuid, sync_size, 4096);
            assert_eq!(again.ok(), Some(head));
        }
        Err(error) => {
            let _ = (error.kind(), error.to_string());
        }
    }
}
