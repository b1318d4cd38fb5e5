//! Requests and completions.

use crate::{Error, ErrorKind, Info, IoVec};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Fill the buffer from the device.
    Read,
    /// Put the buffer on the device; with `fua`, durably before the completion.
    Write {
        /// Force unit access: complete only when durable.
        fua: bool,
    },
    /// Make every write completed before this request durable. Carries no range.
    Flush,
    /// The range is no longer needed. A hint.
    Discard,
    /// The range reads as zeroes from now on.
    WriteZeroes {
        /// Whether the space below may be given back.
        unmap: bool,
        /// Force unit access: complete only when durable.
        fua: bool,
    },
}

impl Op {
    /// Whether the operation changes what the device holds.
    pub fn is_write(self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::WriteZeroes { .. } | Self::Discard
        )
    }
}

/// One request. It owns its buffer until its completion gives it back.
#[derive(Debug)]
pub struct Request {
    /// What is to be done.
    pub op: Op,
    /// First byte on the device.
    pub offset: u64,
    /// Bytes; for reads and writes the length of `buffer`, for a flush zero.
    pub len: u64,
    /// Memory of a read or write; empty otherwise.
    pub buffer: IoVec,
}

impl Request {
    /// Read the buffer's length from `offset` on.
    pub fn read(offset: u64, buffer: IoVec) -> Self {
        Self {
            op: Op::Read,
            offset,
            len: buffer.len() as u64,
            buffer,
        }
    }

    /// Write the buffer at `offset`.
    pub fn write(offset: u64, buffer: IoVec) -> Self {
        Self {
            op: Op::Write { fua: false },
            offset,
            len: buffer.len() as u64,
            buffer,
        }
    }

    /// Write the buffer at `offset`, durably.
    pub fn write_fua(offset: u64, buffer: IoVec) -> Self {
        Self {
            op: Op::Write { fua: true },
            offset,
            len: buffer.len() as u64,
            buffer,
        }
    }

    /// Make completed writes durable.
    pub fn flush() -> Self {
        Self {
            op: Op::Flush,
            offset: 0,
            len: 0,
            buffer: IoVec::empty(),
        }
    }

    /// Give up `len` bytes from `offset` on.
    pub fn discard(offset: u64, len: u64) -> Self {
        Self {
            op: Op::Discard,
            offset,
            len,
            buffer: IoVec::empty(),
        }
    }

    /// Zero `len` bytes from `offset` on, giving the space back if `unmap`.
    pub fn write_zeroes(offset: u64, len: u64, unmap: bool) -> Self {
        Self {
            op: Op::WriteZeroes { unmap, fua: false },
            offset,
            len,
            buffer: IoVec::empty(),
        }
    }

    /// The first byte after the range. Meaningful once [`check`](Self::check) has passed.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// Whether a device described by `info` may take this request.
    ///
    /// # Errors
    /// `ReadOnly`, `Misaligned` or `OutOfRange`; nothing was done.
    pub fn check(&self, info: &Info) -> Result<(), Error> {
        if self.op == Op::Flush {
            return Ok(());
        }
        if self.op.is_write() && info.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the device is read-only"));
        }
        let block = u64::from(info.logical_block);
        if !self.offset.is_multiple_of(block) || !self.len.is_multiple_of(block) {
            let (offset, len) = (self.offset, self.len);
            return Err(Error::new(
                ErrorKind::Misaligned,
                format!("{len} bytes at {offset} are not whole blocks of {block} bytes"),
            ));
        }
        match self.offset.checked_add(self.len) {
            Some(end) if end <= info.size => Ok(()),
            _ => Err(Error::new(
                ErrorKind::OutOfRange,
                format!(
                    "{} bytes at {} leave a device of {} bytes",
                    self.len, self.offset, info.size
                ),
            )),
        }
    }

    /// The completion that says this request succeeded.
    pub fn done(self) -> Completion {
        Completion {
            result: Ok(()),
            buffer: self.buffer,
        }
    }

    /// The completion that says this request failed.
    pub fn failed(self, error: Error) -> Completion {
        Completion {
            result: Err(error),
            buffer: self.buffer,
        }
    }
}

/// The answer to a request, with its buffer.
#[derive(Debug)]
#[must_use = "a completion may hold an error"]
pub struct Completion {
    /// Whether it was done.
    pub result: Result<(), Error>,
    /// The request's buffer: filled by a read that succeeded.
    pub buffer: IoVec,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(request: &Request, info: &Info) -> Option<ErrorKind> {
        request.check(info).err().map(|error| error.kind())
    }

    #[test]
    fn a_request_is_whole_blocks_inside_the_device() {
        let info = Info::new(1 << 20, 4096);
        assert_eq!(kind_of(&Request::read(0, IoVec::zeroed(8192)), &info), None);
        assert_eq!(
            kind_of(&Request::read(512, IoVec::zeroed(4096)), &info),
            Some(ErrorKind::Misaligned)
        );
        assert_eq!(
            kind_of(&Request::discard((1 << 20) - 4096, 8192), &info),
            Some(ErrorKind::OutOfRange)
        );
        assert_eq!(
            kind_of(&Request::discard(u64::MAX - 4095, 8192), &info),
            Some(ErrorKind::OutOfRange)
        );
    }

    #[test]
    fn a_read_only_device_takes_reads_and_flushes() {
        let mut info = Info::new(4096, 512);
        info.read_only = true;
        assert_eq!(kind_of(&Request::flush(), &info), None);
        assert_eq!(kind_of(&Request::read(0, IoVec::zeroed(512)), &info), None);
        assert_eq!(
            kind_of(&Request::write(0, IoVec::zeroed(512)), &info),
            Some(ErrorKind::ReadOnly)
        );
    }
}
