//! The initial RAM file system: at the end of low memory, away from the kernel.

use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::Span;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::memory::GuestRam;

const PAGE: u64 = 4096;

/// Loads the file at `path` so that it ends at or before `end` and does not begin before `kernel_end`.
pub(super) fn load(ram: &GuestRam, path: &Path, kernel_end: u64, end: u64) -> Result<Span> {
    let unreadable = || format!("cannot read the initrd {}", path.display());
    let mut file = super::open(path, "initrd")?;
    let metadata = file.metadata().context(ErrorKind::Kernel, unreadable())?;
    let bytes = metadata.len();
    if !metadata.is_file() || bytes == 0 {
        return Err(Error::new(
            ErrorKind::Kernel,
            format!("the initrd {} is empty or no file", path.display()),
        ));
    }
    let start = end.checked_sub(bytes).map(|start| start / PAGE * PAGE);
    let Some(start) = start.filter(|&start| start >= kernel_end) else {
        return Err(Error::new(
            ErrorKind::Kernel,
            format!(
                "the initrd {} with {bytes} bytes does not fit between the kernel's end at {kernel_end:#x} and {end:#x}; give the VM more memory",
                path.display()
            ),
        ));
    };
    ram.read_exact_volatile_from(GuestAddress(start), &mut file, bytes as usize)
        .context(ErrorKind::Kernel, unreadable())?;
    Ok(Span { start, bytes })
}
