//! Entries of L1 and L2 tables.

use weft_block::{Error, ErrorKind, Result};

use super::{Geometry, Version};

/// The refcount of what the entry points at is exactly one: it may be written where it is.
const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3, without extended entries).
const ZERO: u64 = 1;
/// Where the cluster is.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Where an L2 table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L1Entry {
    /// Its first byte.
    pub table: u64,
    /// Whether it may be written where it is.
    pub copied: bool,
}

impl L1Entry {
    /// What the entry `raw` points at; nothing where no table is.
    ///
    /// # Errors
    /// `Corrupt` if a reserved bit is set or no cluster starts there.
    pub fn decode(raw: u64, geometry: Geometry) -> Result<Option<Self>> {
        let table = raw & OFFSET;
        if raw & !(COPIED | OFFSET) != 0 || !geometry.is_aligned(table) {
            return Err(corrupt(format!("the L1 entry {raw:#018x} cannot be")));
        }
        let copied = raw & COPIED != 0;
        Ok((table != 0).then_some(Self { table, copied }))
    }

    /// The entry's bits.
    pub fn encode(self) -> u64 {
        self.table | if self.copied { COPIED } else { 0 }
    }
}

/// What an entry of an L2 table says of its cluster.
///
/// The masks tell of each of the cluster's 32 parts, the first in the lowest bit. Without extended entries all parts are
/// alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Compressed data.
    Compressed {
        /// Its first byte, anywhere.
        host: u64,
        /// Bytes to the end of the last sector that holds some of it.
        len: u64,
    },
    /// Everything else.
    Plain {
        /// Where the cluster is, if it has a place.
        host: Option<u64>,
        /// Whether it may be written where it is.
        copied: bool,
        /// Parts that are read from there.
        data: u32,
        /// Parts that read as zeroes. Those in neither mask read as the backing file, or as zeroes without one.
        zero: u32,
    },
}

impl Mapping {
    /// Nothing is known of the cluster here.
    pub const UNALLOCATED: Self = Self::Plain {
        host: None,
        copied: false,
        data: 0,
        zero: 0,
    };

    /// A cluster that reads as zeroes and has no place.
    pub const ZERO: Self = Self::Plain {
        host: None,
        copied: false,
        data: 0,
        zero: u32::MAX,
    };

    /// A cluster of data of its own at `host`.
    pub fn data(host: u64) -> Self {
        Self::Plain {
            host: Some(host),
            copied: true,
            data: u32::MAX,
            zero: 0,
        }
    }

    /// What the entry `raw`, with its `bitmap` where entries are extended, says.
    ///
    /// # Errors
    /// `Corrupt` if a reserved bit is set, no cluster starts where it points, or the bitmap contradicts it.
    pub fn decode(raw: u64, bitmap: u64, version: Version, geometry: Geometry) -> Result<Self> {
        if raw & COMPRESSED != 0 {
            return Self::decode_compressed(raw, bitmap, geometry);
        }
        let zero_bit = match (version, geometry.extended_l2()) {
            (Version::V3, false) => ZERO,
            _ => 0,
        };
        let offset = raw & OFFSET;
        if raw & !(COPIED | OFFSET | zero_bit) != 0 || !geometry.is_aligned(offset) {
            return Err(corrupt(format!("the L2 entry {raw:#018x} cannot be")));
        }
        // In a data file the first cluster is at zero; the flag tells it from none.
        let copied = raw & COPIED != 0;
        let host = (offset != 0 || copied).then_some(offset);
        let (data, zero) = if geometry.extended_l2() {
            (bitmap as u32, (bitmap >> 32) as u32)
        } else if raw & zero_bit != 0 {
            (0, u32::MAX)
        } else if host.is_some() {
            (u32::MAX, 0)
        } else {
            (0, 0)
        };
        if data & zero != 0 || (data != 0 && host.is_none()) {
            return Err(corrupt(format!(
                "the L2 entry {raw:#018x} contradicts its bitmap {bitmap:#018x}"
            )));
        }
        Ok(Self::Plain {
            host,
            copied,
            data,
            zero,
        })
    }

    fn decode_compressed(raw: u64, bitmap: u64, geometry: Geometry) -> Result<Self> {
        let bits = compressed_offset_bits(geometry);
        let host = raw & ((1 << bits) - 1) & (OFFSET | 0x1ff);
        let sectors = (raw & !(COPIED | COMPRESSED)) >> bits;
        let clean = raw & COPIED == 0 && host == raw & ((1 << bits) - 1) && bitmap == 0;
        if !clean || host == 0 {
            return Err(corrupt(format!(
                "the compressed L2 entry {raw:#018x} cannot be"
            )));
        }
        let len = (sectors + 1) * 512 - host % 512;
        Ok(Self::Compressed { host, len })
    }

    /// The entry and its bitmap, which is zero unless entries are extended.
    ///
    /// # Panics
    /// If parts differ without extended entries, or compressed data lies where no entry can point.
    pub fn encode(self, geometry: Geometry) -> (u64, u64) {
        match self {
            Self::Compressed { host, len } => {
                let bits = compressed_offset_bits(geometry);
                let sectors = (host % 512 + len).div_ceil(512) - 1;
                assert!(
                    host >> bits == 0 && sectors >> (62 - bits) == 0,
                    "no entry can point there"
                );
                (COMPRESSED | sectors << bits | host, 0)
            }
            Self::Plain {
                host,
                copied,
                data,
                zero,
            } => {
                let raw = host.unwrap_or(0) | if copied { COPIED } else { 0 };
                if geometry.extended_l2() {
                    return (raw, u64::from(zero) << 32 | u64::from(data));
                }
                let whole = |mask: u32| mask == 0 || mask == u32::MAX;
                assert!(
                    whole(data) && whole(zero),
                    "a part of a cluster has no entry of its own"
                );
                (raw | if zero == 0 { 0 } else { ZERO }, 0)
            }
        }
    }

    /// The largest number of bytes that a compressed cluster can have, and the first byte that none can be at.
    pub fn compressed_limits(geometry: Geometry) -> (u64, u64) {
        let bits = compressed_offset_bits(geometry);
        // A cluster that takes as much room as it has bytes is not worth it.
        (geometry.cluster() - 1, 1 << bits.min(56))
    }
}

/// Bits of a compressed entry that tell where the data begins; the rest count its further sectors.
fn compressed_offset_bits(geometry: Geometry) -> u32 {
    62 - (geometry.cluster_bits() - 8)
}

fn corrupt(sentence: String) -> Error {
    Error::new(ErrorKind::Corrupt, sentence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn geometries() -> impl Strategy<Value = Geometry> {
        prop_oneof![
            (9u32..=21).prop_map(|bits| Geometry::new(bits, 4, false).unwrap()),
            (14u32..=21).prop_map(|bits| Geometry::new(bits, 4, true).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_written_back(raw: u64, bitmap: u64, geometry in geometries()) {
            let bitmap = if geometry.extended_l2() { bitmap } else { 0 };
            if let Ok(mapping) = Mapping::decode(raw, bitmap, Version::V3, geometry) {
                prop_assert_eq!(mapping.encode(geometry), (raw, bitmap));
            }
        }

        #[test]
        fn compressed_data_is_found_again(
            geometry in geometries(), host in 1u64..1 << 40, len in 1u64..2 << 20,
        ) {
            let len = len.min(Mapping::compressed_limits(geometry).0);
            let (raw, bitmap) = Mapping::Compressed { host, len }.encode(geometry);
            let found = Mapping::decode(raw, bitmap, Version::V3, geometry).unwrap();
            let end = (host + len).next_multiple_of(512);
            prop_assert_eq!(found, Mapping::Compressed { host, len: end - host });
        }

        #[test]
        fn subclusters_keep_their_bits(host in 1u64..1 << 30, data: u32, zero: u32, copied: bool) {
            let geometry = Geometry::new(16, 4, true).unwrap();
            let mapping = Mapping::Plain { host: Some(host << 16), copied, data, zero: zero & !data };
            let (raw, bitmap) = mapping.encode(geometry);
            prop_assert_eq!(Mapping::decode(raw, bitmap, Version::V3, geometry).unwrap(), mapping);
        }
    }

    #[test]
    fn version_2_has_no_zero_clusters() {
        let geometry = Geometry::new(16, 4, false).unwrap();
        assert_eq!(
            Mapping::decode(1, 0, Version::V3, geometry).unwrap(),
            Mapping::ZERO
        );
        let error = Mapping::decode(1, 0, Version::V2, geometry).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn contradictions_are_corrupt() {
        let geometry = Geometry::new(16, 4, true).unwrap();
        for (raw, bitmap) in [(0, 1), (1 << 16, 1 << 32 | 1), (1, 0), (3 << 9, 0)] {
            let error = Mapping::decode(raw, bitmap, Version::V3, geometry).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{raw:#x} {bitmap:#x}");
        }
    }
}
