//! The multiple APIC description table: CPUs, the I/O APIC, and how the SCI is wired.

use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::layout::{IO_APIC, IRQ_SCI, LOCAL_APIC};

/// The header of an ACPI table, then the local APIC's address and the flags.
const HEADER_BYTES: u32 = 44;
/// There are two 8259 interrupt controllers as well.
const PCAT_COMPAT: u32 = 1;
const CPU_ENABLED: u32 = 1;
/// Level-triggered, active high: what an in-kernel I/O APIC is given for the SCI.
const LEVEL_HIGH: u16 = 0xd;
const ALL_CPUS: u8 = 0xff;

/// The table for `cpus` CPUs, whose APIC numbers are 0 and up.
pub(super) fn madt(cpus: u32) -> Sdt {
    let mut table = Sdt::new(*b"APIC", HEADER_BYTES, 3, OEM, OEM_TABLE, OEM_REVISION);
    table.write_u32(36, LOCAL_APIC);
    table.write_u32(40, PCAT_COMPAT);
    for cpu in 0..cpus {
        let mut local_apic = vec![0, 8, cpu as u8, cpu as u8];
        local_apic.extend(CPU_ENABLED.to_le_bytes());
        table.append_slice(&local_apic);
    }
    let mut io_apic = vec![1, 12, cpus as u8, 0];
    io_apic.extend(IO_APIC.to_le_bytes());
    io_apic.extend(0_u32.to_le_bytes());
    table.append_slice(&io_apic);
    let mut sci = vec![2, 10, 0, IRQ_SCI as u8];
    sci.extend(IRQ_SCI.to_le_bytes());
    sci.extend(LEVEL_HIGH.to_le_bytes());
    table.append_slice(&sci);
    // LINT1 of each CPU takes the NMI.
    table.append_slice(&[4, 6, ALL_CPUS, 0, 0, 1]);
    table
}
