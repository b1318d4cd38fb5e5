//! Bringing a Linux kernel into guest memory, and what it finds there.
//!
//! Two protocols: the 64-bit entry of a bzImage (Documentation/arch/x86/boot.rst) and the PVH entry of an ELF vmlinux
//! (Xen's "x86/HVM direct boot ABI"). Kernel files are hostile bytes: they are looked at within bounds before they are
//! loaded, and one that is none is refused with a sentence that names it.

mod image;
mod initrd;
mod linux;
mod map;
mod pvh;

use std::fs::File;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::layout::{COMMAND_LINE, HIGH_RAM_START, RAM_GAP_START};
use crate::memory::GuestRam;

/// How the first CPU enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In 64-bit mode at `address`, the zero page in RSI.
    Linux64 { address: u64 },
    /// In 32-bit mode without paging at `address`, the start info in EBX.
    Pvh { address: u64 },
}

/// What is to be booted.
pub(crate) struct Boot<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: Option<&'a Path>,
    pub(crate) cmdline: &'a str,
    pub(crate) memory_bytes: u64,
    /// Where the ACPI root pointer lies.
    pub(crate) rsdp: u64,
}

impl Boot<'_> {
    /// Loads kernel, initrd and command line, and writes what the kernel's entry expects.
    pub(crate) fn load(&self, ram: &GuestRam) -> Result<Entry> {
        let low_end = self.memory_bytes.min(RAM_GAP_START);
        let mut file = open(self.kernel, "kernel")?;
        let image = image::load(ram, self.kernel, &mut file, low_end)?;
        let initrd = match self.initrd {
            Some(path) => Some(initrd::load(
                ram,
                path,
                image.end,
                image.initrd_max.min(low_end),
            )?),
            None => None,
        };
        let cmdline = std::ffi::CString::new(self.cmdline).context(
            ErrorKind::Config,
            "the kernel command line has a NUL byte in it",
        )?;
        self.write(ram, cmdline.as_bytes_with_nul(), COMMAND_LINE)?;
        let map = map::memory_map(self.memory_bytes);
        match image.header {
            Some(header) => linux::write_zero_page(ram, header, self, &map, initrd)?,
            None => pvh::write_start_info(ram, self, &map, initrd)?,
        }
        Ok(image.entry)
    }

    fn write(&self, ram: &GuestRam, bytes: &[u8], address: u64) -> Result<()> {
        ram.write_slice(bytes, GuestAddress(address)).context(
            ErrorKind::Memory,
            format!("cannot write boot data at {address:#x} of the guest's memory"),
        )
    }
}

/// Says what is wrong with a kernel or initrd file before anything is made: whether they can be opened, and whether the
/// kernel is one.
pub(crate) fn check(kernel: &Path, initrd: Option<&Path>) -> Result<()> {
    image::identify(kernel, &mut open(kernel, "kernel")?)?;
    if let Some(path) = initrd {
        open(path, "initrd")?;
    }
    Ok(())
}

/// Loads the kernel file alone, whose name is `path`.
pub(crate) fn load_image(
    ram: &GuestRam,
    path: &Path,
    file: &mut File,
    low_end: u64,
) -> Result<Entry> {
    image::load(ram, path, file, low_end).map(|image| image.entry)
}

fn open(path: &Path, what: &str) -> Result<File> {
    let context = || format!("cannot open the {what} {}", path.display());
    File::open(path).context(ErrorKind::Kernel, context())
}

/// A range of guest memory with something in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
}

fn refuse(path: &Path, text: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Kernel, format!("{} {text}", path.display()))
}

const _: () = assert!(COMMAND_LINE < HIGH_RAM_START);

#[cfg(test)]
mod tests;
