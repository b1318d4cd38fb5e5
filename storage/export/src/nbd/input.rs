//! What was received and not consumed yet.

/// Bytes that are received at once by way of a buffer: many requests or replies without payload, or several with small
/// ones. More would be copied more often when large payloads follow each other.
const RECEIVE_BUFFER: usize = 32 << 10;

/// Bytes of a payload from which on it is received where it belongs, not by way of the buffer.
pub(super) const RECEIVE_DIRECTLY: usize = 4 << 10;

/// Received bytes, in front of a message's payload or between messages.
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Memory to receive into, when it is not lent.
    spare: Vec<u8>,
}

impl Input {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self {
            start: 0,
            end: bytes.len(),
            bytes,
            spare: vec![0; RECEIVE_BUFFER],
        }
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.start += len;
    }

    /// Memory to receive into.
    pub(super) fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.spare)
    }

    /// Takes lent memory back with `len` bytes received.
    pub(super) fn put(&mut self, buffer: Vec<u8>, len: usize) {
        if self.start == self.end {
            self.spare = std::mem::replace(&mut self.bytes, buffer);
            self.spare.resize(RECEIVE_BUFFER, 0);
            (self.start, self.end) = (0, len);
            return;
        }
        // Less than a request is left: it goes before the rest of itself.
        self.bytes.copy_within(self.start..self.end, 0);
        self.bytes.truncate(self.end - self.start);
        self.bytes.extend_from_slice(&buffer[..len]);
        (self.start, self.end) = (0, self.bytes.len());
        self.spare = buffer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_keeps_its_order_across_receives() {
        let mut input = Input::of(b"abc".to_vec());
        input.consume(1);
        for (text, rest) in [(b"defg", "bcdefg"), (b"hijk", "efghijk")] {
            let mut buffer = input.lend();
            assert_eq!(buffer.len(), RECEIVE_BUFFER);
            buffer[..4].copy_from_slice(text);
            input.put(buffer, 4);
            assert_eq!(input.rest(), rest.as_bytes());
            input.consume(3);
        }
        input.consume(4);
        let mut buffer = input.lend();
        buffer[0] = b'x';
        input.put(buffer, 1);
        assert_eq!(input.rest(), b"x");
        assert_eq!(input.lend().len(), RECEIVE_BUFFER);
    }
}
