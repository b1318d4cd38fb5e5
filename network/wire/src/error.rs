//! Why bytes or text were refused.

use thiserror::Error;

/// Why bytes are not a packet of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The bytes end before the packet does.
    #[error("the packet is cut short")]
    Truncated,
    /// A length field contradicts another, or the bytes.
    #[error("a length field is wrong")]
    Length,
    /// The version or type of the protocol is another one.
    #[error("the protocol's version or type is another one")]
    Version,
    /// The checksum does not fit the bytes.
    #[error("the checksum is wrong")]
    Checksum,
    /// A fragment; only whole packets are read.
    #[error("the packet is a fragment")]
    Fragment,
}

/// Text that is no address, subnet or range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseError {
    pub(crate) text: String,
    pub(crate) expected: &'static str,
}

impl ParseError {
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.into(),
            expected,
        }
    }
}
