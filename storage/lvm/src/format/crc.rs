//! The checksum of labels, headers and metadata text.

/// LVM2's initial value.
const INITIAL: u32 = 0xf597_a6cf;

/// CRC-32 (reflected 0xedb88320) from LVM2's initial value, with no final inversion.
pub fn checksum(bytes: &[u8]) -> u32 {
    continue_checksum(INITIAL, bytes)
}

/// Goes on from the checksum of the bytes before: for text that wraps around the end of its area.
pub fn continue_checksum(before: u32, bytes: &[u8]) -> u32 {
    // The hasher inverts on the way in and on the way out.
    let mut hasher = crc32fast::Hasher::new_with_initial(!before);
    hasher.update(bytes);
    !hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up() {
        let text = b"a volume group";
        assert_eq!(
            checksum(text),
            continue_checksum(checksum(&text[..5]), &text[5..])
        );
        assert_eq!(checksum(b""), INITIAL);
    }
}
