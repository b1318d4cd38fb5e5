//! What several crates' tests share.
//!
//! - [`guest::LinuxGuest`]: a stock Debian kernel under QEMU that runs a script with the host's programs over our disks
//!   and links, as the judge of our formats and devices;
//! - [`require!`] and [`skip!`]: a test whose judge is missing says so, is counted, and fails in CI;
//! - guards that give back what they took, also when a test fails: [`Process`], [`Loop`], [`Netns`];
//! - [`data`]: bytes that can be made again from a seed;
//! - [`bench`]: contests with rivals, in turns, and CPU accounting.
//!
//! `scripts/install-deps` installs every program that a test here or in the crates asks for.

pub mod bench;
pub mod data;
pub mod guest;
mod loop_device;
mod netns;
mod process;
mod require;

pub use loop_device::Loop;
pub use netns::{Netns, link_pair};
pub use process::{Process, free_port, run};
pub use require::{Skip, can, missing_programs, note_skip};

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
}

/// The folder of kernels and other things that are fetched once: `$WEFT_CACHE`, or `weft` in the user's cache folder.
/// `scripts/install-deps` fills it.
pub fn cache_dir() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("WEFT_CACHE") {
        return folder.into();
    }
    if let Some(folder) = set("XDG_CACHE_HOME") {
        return PathBuf::from(folder).join("weft");
    }
    PathBuf::from(set("HOME").unwrap_or_else(|| "/root".into())).join(".cache/weft")
}

/// A new folder that is removed when the guard is dropped.
///
/// # Panics
/// If the system's folder for temporary files takes no more.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("weft-test-")
        .tempdir()
        .expect("a temporary folder can be made")
}

/// A sparse file of `size` bytes in `folder`.
///
/// # Panics
/// If the file cannot be made.
pub fn sparse_file(folder: &Path, name: &str, size: u64) -> PathBuf {
    let path = folder.join(name);
    let file = std::fs::File::create(&path).expect("a file can be made");
    file.set_len(size).expect("a sparse file can grow");
    path
}
