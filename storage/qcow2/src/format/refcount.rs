//! Refcounts inside a block, in any of their seven widths.

use super::Geometry;

/// The refcount with `index` in a refcount block.
///
/// # Panics
/// If the block has fewer.
pub fn refcount(geometry: Geometry, block: &[u8], index: usize) -> u64 {
    let order = geometry.refcount_order();
    if order < 3 {
        // Several in a byte, the first in the lowest bits.
        let (byte, shift) = place(order, index);
        return u64::from(block[byte] >> shift) & geometry.max_refcount();
    }
    let len = 1usize << (order - 3);
    let bytes = &block[index * len..][..len];
    bytes
        .iter()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Sets the refcount with `index` in a refcount block.
///
/// # Panics
/// If the block has fewer, or `value` is larger than the width allows.
pub fn set_refcount(geometry: Geometry, block: &mut [u8], index: usize, value: u64) {
    assert!(
        value <= geometry.max_refcount(),
        "{value} does not fit a refcount"
    );
    let order = geometry.refcount_order();
    if order < 3 {
        let (byte, shift) = place(order, index);
        let mask = (geometry.max_refcount() as u8) << shift;
        block[byte] = block[byte] & !mask | (value as u8) << shift;
        return;
    }
    let len = 1usize << (order - 3);
    block[index * len..][..len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
}

/// The byte that holds a refcount of fewer than eight bits, and how far up it starts.
fn place(order: u32, index: usize) -> (usize, usize) {
    let per_byte = 8 >> order;
    (index / per_byte, (index % per_byte) << order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_holds_its_values_and_leaves_the_neighbours() {
        for order in 0..=6 {
            let geometry = Geometry::new(9, order, false).unwrap();
            let max = geometry.max_refcount();
            let count = geometry.refcounts_per_block() as usize;
            for background in [0, max] {
                let mut block = vec![if background == 0 { 0 } else { 0xff }; 512];
                for value in [1, max / 2, max, 0] {
                    for index in [0, 1, 7, count - 1] {
                        set_refcount(geometry, &mut block, index, value);
                        assert_eq!(refcount(geometry, &block, index), value);
                        assert_eq!(refcount(geometry, &block, 3), background);
                        set_refcount(geometry, &mut block, index, background);
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_are_as_qemu_writes_them() {
        let bytes = |order, index, value| {
            let mut block = vec![0; 512];
            let geometry = Geometry::new(9, order, false).unwrap();
            set_refcount(geometry, &mut block, index, value);
            block[..8].to_vec()
        };
        assert_eq!(bytes(0, 3, 1), [8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(1, 2, 2), [0x20, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(4, 1, 0x102), [0, 0, 1, 2, 0, 0, 0, 0]);
        assert_eq!(bytes(6, 0, 0x102), [0, 0, 0, 0, 0, 0, 1, 2]);
    }
}
