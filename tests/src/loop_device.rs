//! Loop devices.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::run;

/// A loop device over a file, detached when dropped. Needs root.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
}

impl Loop {
    /// Attaches the next free loop device to `file`.
    ///
    /// # Errors
    /// Without root, or when the kernel has no loop device left.
    pub fn attach(file: &Path) -> Result<Self> {
        let arguments = ["--find", "--show", "--nooverlap"].map(AsRef::as_ref);
        let printed = run("losetup", arguments.into_iter().chain([file.as_os_str()]))?;
        Ok(Self {
            path: printed.trim().into(),
        })
    }

    /// The device, as `/dev/loop7`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = run("losetup", ["--detach".as_ref(), self.path.as_os_str()]) {
            eprintln!("{error:#}");
        }
    }
}
