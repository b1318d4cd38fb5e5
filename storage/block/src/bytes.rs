//! Numbers of bytes in sentences.

use std::fmt;

/// A number of bytes as people read it and nothing of it lost: in the largest unit that says it with one digit after the
/// point at most, as `60 MiB` or `1.5 GiB`, so that two numbers that differ are not told as one.
///
/// ```
/// use weft_block::Bytes;
/// assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
/// assert_eq!(Bytes((1 << 30) + 512).to_string(), "1048576.5 KiB");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = |unit: u64| u128::from(self.0) * 10 / u128::from(unit);
        let is_exact = |unit: u64| (u128::from(self.0) * 10).is_multiple_of(u128::from(unit));
        let found = UNITS
            .iter()
            .find(|(_, unit)| self.0 >= *unit && is_exact(*unit));
        match found {
            None => write!(f, "{} bytes", self.0),
            Some(&(name, unit)) if self.0.is_multiple_of(unit) => {
                write!(f, "{} {name}", self.0 / unit)
            }
            Some(&(name, unit)) => {
                let tenths = tenths(unit);
                write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_rounded() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (511, "511 bytes"),
            (512, "512 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1537, "1537 bytes"),
            (64 << 20, "64 MiB"),
            ((64 << 20) - 512, "65535.5 KiB"),
            (11 << 39, "5.5 TiB"),
            (u64::MAX, "18446744073709551615 bytes"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
