//! Why an area cannot be used, or not changed.

use thiserror::Error;
use weft_block::ErrorKind;

/// The result of everything here that can fail.
pub type Result<T, E = LuksError> = std::result::Result<T, E>;

/// Why an area cannot be used or changed. Each is one sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LuksError {
    /// It does not begin as LUKS does.
    #[error("there is no LUKS header")]
    NoHeader,
    /// Another version of LUKS.
    #[error("the LUKS header is of version {0}; only version 1 is known")]
    Version(u16),
    /// A cipher or a key length that is not known.
    #[error("the LUKS cipher {name} with keys of {bits} bits is not known")]
    Cipher {
        /// Its name in the header.
        name: String,
        /// The length of its key in the header.
        bits: u64,
    },
    /// A mode, an IV generator or a hash of it that is not known, or not with this cipher.
    #[error("the LUKS cipher mode {0} is not known for this cipher")]
    Mode(String),
    /// A mode that shows equal sectors as equal.
    #[error("the LUKS cipher mode ecb hides nothing and is refused")]
    Ecb,
    /// A hash that is not known.
    #[error("the LUKS hash {0} is not known")]
    Hash(String),
    /// A field that makes no sense.
    #[error("the LUKS header is damaged: {0}")]
    Header(&'static str),
    /// A slot that makes no sense.
    #[error("key slot {slot} of the LUKS header is damaged: {problem}")]
    Slot {
        /// Which.
        slot: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No slot gives up the master key for this passphrase.
    #[error("the passphrase opens none of the LUKS key slots")]
    WrongPassphrase,
    /// There is no such slot.
    #[error("there is no LUKS key slot {0}: they are numbered 0 to 7")]
    NoSuchSlot(usize),
    /// The slot holds a key.
    #[error("LUKS key slot {0} is in use; erase it first")]
    SlotInUse(usize),
    /// The slot holds none.
    #[error("LUKS key slot {0} is not in use")]
    SlotUnused(usize),
    /// All slots hold keys.
    #[error("all eight LUKS key slots are in use; erase one first")]
    NoFreeSlot,
    /// Erasing it would lose the data for ever.
    #[error(
        "LUKS key slot {0} is the last in use; without it the data is lost, so erasing it must be forced"
    )]
    LastSlot(usize),
    /// The key is not the master key of this area.
    #[error("the key is not the master key of this LUKS header")]
    OtherKey,
    /// A header that only others than QEMU could use is not made.
    #[error(
        "LUKS in CBC mode with keys of 192 bits is not made, for QEMU cannot open it; use 128 or 256"
    )]
    NotForQemu,
    /// More iterations than are ever wanted.
    #[error("{0} PBKDF2 iterations are more than are taken")]
    TooManyIterations(u64),
}

impl LuksError {
    /// What a caller of the block contract may act on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Version(_)
            | Self::Cipher { .. }
            | Self::Mode(_)
            | Self::Ecb
            | Self::Hash(_)
            | Self::NotForQemu
            | Self::TooManyIterations(_) => ErrorKind::Unsupported,
            Self::NoHeader | Self::Header(_) | Self::Slot { .. } => ErrorKind::Corrupt,
            Self::WrongPassphrase
            | Self::NoSuchSlot(_)
            | Self::SlotInUse(_)
            | Self::SlotUnused(_)
            | Self::NoFreeSlot
            | Self::LastSlot(_)
            | Self::OtherKey => ErrorKind::Invalid,
        }
    }
}

impl From<LuksError> for weft_block::Error {
    fn from(error: LuksError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
