//! Words in a file that several processes see, at once or one after the other.

use std::fs::OpenOptions;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::fcntl::posix_fallocate;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Memory that is a file: whoever maps it next finds what was stored there, also after this process was killed. In a
/// folder of the host's memory (`/run`) it lasts as long as the host has power.
#[derive(Debug)]
pub struct SharedWords {
    start: NonNull<AtomicU64>,
    count: NonZeroUsize,
}

// SAFETY: it is memory of its own until it is dropped, and is reached through atomics alone.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `count` words of the file at `path`, which is made, or made longer, if need be. Only this user may
    /// open it. New words are zero.
    ///
    /// # Errors
    /// As opening and mapping a file; where it has no room for so many it is not mapped at all.
    pub fn open(path: &Path, count: NonZeroUsize) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)?;
        let bytes = count.get().checked_mul(size_of::<AtomicU64>());
        let bytes = bytes.and_then(NonZeroUsize::new);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        let len = i64::try_from(bytes.get()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // The room is taken now: there is no error to answer with when a word is stored.
        posix_fallocate(&file, 0, len)?;
        // SAFETY: a new mapping, wherever the kernel puts it, of a file that has all of these bytes; who makes it shorter
        // by force ends this process by a signal, as with any mapping.
        let start = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &file,
                0,
            )
        }?;
        Ok(Self {
            start: start.cast(),
            count,
        })
    }
}

impl AsRef<[AtomicU64]> for SharedWords {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, aligned to a page, until `self` is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count.get()) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let bytes = self.count.get() * size_of::<AtomicU64>();
        // SAFETY: what was mapped, and nobody borrows it any more.
        let _ = unsafe { munmap(self.start.cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_there_for_who_comes_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words");
        let count = NonZeroUsize::new(10_000).unwrap();
        let first = SharedWords::open(&path, count).unwrap();
        assert_eq!(first.as_ref().len(), 10_000);
        first.as_ref()[9_999].store(7, Ordering::Release);
        let second = SharedWords::open(&path, count).unwrap();
        drop(first);
        assert_eq!(second.as_ref()[9_999].load(Ordering::Acquire), 7);
        assert_eq!(second.as_ref()[0].load(Ordering::Acquire), 0);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("words"), folder.path().join("other"));
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(SharedWords::open(&path, NonZeroUsize::MIN).is_err());
        assert!(!other.exists());
    }
}
