//! Error values.

use weft_block::ErrorKind;

/// The errors that a reply may carry. "Error values".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// A write to a read-only export.
    Perm = 1,
    /// The medium failed.
    Io = 5,
    /// No memory. We never send it.
    NoMem = 12,
    /// A wrong request.
    Inval = 22,
    /// No space, or a write beyond the end.
    NoSpace = 28,
    /// A read too long to be answered in one piece.
    Overflow = 75,
    /// Zeroes cannot be written faster than data.
    NotSup = 95,
    /// The server is going down.
    Shutdown = 108,
}

impl Errno {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The error of a number other than zero; an unknown one counts as [`Inval`](Self::Inval), as clients should
    /// treat it.
    pub fn of(code: u32) -> Self {
        match code {
            1 => Self::Perm,
            5 => Self::Io,
            12 => Self::NoMem,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => Self::Inval,
        }
    }

    /// How a device's failure is told to a client.
    pub fn of_kind(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::OutOfRange
            | ErrorKind::Misaligned
            | ErrorKind::Invalid
            | ErrorKind::Unsupported => Self::Inval,
            ErrorKind::ReadOnly => Self::Perm,
            ErrorKind::NoSpace => Self::NoSpace,
            _ => Self::Io,
        }
    }

    /// What a server's error means to the layers above a client.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Perm => ErrorKind::ReadOnly,
            Self::Io | Self::NoMem => ErrorKind::Io,
            Self::Inval | Self::Overflow => ErrorKind::Invalid,
            Self::NoSpace => ErrorKind::NoSpace,
            Self::NotSup => ErrorKind::Unsupported,
            Self::Shutdown => ErrorKind::Offline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for errno in [
            Errno::Perm,
            Errno::Io,
            Errno::NoMem,
            Errno::Inval,
            Errno::NoSpace,
            Errno::Overflow,
            Errno::NotSup,
            Errno::Shutdown,
        ] {
            assert_eq!(Errno::of(errno.code()), errno);
        }
        assert_eq!(Errno::of(4711), Errno::Inval);
    }
}
