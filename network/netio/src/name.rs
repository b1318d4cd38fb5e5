//! Names of interfaces, checked once.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind};

/// The longest interface name in bytes: `IFNAMSIZ` is 16 with the closing zero.
pub const LONGEST_INTERFACE_NAME: usize = 15;

/// The name of an interface that Linux takes: 1 to 15 bytes of visible ASCII, without `/`, `:`, `%` and quotes, and
/// neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Checks `name`; the error is of kind [`ErrorKind::Invalid`] and says what is wrong with it.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let wrong = |why: &str| {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("interface name {name:?} {why}"),
            ))
        };
        if name.is_empty() {
            return wrong("is empty");
        }
        if name.len() > LONGEST_INTERFACE_NAME {
            return wrong(&format!(
                "has {} bytes, Linux takes at most {LONGEST_INTERFACE_NAME}",
                name.len()
            ));
        }
        if name == "." || name == ".." {
            return wrong("is a folder's name");
        }
        let forbidden = |byte: u8| !byte.is_ascii_graphic() || b"/:%\"'\\".contains(&byte);
        if name.bytes().any(forbidden) {
            return wrong("has a character other than letters, digits and - _ .");
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InterfaceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_linux_takes() {
        for good in ["br0", "weft-lab", "a", "x_y.100", "exactly15bytes."] {
            assert_eq!(InterfaceName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "tap%d",
            "é",
            "sixteen-bytes-16",
        ] {
            assert_eq!(
                InterfaceName::new(bad).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{bad}"
            );
        }
        assert_eq!(
            InterfaceName::new("sixteen-bytes-16")
                .unwrap_err()
                .sentence(),
            "interface name \"sixteen-bytes-16\" has 16 bytes, Linux takes at most 15"
        );
    }
}
