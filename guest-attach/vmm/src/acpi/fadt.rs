//! The fixed ACPI description table: where the PM1 registers, the reset register and the DSDT are.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::devices::power::RESET_VALUE;
use crate::layout::{IRQ_SCI, PORT_PM1_CONTROL, PORT_PM1_EVENT, PORT_RESET};

/// IAPC_BOOT_ARCH: there are devices on the ISA bus (the serial port), but no VGA and no CMOS clock.
const LEGACY_DEVICES: u16 = 1;
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_RTC: u16 = 1 << 5;

const EVENT_BYTES: u8 = 4;
const CONTROL_BYTES: u8 = 2;

fn port(bytes: u8, access: AccessSize, port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        bytes * 8,
        0,
        access,
        u64::from(port),
    )
}

/// The table for a DSDT at this address, which lies below 4 GiB.
pub(super) fn fadt(dsdt: u64) -> FADT {
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    // The power button is a fixed one: its flag (PwrButton, "control method button") stays clear.
    table.dsdt = (dsdt as u32).into();
    table.sci_int = (IRQ_SCI as u16).into();
    table.pm1a_evt_blk = u32::from(PORT_PM1_EVENT).into();
    table.pm1_evt_len = EVENT_BYTES;
    table.pm1a_cnt_blk = u32::from(PORT_PM1_CONTROL).into();
    table.pm1_cnt_len = CONTROL_BYTES;
    table.x_pm1a_evt_blk = port(EVENT_BYTES, AccessSize::WordAccess, PORT_PM1_EVENT);
    table.x_pm1a_cnt_blk = port(CONTROL_BYTES, AccessSize::WordAccess, PORT_PM1_CONTROL);
    table.reset_reg = port(1, AccessSize::ByteAccess, PORT_RESET);
    table.reset_value = RESET_VALUE;
    table.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA | NO_CMOS_RTC).into();
    // No C2 and C3 states: latencies above these bounds say so.
    table.p_lvl2_lat = 101.into();
    table.p_lvl3_lat = 1001.into();
    table.finalize()
}
