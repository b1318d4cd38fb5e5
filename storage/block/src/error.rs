//! Errors of kind, context and source.

use std::fmt;

/// The result of a control operation on a device.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may act on. Stable: exports map these to their protocol's codes, and the API shows their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The medium did not answer with the data, or did not take it. A retry elsewhere (redundancy) may help.
    Io,
    /// The device is gone or was failed by an administrator; nothing it holds can be reached now.
    Offline,
    /// The request ends beyond the device.
    OutOfRange,
    /// Offset, length or buffer is not a multiple of what [`Info`](crate::Info) says.
    Misaligned,
    /// A write to a device that was opened read-only.
    ReadOnly,
    /// No room is left below (a full file system, an exhausted pool).
    NoSpace,
    /// The device does not know this operation.
    Unsupported,
    /// What was read contradicts its checksum or its format.
    Corrupt,
    /// Too much of what it is made of is missing, or starting without that must be asked for by name.
    Degraded,
    /// Somebody else holds the device.
    Busy,
    /// An argument of a control operation is not acceptable.
    Invalid,
}

impl ErrorKind {
    /// The name that the API shows, in kebab case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Offline => "offline",
            Self::OutOfRange => "out-of-range",
            Self::Misaligned => "misaligned",
            Self::ReadOnly => "read-only",
            Self::NoSpace => "no-space",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::Degraded => "degraded",
            Self::Busy => "busy",
            Self::Invalid => "invalid",
        }
    }
}

/// A failure: its kind, what was being done to which object, and the cause below if there is one.
///
/// `Display` tells the context alone and never repeats its source.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a sentence that names the object.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Wraps this error in a wider context, keeping its kind.
    #[must_use]
    pub fn in_context(self, context: impl Into<String>) -> Self {
        Self {
            kind: self.kind,
            context: context.into(),
            source: Some(Box::new(self)),
        }
    }

    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The whole chain in one sentence, outermost first, joined by colons.
    pub fn sentence(&self) -> String {
        let mut text = self.context.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_tells_each_link_once() {
        let inner =
            Error::new(ErrorKind::Io, "reading sector 8 of disk1").with_source("bad medium");
        let outer = inner.in_context("array tank cannot be read");
        assert_eq!(outer.kind(), ErrorKind::Io);
        assert_eq!(outer.to_string(), "array tank cannot be read");
        assert_eq!(
            outer.sentence(),
            "array tank cannot be read: reading sector 8 of disk1: bad medium"
        );
    }
}
