//! LVM2 labels, headers of metadata areas and metadata text, from a disk.

use weft_lvm::format::{AreaHeader, HEADER_BYTES, LabelError, checksum, parse_label};
use weft_lvm::model::{metadata_text, parse_metadata};
use weft_lvm::text::{parse_text, print_text};

/// Where a label's checksum is, and where what it covers begins (LVM2's label.h).
const LABEL_CHECKSUM: std::ops::Range<usize> = 16..20;

pub(super) fn label(bytes: &[u8]) {
    if !matches!(parse_label(bytes), Err(LabelError::Checksum)) {
        return;
    }
    let mut mended = bytes.to_vec();
    for sector in mended.chunks_exact_mut(512) {
        let sum = checksum(&sector[LABEL_CHECKSUM.end..]);
        sector[LABEL_CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    }
    let _ = parse_label(&mended);
}

pub(super) fn area_header(bytes: &[u8]) {
    let mut mended = bytes.to_vec();
    if mended.len() >= HEADER_BYTES as usize {
        let sum = checksum(&mended[4..HEADER_BYTES as usize]);
        mended[..4].copy_from_slice(&sum.to_le_bytes());
    }
    let number = |at: usize| {
        mended
            .get(at..at + 8)
            .and_then(|part| part.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let (start, size) = (number(24), number(32));
    let _ = AreaHeader::parse(bytes, start, size);
    if let Ok(header) = AreaHeader::parse(&mended, start, size) {
        let again = AreaHeader::parse(&header.to_bytes(), start, size);
        assert_eq!(again.ok(), Some(header));
    }
}

pub(super) fn text(bytes: &[u8]) {
    if let Ok(tree) = parse_text(bytes) {
        let mut printed = String::new();
        print_text(&tree, &mut printed);
        let again = parse_text(printed.as_bytes());
        assert_eq!(again.ok(), Some(tree));
    }
    if let Ok(group) = parse_metadata(bytes) {
        let again = parse_metadata(metadata_text(&group).as_bytes());
        assert_eq!(again.ok(), Some(group));
    }
}
