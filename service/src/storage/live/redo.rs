//! Where the redo logs of images in use are: in the run-time folder, which the next daemon finds and a host without power
//! does not.

use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use weft_qcow2::RedoMemory;
use weft_uring::SharedWords;

use crate::api::{Error, Result};
use crate::storage::disks::Reference;

/// The bytes of a file's name that one may have, but for the ending.
const LONGEST: usize = 200;

/// The folder of the logs, below the run-time folder.
#[derive(Debug, Clone, Default)]
pub(in crate::storage) struct Logs(PathBuf);

/// What tells the bytes of a DISK from those of others on this host.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// A file.
    File {
        device: u64,
        inode: u64,
        /// When it was made, for another file may get its inode.
        born: u64,
    },
    /// Anything else, by its word.
    Word(String),
}

impl Logs {
    /// Those below the run-time folder `run`.
    pub(in crate::storage) fn below(run: &Path) -> Self {
        Self(run.join("images"))
    }

    /// The memory for the log of the image in `disk`, with what an earlier daemon left there.
    ///
    /// # Errors
    /// As making and mapping a file.
    pub(super) fn memory(&self, disk: &str) -> Result<RedoMemory> {
        let place = Place::of(disk);
        let words = self.open(&place).map_err(|error| {
            let message = format!("{disk} cannot be used: there is no memory for its redo log");
            Error::from_io(disk, &message, &error)
        })?;
        let boot = boot();
        let identity = match place {
            Place::File {
                device,
                inode,
                born,
            } => [boot[0] ^ device ^ born.rotate_left(32), boot[1] ^ inode],
            Place::Word(word) => [boot[0] ^ hash(&word), boot[1]],
        };
        Ok(RedoMemory {
            words: Arc::new(words),
            identity,
        })
    }

    fn open(&self, place: &Place) -> std::io::Result<SharedWords> {
        let mut folder = std::fs::DirBuilder::new();
        folder.recursive(true).mode(0o700).create(&self.0)?;
        let count = NonZeroUsize::new(RedoMemory::WORDS).ok_or(std::io::ErrorKind::InvalidInput)?;
        SharedWords::open(&self.0.join(place.file_name()), count)
    }

    /// The image in `disk` was closed: nothing is left to be found.
    pub(super) fn forget(&self, disk: &str) {
        // It is empty by now, and the next opening would find that.
        let _ = std::fs::remove_file(self.0.join(Place::of(disk).file_name()));
    }
}

impl Place {
    fn of(disk: &str) -> Self {
        if let Reference::Path(path) = Reference::of(disk)
            && let Ok(file) = std::fs::metadata(path)
            && file.is_file()
        {
            let born = file.created().ok();
            let born = born.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            return Self::File {
                device: file.dev(),
                inode: file.ino(),
                born: born.map_or(0, |time| time.as_nanos() as u64),
            };
        }
        Self::Word(disk.to_owned())
    }

    fn file_name(&self) -> String {
        match self {
            Self::File { device, inode, .. } => format!("{device:x}-{inode:x}.redo"),
            Self::Word(word) => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                let mut name = String::from("disk-");
                for byte in word.bytes() {
                    match plain(byte) {
                        true => name.push(char::from(byte)),
                        false => name.push_str(&format!("%{byte:02x}")),
                    }
                }
                name.truncate(LONGEST);
                format!("{name}-{:016x}.redo", hash(word))
            }
        }
    }
}

/// FNV-1a: the same in every version of this program.
fn hash(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// This boot of the host, as a number.
fn boot() -> [u64; 2] {
    let id = crate::storage::boot_id().replace('-', "");
    let id = u128::from_str_radix(&id, 16).unwrap_or_default();
    [(id >> 64) as u64, id as u64]
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_log_is_found_by_its_file_and_not_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::below(folder.path());
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::write(&one, "").unwrap();
        let first = logs.memory(one.to_str().unwrap()).unwrap();
        (*first.words).as_ref()[7].store(9, Ordering::Release);
        std::fs::rename(&one, &other).unwrap();
        let second = logs.memory(other.to_str().unwrap()).unwrap();
        assert_eq!(second.identity, first.identity);
        assert_eq!((*second.words).as_ref()[7].load(Ordering::Acquire), 9);
        logs.forget(other.to_str().unwrap());
        let third = logs.memory(other.to_str().unwrap()).unwrap();
        assert_eq!((*third.words).as_ref()[7].load(Ordering::Acquire), 0);
    }

    #[test]
    fn words_make_names_of_files() {
        let name = Place::of("data/root").file_name();
        assert!(name.starts_with("disk-data%2froot-"), "{name}");
        let long = |end: &str| Place::of(&format!("nbd://{}{end}", "x".repeat(500))).file_name();
        assert!(long("a").len() < 255);
        assert_ne!(long("a"), long("b"));
    }
}
