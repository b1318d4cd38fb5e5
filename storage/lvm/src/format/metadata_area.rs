//! The header of a metadata area: where in its ring the text is.

use thiserror::Error;

use super::{array_at, checksum, u32_at, u64_at};

/// Bytes of a header, and so where the ring begins.
pub const HEADER_BYTES: u64 = 512;

/// Set in a location's flags where the area is not to be used.
pub const IGNORED: u32 = 1;

const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
const VERSION: u32 = 1;
/// The checksum covers everything from here on.
const CRC_FROM: usize = 4;
const MAGIC_AT: usize = 4;
const VERSION_AT: usize = 20;
const START_AT: usize = 24;
const SIZE_AT: usize = 32;
const LOCATIONS_AT: usize = 40;
const LOCATION_BYTES: usize = 24;

/// Where a metadata text lies. No text has an offset and size of zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Location {
    /// Bytes from the start of the area.
    pub offset: u64,
    /// Bytes of text, the NUL at its end among them.
    pub size: u64,
    /// The text's checksum.
    pub checksum: u32,
    /// [`IGNORED`] or nothing.
    pub flags: u32,
}

impl Location {
    /// Whether no text is there.
    pub fn is_empty(&self) -> bool {
        self.offset == 0
    }
}

/// The header of a metadata area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AreaHeader {
    /// First byte of the area on the disk.
    pub start: u64,
    /// Bytes of the area, header and ring.
    pub size: u64,
    /// The text that counts.
    pub committed: Location,
    /// A text that is about to count.
    pub precommitted: Location,
}

/// Why 512 bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// There are fewer bytes than a header has.
    #[error("the metadata area's header is cut short")]
    Short,
    /// Its checksum is wrong.
    #[error("the checksum of the metadata area's header is wrong")]
    Checksum,
    /// Magic or version are not LVM2's.
    #[error("the metadata area's header has no LVM2 magic of version 1")]
    Magic,
    /// It names another place than where it was found, or one that cannot be.
    #[error("the metadata area's header names another area than its label")]
    Moved,
    /// A text in it would lie outside the area.
    #[error("the metadata area's header points outside the area")]
    Location,
}

impl AreaHeader {
    /// A header without text.
    pub fn empty(start: u64, size: u64) -> Self {
        Self {
            start,
            size,
            committed: Location::default(),
            precommitted: Location::default(),
        }
    }

    /// Reads the header that a label says is at `start` and of `size`.
    ///
    /// # Errors
    /// What is wrong with it. A precommitted location that makes no sense is not: it counts as none.
    pub fn parse(bytes: &[u8], start: u64, size: u64) -> Result<Self, HeaderError> {
        let bytes = bytes
            .get(..HEADER_BYTES as usize)
            .ok_or(HeaderError::Short)?;
        if u32_at(bytes, 0) != checksum(&bytes[CRC_FROM..]) {
            return Err(HeaderError::Checksum);
        }
        if &array_at::<16>(bytes, MAGIC_AT) != MAGIC || u32_at(bytes, VERSION_AT) != VERSION {
            return Err(HeaderError::Magic);
        }
        let header = Self {
            start: u64_at(bytes, START_AT),
            size: u64_at(bytes, SIZE_AT),
            committed: location_at(bytes, 0),
            precommitted: location_at(bytes, 1),
        };
        if header.start != start || header.size != size || size <= HEADER_BYTES {
            return Err(HeaderError::Moved);
        }
        if !header.holds(&header.committed) {
            return Err(HeaderError::Location);
        }
        Ok(match header.holds(&header.precommitted) {
            true => header,
            false => Self {
                precommitted: Location::default(),
                ..header
            },
        })
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[MAGIC_AT..MAGIC_AT + MAGIC.len()].copy_from_slice(MAGIC);
        bytes[VERSION_AT..START_AT].copy_from_slice(&VERSION.to_le_bytes());
        bytes[START_AT..SIZE_AT].copy_from_slice(&self.start.to_le_bytes());
        bytes[SIZE_AT..LOCATIONS_AT].copy_from_slice(&self.size.to_le_bytes());
        for (slot, location) in [self.committed, self.precommitted].into_iter().enumerate() {
            let at = LOCATIONS_AT + slot * LOCATION_BYTES;
            bytes[at..at + 8].copy_from_slice(&location.offset.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&location.size.to_le_bytes());
            bytes[at + 16..at + 20].copy_from_slice(&location.checksum.to_le_bytes());
            bytes[at + 20..at + 24].copy_from_slice(&location.flags.to_le_bytes());
        }
        let crc = checksum(&bytes[CRC_FROM..]);
        bytes[..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether the area is not to be used.
    pub fn is_ignored(&self) -> bool {
        self.committed.flags & IGNORED != 0
    }

    /// Whether a text can lie there: inside the ring, and no longer than it.
    fn holds(&self, location: &Location) -> bool {
        if location.is_empty() {
            return true;
        }
        (HEADER_BYTES..self.size).contains(&location.offset)
            && (1..=self.size - HEADER_BYTES).contains(&location.size)
    }
}

fn location_at(bytes: &[u8], slot: usize) -> Location {
    let at = LOCATIONS_AT + slot * LOCATION_BYTES;
    Location {
        offset: u64_at(bytes, at),
        size: u64_at(bytes, at + 8),
        checksum: u32_at(bytes, at + 16),
        flags: u32_at(bytes, at + 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> AreaHeader {
        AreaHeader {
            committed: Location {
                offset: 5120,
                size: 1755,
                checksum: 0xf5cd_ffa7,
                flags: 0,
            },
            ..AreaHeader::empty(4096, 1_044_480)
        }
    }

    fn reparse(header: AreaHeader) -> Result<AreaHeader, HeaderError> {
        AreaHeader::parse(&header.to_bytes(), 4096, 1_044_480)
    }

    #[test]
    fn a_header_goes_both_ways() {
        assert_eq!(reparse(header()), Ok(header()));
        // The checksum that LVM2 2.03.16 computed for this header.
        assert_eq!(&header().to_bytes()[..4], &0xcd39_934a_u32.to_le_bytes());
    }

    #[test]
    fn a_header_that_points_outside_is_refused() {
        for (offset, size) in [
            (511, 100),
            (1_044_480, 100),
            (u64::MAX, 1),
            (512, 0),
            (512, u64::MAX),
            (512, 1_044_480 - 511),
        ] {
            let mut header = header();
            header.committed.offset = offset;
            header.committed.size = size;
            assert_eq!(reparse(header), Err(HeaderError::Location));
            header.precommitted = header.committed;
            header.committed = Location::default();
            let read = reparse(header).expect("a bad precommit is no harm");
            assert!(read.precommitted.is_empty());
        }
    }

    #[test]
    fn damage_and_other_places_are_told_apart() {
        let mut bytes = header().to_bytes();
        assert_eq!(
            AreaHeader::parse(&bytes, 8192, 1_044_480),
            Err(HeaderError::Moved)
        );
        bytes[100] ^= 1;
        assert_eq!(
            AreaHeader::parse(&bytes, 4096, 1_044_480),
            Err(HeaderError::Checksum)
        );
        assert_eq!(
            AreaHeader::parse(&bytes[..100], 4096, 1_044_480),
            Err(HeaderError::Short)
        );
    }
}
