//! Root file systems for machines of ours.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run;

/// Makes `root.image` in `folder`: an ext4 file system of 32 MiB with busybox under all its names and `init` as
/// `/sbin/init`, a shell script.
///
/// # Errors
/// If busybox or mkfs.ext4 is not installed.
pub fn root_image(folder: &Path, init: &str) -> Result<PathBuf> {
    let tree = folder.join("tree");
    for name in ["bin", "sbin", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir_all(tree.join(name))?;
    }
    std::fs::copy("/bin/busybox", tree.join("bin/busybox")).context("busybox is not installed")?;
    let script = "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin\nmount -t proc proc /proc\n";
    let path = tree.join("sbin/init");
    std::fs::write(&path, format!("{script}{init}"))?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    let image = folder.join("root.image");
    let arguments = [
        "-q".as_ref(),
        "-d".as_ref(),
        tree.as_os_str(),
        image.as_os_str(),
        "32M".as_ref(),
    ];
    run("mkfs.ext4", arguments)?;
    Ok(image)
}
