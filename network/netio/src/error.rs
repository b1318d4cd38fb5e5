//! Errors of kind, context and source.

use std::fmt;
use std::io;

/// The result of an operation at the network edge.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may act on. Stable: the API shows these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is not acceptable (a name that is too long, a range outside of its subnet).
    Invalid,
    /// The name is taken by something that is not ours; it was not touched.
    Foreign,
    /// A subnet overlaps an address or a route that the host has already.
    Collision,
    /// The object does not exist (any more).
    NotFound,
    /// This user may not do it here.
    Denied,
    /// The kernel does not know this feature.
    Unsupported,
    /// A program that is needed is not installed.
    MissingProgram,
    /// Somebody else holds the object.
    Busy,
    /// The kernel or a program answered with another error.
    Io,
}

impl ErrorKind {
    /// The name that the API shows, in kebab case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Foreign => "foreign",
            Self::Collision => "collision",
            Self::NotFound => "not-found",
            Self::Denied => "denied",
            Self::Unsupported => "unsupported",
            Self::MissingProgram => "missing-program",
            Self::Busy => "busy",
            Self::Io => "io",
        }
    }

    /// The kind that an errno from the kernel stands for.
    pub fn of_errno(errno: i32) -> Self {
        match errno {
            libc::EPERM | libc::EACCES => Self::Denied,
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Self::NotFound,
            libc::EOPNOTSUPP | libc::ENOTTY | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT => {
                Self::Unsupported
            }
            libc::EBUSY | libc::EADDRINUSE => Self::Busy,
            _ => Self::Io,
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

    /// A system call failed; the kind follows from its errno.
    pub fn system(context: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let kind = error
            .raw_os_error()
            .map_or(ErrorKind::Io, ErrorKind::of_errno);
        Self::new(kind, context).with_source(error)
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
