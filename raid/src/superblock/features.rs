//! The feature bits: what a reader must know to use the array.

/// The feature word of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u32);

/// Every bit that Linux has given a meaning, by md's own words.
const NAMES: [(Features, &str); 13] = [
    (Features::BITMAP, "write-intent bitmap"),
    (Features::RECOVERY_OFFSET, "recovery offset"),
    (Features::RESHAPE, "reshape in progress"),
    (Features::BAD_BLOCKS, "bad blocks recorded"),
    (Features::REPLACEMENT, "replacement of a member"),
    (Features::RESHAPE_BACKWARDS, "reshape backwards"),
    (Features::NEW_OFFSET, "new data offset"),
    (Features::RECOVERY_BITMAP, "recovery by bitmap"),
    (Features::CLUSTERED, "clustered bitmap"),
    (Features::JOURNAL, "journal"),
    (Features::PPL, "partial parity log"),
    (Features::MULTIPLE_PPLS, "multiple partial parity logs"),
    (Features::RAID0_LAYOUT, "RAID-0 layout"),
];

impl Features {
    /// The bitmap offset is valid.
    pub const BITMAP: Self = Self(1);
    /// The recovery offset is valid: the member is being recovered.
    pub const RECOVERY_OFFSET: Self = Self(2);
    /// A change of shape is under way.
    pub const RESHAPE: Self = Self(4);
    /// The bad-block log is not empty.
    pub const BAD_BLOCKS: Self = Self(8);
    /// The member is replacing another that is still there.
    pub const REPLACEMENT: Self = Self(16);
    /// The change of shape runs from the end.
    pub const RESHAPE_BACKWARDS: Self = Self(32);
    /// The data of the member moves.
    pub const NEW_OFFSET: Self = Self(64);
    /// The recovery needs only what the bitmap says.
    pub const RECOVERY_BITMAP: Self = Self(128);
    /// The bitmap belongs to a cluster.
    pub const CLUSTERED: Self = Self(256);
    /// The array has a journal.
    pub const JOURNAL: Self = Self(512);
    /// The array has a partial parity log.
    pub const PPL: Self = Self(1024);
    /// The partial parity log may hold several headers; said in place of [`PPL`](Self::PPL).
    pub const MULTIPLE_PPLS: Self = Self(2048);
    /// The layout of RAID-0 is valid.
    pub const RAID0_LAYOUT: Self = Self(4096);

    /// What this crate can run an array with. The others are read, shown and refused by name.
    const RUN: Self = Self(
        Self::BITMAP.0
            | Self::RECOVERY_OFFSET.0
            | Self::BAD_BLOCKS.0
            | Self::RESHAPE.0
            | Self::REPLACEMENT.0
            | Self::RESHAPE_BACKWARDS.0
            | Self::NEW_OFFSET.0
            | Self::RECOVERY_BITMAP.0
            | Self::JOURNAL.0
            | Self::PPL.0
            | Self::MULTIPLE_PPLS.0
            | Self::RAID0_LAYOUT.0,
    );

    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The word as it is written.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` is here.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This without `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What is both in this and in `other`.
    #[must_use]
    pub fn only(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the members have a partial parity log, in either form.
    pub fn has_ppl(self) -> bool {
        self.has(Self::PPL) || self.has(Self::MULTIPLE_PPLS)
    }

    /// The bits that nothing is known about.
    pub fn unknown(self) -> u32 {
        NAMES
            .iter()
            .fold(self.0, |rest, (known, _)| rest & !known.0)
    }

    /// The names of the known bits that are set.
    pub fn names(self) -> Vec<&'static str> {
        NAMES
            .iter()
            .filter(|(bit, _)| self.has(*bit))
            .map(|(_, name)| *name)
            .collect()
    }

    /// The known bits that this crate cannot run an array with.
    pub fn refused(self) -> Self {
        self.without(Self::RUN)
    }
}
