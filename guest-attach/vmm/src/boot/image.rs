//! Telling what a kernel file is, and loading it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use linux_loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader, PvhBootCapability};
use vm_memory::{ByteValued, GuestAddress};

use super::{Entry, refuse};
use crate::error::{Context, ErrorKind, Result};
use crate::layout::HIGH_RAM_START;
use crate::memory::GuestRam;

/// The setup header's place in a bzImage.
const SETUP_HEADER: u64 = 0x1f1;
const HEADER_MAGIC: u32 = 0x5372_6448;
const BOOT_FLAG: u16 = 0xaa55;
/// Protocol 2.12 is the first with `xloadflags`.
const PROTOCOL_2_12: u16 = 0x020c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry lies this far behind the protected-mode kernel's start.
const ENTRY_64: u64 = 0x200;

const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const ELF_CLASS_64: u8 = 2;
const ELF_LITTLE_ENDIAN: u8 = 1;
const ELF_X86_64: u16 = 62;
/// A vmlinux has 4 or 5 program headers; more than this is no kernel.
const MAX_PROGRAM_HEADERS: u16 = 64;

/// A kernel in guest memory.
pub(super) struct Image {
    pub(super) entry: Entry,
    /// The first byte behind all memory that the kernel uses before it knows the memory map.
    pub(super) end: u64,
    /// The initrd must end at or before this address.
    pub(super) initrd_max: u64,
    /// The header of a bzImage, which goes back into the zero page.
    pub(super) header: Option<setup_header>,
}

/// What a kernel file is.
pub(super) enum Identity {
    BzImage(setup_header),
    Elf,
}

/// Tells what the kernel `file` (named `path`) is, by its headers alone.
pub(super) fn identify(path: &Path, file: &mut File) -> Result<Identity> {
    let mut head = [0; 64];
    let unreadable = || format!("cannot read the kernel {}", path.display());
    let metadata = file.metadata().context(ErrorKind::Kernel, unreadable())?;
    if !metadata.is_file() {
        return Err(refuse(path, "is no kernel: it is not a regular file"));
    }
    let length = read_up_to(file, &mut head).context(ErrorKind::Kernel, unreadable())?;
    if length == head.len() && head.starts_with(&ELF_MAGIC) {
        check_elf(path, &head)?;
        return Ok(Identity::Elf);
    }
    let header = read_setup_header(file).context(ErrorKind::Kernel, unreadable())?;
    let Some(header) = header.filter(|h| h.header == HEADER_MAGIC && h.boot_flag == BOOT_FLAG)
    else {
        return Err(refuse(
            path,
            "is no kernel: it is neither a Linux bzImage nor an ELF vmlinux",
        ));
    };
    if header.version < PROTOCOL_2_12
        || header.loadflags & LOADED_HIGH == 0
        || header.xloadflags & XLF_KERNEL_64 == 0
    {
        return Err(refuse(
            path,
            "is a Linux kernel without the 64-bit entry (boot protocol 2.12 or newer, x86-64) that weft starts",
        ));
    }
    Ok(Identity::BzImage(header))
}

/// Loads the kernel `file` (named `path`) into low memory, which ends at `low_end`.
pub(super) fn load(ram: &GuestRam, path: &Path, file: &mut File, low_end: u64) -> Result<Image> {
    match identify(path, file)? {
        Identity::BzImage(header) => load_bzimage(ram, path, file, header, low_end),
        Identity::Elf => load_elf(ram, path, file, low_end),
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read(&mut buffer[done..])? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

fn read_setup_header(file: &mut File) -> std::io::Result<Option<setup_header>> {
    let mut header = setup_header::default();
    file.seek(SeekFrom::Start(SETUP_HEADER))?;
    let length = read_up_to(file, header.as_mut_slice())?;
    Ok((length == size_of::<setup_header>()).then_some(header))
}

fn load_bzimage(
    ram: &GuestRam,
    path: &Path,
    file: &mut File,
    header: setup_header,
    low_end: u64,
) -> Result<Image> {
    let start = GuestAddress(HIGH_RAM_START);
    // The kernel unpacks itself at its preferred address or where it lies, whichever is higher, and then needs `init_size`.
    let pref_address = header.pref_address;
    let end = pref_address
        .max(HIGH_RAM_START)
        .checked_add(u64::from(header.init_size));
    let Some(end) = end.filter(|&end| end <= low_end) else {
        let init_size = header.init_size;
        return Err(refuse(
            path,
            format!(
                "needs {init_size} bytes of memory from {pref_address:#x} on to start, and the VM's memory ends at {low_end:#x}"
            ),
        ));
    };
    let loaded = BzImage::load(ram, Some(start), file, None).context(
        ErrorKind::Kernel,
        format!("cannot load the kernel {}", path.display()),
    )?;
    let header = loaded.setup_header.unwrap_or(header);
    Ok(Image {
        entry: Entry::Linux64 {
            address: HIGH_RAM_START + ENTRY_64,
        },
        end: end.max(loaded.kernel_end),
        initrd_max: u64::from(header.initrd_addr_max).saturating_add(1),
        header: Some(header),
    })
}

fn check_elf(path: &Path, head: &[u8; 64]) -> Result<()> {
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    if head[4] != ELF_CLASS_64 || head[5] != ELF_LITTLE_ENDIAN || half(18) != ELF_X86_64 {
        return Err(refuse(path, "is an ELF file, but not for x86-64"));
    }
    if half(56) == 0 || half(56) > MAX_PROGRAM_HEADERS {
        return Err(refuse(
            path,
            format!(
                "is an ELF file with {} program headers, which no kernel has",
                half(56)
            ),
        ));
    }
    Ok(())
}

fn load_elf(ram: &GuestRam, path: &Path, file: &mut File, low_end: u64) -> Result<Image> {
    let loaded = Elf::load(ram, None, file, None).context(
        ErrorKind::Kernel,
        format!("cannot load the kernel {}", path.display()),
    )?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(refuse(
            path,
            "is an ELF file without a PVH entry: no Linux kernel, or one built without CONFIG_PVH",
        ));
    };
    if entry.0 >= low_end || loaded.kernel_end > low_end {
        return Err(refuse(
            path,
            format!(
                "needs memory up to {:#x} to start, and the VM's memory ends at {low_end:#x}",
                loaded.kernel_end
            ),
        ));
    }
    Ok(Image {
        entry: Entry::Pvh { address: entry.0 },
        end: loaded.kernel_end,
        initrd_max: low_end,
        header: None,
    })
}
