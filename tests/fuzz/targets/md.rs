//! md superblocks, bitmaps, partial parity logs and journals, from a member's disk.

use weft_raid::bitmap::BitmapHead;
use weft_raid::geometry::{Geometry, Shape};
use weft_raid::journal::{BLOCK_BYTES, JournalError, MetaBlock, Seed};
use weft_raid::level::{Level, ParityLayout};
use weft_raid::ppl::{HEADER_BYTES, Header, PplError};
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

/// Where a log's checksum and signature are (md_p.h, `struct ppl_header`).
const PPL_CHECKSUM: std::ops::Range<usize> = 532..536;
const PPL_SIGNATURE: std::ops::Range<usize> = 512..516;

pub(super) fn ppl(bytes: &[u8]) {
    let mut block = [0; HEADER_BYTES];
    let len = bytes.len().min(HEADER_BYTES);
    block[..len].copy_from_slice(&bytes[..len]);
    let mut signature = [0; 4];
    signature.copy_from_slice(&block[PPL_SIGNATURE]);
    let signature = u32::from_le_bytes(signature);
    let mut read = Header::parse(&block, signature);
    if let Err(PplError::Checksum { computed, .. }) = read {
        block[PPL_CHECKSUM].copy_from_slice(&computed.to_le_bytes());
        read = Header::parse(&block, signature);
    }
    let header = match read {
        Ok(header) => header,
        Err(error) => return drop((error.kind(), error.to_string())),
    };
    let mut again = [0; HEADER_BYTES];
    again.copy_from_slice(&header.to_bytes(signature));
    assert_eq!(Header::parse(&again, signature).as_ref(), Ok(&header));
    let _ = header.len_with_parity();
    let (layout, size) = (ParityLayout::LeftSymmetric, DEVICE_SECTORS * 512);
    let geometry = Geometry::parity(Level::Raid5, layout, 4, 64 << 10, size).expect("it can be");
    let Shape::Parity(rows) = geometry.shape() else {
        return;
    };
    for entry in &header.entries {
        if let Some(change) = entry.change(rows) {
            let end = change.offset(rows) + change.member_len();
            assert!(end <= geometry.member_size() && change.first + change.count <= rows.data());
        }
    }
}

/// Where a meta block's checksum and its position are (md_p.h, `struct r5l_meta_block`).
const META_CHECKSUM: std::ops::Range<usize> = 4..8;
const META_POSITION: std::ops::Range<usize> = 24..32;

pub(super) fn journal(bytes: &[u8]) {
    let mut block = [0; BLOCK_BYTES];
    let len = bytes.len().min(BLOCK_BYTES);
    block[..len].copy_from_slice(&bytes[..len]);
    let mut position = [0; 8];
    position.copy_from_slice(&block[META_POSITION]);
    let (position, seed) = (u64::from_le_bytes(position), Seed::of(&[7; 16]));
    let mut read = MetaBlock::parse(&block, position, seed);
    if let Err(JournalError::Checksum { computed, .. }) = read {
        block[META_CHECKSUM].copy_from_slice(&computed.to_le_bytes());
        read = MetaBlock::parse(&block, position, seed);
    }
    let meta = match read {
        Ok(meta) => meta,
        Err(error) => return drop((error.kind(), error.to_string())),
    };
    assert!(meta.blocks() <= 1 + MetaBlock::ROOM as u64 / 10);
    let mut again = [0; BLOCK_BYTES];
    again.copy_from_slice(&meta.to_bytes(seed));
    assert_eq!(MetaBlock::parse(&again, position, seed).as_ref(), Ok(&meta));
}
