//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes, written `512M`, `1.5G` or `4096`: K, M, G and T are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(pub u64);

const UNITS: [(char, u64); 4] = [
    ('T', 1 << 40),
    ('G', 1 << 30),
    ('M', 1 << 20),
    ('K', 1 << 10),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size; write it as 512M, 1G or 4096");
        let upper = text.trim().to_ascii_uppercase();
        let upper = upper
            .strip_suffix("IB")
            .or(upper.strip_suffix('B'))
            .unwrap_or(&upper);
        let (digits, unit) = UNITS
            .iter()
            .find_map(|&(letter, unit)| Some((upper.strip_suffix(letter)?, unit)))
            .unwrap_or((upper, 1));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_number(whole) || !is_number(fraction) || fraction.len() > 6 {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let bytes = whole.checked_mul(unit).ok_or_else(wrong)?;
        if fraction.is_empty() {
            return Ok(Self(bytes));
        }
        let scale = 10_u128.pow(u32::try_from(fraction.len()).expect("at most six digits"));
        let part: u128 = fraction.parse().map_err(|_| wrong())?;
        let part = u64::try_from(part * u128::from(unit) / scale).map_err(|_| wrong())?;
        bytes.checked_add(part).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    /// The largest unit that keeps one digit after the point at most, as `512 MiB` or `1.5 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(&(letter, unit)) = UNITS.iter().find(|(_, unit)| self.0 >= *unit) else {
            return write!(f, "{} B", self.0);
        };
        let tenths = (u128::from(self.0) * 10 + u128::from(unit) / 2) / u128::from(unit);
        if tenths.is_multiple_of(10) {
            write!(f, "{} {letter}iB", tenths / 10)
        } else {
            write!(f, "{}.{} {letter}iB", tenths / 10, tenths % 10)
        }
    }
}

/// What a volume is asked to become: so many bytes, that many more, or a share of what is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum VolumeSize {
    /// Exactly, rounded up to extents.
    Bytes(u64),
    /// More than now.
    More(u64),
    /// Percent of the group's free space.
    PercentFree(u8),
}

impl FromStr for VolumeSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(percent) = text.to_ascii_uppercase().strip_suffix("%FREE") {
            return match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Self::PercentFree(percent)),
                _ => Err(format!("{text:?} is not a share; write it as 100%FREE")),
            };
        }
        match text.strip_prefix('+') {
            Some(more) => more.parse().map(|Size(bytes)| Self::More(bytes)),
            None => text.parse().map(|Size(bytes)| Self::Bytes(bytes)),
        }
    }
}

impl fmt::Display for VolumeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::More(bytes) => write!(f, "+{bytes}"),
            Self::PercentFree(percent) => write!(f, "{percent}%FREE"),
        }
    }
}

impl From<VolumeSize> for String {
    fn from(size: VolumeSize) -> Self {
        size.to_string()
    }
}

impl TryFrom<String> for VolumeSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// How much of each member an array uses: all that the smallest has, or so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum MemberSize {
    /// All.
    Max,
    /// So many.
    Bytes(u64),
}

impl FromStr for MemberSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "max" => Ok(Self::Max),
            text => text.parse().map(|Size(bytes)| Self::Bytes(bytes)),
        }
    }
}

impl fmt::Display for MemberSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => write!(f, "max"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl From<MemberSize> for String {
    fn from(size: MemberSize) -> Self {
        size.to_string()
    }
}

impl TryFrom<String> for MemberSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let bytes = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!(bytes("512M"), Ok(512 << 20));
        assert_eq!(bytes("1.5g"), Ok(3 << 29));
        assert_eq!(bytes("64KiB"), Ok(64 << 10));
        assert_eq!(bytes("4096"), Ok(4096));
        for wrong in [
            "",
            "M",
            "-1",
            "1..2G",
            "0x10",
            "99999999999T",
            "1e3",
            "1.0000001G",
        ] {
            assert!(bytes(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_print_as_people_write_them() {
        assert_eq!(Size(512 << 20).to_string(), "512 MiB");
        assert_eq!(Size(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(Size(700).to_string(), "700 B");
    }

    #[test]
    fn volume_sizes_survive_their_text() {
        for text in ["1024", "+1024", "100%FREE"] {
            let size: VolumeSize = text.parse().unwrap();
            assert_eq!(size.to_string(), text);
        }
        assert_eq!("max".parse(), Ok(MemberSize::Max));
        assert_eq!("1G".parse(), Ok(MemberSize::Bytes(1 << 30)));
        assert!("all".parse::<MemberSize>().is_err());
        assert!("101%FREE".parse::<VolumeSize>().is_err());
        assert!("+x".parse::<VolumeSize>().is_err());
    }
}
