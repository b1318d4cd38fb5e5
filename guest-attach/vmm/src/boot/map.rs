//! The memory map that the kernel is given (e820).

use crate::layout::{
    ACPI_END, ACPI_START, ECAM, ECAM_SIZE, HIGH_RAM_START, KVM_IDENTITY_MAP, LOW_RAM_END,
};
use crate::memory::ram_ranges;

/// What a range of the map is, with e820's numbers, which PVH's map shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// One entry of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

/// The map of a guest with `bytes` of memory: sorted, without overlap.
pub(super) fn memory_map(bytes: u64) -> Vec<Range> {
    let ram = |start, end| Range {
        start,
        bytes: end - start,
        kind: Kind::Ram,
    };
    let reserved = |start, end| Range {
        start,
        bytes: end - start,
        kind: Kind::Reserved,
    };
    let mut map = vec![
        ram(0, LOW_RAM_END),
        reserved(LOW_RAM_END, 0xa_0000),
        reserved(ACPI_START, ACPI_END),
    ];
    let ranges = ram_ranges(bytes);
    map.push(ram(HIGH_RAM_START, ranges[0].1));
    // Linux takes an ECAM range only where the map or ACPI reserves it.
    map.push(reserved(ECAM, ECAM + ECAM_SIZE));
    map.push(reserved(KVM_IDENTITY_MAP, KVM_IDENTITY_MAP + 0x4000));
    map.extend(
        ranges[1..]
            .iter()
            .map(|&(start, bytes)| ram(start, start + bytes)),
    );
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_without_overlap_and_complete() {
        for bytes in [64_u64 << 20, 3 << 30, 8 << 30] {
            let map = memory_map(bytes);
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].bytes <= pair[1].start, "{pair:?}");
            }
            let ram: u64 = map
                .iter()
                .filter(|range| range.kind == Kind::Ram)
                .map(|range| range.bytes)
                .sum();
            assert_eq!(ram, bytes - (HIGH_RAM_START - LOW_RAM_END));
        }
    }
}
