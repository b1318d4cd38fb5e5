//! The client's side of transmission, reading. "Simple reply message", "Structured reply chunk message".

use crate::nbd::proto::{
    CHUNK_DONE, CHUNK_HEADER, CHUNK_MAGIC, Chunk, ChunkKind, Errno, Fields, MAX_PAYLOAD,
    MAX_STRING, SIMPLE_REPLY, SIMPLE_REPLY_MAGIC, SimpleReply,
};

/// Bytes of a chunk that is read as a whole (everything but data): the receive buffer must be able to grow to it.
/// The status of 64 MiB in extents of 512 bytes, the most that a client here asks for, and its head.
pub const MAX_CHUNK: u32 = (1 << 20) + 64;

/// What the server sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Less than an answer is there: receive more.
    Wait,
    /// A whole reply. If it answers a read and tells no error, the data follows in the input.
    Simple {
        /// The request's.
        cookie: u64,
        /// What went wrong.
        error: Option<Errno>,
    },
    /// `len` bytes of data for `offset`, which follow in the input; the caller takes them off before it calls again.
    Data {
        /// The request's.
        cookie: u64,
        /// First byte on the export.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Whether this ends the reply.
        last: bool,
    },
    /// `len` bytes from `offset` on read as zeroes.
    Hole {
        /// The request's.
        cookie: u64,
        /// First byte on the export.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Whether this ends the reply.
        last: bool,
    },
    /// Extents of a metadata context: bytes and flags each.
    Status {
        /// The request's.
        cookie: u64,
        /// The number of the context.
        context: u32,
        /// At least one.
        extents: Vec<(u32, u32)>,
        /// Whether this ends the reply.
        last: bool,
    },
    /// The request failed, with the server's words.
    Error {
        /// The request's.
        cookie: u64,
        /// What went wrong.
        errno: Errno,
        /// For people; may be empty.
        message: String,
        /// Whether this ends the reply.
        last: bool,
    },
    /// The reply ends here.
    End {
        /// The request's.
        cookie: u64,
    },
    /// This is not NBD any more: hang up.
    Broken(&'static str),
}

/// Reads the answers of one connection.
#[derive(Debug)]
pub struct Answers {
    structured: bool,
}

impl Answers {
    /// For a connection with or without structured replies.
    pub fn new(structured: bool) -> Self {
        Self { structured }
    }

    /// Takes one answer off `input`.
    pub fn next(&mut self, input: &mut &[u8]) -> Answer {
        let Some(magic) = Fields::of(input).u32() else {
            return Answer::Wait;
        };
        match magic {
            SIMPLE_REPLY_MAGIC => {
                let Some((reply, rest)) = input[4..].split_first_chunk::<{ SIMPLE_REPLY - 4 }>()
                else {
                    return Answer::Wait;
                };
                *input = rest;
                let SimpleReply { error, cookie } = SimpleReply::parse(reply);
                Answer::Simple { cookie, error }
            }
            CHUNK_MAGIC if self.structured => take_chunk(input),
            _ => Answer::Broken("an answer without its magic"),
        }
    }
}

fn take_chunk(input: &mut &[u8]) -> Answer {
    let Some((header, rest)) = input[4..].split_first_chunk::<{ CHUNK_HEADER - 4 }>() else {
        return Answer::Wait;
    };
    let chunk = Chunk::parse(header);
    if chunk.code == ChunkKind::OffsetData as u16 {
        return take_data(chunk, rest, input);
    }
    if chunk.len > MAX_CHUNK {
        return Answer::Broken("a chunk of impossible length");
    }
    let Some((payload, rest)) = rest.split_at_checked(chunk.len as usize) else {
        return Answer::Wait;
    };
    *input = rest;
    let answer = match ChunkKind::of(chunk.code) {
        Some(ChunkKind::None) if payload.is_empty() && is_last(chunk) => Some(Answer::End {
            cookie: chunk.cookie,
        }),
        Some(ChunkKind::OffsetHole) => hole(chunk, payload),
        Some(ChunkKind::BlockStatus) => status(chunk, payload),
        _ if chunk.code & ChunkKind::ERROR != 0 => error(chunk, payload),
        _ => None,
    };
    answer.unwrap_or(Answer::Broken("a malformed chunk"))
}

fn take_data(chunk: Chunk, rest: &[u8], input: &mut &[u8]) -> Answer {
    if chunk.len <= 8 || chunk.len - 8 > MAX_PAYLOAD {
        return Answer::Broken("data of impossible length");
    }
    let mut fields = Fields::of(rest);
    let Some(offset) = fields.u64() else {
        return Answer::Wait;
    };
    // The lifetime of the caller's slice, not of this function's copy.
    *input = &input[CHUNK_HEADER + 8..];
    Answer::Data {
        cookie: chunk.cookie,
        offset,
        len: chunk.len - 8,
        last: is_last(chunk),
    }
}

fn is_last(chunk: Chunk) -> bool {
    chunk.flags & CHUNK_DONE != 0
}

fn hole(chunk: Chunk, payload: &[u8]) -> Option<Answer> {
    let mut fields = Fields::of(payload);
    let (offset, len) = (fields.u64()?, fields.u32()?);
    (fields.is_empty() && len > 0).then(|| Answer::Hole {
        cookie: chunk.cookie,
        offset,
        len,
        last: is_last(chunk),
    })
}

fn status(chunk: Chunk, payload: &[u8]) -> Option<Answer> {
    let mut fields = Fields::of(payload);
    let context = fields.u32()?;
    let mut extents = Vec::with_capacity(payload.len() / 8);
    while !fields.is_empty() {
        let (len, flags) = (fields.u32()?, fields.u32()?);
        (len > 0).then_some(())?;
        extents.push((len, flags));
    }
    (!extents.is_empty()).then(|| Answer::Status {
        cookie: chunk.cookie,
        context,
        extents,
        last: is_last(chunk),
    })
}

fn error(chunk: Chunk, payload: &[u8]) -> Option<Answer> {
    let mut fields = Fields::of(payload);
    let errno = Errno::of(fields.u32()?);
    let len = usize::from(fields.u16()?);
    let message = fields.bytes(len.min(MAX_STRING))?;
    Some(Answer::Error {
        cookie: chunk.cookie,
        errno,
        message: String::from_utf8_lossy(message).into_owned(),
        last: is_last(chunk),
    })
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
