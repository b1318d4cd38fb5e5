//! System calls that nix does not wrap, or wraps for slices: scattered memory is never a slice here.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use smallvec::SmallVec;
use weft_block::IoVec;

/// Segments that the kernel takes in one call (`UIO_MAXIOV`).
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// Bytes that the kernel moves in one call (`MAX_RW_COUNT`), rounded down to whole blocks of any size in use.
pub(crate) const MAX_TRANSFER: usize = 0x7fff_0000;

/// Segments as the kernel wants them. It names memory and keeps none alive.
pub(crate) type RawSegments = SmallVec<[libc::iovec; 4]>;

/// The segments of `memory` from `skip` on, as many as fit into one call.
pub(crate) fn raw_segments(memory: &IoVec, skip: usize) -> RawSegments {
    let mut skip = skip;
    let mut room = MAX_TRANSFER;
    let mut raw = RawSegments::new();
    for segment in memory.segments() {
        if skip >= segment.len {
            skip -= segment.len;
            continue;
        }
        if raw.len() == MAX_SEGMENTS || room == 0 {
            break;
        }
        let len = (segment.len - skip).min(room);
        raw.push(libc::iovec {
            iov_base: segment.start.as_ptr().wrapping_add(skip).cast(),
            iov_len: len,
        });
        room -= len;
        skip = 0;
    }
    raw
}

/// Turns the -1 of a system call into its error.
fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `preadv2` into `memory` after its first `skip` bytes.
pub(crate) fn read_at(
    fd: impl AsFd,
    memory: &IoVec,
    skip: usize,
    offset: u64,
    flags: i32,
) -> io::Result<usize> {
    let raw = raw_segments(memory, skip);
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: each segment is valid for writes while `memory` is borrowed, and no Rust reference to it exists.
    let result = unsafe {
        libc::preadv2(
            fd,
            raw.as_ptr(),
            raw.len() as libc::c_int,
            offset as libc::off_t,
            flags,
        )
    };
    checked(result)
}

/// `pwritev2` of `memory` after its first `skip` bytes.
pub(crate) fn write_at(
    fd: impl AsFd,
    memory: &IoVec,
    skip: usize,
    offset: u64,
    flags: i32,
) -> io::Result<usize> {
    let raw = raw_segments(memory, skip);
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: each segment is valid for reads while `memory` is borrowed.
    let result = unsafe {
        libc::pwritev2(
            fd,
            raw.as_ptr(),
            raw.len() as libc::c_int,
            offset as libc::off_t,
            flags,
        )
    };
    checked(result)
}

/// A message header over raw segments, for `sendmsg` and `recvmsg`. It names memory and keeps none alive.
pub(crate) fn message(segments: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: a msghdr of zeroes is a valid one: no name, no segments, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = segments.as_mut_ptr();
    header.msg_iovlen = segments.len() as _;
    header
}

/// `recvmsg` into raw segments, without waiting.
///
/// # Safety
/// Each segment must be valid for writes, and no Rust reference to it may exist.
pub(crate) unsafe fn receive_now(fd: impl AsFd, segments: &mut [libc::iovec]) -> io::Result<usize> {
    let mut header = message(segments);
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the caller's promise; the header lives through the call.
    checked(unsafe { libc::recvmsg(fd, &mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) })
}

/// `sendmsg` of raw segments, without waiting and without SIGPIPE.
///
/// # Safety
/// Each segment must be valid for reads.
pub(crate) unsafe fn send_now(fd: impl AsFd, segments: &mut [libc::iovec]) -> io::Result<usize> {
    let header = message(segments);
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the caller's promise; the header lives through the call.
    checked(unsafe { libc::sendmsg(fd, &header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// Takes a read lock on one byte for this open file description (`F_OFD_SETLK`).
pub(crate) fn lock_byte(fd: impl AsFd, byte: u64) -> io::Result<()> {
    set_lock(fd, &lock_of(libc::F_RDLCK, byte, 1))
}

/// Whether another open file description holds any lock on the byte (`F_OFD_GETLK`).
pub(crate) fn byte_is_locked(fd: impl AsFd, byte: u64) -> io::Result<bool> {
    let mut wanted = lock_of(libc::F_WRLCK, byte, 1);
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut wanted))?;
    Ok(wanted.l_type != libc::F_UNLCK as libc::c_short)
}

/// Takes a write lock on the whole file.
#[cfg(test)]
pub(crate) fn lock_whole(fd: impl AsFd) -> io::Result<()> {
    set_lock(fd, &lock_of(libc::F_WRLCK, 0, 0))
}

/// Lets this open file description's lock on the byte go.
pub(crate) fn unlock_byte(fd: impl AsFd, byte: u64) -> io::Result<()> {
    set_lock(fd, &lock_of(libc::F_UNLCK, byte, 1))
}

/// Lets all locks of this open file description go.
pub(crate) fn unlock_whole(fd: impl AsFd) -> io::Result<()> {
    set_lock(fd, &lock_of(libc::F_UNLCK, 0, 0))
}

/// A lock on `len` bytes, or to the end of all files for 0.
fn lock_of(kind: libc::c_int, start: u64, len: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as libc::off_t,
        l_len: len as libc::off_t,
        l_pid: 0,
    }
}

fn set_lock(fd: impl AsFd, lock: &libc::flock) -> io::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_OFD_SETLK(lock))?;
    Ok(())
}

nix::ioctl_read!(block_size_bytes, 0x12, 114, u64);
nix::ioctl_read_bad!(logical_block, libc::BLKSSZGET, libc::c_int);
nix::ioctl_read_bad!(physical_block, 0x127b, libc::c_uint);
nix::ioctl_read_bad!(optimal_io, 0x1279, libc::c_uint);
nix::ioctl_write_ptr_bad!(block_discard, 0x1277, [u64; 2]);

/// What a block device says about itself.
pub(crate) struct BlockGeometry {
    pub(crate) size: u64,
    pub(crate) logical_block: u32,
    pub(crate) physical_block: u32,
    pub(crate) optimal_io: u32,
}

/// Asks a block device for its size and its blocks.
pub(crate) fn block_geometry(fd: impl AsFd) -> io::Result<BlockGeometry> {
    let fd = fd.as_fd().as_raw_fd();
    let (mut size, mut logical, mut physical, mut optimal) = (0u64, 0, 0, 0);
    // SAFETY: BLKGETSIZE64, BLKSSZGET, BLKPBSZGET and BLKIOOPT each write one number of these types.
    unsafe {
        block_size_bytes(fd, &mut size)?;
        logical_block(fd, &mut logical)?;
        physical_block(fd, &mut physical)?;
        optimal_io(fd, &mut optimal)?;
    }
    Ok(BlockGeometry {
        size,
        logical_block: logical.unsigned_abs(),
        physical_block: physical,
        optimal_io: optimal,
    })
}

/// `BLKDISCARD`. Blocks until the device has answered.
pub(crate) fn discard_blocks(fd: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: BLKDISCARD reads two numbers, a start and a length in bytes.
    unsafe { block_discard(fd.as_fd().as_raw_fd(), &[offset, len]) }?;
    Ok(())
}

/// What direct I/O on a file needs, in bytes: the alignment of memory and that of offsets and lengths. Nothing where the
/// kernel does not tell (before Linux 6.1) or the file system has no direct I/O.
pub(crate) fn direct_alignment(fd: impl AsFd) -> Option<(u32, u32)> {
    // SAFETY: a statx of zeroes is valid, and the kernel overwrites it.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH asks about the descriptor; `answer` is large enough by its type.
    let result = unsafe {
        libc::statx(
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut answer,
        )
    };
    let told = result == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    (told && answer.stx_dio_mem_align > 0)
        .then_some((answer.stx_dio_mem_align, answer.stx_dio_offset_align))
}
