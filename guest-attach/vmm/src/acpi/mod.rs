//! The ACPI tables: how the guest finds its CPUs, the PCI bus, the console, and the way to switch itself off.
//!
//! ACPI specification 6.5. Stock distribution kernels read neither MP tables nor virtio devices from the command line, so
//! without these tables they see one CPU and no device. The machine has the fixed hardware of ACPI (PM1 event and control
//! registers, a power button) and no firmware behind it: no SMI command port, no FACS, no PM timer.

mod dsdt;
mod fadt;
mod madt;

use acpi_tables::Aml;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress};

use crate::error::{Context, ErrorKind, Result};
use crate::layout::{ACPI_END, ACPI_START, ECAM};
use crate::memory::GuestRam;

const OEM: [u8; 6] = *b"WEFT  ";
const OEM_TABLE: [u8; 8] = *b"WEFTVMM ";
const OEM_REVISION: u32 = 1;

/// Tables begin at multiples of this.
const ALIGN: usize = 16;

/// Writes the tables for a machine with `cpus` CPUs; the address of the root pointer comes back.
pub(crate) fn write(ram: &GuestRam, cpus: u32) -> Result<u64> {
    ram.write_slice(&tables(cpus), GuestAddress(ACPI_START))
        .context(ErrorKind::Memory, "cannot write the ACPI tables")?;
    Ok(ACPI_START)
}

/// All tables as they lie from [`ACPI_START`] on, the root pointer first.
fn tables(cpus: u32) -> Vec<u8> {
    let mut bytes = vec![0; Rsdp::len().next_multiple_of(ALIGN)];
    let mut place = |table: &dyn Aml| {
        let address = ACPI_START + bytes.len() as u64;
        table.to_aml_bytes(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        address
    };
    let dsdt = place(&dsdt::dsdt(cpus));
    let fadt = place(&fadt::fadt(dsdt));
    let madt = place(&madt::madt(cpus));
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(ECAM, 0, 0, 0);
    let mcfg = place(&mcfg);
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = place(&xsdt);
    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    bytes[..root.len()].copy_from_slice(&root);
    assert!(bytes.len() as u64 <= ACPI_END - ACPI_START, "{MAX_TABLES}");
    bytes
}

const MAX_TABLES: &str = "the tables of the most CPUs fit into their place";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_CPUS;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn table(bytes: &[u8], address: u64) -> &[u8] {
        let start = (address - ACPI_START) as usize;
        let length = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap());
        &bytes[start..start + length as usize]
    }

    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        for cpus in [1, 2, MAX_CPUS] {
            let bytes = tables(cpus);
            assert_eq!(&bytes[..8], b"RSD PTR ");
            assert_eq!(sum(&bytes[..20]), 0);
            assert_eq!(sum(&bytes[..36]), 0);
            let xsdt = table(&bytes, long(&bytes, 24));
            assert_eq!(&xsdt[..4], b"XSDT");
            assert_eq!(sum(xsdt), 0);
            let mut seen = Vec::new();
            for entry in xsdt[36..].chunks_exact(8) {
                let table = table(&bytes, long(entry, 0));
                assert_eq!(sum(table), 0, "{:?}", &table[..4]);
                seen.push(table[..4].to_vec());
            }
            assert_eq!(seen, [b"FACP".to_vec(), b"APIC".to_vec(), b"MCFG".to_vec()]);
        }
    }

    #[test]
    fn fadt_names_the_dsdt_and_the_fixed_registers() {
        let bytes = tables(2);
        let xsdt = table(&bytes, long(&bytes, 24));
        let fadt = table(&bytes, long(xsdt, 36));
        let word = |at: usize| u32::from_le_bytes(fadt[at..at + 4].try_into().unwrap());
        let dsdt = table(&bytes, long(fadt, 140));
        assert_eq!(&dsdt[..4], b"DSDT");
        assert_eq!(sum(dsdt), 0);
        assert_eq!(
            u64::from(word(40)),
            long(fadt, 140),
            "32-bit and 64-bit address agree"
        );
        assert_eq!((word(56), fadt[88]), (0x600, 4), "PM1a event block");
        assert_eq!((word(64), fadt[89]), (0x604, 2), "PM1a control block");
        assert_eq!(word(76), 0, "no PM timer");
        let reset = &fadt[116..128];
        assert_eq!((reset[0], long(reset, 4)), (1, 0xcf9), "reset register");
        assert_eq!(fadt[128], 6, "reset value");
    }

    #[test]
    fn madt_lists_the_cpus() {
        let bytes = tables(3);
        let xsdt = table(&bytes, long(&bytes, 24));
        let madt = table(&bytes, long(xsdt, 44));
        let mut at = 44;
        let mut apics = Vec::new();
        let mut kinds = Vec::new();
        while at < madt.len() {
            kinds.push(madt[at]);
            if madt[at] == 0 {
                apics.push((madt[at + 2], madt[at + 3], madt[at + 4]));
            }
            at += usize::from(madt[at + 1]);
        }
        assert_eq!(at, madt.len());
        assert_eq!(kinds, [0, 0, 0, 1, 2, 4]);
        assert_eq!(apics, [(0, 0, 1), (1, 1, 1), (2, 2, 1)]);
    }
}
