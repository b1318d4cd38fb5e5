//! Errors of the kernel as errors of the block contract.

use std::io;
use std::path::Path;

use weft_block::{Error, ErrorKind};

/// What a caller may act on when the kernel says `error` about a device's data.
pub(super) fn kind_of(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ErrorKind::NoSpace,
        Some(libc::EROFS | libc::EBADF | libc::EPERM | libc::EACCES) => ErrorKind::ReadOnly,
        Some(libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::ENOMEDIUM) => ErrorKind::Offline,
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY) => ErrorKind::Unsupported,
        Some(libc::EUCLEAN | libc::EBADMSG | libc::EILSEQ) => ErrorKind::Corrupt,
        Some(libc::EBUSY | libc::ETXTBSY) => ErrorKind::Busy,
        _ => ErrorKind::Io,
    }
}

/// What a caller may act on when the kernel refuses to open or change a file.
pub(super) fn kind_of_open(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::EISDIR | libc::ELOOP | libc::ENAMETOOLONG)
        | Some(libc::EACCES | libc::EPERM | libc::EEXIST | libc::EINVAL) => ErrorKind::Invalid,
        Some(libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM) => ErrorKind::Offline,
        Some(libc::EROFS) => ErrorKind::ReadOnly,
        _ => kind_of(error),
    }
}

/// A failed control operation: "`PATH` cannot be `done`".
pub(super) fn cannot(path: &Path, done: &str, error: io::Error) -> Error {
    let sentence = format!("{} cannot be {done}", path.display());
    Error::new(kind_of_open(&error), sentence).with_source(error)
}
