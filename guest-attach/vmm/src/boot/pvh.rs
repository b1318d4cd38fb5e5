//! The start info of the PVH boot protocol (`struct hvm_start_info` of Xen's public headers).

use super::map::Range;
use super::{Boot, Span};
use crate::error::Result;
use crate::layout::{COMMAND_LINE, PVH_MEMORY_MAP, PVH_MODULES, PVH_START_INFO};
use crate::memory::GuestRam;

const MAGIC: u32 = 0x336e_c578;
/// Version 1 is the first with a memory map.
const VERSION: u32 = 1;

/// Writes start info, memory map and the list of modules, whose only one is the initrd.
pub(super) fn write_start_info(
    ram: &GuestRam,
    boot: &Boot<'_>,
    map: &[Range],
    initrd: Option<Span>,
) -> Result<()> {
    let mut table = Vec::new();
    for range in map {
        table.extend(range.start.to_le_bytes());
        table.extend(range.bytes.to_le_bytes());
        table.extend((range.kind as u32).to_le_bytes());
        table.extend(0_u32.to_le_bytes());
    }
    boot.write(ram, &table, PVH_MEMORY_MAP)?;
    if let Some(span) = initrd {
        let module = [span.start, span.bytes, 0, 0]
            .map(u64::to_le_bytes)
            .concat();
        boot.write(ram, &module, PVH_MODULES)?;
    }
    let modules = u32::from(initrd.is_some());
    let mut info = Vec::new();
    for word in [MAGIC, VERSION, 0, modules] {
        info.extend(word.to_le_bytes());
    }
    let module_list = if modules > 0 { PVH_MODULES } else { 0 };
    for address in [module_list, COMMAND_LINE, boot.rsdp, PVH_MEMORY_MAP] {
        info.extend(address.to_le_bytes());
    }
    info.extend((map.len() as u32).to_le_bytes());
    info.extend(0_u32.to_le_bytes());
    boot.write(ram, &info, PVH_START_INFO)
}
