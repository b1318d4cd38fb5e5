//! The server's side of transmission, writing. "Simple reply message", "Structured reply chunk message".

use crate::nbd::proto::{CHUNK_DONE, Chunk, ChunkKind, Errno, SimpleReply};

/// The number by which block status replies name `base:allocation`.
pub const ALLOCATION_CONTEXT: u32 = 1;

/// Bytes of a message that accompanies an error; longer ones are cut.
const MAX_MESSAGE: usize = 512;

/// Writes the replies of one connection. Every method appends to a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Replies {
    structured: bool,
}

impl Replies {
    /// For a connection with or without structured replies.
    pub fn new(structured: bool) -> Self {
        Self { structured }
    }

    /// Success of anything but a read or a block status.
    pub fn done(&self, out: &mut Vec<u8>, cookie: u64) {
        let error = None;
        out.extend_from_slice(&SimpleReply { error, cookie }.encode());
    }

    /// Success of a read of no bytes, or the end of a reply whose chunks are all out.
    pub fn end_of_read(&self, out: &mut Vec<u8>, cookie: u64) {
        if self.structured {
            put_chunk(out, cookie, ChunkKind::None, true, &[]);
        } else {
            self.done(out, cookie);
        }
    }

    /// Failure of anything; `message` is for people.
    pub fn error(&self, out: &mut Vec<u8>, cookie: u64, errno: Errno, message: &str) {
        if !self.structured {
            let error = Some(errno);
            out.extend_from_slice(&SimpleReply { error, cookie }.encode());
            return;
        }
        let mut end = message.len().min(MAX_MESSAGE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let message = &message.as_bytes()[..end];
        let len = (message.len() as u16).to_be_bytes();
        let parts = [&errno.code().to_be_bytes()[..], &len, message];
        put_chunk(out, cookie, ChunkKind::Error, true, &parts);
    }

    /// The head of `len` bytes of data from `offset` on, which the caller sends right after it; `len` is not zero.
    /// Without structured replies this is the answer to the whole read.
    pub fn data(&self, out: &mut Vec<u8>, cookie: u64, offset: u64, len: u32, last: bool) {
        if !self.structured {
            self.done(out, cookie);
            return;
        }
        debug_assert!(len > 0, "a chunk describes at least one byte");
        let header = Chunk {
            flags: if last { CHUNK_DONE } else { 0 },
            code: ChunkKind::OffsetData as u16,
            cookie,
            len: len + 8,
        };
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&offset.to_be_bytes());
    }

    /// `len` bytes from `offset` on read as zeroes; only with structured replies, `len` is not zero.
    pub fn hole(&self, out: &mut Vec<u8>, cookie: u64, offset: u64, len: u32, last: bool) {
        debug_assert!(self.structured && len > 0, "a chunk of at least one byte");
        let parts = [&offset.to_be_bytes()[..], &len.to_be_bytes()];
        put_chunk(out, cookie, ChunkKind::OffsetHole, last, &parts);
    }

    /// The extents of `base:allocation`: bytes and [state flags](crate::nbd::proto::state_flag) each, at least one.
    pub fn block_status(&self, out: &mut Vec<u8>, cookie: u64, extents: &[(u32, u32)]) {
        debug_assert!(self.structured && !extents.is_empty(), "at least one");
        let mut payload = Vec::with_capacity(4 + 8 * extents.len());
        payload.extend_from_slice(&ALLOCATION_CONTEXT.to_be_bytes());
        for (len, flags) in extents {
            payload.extend_from_slice(&len.to_be_bytes());
            payload.extend_from_slice(&flags.to_be_bytes());
        }
        put_chunk(out, cookie, ChunkKind::BlockStatus, true, &[&payload]);
    }
}

fn put_chunk(out: &mut Vec<u8>, cookie: u64, kind: ChunkKind, last: bool, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let header = Chunk {
        flags: if last { CHUNK_DONE } else { 0 },
        code: kind as u16,
        cookie,
        len: len as u32,
    };
    out.extend_from_slice(&header.encode());
    for part in parts {
        out.extend_from_slice(part);
    }
}
