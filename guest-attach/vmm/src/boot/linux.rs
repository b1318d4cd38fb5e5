//! The zero page (`struct boot_params`) of the Linux boot protocol.

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

use super::map::Range;
use super::{Boot, Span};
use crate::error::Result;
use crate::layout::{COMMAND_LINE, ZERO_PAGE};
use crate::memory::GuestRam;

/// "Undefined" boot loader; the kernel only wants it not to be zero.
const LOADER_UNDEFINED: u8 = 0xff;

/// Writes the zero page for a bzImage with this header.
pub(super) fn write_zero_page(
    ram: &GuestRam,
    mut header: setup_header,
    boot: &Boot<'_>,
    map: &[Range],
    initrd: Option<Span>,
) -> Result<()> {
    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr = COMMAND_LINE as u32;
    // setup_data is a list of guest addresses that the kernel walks: ours is empty whatever the file says.
    header.setup_data = 0;
    header.ramdisk_image = initrd.map_or(0, |span| span.start as u32);
    header.ramdisk_size = initrd.map_or(0, |span| span.bytes as u32);
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: boot.rsdp,
        e820_entries: map.len() as u8,
        ..boot_params::default()
    };
    for (entry, range) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.bytes,
            r#type: range.kind as u32,
        };
    }
    boot.write(ram, params.as_slice(), ZERO_PAGE)
}
