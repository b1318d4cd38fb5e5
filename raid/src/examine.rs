//! What a device says about the array it belongs to.

use std::ops::Range;

use weft_block::{
    BlockDevice, BlockQueue, Error, ErrorKind, IoVec, Request, Result, SECTOR, Spawner,
};

use crate::bad_blocks::parse_bad_blocks;
use crate::bitmap::{BitmapError, BitmapHead, BitmapImage, HEAD_BYTES, MOST_CHUNKS};
use crate::geometry::Geometry;
use crate::level::Level;
use crate::superblock::{Features, SUPER_BYTE, SUPER_BYTES, Superblock, SuperblockError};

/// Bytes from the start of a device in which a superblock's copy is looked for: the most headroom that md leaves.
const COPY_SEARCH: u64 = 132 << 20;
/// Bytes that the data's start is a multiple of: md's way with new members, and a change of shape moves it by chunks.
const COPY_STEP: usize = 64 << 10;

/// The md part of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The superblock.
    pub superblock: Superblock,
    /// Why the superblock's copy was taken, if the original cannot be used.
    pub from_copy: Option<String>,
    /// The bitmap's head, or why it cannot be used; none if the array has no bitmap.
    pub bitmap: Option<std::result::Result<BitmapHead, String>>,
    /// Bits of the bitmap that are set.
    pub dirty_bits: u64,
    /// Sectors of the device that the bad-block log names.
    pub bad_blocks: Vec<Range<u64>>,
    /// Whether the bad-block log could not be read.
    pub bad_block_log_torn: bool,
}

/// Reads the md part of a device. Nothing is written.
///
/// # Errors
/// `Invalid` if no md 1.2 superblock is there, `Corrupt` if it is damaged, `Unsupported` if it is of a kind that is
/// not known; otherwise as reading the device.
pub async fn examine(device: &dyn BlockDevice, spawner: &Spawner) -> Result<Examined> {
    let queue = device.open(spawner)?;
    let size = device.info().size;
    let (superblock, from_copy) = read_superblock(&*queue, size).await?;
    let bad_blocks = read_bad_blocks(&*queue, &superblock).await;
    let mut examined = Examined {
        bad_block_log_torn: bad_blocks.is_err(),
        bad_blocks: bad_blocks.unwrap_or_default(),
        superblock,
        from_copy,
        bitmap: None,
        dirty_bits: 0,
    };
    if examined.superblock.features.has(Features::BITMAP) {
        examined.bitmap = Some(match read_bitmap(&*queue, &examined.superblock).await {
            Ok(image) => {
                examined.dirty_bits = image.count();
                Ok(image.head().clone())
            }
            Err(error) => Err(error.sentence()),
        });
    }
    Ok(examined)
}

async fn read(queue: &dyn BlockQueue, at: u64, len: usize) -> Result<Vec<u8>> {
    let completion = queue.submit(Request::read(at, IoVec::zeroed(len))).await;
    completion.result?;
    Ok(completion.buffer.into_buffer().to_vec())
}

/// The superblock, or its copy with the reason if the original was torn.
async fn read_superblock(
    queue: &dyn BlockQueue,
    size: u64,
) -> Result<(Superblock, Option<String>)> {
    if size < SUPER_BYTE + SUPER_BYTES as u64 {
        let why = format!("a device of {size} bytes has no room for an md superblock");
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    let why = match read(queue, SUPER_BYTE, SUPER_BYTES).await {
        Err(error) if error.kind() == ErrorKind::Offline => return Err(error),
        // The blocks behind the first, which hold roles that hardly any array has, may be torn on their own.
        Err(error) => error.in_context("the superblock cannot be read"),
        Ok(bytes) => match Superblock::parse(&bytes, size / SECTOR) {
            Ok(superblock) => return Ok((superblock, None)),
            Err(error) => {
                let torn = matches!(error, SuperblockError::Checksum { .. });
                let error = Error::new(error.kind(), error.to_string());
                if !torn {
                    return Err(error);
                }
                error
            }
        },
    };
    match find_copy(queue, size).await {
        Some(superblock) => Ok((superblock, Some(why.sentence()))),
        None => Err(why),
    }
}

/// The copy that this crate keeps in the unused space before the data.
async fn find_copy(queue: &dyn BlockQueue, size: u64) -> Option<Superblock> {
    let starts = (COPY_STEP as u64..=size.min(COPY_SEARCH)).step_by(COPY_STEP);
    // Members that joined where space was tight have their data at 16 KiB.
    let places = starts.map(|start| start - 4096).chain([12 << 10]);
    for place in places {
        let Ok(bytes) = read(queue, place, SUPER_BYTES).await else {
            continue;
        };
        if let Ok(superblock) = Superblock::parse(&bytes, size / SECTOR)
            && superblock.data_start() * SECTOR == place + SUPER_BYTES as u64
        {
            return Some(superblock);
        }
    }
    None
}

/// Sectors that the bits of a level count: of the array where the members hold copies, of a member otherwise.
pub(crate) fn sync_size(superblock: &Superblock) -> u64 {
    match superblock.level {
        Level::Raid10 => {
            Geometry::of(superblock, &[]).map_or(0, |geometry| geometry.sync_size() / SECTOR)
        }
        _ => superblock.size,
    }
}

/// Reads and checks a member's bitmap.
pub(crate) async fn read_bitmap(
    queue: &dyn BlockQueue,
    superblock: &Superblock,
) -> Result<BitmapImage> {
    let as_error = |error: BitmapError| Error::new(error.kind(), error.to_string());
    let Some(sector) = superblock.bitmap_sector() else {
        return Err(as_error(BitmapError::Absent));
    };
    let at = sector * SECTOR;
    let room = superblock.bitmap_room();
    let first = read(queue, at, 4096.min((room * SECTOR) as usize).max(512)).await?;
    let head = BitmapHead::parse(
        &first[..HEAD_BYTES],
        &superblock.set_uuid,
        sync_size(superblock),
        room,
    )
    .map_err(as_error)?;
    debug_assert!(head.bits() <= MOST_CHUNKS);
    let len = head.bytes().min(room * SECTOR) as usize;
    let bytes = if len <= first.len() {
        first
    } else {
        read(queue, at, len).await?
    };
    Ok(BitmapImage::of(head, bytes, room))
}

/// Sectors of the device that the bad-block log names.
async fn read_bad_blocks(
    queue: &dyn BlockQueue,
    superblock: &Superblock,
) -> Result<Vec<Range<u64>>> {
    let Some(sector) = superblock.bblog_sector() else {
        return Ok(Vec::new());
    };
    if !superblock.features.has(Features::BAD_BLOCKS) {
        return Ok(Vec::new());
    }
    let len = usize::from(superblock.bblog_size) * SECTOR as usize;
    let log = read(queue, sector * SECTOR, len).await?;
    Ok(parse_bad_blocks(&log, superblock.bblog_shift))
}
