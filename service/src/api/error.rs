//! One sentence for people and a stable kind for programs.

use serde::{Deserialize, Serialize};

/// The result of everything that the API offers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a program may act on. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument or a file's contents cannot be accepted.
    Invalid,
    /// No such object.
    NotFound,
    /// An object of that name is there already.
    Exists,
    /// Somebody else holds the object.
    Busy,
    /// The object is used by another of weft's objects.
    InUse,
    /// The disk carries somebody's signature.
    Foreign,
    /// No room is left.
    NoSpace,
    /// Too many members are missing, or a start would need to be told by name.
    Degraded,
    /// What was read contradicts its checksum or its format.
    Corrupt,
    /// Not known here.
    Unsupported,
    /// The user may not do this.
    Permission,
    /// The system below failed.
    Io,
    /// The daemon does not answer.
    Unavailable,
}

/// A failure, in one sentence that tells what failed, on which object, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What a program may act on.
    pub kind: ErrorKind,
    /// What a person reads.
    pub message: String,
    /// The object that failed, by the name it was addressed with.
    pub object: Option<String>,
}

/// The JSON document of a failure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The failure.
    pub error: Error,
}

impl Error {
    /// An error on `object`.
    pub fn new(kind: ErrorKind, object: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            object: Some(object.into()),
        }
    }

    /// An error that concerns no object.
    pub fn general(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            object: None,
        }
    }

    /// No object of that kind and name.
    pub fn not_found(noun: &str, name: &str) -> Self {
        Self::new(
            ErrorKind::NotFound,
            name,
            format!("there is no {noun} named {name}"),
        )
    }

    /// The name is taken.
    pub fn exists(noun: &str, name: &str) -> Self {
        Self::new(
            ErrorKind::Exists,
            name,
            format!("{noun} {name} exists already"),
        )
    }

    /// Whether it says that the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// A failure of the block layers, about `object`.
    pub fn from_block(object: &str, error: &weft_block::Error) -> Self {
        Self::new(error.kind().into(), object, error.sentence())
    }

    /// A failure of a system call, with what was tried.
    pub fn from_io(object: &str, tried: &str, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Permission,
            std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            std::io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            _ => ErrorKind::Io,
        };
        Self::new(kind, object, format!("{tried}: {error}"))
    }
}

impl From<weft_block::ErrorKind> for ErrorKind {
    fn from(kind: weft_block::ErrorKind) -> Self {
        use weft_block::ErrorKind as Block;
        match kind {
            Block::NoSpace => Self::NoSpace,
            Block::Unsupported => Self::Unsupported,
            Block::Corrupt => Self::Corrupt,
            Block::Degraded => Self::Degraded,
            Block::Busy => Self::Busy,
            Block::Invalid | Block::OutOfRange | Block::Misaligned => Self::Invalid,
            Block::ReadOnly => Self::Permission,
            _ => Self::Io,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
