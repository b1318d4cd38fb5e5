//! Requests and replies. "Transmission phase".

use super::{Errno, Fields};

/// The first four bytes of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The first four bytes of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The first four bytes of a structured reply chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Bytes of a request before its payload.
pub const REQUEST_HEADER: usize = 28;
/// Bytes of a simple reply before its payload.
pub const SIMPLE_REPLY: usize = 16;
/// Bytes of a chunk before its payload.
pub const CHUNK_HEADER: usize = 20;

/// The flag of the last chunk of a reply. "Structured reply flags".
pub const CHUNK_DONE: u16 = 1;

/// What modifies a command. "Command flags".
pub mod command_flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1;
    /// Zeroes must stay allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// At most one content chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent, inside the request.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail rather than be slow.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// What `base:allocation` says of an extent.
pub mod state_flag {
    /// Not allocated.
    pub const HOLE: u32 = 1;
    /// Reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// "Request types".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CommandCode {
    /// Data, please.
    Read = 0,
    /// Data follows.
    Write = 1,
    /// The client goes.
    Disconnect = 2,
    /// Make completed writes durable.
    Flush = 3,
    /// The range is not needed.
    Trim = 4,
    /// The range will be read soon.
    Cache = 5,
    /// The range shall read as zeroes.
    WriteZeroes = 6,
    /// How is the range backed?
    BlockStatus = 7,
}

impl CommandCode {
    /// The command of a number.
    pub fn of(code: u16) -> Option<Self> {
        Some(match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            _ => return None,
        })
    }
}

/// A request as it stands on the wire. "Request message".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// See [`command_flag`].
    pub flags: u16,
    /// See [`CommandCode`].
    pub code: u16,
    /// What the client tells its requests apart by.
    pub cookie: u64,
    /// First byte on the export.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl Request {
    /// Reads a header; `None` if the magic is wrong.
    pub fn parse(bytes: &[u8; REQUEST_HEADER]) -> Option<Self> {
        let mut fields = Fields::of(bytes);
        (fields.u32()? == REQUEST_MAGIC).then_some(())?;
        Some(Self {
            flags: fields.u16()?,
            code: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            len: fields.u32()?,
        })
    }

    /// The header on the wire.
    pub fn encode(&self) -> [u8; REQUEST_HEADER] {
        let mut bytes = [0; REQUEST_HEADER];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.code.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }
}

/// A reply without chunks. "Simple reply message".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// What went wrong.
    pub error: Option<Errno>,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// Reads what follows the magic.
    pub fn parse(bytes: &[u8; SIMPLE_REPLY - 4]) -> Self {
        let (error, cookie) = bytes.split_at(4);
        let error = u32::from_be_bytes(error.try_into().expect("four bytes"));
        Self {
            error: (error != 0).then(|| Errno::of(error)),
            cookie: u64::from_be_bytes(cookie.try_into().expect("eight bytes")),
        }
    }

    /// The reply on the wire.
    pub fn encode(&self) -> [u8; SIMPLE_REPLY] {
        let mut bytes = [0; SIMPLE_REPLY];
        bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.error.map_or(0, Errno::code).to_be_bytes());
        bytes[8..].copy_from_slice(&self.cookie.to_be_bytes());
        bytes
    }
}

/// "Structured reply types".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ChunkKind {
    /// The end of a reply.
    None = 0,
    /// 64 bits of offset, and data.
    OffsetData = 1,
    /// 64 bits of offset, and 32 bits of a length that reads as zeroes.
    OffsetHole = 2,
    /// 32 bits of context, and descriptors of 32 bits of length and 32 bits of flags each.
    BlockStatus = 5,
    /// 32 bits of error, and a message with 16 bits of length before it.
    Error = 0x8001,
    /// The same, and 64 bits of offset.
    ErrorOffset = 0x8002,
}

impl ChunkKind {
    /// The bit that marks an error.
    pub const ERROR: u16 = 1 << 15;

    /// The kind of a number.
    pub fn of(code: u16) -> Option<Self> {
        Some(match code {
            0 => Self::None,
            1 => Self::OffsetData,
            2 => Self::OffsetHole,
            5 => Self::BlockStatus,
            0x8001 => Self::Error,
            0x8002 => Self::ErrorOffset,
            _ => return None,
        })
    }
}

/// The header of a chunk. "Structured reply chunk message".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// See [`CHUNK_DONE`].
    pub flags: u16,
    /// See [`ChunkKind`].
    pub code: u16,
    /// The request's.
    pub cookie: u64,
    /// Bytes of payload.
    pub len: u32,
}

impl Chunk {
    /// Reads what follows the magic.
    pub fn parse(bytes: &[u8; CHUNK_HEADER - 4]) -> Self {
        let number = |from: usize, to: usize| {
            bytes[from..to]
                .iter()
                .fold(0u64, |number, &byte| number << 8 | u64::from(byte))
        };
        Self {
            flags: number(0, 2) as u16,
            code: number(2, 4) as u16,
            cookie: number(4, 12),
            len: number(12, 16) as u32,
        }
    }

    /// The header on the wire.
    pub fn encode(&self) -> [u8; CHUNK_HEADER] {
        let mut bytes = [0; CHUNK_HEADER];
        bytes[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.code.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        let request = Request {
            flags: command_flag::FUA,
            code: CommandCode::Write as u16,
            cookie: 0x0123_4567_89ab_cdef,
            offset: 1 << 40,
            len: 4096,
        };
        assert_eq!(Request::parse(&request.encode()), Some(request));

        let reply = SimpleReply {
            error: Some(Errno::NoSpace),
            cookie: 7,
        };
        let bytes = reply.encode();
        assert_eq!(SimpleReply::parse(bytes[4..].try_into().unwrap()), reply);

        let chunk = Chunk {
            flags: CHUNK_DONE,
            code: ChunkKind::ErrorOffset as u16,
            cookie: u64::MAX - 1,
            len: 77,
        };
        let bytes = chunk.encode();
        assert_eq!(Chunk::parse(bytes[4..].try_into().unwrap()), chunk);
    }

    #[test]
    fn flags_come_before_the_type() {
        // The order of the two 16-bit words is a known trap of implementations.
        let request = Request {
            flags: 0x0102,
            code: 0x0304,
            cookie: 0,
            offset: 0,
            len: 0,
        };
        assert_eq!(request.encode()[4..8], [1, 2, 3, 4]);
    }
}
