//! Feature bits and the table that names them.

/// Bits that a program must know to open the image at all.
pub mod incompatible {
    /// Refcounts may be wrong: the image was not closed.
    pub const DIRTY: u64 = 1 << 0;
    /// Structures were found wrong: the image must be repaired before it is written.
    pub const CORRUPT: u64 = 1 << 1;
    /// Clusters of data are in a file of their own.
    pub const DATA_FILE: u64 = 1 << 2;
    /// The header names how clusters are compressed.
    pub const COMPRESSION: u64 = 1 << 3;
    /// Entries of L2 tables are of 16 bytes, with a bitmap of subclusters.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// All that this crate knows.
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Bits that may be ignored.
pub mod compatible {
    /// Refcounts are written late: a crash leaves the image dirty.
    pub const LAZY_REFCOUNTS: u64 = 1 << 0;
}

/// Bits that a program clears before it writes, unless it knows them and keeps what they say true.
pub mod autoclear {
    /// The bitmaps describe what is on the disk.
    pub const BITMAPS: u64 = 1 << 0;
    /// The data file reads as the disk does.
    pub const RAW_DATA_FILE: u64 = 1 << 1;
    /// All that this crate knows.
    pub const KNOWN: u64 = BITMAPS | RAW_DATA_FILE;
}

/// Which of the three sets a bit belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureSet {
    /// [`incompatible`].
    Incompatible,
    /// [`compatible`].
    Compatible,
    /// [`autoclear`].
    Autoclear,
}

/// An entry of the feature name table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureName {
    /// The set.
    pub set: FeatureSet,
    /// The number of the bit, below 64.
    pub bit: u8,
    /// What it is called, at most 46 bytes.
    pub name: String,
}

/// Bytes of an entry of the table.
const ENTRY: usize = 48;

impl FeatureName {
    /// The entries of a table; those of a set or bit that there is not are left out.
    pub(super) fn parse_table(bytes: &[u8]) -> Vec<Self> {
        bytes.chunks_exact(ENTRY).filter_map(Self::parse).collect()
    }

    fn parse(entry: &[u8]) -> Option<Self> {
        let set = match entry[0] {
            0 => FeatureSet::Incompatible,
            1 => FeatureSet::Compatible,
            2 => FeatureSet::Autoclear,
            _ => return None,
        };
        let name = entry[2..].split(|&byte| byte == 0).next()?;
        // It is shown to people: no control characters from strangers.
        let name = String::from_utf8_lossy(name).replace(char::is_control, "?");
        (entry[1] < 64).then_some(Self {
            set,
            bit: entry[1],
            name,
        })
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let end = bytes.len() + ENTRY;
        bytes.push(match self.set {
            FeatureSet::Incompatible => 0,
            FeatureSet::Compatible => 1,
            FeatureSet::Autoclear => 2,
        });
        bytes.push(self.bit);
        bytes.extend_from_slice(&self.name.as_bytes()[..self.name.len().min(ENTRY - 2)]);
        bytes.resize(end, 0);
    }

    /// The table of all features that this crate knows, by QEMU's names.
    pub(super) fn known_table() -> Vec<u8> {
        use FeatureSet::{Autoclear, Compatible, Incompatible};
        let names = [
            (Incompatible, 0, "dirty bit"),
            (Incompatible, 1, "corrupt bit"),
            (Incompatible, 2, "external data file"),
            (Incompatible, 3, "compression type"),
            (Incompatible, 4, "extended L2 entries"),
            (Compatible, 0, "lazy refcounts"),
            (Autoclear, 0, "bitmaps"),
            (Autoclear, 1, "raw external data"),
        ];
        let mut bytes = Vec::new();
        for (set, bit, name) in names {
            let name = name.to_owned();
            Self { set, bit, name }.write(&mut bytes);
        }
        bytes
    }
}

/// What the bits of `set` are called: by the image's own table, otherwise by number.
pub(super) fn name_bits(set: FeatureSet, bits: u64, names: &[FeatureName]) -> String {
    let name = |bit: u8| {
        let named = names.iter().find(|name| name.set == set && name.bit == bit);
        named.map_or_else(
            || format!("bit {bit}"),
            |named| format!("\"{}\"", named.name),
        )
    };
    let bits = (0..64u8).filter(|bit| bits >> bit & 1 == 1);
    bits.map(name).collect::<Vec<_>>().join(", ")
}
