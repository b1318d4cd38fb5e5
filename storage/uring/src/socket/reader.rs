//! Buffered receiving.

use std::future::poll_fn;
use std::io;

use weft_block::{IoVec, LocalBoxFuture};

use super::Stream;

/// A receiver with a buffer: several small messages cost one system call, a large one goes past the buffer.
///
/// A receive that was started is kept when the future that waits for it is dropped, so `read_exact` and `at_end` can be
/// raced against other events without losing a byte.
pub struct Reader {
    stream: Stream,
    buffer: IoVec,
    start: usize,
    end: usize,
    pending: Option<LocalBoxFuture<'static, io::Result<usize>>>,
}

impl Reader {
    pub(super) fn new(stream: Stream, capacity: usize) -> Self {
        Self {
            stream,
            buffer: IoVec::zeroed(capacity),
            start: 0,
            end: 0,
            pending: None,
        }
    }

    /// How many bytes were received and not read yet.
    pub fn available(&self) -> usize {
        self.end - self.start
    }

    /// Whether the stream has ended and everything was read. Waits for the next byte, or the end.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn at_end(&mut self) -> io::Result<bool> {
        Ok(self.available() == 0 && self.fill(1).await? == 0)
    }

    /// Fills `into`. No byte is lost when the future is dropped, if `into` fits into the reader's capacity.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends first; what the socket says.
    pub async fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let mut rest = into;
        while !rest.is_empty() {
            let want = rest.len().min(self.buffer.len());
            while self.available() < want {
                if self.fill(want).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let (head, tail) = rest.split_at_mut(want);
            self.buffer.copy_out(self.start, head);
            self.start += want;
            rest = tail;
        }
        Ok(())
    }

    /// Fills `memory`: first from the buffer, the rest straight from the socket. A future that is dropped may take received
    /// bytes with it.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends first; what the socket says.
    pub async fn read_into(&mut self, mut memory: IoVec) -> io::Result<IoVec> {
        let mut filled = 0;
        // A receive that a dropped future left behind comes first in the stream.
        while filled < memory.len() && (self.available() > 0 || self.pending.is_some()) {
            if self.available() == 0 && self.fill(1).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = (memory.len() - filled).min(self.available());
            memory.copy_in(filled, &self.buffer.slice(self.start, count).to_buffer());
            self.start += count;
            filled += count;
        }
        let rest = memory.slice(filled, memory.len() - filled);
        let (result, rest) = self.stream.recv_exact(rest).await;
        drop(rest);
        result.map(|()| memory)
    }

    /// Receives more, with room for `len` bytes in all. Zero at the end of the stream.
    async fn fill(&mut self, len: usize) -> io::Result<usize> {
        if self.pending.is_none() {
            self.make_room(len);
            let room = self.buffer.slice(self.end, self.buffer.len() - self.end);
            let stream = self.stream.clone();
            self.pending = Some(Box::pin(async move { stream.recv(room).await.0 }));
        }
        let result = poll_fn(|context| match &mut self.pending {
            Some(pending) => pending.as_mut().poll(context),
            None => unreachable!("it was started above"),
        })
        .await;
        self.pending = None;
        let count = result?;
        self.end += count;
        Ok(count)
    }

    fn make_room(&mut self, len: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start + len > self.buffer.len() {
            let kept = self.buffer.slice(self.start, self.available()).to_buffer();
            self.buffer.copy_in(0, &kept);
            (self.start, self.end) = (0, kept.len());
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("stream", &self.stream)
            .field("available", &self.available())
            .finish_non_exhaustive()
    }
}
