//! Little-endian fields at fixed places of an on-disk block.

/// The `N` bytes at `at`. The caller has checked that the block is that long; a shorter one reads as zeroes.
pub(crate) fn array<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = at.checked_add(N).and_then(|end| block.get(at..end)) {
        out.copy_from_slice(from);
    }
    out
}

pub(crate) fn le16(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(block, at))
}

pub(crate) fn le32(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(block, at))
}

pub(crate) fn le64(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(block, at))
}

/// Puts `bytes` at `at` of a block that is long enough.
pub(crate) fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}
