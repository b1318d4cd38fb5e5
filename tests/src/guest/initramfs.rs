//! Initial RAM file systems: busybox, a script as init, and modules.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::kernel::Kernel;

/// A `newc` archive (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst) in memory.
#[derive(Debug, Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    entries: u32,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

impl Initramfs {
    /// An archive with busybox as `/bin/busybox` under the names that scripts use, and the usual mount points.
    ///
    /// # Errors
    /// If busybox is not installed.
    pub fn with_busybox() -> Result<Self> {
        let mut new = Self::default();
        for folder in ["bin", "dev", "proc", "sys", "weft", "weft/modules"] {
            new.entry(folder, FOLDER, &[]);
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"];
        let program = busybox.iter().find_map(|path| std::fs::read(path).ok());
        let program = program
            .context("busybox is not installed; scripts/install-deps installs busybox-static")?;
        new.entry("bin/busybox", PROGRAM, &program);
        for name in [
            "sh",
            "mount",
            "mkdir",
            "cat",
            "cp",
            "insmod",
            "switch_root",
            "reboot",
            "sync",
            "echo",
            "umount",
        ] {
            new.entry(&format!("bin/{name}"), LINK, b"busybox");
        }
        Ok(new)
    }

    /// Adds a file that can be executed. Its folder must be there.
    pub fn file(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, PROGRAM, contents);
    }

    /// Adds the kernel's modules under `/weft/modules` and their order as `/weft/load-order`.
    ///
    /// # Errors
    /// If the kernel has no such module.
    pub fn modules(&mut self, kernel: &Kernel, modules: &[&str]) -> Result<()> {
        let mut order = String::new();
        for path in kernel.load_order(modules)? {
            let name = file_name(&path)?;
            let contents =
                std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            self.file(&format!("weft/modules/{name}"), &contents);
            order.push_str(name);
            order.push('\n');
        }
        self.file("weft/load-order", order.as_bytes());
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.archive
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(contents.len()).expect("an initramfs entry is far below 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("a path is short");
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.archive.extend_from_slice(b"070701");
        for field in fields {
            self.archive
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.archive.extend_from_slice(path.as_bytes());
        self.archive.push(0);
        self.pad();
        self.archive.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.archive
            .resize(self.archive.len().next_multiple_of(4), 0);
    }
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no plain name", path.display()))
}
