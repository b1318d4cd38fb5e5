//! Segments, page tables and registers at the kernel's entry.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use crate::boot::Entry;
use crate::error::{Context, ErrorKind, Result};
use crate::layout::{BOOT_STACK, GDT, IDT, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE};
use crate::memory::GuestRam;

const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS: u64 = 2;

const PAGE: u64 = 4096;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
/// Gigabytes that the boot page tables map, each to itself: all that the kernel touches before it makes its own.
const MAPPED_GIB: u64 = 4;

/// The boot protocol's selectors: code 0x10, data 0x18; then a task segment.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;
const GDT_ENTRIES: usize = 5;

/// A flat segment's descriptor, from its type and flags.
fn segment(selector: u16, kind: u8, long: bool, flat: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: if flat { 0xffff_ffff } else { 0x67 },
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(flat && !long),
        s: u8::from(flat),
        l: u8::from(long),
        g: u8::from(flat),
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

const EXECUTE_READ_ACCESSED: u8 = 0xb;
const READ_WRITE_ACCESSED: u8 = 0x3;
const BUSY_TASK: u8 = 0xb;

struct Segments {
    code: kvm_segment,
    data: kvm_segment,
    task: kvm_segment,
}

fn segments(long: bool) -> Segments {
    Segments {
        code: segment(CODE, EXECUTE_READ_ACCESSED, long, true),
        data: segment(DATA, READ_WRITE_ACCESSED, false, true),
        task: segment(TASK, BUSY_TASK, false, false),
    }
}

/// The eight bytes of a segment in the GDT.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    let base = segment.base;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

/// Writes the GDT, an empty IDT, and for the 64-bit entry the page tables.
pub(crate) fn write_tables(ram: &GuestRam, entry: Entry) -> Result<()> {
    let segments = segments(matches!(entry, Entry::Linux64 { .. }));
    let gdt: [u64; GDT_ENTRIES] = [
        0,
        0,
        descriptor(&segments.code),
        descriptor(&segments.data),
        descriptor(&segments.task),
    ];
    let mut writes: Vec<(u64, u64)> = (GDT..).step_by(8).zip(gdt).collect();
    writes.push((IDT, 0));
    if matches!(entry, Entry::Linux64 { .. }) {
        writes.extend(page_tables());
    }
    for (address, value) in writes {
        ram.write_obj(value, GuestAddress(address))
            .context(ErrorKind::Memory, "cannot write the boot page tables")?;
    }
    Ok(())
}

/// Identity page tables of 2 MiB pages: one PML4, one PDPT, a directory for each gigabyte.
fn page_tables() -> impl Iterator<Item = (u64, u64)> {
    let pdpt = PAGE_TABLES + PAGE;
    let directory = |gib: u64| PAGE_TABLES + (2 + gib) * PAGE;
    let roots = [(PAGE_TABLES, pdpt | PRESENT_WRITABLE)];
    let pdpt_entries =
        (0..MAPPED_GIB).map(move |gib| (pdpt + gib * 8, directory(gib) | PRESENT_WRITABLE));
    let pages = (0..MAPPED_GIB * 512).map(move |page| {
        let at = directory(page / 512) + page % 512 * 8;
        (at, page << 21 | LARGE | PRESENT_WRITABLE)
    });
    roots.into_iter().chain(pdpt_entries).chain(pages)
}

/// Sets the first CPU's registers for `entry`.
pub(super) fn set_registers(
    vcpu: &VcpuFd,
    entry: Entry,
) -> std::result::Result<(), kvm_ioctls::Error> {
    let mut special = vcpu.get_sregs()?;
    apply_special(&mut special, entry);
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&general(entry))
}

fn apply_special(special: &mut kvm_sregs, entry: Entry) {
    let long = matches!(entry, Entry::Linux64 { .. });
    let Segments { code, data, task } = segments(long);
    special.cs = code;
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.tr = task;
    special.gdt.base = GDT;
    special.gdt.limit = (GDT_ENTRIES * 8 - 1) as u16;
    special.idt.base = IDT;
    special.idt.limit = 7;
    special.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    special.cr4 = 0;
    if long {
        special.cr0 |= CR0_PAGING;
        special.cr3 = PAGE_TABLES;
        special.cr4 = CR4_PAE;
        special.efer |= EFER_LONG_MODE;
    }
}

fn general(entry: Entry) -> kvm_regs {
    match entry {
        Entry::Linux64 { address } => kvm_regs {
            rip: address,
            rsp: BOOT_STACK,
            rbp: BOOT_STACK,
            rsi: ZERO_PAGE,
            rflags: RFLAGS,
            ..Default::default()
        },
        Entry::Pvh { address } => kvm_regs {
            rip: address,
            rbx: PVH_START_INFO,
            rflags: RFLAGS,
            ..Default::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::COMMAND_LINE;
    use crate::memory;

    #[test]
    fn descriptors_are_the_boot_protocols() {
        let long = segments(true);
        assert_eq!(descriptor(&long.code), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&long.data), 0x00cf_9300_0000_ffff);
        let flat = segments(false);
        assert_eq!(descriptor(&flat.code), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&flat.task), 0x0000_8b00_0000_0067);
    }

    #[test]
    fn page_tables_map_each_address_to_itself() {
        let ram = memory::allocate(64 << 20).unwrap();
        write_tables(&ram, Entry::Linux64 { address: 0x10_0200 }).unwrap();
        let read = |at: u64| ram.read_obj::<u64>(GuestAddress(at)).unwrap();
        for address in [0_u64, 0x20_0000, 0x1234_5678, 0xffff_ffff] {
            let pdpt = read(PAGE_TABLES) & !0xfff;
            let directory = read(pdpt + (address >> 30) * 8) & !0xfff;
            let page = read(directory + (address >> 21 & 511) * 8);
            assert_eq!(page & !0x1f_ffff, address & !0x1f_ffff);
            assert_eq!(page & (LARGE | PRESENT_WRITABLE), LARGE | PRESENT_WRITABLE);
        }
        let end = page_tables().map(|(at, _)| at + 8).max().unwrap();
        assert!(end <= COMMAND_LINE, "{end:#x}");
    }

    #[test]
    fn pvh_enters_without_paging() {
        let mut special = kvm_sregs::default();
        apply_special(
            &mut special,
            Entry::Pvh {
                address: 0x100_0000,
            },
        );
        assert_eq!(special.cr0 & (CR0_PAGING | CR0_PROTECTED), CR0_PROTECTED);
        assert_eq!((special.cr4, special.efer, special.cs.db), (0, 0, 1));
        let regs = general(Entry::Pvh {
            address: 0x100_0000,
        });
        assert_eq!((regs.rip, regs.rbx), (0x100_0000, PVH_START_INFO));
    }
}
