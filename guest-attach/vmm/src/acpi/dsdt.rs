//! The differentiated system description table: the devices that cannot be probed for, in AML.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, ResourceTemplate,
};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::devices::power::SLEEP_TYPE_S5;
use crate::layout::{
    ECAM, ECAM_SIZE, IRQ_COM1, PCI_WINDOW, PCI_WINDOW_SIZE, PORT_COM1, PORT_PCI_ADDRESS,
    PORT_PM1_EVENT,
};

const HEADER_BYTES: u32 = 36;

/// The table for `cpus` CPUs.
pub(super) fn dsdt(cpus: u32) -> Sdt {
    let mut aml = Vec::new();
    processors(&mut aml, cpus);
    pci_bus(&mut aml);
    motherboard(&mut aml);
    serial_port(&mut aml);
    soft_off(&mut aml);
    let mut table = Sdt::new(*b"DSDT", HEADER_BYTES, 6, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&aml);
    table
}

fn processors(aml: &mut Vec<u8>, cpus: u32) {
    for cpu in 0..cpus {
        let path = format!("_SB_.C{cpu:03X}");
        Device::new(
            path.as_str().into(),
            vec![
                &Name::new("_HID".into(), &"ACPI0007"),
                &Name::new("_UID".into(), &cpu),
            ],
        )
        .to_aml_bytes(aml);
    }
}

/// The PCI Express host bridge: bus 0 alone, the configuration ports, the I/O ports that nothing else has, the BAR window.
/// It has no `_PRT`: devices interrupt by MSI-X only.
fn pci_bus(aml: &mut Vec<u8>) {
    Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &0_u8),
            &Name::new("_SEG".into(), &0_u8),
            &Name::new("_BBN".into(), &0_u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0_u16, 0_u16),
                    &IO::new(PORT_PCI_ADDRESS, PORT_PCI_ADDRESS, 1, 8),
                    &AddressSpace::new_io(0x1000_u16, 0xffff_u16, None),
                    &AddressSpace::new_memory(
                        AddressSpaceCacheable::NotCacheable,
                        true,
                        PCI_WINDOW as u32,
                        (PCI_WINDOW + PCI_WINDOW_SIZE - 1) as u32,
                        None,
                    ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// What belongs to the board itself: ECAM (Linux uses it only where ACPI reserves it) and the PM1 registers.
fn motherboard(aml: &mut Vec<u8>) {
    Device::new(
        "_SB_.MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &0_u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, ECAM as u32, ECAM_SIZE as u32),
                    &IO::new(PORT_PM1_EVENT, PORT_PM1_EVENT, 1, 8),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn serial_port(aml: &mut Vec<u8>) {
    Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0_u8),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Interrupt::new(true, true, false, false, IRQ_COM1),
                    &IO::new(PORT_COM1, PORT_COM1, 1, 8),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// `_S5`: what is written into PM1 control to switch the machine off.
fn soft_off(aml: &mut Vec<u8>) {
    Name::new(
        "_S5_".into(),
        &Package::new(vec![&SLEEP_TYPE_S5, &SLEEP_TYPE_S5, &0_u8, &0_u8]),
    )
    .to_aml_bytes(aml);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let table = dsdt(2);
        let bytes = table.as_slice();
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        for name in [
            &b"C000"[..],
            b"C001",
            b"PCI0",
            b"MBRD",
            b"COM1",
            b"_S5_",
            b"ACPI0007",
        ] {
            assert!(has(name), "{}", String::from_utf8_lossy(name));
        }
        assert!(!has(b"C002"));
        assert!(has(&(ECAM as u32).to_le_bytes()));
        // _S5: a package of 4 elements that begins with the byte 5 twice.
        assert!(has(&[
            b'_', b'S', b'5', b'_', 0x12, 0x08, 0x04, 0x0a, 5, 0x0a, 5
        ]));
    }
}
