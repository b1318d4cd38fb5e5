//! Bytes on a physical volume: the label and the metadata area's header and ring. Nothing here does I/O.
//!
//! Facts: LVM2's `lib/label/label.h`, `lib/format_text/layout.h`, `lib/misc/crc.h`. All numbers are little endian.

mod crc;
mod id;
mod label;
mod metadata_area;
mod ring;

pub use crc::{checksum, continue_checksum};
pub use id::{ID_LEN, Id};
pub use label::{
    Area, LABEL_SCAN_BYTES, LABEL_SECTOR, LabelError, PV_IN_USE, PvLabel, label_sector, parse_label,
};
pub use metadata_area::{AreaHeader, HEADER_BYTES, HeaderError, IGNORED, Location};
pub use ring::{Ring, RingFull};

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

/// The bytes at a place that the caller has checked.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}
