//! Where things lie in the guest's physical address space and among its I/O ports.
//!
//! ```text
//!          0 .. 0x9fc00     RAM; boot structures of the first megabyte lie in it
//!    0xe0000 .. 0x100000    ACPI tables, reserved
//!   0x100000 .. 3 GiB       RAM
//!      3 GiB .. 0xe0000000  PCI memory window: the devices' BARs
//! 0xe0000000 .. 0xe0100000  PCI configuration space (ECAM), one bus
//! 0xfec00000                I/O APIC;  0xfee00000 local APICs;  0xfffbc000 KVM's own pages
//!      4 GiB ..             the rest of the RAM
//! ```

/// Boot structures: GDT, IDT, start info or zero page, page tables, command line.
pub(crate) const GDT: u64 = 0x500;
pub(crate) const IDT: u64 = 0x520;
pub(crate) const PVH_START_INFO: u64 = 0x6000;
pub(crate) const PVH_MEMORY_MAP: u64 = 0x6800;
pub(crate) const PVH_MODULES: u64 = 0x6f00;
pub(crate) const ZERO_PAGE: u64 = 0x7000;
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
pub(crate) const PAGE_TABLES: u64 = 0x9000;
pub(crate) const COMMAND_LINE: u64 = 0x20000;
/// The bytes of the command line with its NUL: x86 Linux's own limit (COMMAND_LINE_SIZE).
pub(crate) const COMMAND_LINE_MAX: usize = 2048;

/// The end of conventional memory; the last KiB below 640 KiB is the EBDA by custom.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables lie where the RSDP is searched for by guests that are not told its place.
pub(crate) const ACPI_START: u64 = 0xe_0000;
pub(crate) const ACPI_END: u64 = 0x10_0000;
/// One megabyte: kernels and everything large begin here.
pub(crate) const HIGH_RAM_START: u64 = 0x10_0000;

/// RAM below this address, the rest from [`ABOVE_4G`] on.
pub(crate) const RAM_GAP_START: u64 = 3 << 30;
pub(crate) const ABOVE_4G: u64 = 4 << 30;

/// The window for the BARs of PCI devices.
pub(crate) const PCI_WINDOW: u64 = 0xc000_0000;
pub(crate) const PCI_WINDOW_SIZE: u64 = 0x2000_0000;
/// The configuration space of bus 0: 256 functions of 4 KiB.
pub(crate) const ECAM: u64 = 0xe000_0000;
pub(crate) const ECAM_SIZE: u64 = 0x10_0000;

pub(crate) const IO_APIC: u32 = 0xfec0_0000;
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Pages that KVM needs for real mode on Intel, out of the way at the end of the 32-bit space.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
pub(crate) const KVM_TSS: u64 = 0xfffb_d000;

/// I/O ports.
pub(crate) const PORT_I8042: u16 = 0x60;
pub(crate) const PORT_COM1: u16 = 0x3f8;
pub(crate) const PORT_PM1_EVENT: u16 = 0x600;
pub(crate) const PORT_PM1_CONTROL: u16 = 0x604;
pub(crate) const PORT_PCI_ADDRESS: u16 = 0xcf8;
pub(crate) const PORT_RESET: u16 = 0xcf9;
pub(crate) const PORT_PCI_DATA: u16 = 0xcfc;

/// Interrupt lines (global system interrupts). MSI vectors take the numbers from [`FIRST_MSI`] on.
pub(crate) const IRQ_COM1: u32 = 4;
pub(crate) const IRQ_SCI: u32 = 9;
pub(crate) const IO_APIC_PINS: u32 = 24;
pub(crate) const FIRST_MSI: u32 = IO_APIC_PINS;
