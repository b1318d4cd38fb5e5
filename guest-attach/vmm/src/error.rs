//! Errors of kind, context and source.

use std::fmt;

/// The result of everything that the VMM does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may act on. Stable: the service shows these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration asks for what cannot be: no CPU, too little memory, a name used twice.
    Config,
    /// The kernel or initrd file cannot be read, is none, or does not fit into the memory.
    Kernel,
    /// Guest memory could not be made.
    Memory,
    /// KVM is missing, or refused an operation.
    Kvm,
    /// The back end of a disk or a NIC did not answer, or answered what the protocol does not allow.
    Backend,
    /// The console's socket or log could not be made.
    Console,
    /// The control socket could not be made, or did not answer.
    Control,
    /// The process could not give up its rights.
    Sandbox,
    /// The guest did what no machine could run on (a CPU state that KVM refuses).
    Guest,
}

impl ErrorKind {
    /// The name that the service shows, in kebab case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Kernel => "kernel",
            Self::Memory => "memory",
            Self::Kvm => "kvm",
            Self::Backend => "backend",
            Self::Console => "console",
            Self::Control => "control",
            Self::Sandbox => "sandbox",
            Self::Guest => "guest",
        }
    }
}

/// A failure: its kind, what was being done to which object, and the cause below if there is one.
///
/// `Display` tells the context alone and never repeats its source; [`Error::sentence`] tells the whole chain.
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

/// Gives a foreign error its kind and context where it is born.
pub(crate) trait Context<T> {
    fn context(self, kind: ErrorKind, context: impl Into<String>) -> Result<T>;
}

impl<T, E> Context<T> for std::result::Result<T, E>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn context(self, kind: ErrorKind, context: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::new(kind, context).with_source(error))
    }
}
