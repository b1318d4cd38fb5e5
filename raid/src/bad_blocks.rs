//! The bad-block log: what a member is known not to hold.
//!
//! Source: Linux `drivers/md/md.c`. 64-bit little-endian entries, 54 bits of sector on the device and 10 bits of
//! length, in units of `1 << shift` sectors; all ones ends the list. A block is bad until it is written: reads of it
//! are answered from redundancy or not at all.

use std::ops::Range;

use weft_block::SECTOR;

use crate::fields::le64;

/// Sectors in one entry at most, as md counts them.
const ENTRY_SECTORS: u64 = 512;

/// The entries of a log as sectors of the device, up to the first that is all ones.
pub fn parse_bad_blocks(log: &[u8], shift: u8) -> Vec<Range<u64>> {
    let entries = log.chunks_exact(8).map(|entry| le64(entry, 0));
    entries
        .take_while(|&entry| entry != u64::MAX)
        .filter_map(|entry| {
            let start = (entry >> 10).checked_shl(u32::from(shift))?;
            let len = (entry & 0x3ff).checked_shl(u32::from(shift))?;
            Some(start..start.checked_add(len)?)
        })
        .collect()
}

/// The log of `bytes` bytes, in units of one sector, that names `bad` bytes of member space behind `data_offset`
/// sectors. None if they are too many.
pub(crate) fn bad_block_log(bad: &[Range<u64>], data_offset: u64, bytes: usize) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    for range in bad {
        let (mut at, end) = (range.start / SECTOR, range.end.div_ceil(SECTOR));
        while at < end {
            let len = ENTRY_SECTORS.min(end - at);
            entries.push(((at + data_offset) << 10) | len);
            at += len;
        }
    }
    let mut log: Vec<u8> = entries
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    if log.len() > bytes {
        return None;
    }
    log.resize(bytes, 0xff);
    Some(log)
}

/// `bad` with `range`, sorted and joined.
pub(crate) fn with(bad: &[Range<u64>], range: &Range<u64>) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = bad.to_vec();
    all.push(range.clone());
    all.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in all {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// `bad` without `range`.
pub(crate) fn without(bad: &[Range<u64>], range: &Range<u64>) -> Vec<Range<u64>> {
    let parts = bad.iter().flat_map(|bad| {
        let before = bad.start..bad.end.min(range.start);
        let after = bad.start.max(range.end)..bad.end;
        [before, after]
    });
    parts.filter(|part| part.start < part.end).collect()
}

/// Whether some of `range` is bad.
pub(crate) fn overlaps(bad: &[Range<u64>], range: &Range<u64>) -> bool {
    bad.iter()
        .any(|bad| bad.start < range.end && range.start < bad.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_up_to_the_end_mark() {
        let mut log = vec![0xff; 64];
        log[..8].copy_from_slice(&((1000_u64 << 10) | 8).to_le_bytes());
        assert_eq!(parse_bad_blocks(&log, 0), vec![1000..1008; 1]);
        assert_eq!(parse_bad_blocks(&log, 3), vec![8000..8064; 1]);
        assert_eq!(parse_bad_blocks(&[0xff; 7], 3), vec![]);
    }

    #[test]
    fn what_is_logged_is_read() {
        let bad = [4096..8192, 1 << 20..2 << 20];
        let log = bad_block_log(&bad, 2048, 4096).expect("it fits");
        let read = parse_bad_blocks(&log, 0);
        assert_eq!(read.len(), 1 + 4, "an entry holds 512 sectors");
        assert_eq!((read[0].clone(), read[1].start), (2056..2064, 4096));
        assert_eq!(read[4].end, 4096 + 2048);
        assert_eq!(bad_block_log(&bad, 0, 32), None);
    }

    #[test]
    fn ranges_join_and_part() {
        let bad = with(&[0..10, 20..30], &(10..21));
        assert_eq!(bad, vec![0..30; 1]);
        assert_eq!(without(&bad, &(5..6)), [0..5, 6..30]);
        assert!(without(&bad, &(0..40)).is_empty());
        assert!(overlaps(&bad, &(29..40)) && !overlaps(&bad, &(30..40)));
    }
}
