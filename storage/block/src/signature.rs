//! What a disk already holds, told by the marks that formats leave.
//!
//! Pure: the caller reads the first and last bytes. A command that would overwrite a disk names what it sees here and
//! refuses unless it is told by name. Offsets and magics are those that `blkid` and the formats' own documents give.

use std::fmt;

/// Bytes from the start of the disk that hold every leading mark.
pub const FIRST_BYTES: usize = 68 * 1024;

/// Bytes at the end of the disk that hold every trailing mark.
pub const LAST_BYTES: usize = 132 * 1024;

/// A format that was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// A member of an md array with metadata of version 0.90, 1.0, 1.1 or 1.2.
    MdMember,
    /// An LVM2 physical volume.
    LvmPhysicalVolume,
    /// An ext2, ext3 or ext4 file system.
    Ext,
    /// An XFS file system.
    Xfs,
    /// A btrfs file system.
    Btrfs,
    /// A FAT or NTFS file system, or another that starts as they do.
    Fat,
    /// Swap space.
    Swap,
    /// An MBR partition table or boot sector.
    Mbr,
    /// A GUID partition table.
    Gpt,
    /// A qcow2 image.
    Qcow2,
    /// A LUKS container.
    Luks,
    /// An ISO 9660 file system.
    Iso9660,
    /// An F2FS file system.
    F2fs,
    /// A bcache device.
    Bcache,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MdMember => "a member of an md array",
            Self::LvmPhysicalVolume => "an LVM2 physical volume",
            Self::Ext => "an ext2/3/4 file system",
            Self::Xfs => "an XFS file system",
            Self::Btrfs => "a btrfs file system",
            Self::Fat => "a FAT or NTFS file system",
            Self::Swap => "swap space",
            Self::Mbr => "an MBR partition table",
            Self::Gpt => "a GUID partition table",
            Self::Qcow2 => "a qcow2 image",
            Self::Luks => "a LUKS container",
            Self::Iso9660 => "an ISO 9660 file system",
            Self::F2fs => "an F2FS file system",
            Self::Bcache => "a bcache device",
        })
    }
}

/// A mark on a disk. Zeroing its bytes makes the format unrecognisable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// What it is the mark of.
    pub format: Format,
    /// First byte of the mark on the disk.
    pub offset: u64,
    /// Bytes of the mark.
    pub len: usize,
}

/// Marks at a fixed offset from the start.
const LEADING: &[(Format, usize, &[u8])] = &[
    (Format::Qcow2, 0, b"QFI\xfb"),
    (Format::Luks, 0, b"LUKS\xba\xbe"),
    // The second header of LUKS2, at the smallest of its places.
    (Format::Luks, 16384, b"SKUL\xba\xbe"),
    (Format::Xfs, 0, b"XFSB"),
    (Format::Ext, 1080, b"\x53\xef"),
    (Format::Btrfs, 65600, b"_BHRfS_M"),
    (Format::Iso9660, 32769, b"CD001"),
    (Format::F2fs, 1024, b"\x10\x20\xf5\xf2"),
    (
        Format::Bcache,
        4120,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    (Format::Gpt, 512, b"EFI PART"),
    (Format::Gpt, 4096, b"EFI PART"),
    (Format::Fat, 3, b"NTFS    "),
    (Format::Fat, 54, b"FAT1"),
    (Format::Fat, 82, b"FAT32   "),
    (Format::MdMember, 0, MD_MAGIC),
    (Format::MdMember, 4096, MD_MAGIC),
    (Format::LvmPhysicalVolume, 0, b"LABELONE"),
    (Format::LvmPhysicalVolume, 512, b"LABELONE"),
    (Format::LvmPhysicalVolume, 1024, b"LABELONE"),
    (Format::LvmPhysicalVolume, 1536, b"LABELONE"),
    // The last ten bytes of a page, for the page sizes in use.
    (Format::Swap, 4086, b"SWAPSPACE2"),
    (Format::Swap, 8182, b"SWAPSPACE2"),
    (Format::Swap, 16374, b"SWAPSPACE2"),
    (Format::Swap, 65526, b"SWAPSPACE2"),
    (Format::Mbr, 510, b"\x55\xaa"),
];

/// 0xa92b4efc, little endian.
const MD_MAGIC: &[u8] = b"\xfc\x4e\x2b\xa9";

/// Where md keeps its superblock of version 1.0, and GPT its backup, on a disk of `size` bytes.
fn trailing(size: u64) -> Vec<(Format, u64, &'static [u8])> {
    let mut marks: Vec<(Format, u64, &'static [u8])> = Vec::new();
    // Version 1.0: at least 8 KiB and less than 12 KiB from the end, at a multiple of 4 KiB.
    if let Some(offset) = (size / 512).checked_sub(16) {
        marks.push((Format::MdMember, (offset & !7) * 512, MD_MAGIC));
    }
    // Version 0.90: at least 64 KiB and less than 128 KiB from the end, at a multiple of 64 KiB.
    if let Some(offset) = (size & !0xffff).checked_sub(0x10000) {
        marks.push((Format::MdMember, offset, MD_MAGIC));
    }
    for block in [512, 4096] {
        if let Some(offset) = size.checked_sub(block) {
            marks.push((Format::Gpt, offset, b"EFI PART"));
        }
    }
    marks
}

/// The marks on a disk of `size` bytes, given its first [`FIRST_BYTES`] and last [`LAST_BYTES`] (or the whole, where it
/// is smaller), in order of their offsets.
pub fn recognise(first: &[u8], last: &[u8], size: u64) -> Vec<Signature> {
    let last_start = size.saturating_sub(last.len() as u64);
    let mut found = Vec::new();
    for &(format, offset, mark) in LEADING {
        if first.get(offset..offset + mark.len()) == Some(mark) {
            let (offset, len) = (offset as u64, mark.len());
            found.push(Signature {
                format,
                offset,
                len,
            });
        }
    }
    for (format, offset, mark) in trailing(size) {
        let place = offset
            .checked_sub(last_start)
            .map(|place| place as usize..place as usize + mark.len());
        if place.and_then(|place| last.get(place)) == Some(mark) {
            let len = mark.len();
            found.push(Signature {
                format,
                offset,
                len,
            });
        }
    }
    found.sort_by_key(|signature| signature.offset);
    found.dedup();
    found
}

/// The formats among `signatures` in words, for a sentence: "an LVM2 physical volume and an MBR partition table".
pub fn in_words(signatures: &[Signature]) -> String {
    let mut names: Vec<String> = Vec::new();
    for signature in signatures {
        let name = signature.format.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 10 << 20;

    fn recognised(disk: &[u8]) -> Vec<Signature> {
        let (first, last) = (FIRST_BYTES.min(disk.len()), LAST_BYTES.min(disk.len()));
        recognise(
            &disk[..first],
            &disk[disk.len() - last..],
            disk.len() as u64,
        )
    }

    #[test]
    fn every_mark_is_seen_where_it_belongs() {
        let leading = LEADING
            .iter()
            .map(|&(format, offset, mark)| (format, offset as u64, mark));
        for (format, offset, mark) in leading.chain(trailing(SIZE)) {
            let mut disk = vec![0; SIZE as usize];
            disk[offset as usize..offset as usize + mark.len()].copy_from_slice(mark);
            let found = recognised(&disk);
            assert_eq!(found.len(), 1, "{format} at {offset}");
            assert_eq!((found[0].format, found[0].offset), (format, offset));
            disk[offset as usize..offset as usize + found[0].len].fill(0);
            assert!(recognised(&disk).is_empty());
        }
    }

    #[test]
    fn an_empty_disk_and_a_tiny_one_hold_nothing() {
        assert!(recognised(&vec![0; SIZE as usize]).is_empty());
        assert!(recognised(&[]).is_empty());
        assert!(recognised(&[0; 512]).is_empty());
    }

    #[test]
    fn several_marks_make_one_sentence() {
        let mut disk = vec![0; SIZE as usize];
        disk[510..512].copy_from_slice(b"\x55\xaa");
        disk[512..520].copy_from_slice(b"LABELONE");
        disk[1024..1032].copy_from_slice(b"LABELONE");
        assert_eq!(
            in_words(&recognised(&disk)),
            "an MBR partition table and an LVM2 physical volume"
        );
    }
}
