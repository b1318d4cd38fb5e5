//! The arithmetic of an image: which cluster, which table, which entry.

use weft_block::{Error, ErrorKind, Result};

/// Clusters, table entries and refcounts: their sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    cluster_bits: u32,
    refcount_order: u32,
    extended_l2: bool,
}

impl Geometry {
    /// Parts that a cluster with an extended entry has; the masks of a [`Mapping`](super::Mapping) have as many bits for
    /// any cluster.
    pub const SUBCLUSTERS: u32 = 32;

    /// Clusters of `1 << cluster_bits` bytes, refcounts of `1 << refcount_order` bits.
    ///
    /// # Errors
    /// `Unsupported` for clusters under 512 bytes or over 2 MiB (under 16 KiB with extended entries), or refcounts of more
    /// than 64 bits.
    pub fn new(cluster_bits: u32, refcount_order: u32, extended_l2: bool) -> Result<Self> {
        let least = if extended_l2 { 14 } else { 9 };
        if !(least..=21).contains(&cluster_bits) {
            let unit = 1u64.checked_shl(cluster_bits).unwrap_or(0);
            let sentence = match (unit, extended_l2) {
                (0, _) => format!("clusters of 2^{cluster_bits} bytes are none"),
                (_, false) => {
                    format!("a cluster has 512 bytes to 2 MiB, not {unit} bytes")
                }
                (_, true) => {
                    format!(
                        "with extended L2 entries a cluster has 16 KiB to 2 MiB, not {unit} bytes"
                    )
                }
            };
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        if refcount_order > 6 {
            let sentence = format!("a refcount has at most 64 bits, not 2^{refcount_order}");
            return Err(Error::new(ErrorKind::Unsupported, sentence));
        }
        Ok(Self {
            cluster_bits,
            refcount_order,
            extended_l2,
        })
    }

    /// log2 of the bytes of a cluster.
    pub fn cluster_bits(self) -> u32 {
        self.cluster_bits
    }

    /// Bytes of a cluster.
    pub fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether entries of L2 tables carry a bitmap of subclusters.
    pub fn extended_l2(self) -> bool {
        self.extended_l2
    }

    /// Bytes of the smallest range that has a mapping of its own: a subcluster, or the cluster.
    pub fn grain(self) -> u64 {
        if self.extended_l2 {
            self.cluster() / u64::from(Self::SUBCLUSTERS)
        } else {
            self.cluster()
        }
    }

    /// log2 of the bits of a refcount.
    pub fn refcount_order(self) -> u32 {
        self.refcount_order
    }

    /// The largest refcount.
    pub fn max_refcount(self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.refcount_order))
    }

    /// Refcounts in a refcount block.
    pub fn refcounts_per_block(self) -> u64 {
        (self.cluster() * 8) >> self.refcount_order
    }

    /// Bytes of an entry of an L2 table.
    pub fn l2_entry(self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub fn l2_entries(self) -> u64 {
        self.cluster() / self.l2_entry()
    }

    /// Bytes of the disk that one L2 table maps.
    pub fn l2_reach(self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// Which entry of the L1 table maps the disk's byte `guest`.
    pub fn l1_index(self, guest: u64) -> u64 {
        guest / self.l2_reach()
    }

    /// Which entry of its L2 table maps the disk's byte `guest`.
    pub fn l2_index(self, guest: u64) -> u64 {
        (guest >> self.cluster_bits) % self.l2_entries()
    }

    /// Entries of an L1 table that maps `size` bytes.
    pub fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l2_reach())
    }

    /// Clusters that hold `bytes` bytes.
    pub fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster())
    }

    /// The clusters that `len` bytes at `offset` touch.
    pub fn cluster_range(self, offset: u64, len: u64) -> std::ops::Range<u64> {
        offset >> self.cluster_bits..self.clusters(offset.saturating_add(len))
    }

    /// The start of the cluster that `offset` is in.
    pub fn round_down(self, offset: u64) -> u64 {
        offset & !(self.cluster() - 1)
    }

    /// `offset` if a cluster starts there, otherwise the start of the next. Saturates at the last cluster there can be.
    pub fn round_up(self, offset: u64) -> u64 {
        self.round_down(offset.saturating_add(self.cluster() - 1))
    }

    /// Where in its cluster `offset` is.
    pub fn within(self, offset: u64) -> u64 {
        offset & (self.cluster() - 1)
    }

    /// Whether a cluster starts at `offset`.
    pub fn is_aligned(self, offset: u64) -> bool {
        self.within(offset) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_image() {
        let geometry = Geometry::new(16, 4, false).unwrap();
        assert_eq!(geometry.l2_entries(), 8192);
        assert_eq!(geometry.l2_reach(), 512 << 20);
        assert_eq!(geometry.refcounts_per_block(), 32_768);
        assert_eq!(geometry.max_refcount(), 65_535);
        assert_eq!(geometry.l1_entries(1 << 40), 2048);
        assert_eq!(geometry.l2_index((512 << 20) + (3 << 16) + 7), 3);
        assert_eq!(geometry.round_up(u64::MAX), u64::MAX - 65_535);
    }

    #[test]
    fn sizes_outside_the_format_are_refused() {
        for (bits, order, extended) in [
            (8, 4, false),
            (22, 4, false),
            (13, 4, true),
            (16, 7, false),
            (64, 0, false),
        ] {
            let error = Geometry::new(bits, order, extended).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
        assert_eq!(Geometry::new(9, 6, false).unwrap().max_refcount(), u64::MAX);
        assert_eq!(Geometry::new(21, 0, true).unwrap().max_refcount(), 1);
    }
}
