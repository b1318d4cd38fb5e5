//! Who else has the file, in QEMU's terms.
//!
//! QEMU holds read locks on single bytes of a file's open description: byte 100 + n says that it does thing n, byte 200 + n
//! that it bears nobody else who does (`block/file-posix.c` of QEMU; libvirt keeps byte 0). Read locks never refuse each
//! other, so each opener first takes its own and then asks whether anybody holds one that contradicts them. Of two openers
//! at the same instant both may be refused; never are both let in.
//!
//! The locks are advice and change no I/O. Whoever locks bytes of the file for writing, in whatever terms, is seen too.

use std::fs::File;
use std::io;

use crate::sys;

const DOES: u64 = 100;
const BEARS_NOT: u64 = 200;

/// The things, as QEMU numbers them (`BLK_PERM_*`): reading what makes sense, writing, and changing the size. Writing what
/// changes nothing (2) is never asked for here.
const READ: u64 = 0;
const WRITE: u64 = 1;
const RESIZE: u64 = 3;
const THINGS: [u64; 4] = [READ, WRITE, 2, RESIZE];

/// Takes the locks of a reader, or of a writer, that bears readers alone, as QEMU's own for the file of an image. A writer
/// is refused by those too who bear no writer.
///
/// # Errors
/// `WouldBlock` if somebody else contradicts; nothing is locked then.
pub(super) fn acquire(file: &File, read_only: bool) -> io::Result<()> {
    let does: &[u64] = if read_only {
        &[READ]
    } else {
        &[READ, WRITE, RESIZE]
    };
    let taken = take(file, does, &[WRITE, RESIZE]);
    if taken.is_err() {
        release(file);
    }
    taken
}

/// Makes a reader's locks a writer's.
///
/// # Errors
/// `WouldBlock` if somebody else reads what must not change, or writes; the locks are a reader's then.
pub(super) fn also_write(file: &File) -> io::Result<()> {
    let taken = take(file, &[READ, WRITE, RESIZE], &[WRITE, RESIZE]);
    if taken.is_err() {
        only_read(file)?;
    }
    taken
}

/// Makes a writer's locks a reader's, so that others may read too.
pub(super) fn only_read(file: &File) -> io::Result<()> {
    sys::unlock_byte(file, DOES + WRITE)?;
    sys::unlock_byte(file, DOES + RESIZE)
}

/// Lets all locks go.
pub(super) fn release(file: &File) {
    // A file that cannot be unlocked is about to be closed, which unlocks it.
    let _ = sys::unlock_whole(file);
}

fn take(file: &File, does: &[u64], bears_not: &[u64]) -> io::Result<()> {
    for thing in does {
        sys::lock_byte(file, DOES + thing)?;
    }
    for thing in bears_not {
        sys::lock_byte(file, BEARS_NOT + thing)?;
    }
    for thing in THINGS {
        let not_let = does.contains(&thing) && sys::byte_is_locked(file, BEARS_NOT + thing)?;
        let not_borne = bears_not.contains(&thing) && sys::byte_is_locked(file, DOES + thing)?;
        if not_let || not_borne {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two openings of one file.
    fn two() -> (File, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path());
        (open().unwrap(), open().unwrap())
    }

    #[test]
    fn one_writer_or_many_readers() {
        for (first, second, both) in [
            (false, false, false),
            (false, true, false),
            (true, false, false),
            (true, true, true),
        ] {
            let (one, two) = two();
            acquire(&one, first).unwrap();
            let answer = acquire(&two, second);
            assert_eq!(answer.is_ok(), both, "{first} {second}");
            if let Err(error) = answer {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                // The one that was refused left nothing behind.
                drop(one);
                let third = two.try_clone().unwrap();
                acquire(&third, false).unwrap();
            }
        }
    }

    #[test]
    fn a_writer_becomes_a_reader_among_others_and_a_reader_alone_a_writer() {
        let (one, two) = two();
        acquire(&one, false).unwrap();
        only_read(&one).unwrap();
        acquire(&two, true).unwrap();
        let error = also_write(&one).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // It is a reader still: the other one cannot write either, and both can read.
        assert!(also_write(&two).is_err());
        release(&two);
        also_write(&one).unwrap();
        assert!(acquire(&two, true).is_err());
    }

    #[test]
    fn a_lock_on_the_whole_file_is_seen() {
        let (one, two) = two();
        sys::lock_whole(&one).unwrap();
        for read_only in [false, true] {
            let error = acquire(&two, read_only).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
