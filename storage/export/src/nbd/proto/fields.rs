//! Taking a message apart, field by field.

/// The rest of a message. Every method takes a field off its front, or gives `None` when it is too short.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// All of `message`.
    pub fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// 64 bits.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    /// A string of `len` bytes: UTF-8 without NUL, of at most [`MAX_STRING`](super::MAX_STRING).
    pub fn string(&mut self, len: usize) -> Option<&'a str> {
        if len > super::MAX_STRING {
            return None;
        }
        let text = std::str::from_utf8(self.bytes(len)?).ok()?;
        (!text.contains('\0')).then_some(text)
    }

    /// A string with its length, of 32 bits, before it.
    pub fn counted_string(&mut self) -> Option<&'a str> {
        let len = self.u32()?;
        self.string(usize::try_from(len).ok()?)
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }
}
