use std::io::Write;

use linux_loader::bootparam::boot_params;
use vm_memory::ByteValued;

use super::*;
use crate::layout::{PVH_MEMORY_MAP, PVH_MODULES, PVH_START_INFO, ZERO_PAGE};
use crate::memory;

const MEMORY: u64 = 64 << 20;
const RSDP: u64 = 0xe_0000;

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A bzImage as small as one can be: setup header, one setup sector, a page of "kernel".
fn bzimage() -> Vec<u8> {
    let mut bytes = vec![0; 1024 + 4096];
    bytes[0x1f1] = 1;
    bytes[0x1fe..0x200].copy_from_slice(&0xaa55_u16.to_le_bytes());
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    bytes[0x211] = 1;
    bytes[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    bytes[0x236..0x238].copy_from_slice(&1_u16.to_le_bytes());
    bytes[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    bytes[0x260..0x264].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    bytes[0x250..0x258].copy_from_slice(&0xdead_u64.to_le_bytes());
    bytes[1024..].fill(0x90);
    bytes
}

/// An ELF file with a load segment of `payload` at 16 MiB and a note segment with a PVH entry there.
fn vmlinux(payload: &[u8]) -> Vec<u8> {
    let note: Vec<u8> = [4_u32, 4, 18]
        .map(u32::to_le_bytes)
        .concat()
        .into_iter()
        .chain(*b"Xen\0")
        .chain(0x100_0000_u32.to_le_bytes())
        .collect();
    let note_at = 64 + 2 * 56;
    let payload_at = note_at + note.len();
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    bytes.resize(16, 0);
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(62_u16.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0x100_0000_u64.to_le_bytes());
    bytes.extend(64_u64.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for (kind, at, address, size) in [
        (1_u32, payload_at, 0x100_0000_u64, payload.len()),
        (4, note_at, 0, note.len()),
    ] {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(5_u32.to_le_bytes());
        for value in [at as u64, address, address, size as u64, size as u64, 4] {
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes.extend(note);
    bytes.extend(payload);
    bytes
}

fn load(kernel: &[u8], initrd: Option<&[u8]>) -> (std::sync::Arc<GuestRam>, Result<Entry>) {
    let ram = memory::allocate(MEMORY).unwrap();
    let kernel = file(kernel);
    let initrd = initrd.map(file);
    let entry = Boot {
        kernel: kernel.path(),
        initrd: initrd.as_ref().map(|file| file.path()),
        cmdline: "console=ttyS0",
        memory_bytes: MEMORY,
        rsdp: RSDP,
    }
    .load(&ram);
    (ram, entry)
}

#[test]
fn bzimage_gets_a_zero_page() {
    let (ram, entry) = load(&bzimage(), Some(&[7; 5000]));
    assert_eq!(entry.unwrap(), Entry::Linux64 { address: 0x10_0200 });
    let mut params = boot_params::default();
    ram.read_slice(params.as_mut_slice(), GuestAddress(ZERO_PAGE))
        .unwrap();
    let header = params.hdr;
    assert_eq!({ header.header }, 0x5372_6448);
    assert_eq!({ header.type_of_loader }, 0xff);
    assert_eq!({ header.setup_data }, 0, "the file's list is not followed");
    assert_eq!({ params.acpi_rsdp_addr }, RSDP);
    assert_eq!({ params.e820_entries }, 6);
    let first = params.e820_table[0];
    assert_eq!(
        ({ first.addr }, { first.size }, { first.r#type }),
        (0, 0x9_fc00, 1)
    );
    let start = u64::from(header.ramdisk_image);
    assert_eq!({ header.ramdisk_size }, 5000);
    assert_eq!(start % 4096, 0);
    assert_eq!(ram.read_obj::<u8>(GuestAddress(start + 4999)).unwrap(), 7);
    let mut cmdline = [0; 14];
    ram.read_slice(&mut cmdline, GuestAddress(u64::from(header.cmd_line_ptr)))
        .unwrap();
    assert_eq!(&cmdline, b"console=ttyS0\0");
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(), 0x90);
}

#[test]
fn vmlinux_gets_a_start_info() {
    let (ram, entry) = load(&vmlinux(&[0x90; 4096]), Some(&[7; 5000]));
    assert_eq!(
        entry.unwrap(),
        Entry::Pvh {
            address: 0x100_0000
        }
    );
    let word = |at| {
        ram.read_obj::<u32>(GuestAddress(PVH_START_INFO + at))
            .unwrap()
    };
    let long = |at| {
        ram.read_obj::<u64>(GuestAddress(PVH_START_INFO + at))
            .unwrap()
    };
    assert_eq!((word(0), word(4), word(12)), (0x336e_c578, 1, 1));
    assert_eq!(long(16), PVH_MODULES);
    assert_eq!((long(32), long(40), word(48)), (RSDP, PVH_MEMORY_MAP, 6));
    assert_eq!(
        ram.read_obj::<u64>(GuestAddress(PVH_MODULES + 8)).unwrap(),
        5000
    );
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x100_0fff)).unwrap(), 0x90);
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    let mut old = bzimage();
    old[0x236] = 0;
    let mut arm = vmlinux(&[0; 16]);
    arm[18] = 183;
    let mut many = vmlinux(&[0; 16]);
    many[56..58].copy_from_slice(&60000_u16.to_le_bytes());
    let mut no_note = vmlinux(&[0; 16]);
    no_note[64 + 56] = 0;
    let mut large = bzimage();
    large[0x260..0x264].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: [(&[u8], &str); 8] = [
        (b"", "neither a Linux bzImage nor an ELF vmlinux"),
        (&[0; 8192], "neither a Linux bzImage nor an ELF vmlinux"),
        (b"#!/bin/sh\n", "neither a Linux bzImage nor an ELF vmlinux"),
        (&old, "without the 64-bit entry"),
        (&arm, "not for x86-64"),
        (&many, "60000 program headers"),
        (&no_note, "without a PVH entry"),
        (&large, "needs 4294967295 bytes"),
    ];
    for (bytes, text) in cases {
        let (_ram, entry) = load(bytes, None);
        let error = entry.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Kernel);
        assert!(error.sentence().contains(text), "{}", error.sentence());
        assert!(error.sentence().starts_with('/'), "{}", error.sentence());
    }
}

#[test]
fn hostile_kernels_never_panic() {
    // Every byte of the headers set to three hostile values, one at a time.
    for good in [bzimage(), vmlinux(&[0x90; 64])] {
        for at in 0..good.len().min(0x270) {
            for value in [0, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = load(&bytes, None).1;
            }
        }
        for cut in [1, 63, 64, 100, 0x1f1, 0x200, 0x250, 1023] {
            let _ = load(&good[..cut.min(good.len())], None).1;
        }
    }
}

#[test]
fn an_initrd_that_does_not_fit_is_refused() {
    let large = vec![1; MEMORY as usize];
    let error = load(&bzimage(), Some(&large)).1.unwrap_err();
    assert!(error.to_string().contains("does not fit"), "{error}");
    let error = load(&bzimage(), Some(&[])).1.unwrap_err();
    assert!(error.to_string().contains("is empty"), "{error}");
}
