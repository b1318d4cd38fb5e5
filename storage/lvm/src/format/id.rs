//! The identifiers of physical volumes, volume groups and logical volumes.

use std::fmt;
use std::str::FromStr;

use weft_block::{Error, ErrorKind};

/// Characters in an identifier.
pub const ID_LEN: usize = 32;

/// What new identifiers are made of; two more are accepted, which old versions of LVM2 used.
const ALPHABET: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const OLD: &[u8; 2] = b"!#";

/// Characters between dashes in the printed form.
const GROUPS: [usize; 7] = [6, 4, 4, 4, 4, 4, 6];

/// An LVM2 UUID: 32 letters and digits, printed as `cTZnWH-xxxx-xxxx-xxxx-xxxx-xxxx-xxxxxx`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; ID_LEN]);

impl Id {
    /// An identifier from random bytes.
    pub fn from_random(bytes: [u8; ID_LEN]) -> Self {
        // 256 is no multiple of 62: the first characters are a little likelier, as in LVM2 itself.
        Self(bytes.map(|byte| ALPHABET[usize::from(byte) % ALPHABET.len()]))
    }

    /// The form without dashes, as labels hold it; `None` if it holds anything but letters and digits.
    pub fn from_label(bytes: &[u8; ID_LEN]) -> Option<Self> {
        bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || OLD.contains(byte))
            .then_some(Self(*bytes))
    }

    /// The form without dashes.
    pub fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = [b'-'; ID_LEN + GROUPS.len() - 1];
        let (mut from, mut to) = (0, 0);
        for len in GROUPS {
            printed[to..to + len].copy_from_slice(&self.0[from..from + len]);
            (from, to) = (from + len, to + len + 1);
        }
        f.write_str(std::str::from_utf8(&printed).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::new(ErrorKind::Invalid, format!("{text:?} is not an LVM2 UUID"));
        let bytes: Vec<u8> = text.bytes().filter(|&byte| byte != b'-').collect();
        let bytes = bytes.try_into().map_err(|_| invalid())?;
        Self::from_label(&bytes).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashed_form_goes_both_ways() {
        let id = Id::from_random(std::array::from_fn(|index| index as u8 * 7));
        let text = id.to_string();
        assert_eq!(text.len(), 38);
        assert_eq!(text.parse::<Id>().expect("parses"), id);
        assert!("GLVhbm-y83e".parse::<Id>().is_err());
        assert!(
            "GLVhbm-y83e-77cE-TCqF-mjk9-bcRg-g7Ib B"
                .parse::<Id>()
                .is_err()
        );
    }
}
