//! Which cipher, in which mode, with which IVs: what a header says in two strings and a length.

use super::error::{LuksError, Result};
use super::hash::Hash;

/// A block cipher with its key length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES with keys of 128 bits.
    Aes128,
    /// AES with keys of 192 bits.
    Aes192,
    /// AES with keys of 256 bits, the default.
    Aes256,
    /// Serpent with keys of 128 bits.
    Serpent128,
    /// Serpent with keys of 192 bits.
    Serpent192,
    /// Serpent with keys of 256 bits.
    Serpent256,
    /// Twofish with keys of 128 bits.
    Twofish128,
    /// Twofish with keys of 192 bits.
    Twofish192,
    /// Twofish with keys of 256 bits.
    Twofish256,
    /// CAST5 with keys of 128 bits, whose blocks of 64 bits only CBC takes.
    Cast5,
}

/// Every algorithm, with its name in headers and its bytes of key.
const ALGORITHMS: [(Algorithm, &str, usize); 10] = [
    (Algorithm::Aes128, "aes", 16),
    (Algorithm::Aes192, "aes", 24),
    (Algorithm::Aes256, "aes", 32),
    (Algorithm::Serpent128, "serpent", 16),
    (Algorithm::Serpent192, "serpent", 24),
    (Algorithm::Serpent256, "serpent", 32),
    (Algorithm::Twofish128, "twofish", 16),
    (Algorithm::Twofish192, "twofish", 24),
    (Algorithm::Twofish256, "twofish", 32),
    (Algorithm::Cast5, "cast5", 16),
];

impl Algorithm {
    /// The name in headers, which does not tell the key's length.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of a key for this cipher alone: XTS needs two of them.
    pub fn key_bytes(self) -> usize {
        self.row().2
    }

    fn row(self) -> (Self, &'static str, usize) {
        // Each algorithm has its row; the first stands in for one that was forgotten, which a test finds.
        let row = ALGORITHMS.iter().find(|(known, ..)| *known == self);
        *row.unwrap_or(&ALGORITHMS[0])
    }

    fn of_name(name: &str, key_bytes: usize) -> Option<Self> {
        ALGORITHMS
            .iter()
            .find(|(_, known, bytes)| *known == name && *bytes == key_bytes)
            .map(|(algorithm, ..)| *algorithm)
    }

    /// Whether its blocks have 128 bits.
    fn has_wide_blocks(self) -> bool {
        self != Self::Cast5
    }
}

/// How blocks make up a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// XTS (IEEE 1619), the default.
    Xts,
    /// Cipher block chaining, with an IV for each sector.
    Cbc,
}

/// How a sector's number becomes its IV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IvKind {
    /// Its low 32 bits: every 2 TiB the IVs come again.
    Plain,
    /// Its 64 bits, the default.
    Plain64,
    /// Its 64 bits, encrypted with the SHA-256 of the key, by the same cipher with 256 bits.
    EssivSha256,
}

/// A cipher, its mode and its IVs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spec {
    algorithm: Algorithm,
    mode: Mode,
    iv: IvKind,
}

impl Default for Spec {
    /// `aes-xts-plain64` with keys of 256 bits, as QEMU does it.
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Aes256,
            mode: Mode::Xts,
            iv: IvKind::Plain64,
        }
    }
}

impl Spec {
    /// The three together.
    ///
    /// # Errors
    /// `Mode` if they do not go together: XTS and ESSIV want blocks of 128 bits.
    pub fn new(algorithm: Algorithm, mode: Mode, iv: IvKind) -> Result<Self> {
        let spec = Self {
            algorithm,
            mode,
            iv,
        };
        let wants_wide = mode == Mode::Xts || iv == IvKind::EssivSha256;
        if wants_wide && !algorithm.has_wide_blocks() {
            return Err(LuksError::Mode(spec.mode_name()));
        }
        Ok(spec)
    }

    /// What a header says.
    ///
    /// # Errors
    /// `Cipher`, `Mode`, `Ecb` or `Hash` by the name that is not known.
    pub(super) fn of_names(cipher: &str, mode: &str, key_bytes: usize) -> Result<Self> {
        let unknown = || LuksError::Mode(mode.to_owned());
        let (chaining, iv) = match mode.split_once('-') {
            Some((chaining, iv)) => (chaining, Some(iv)),
            None => (mode, None),
        };
        let chaining = match chaining {
            "xts" => Mode::Xts,
            "cbc" => Mode::Cbc,
            "ecb" => return Err(LuksError::Ecb),
            _ => return Err(unknown()),
        };
        let (generator, hash) = match iv.ok_or_else(unknown)?.split_once(':') {
            Some((generator, hash)) => (generator, Some(hash)),
            None => (iv.unwrap_or_default(), None),
        };
        // dm-crypt and QEMU let a hash stand after plain IVs, where it means nothing.
        let iv = match (generator, hash) {
            ("plain", _) => IvKind::Plain,
            ("plain64", _) => IvKind::Plain64,
            ("essiv", Some("sha256")) => IvKind::EssivSha256,
            _ => return Err(unknown()),
        };
        let keys = if chaining == Mode::Xts { 2 } else { 1 };
        let algorithm = (key_bytes.is_multiple_of(keys))
            .then(|| Algorithm::of_name(cipher, key_bytes / keys))
            .flatten()
            .ok_or_else(|| LuksError::Cipher {
                name: cipher.to_owned(),
                bits: key_bytes as u64 * 8,
            })?;
        Self::new(algorithm, chaining, iv)
    }

    /// The block cipher.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How blocks make up a sector.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How a sector's number becomes its IV.
    pub fn iv(&self) -> IvKind {
        self.iv
    }

    /// Bytes of the master key: two keys of the cipher for XTS.
    pub fn key_bytes(&self) -> usize {
        let keys = if self.mode == Mode::Xts { 2 } else { 1 };
        keys * self.algorithm.key_bytes()
    }

    /// The mode and the IVs, as a header names them: `xts-plain64`.
    pub fn mode_name(&self) -> String {
        let mode = match self.mode {
            Mode::Xts => "xts",
            Mode::Cbc => "cbc",
        };
        let iv = match self.iv {
            IvKind::Plain => "plain",
            IvKind::Plain64 => "plain64",
            IvKind::EssivSha256 => "essiv:sha256",
        };
        format!("{mode}-{iv}")
    }
}

/// The hash that a header names.
pub(super) fn hash_of_name(name: &str) -> Result<Hash> {
    Hash::of_name(name).ok_or_else(|| LuksError::Hash(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_algorithm_has_its_row() {
        for (algorithm, name, bytes) in ALGORITHMS {
            assert_eq!((algorithm.name(), algorithm.key_bytes()), (name, bytes));
            assert_eq!(Algorithm::of_name(name, bytes), Some(algorithm));
        }
    }

    #[test]
    fn names_go_both_ways() {
        for (algorithm, name, _) in ALGORITHMS {
            for mode in [Mode::Xts, Mode::Cbc] {
                for iv in [IvKind::Plain, IvKind::Plain64, IvKind::EssivSha256] {
                    let Ok(spec) = Spec::new(algorithm, mode, iv) else {
                        assert_eq!(algorithm, Algorithm::Cast5);
                        continue;
                    };
                    let again = Spec::of_names(name, &spec.mode_name(), spec.key_bytes());
                    assert_eq!(again, Ok(spec));
                }
            }
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        let refused = |cipher, mode, bytes| Spec::of_names(cipher, mode, bytes).unwrap_err();
        assert_eq!(refused("aes", "ecb", 32), LuksError::Ecb);
        assert_eq!(refused("aes", "ecb-plain64", 32), LuksError::Ecb);
        for mode in [
            "lrw-plain64",
            "xts",
            "",
            "xts-",
            "cbc-essiv",
            "cbc-essiv:sha1",
            "-:",
        ] {
            assert_eq!(refused("aes", mode, 32), LuksError::Mode(mode.to_owned()));
        }
        for (cipher, bytes) in [("des3_ede", 24), ("aes", 20), ("aes", 0), ("AES", 32)] {
            let error = refused(cipher, "cbc-plain64", bytes);
            assert!(matches!(error, LuksError::Cipher { name, .. } if name == cipher));
        }
        // Two keys of 128 bits and a half, and a key that no XTS divides.
        assert!(matches!(
            refused("aes", "xts-plain64", 33),
            LuksError::Cipher { .. }
        ));
        assert!(matches!(
            refused("cast5", "xts-plain64", 32),
            LuksError::Mode(_)
        ));
    }

    #[test]
    fn a_hash_after_plain_ivs_means_nothing() {
        let spec = Spec::of_names("aes", "xts-plain64:sha256", 64).unwrap();
        assert_eq!(spec, Spec::default());
        assert_eq!(spec.mode_name(), "xts-plain64");
    }
}
