//! Who a client is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weft_wire::{MacAddress, stable_hash};

/// The longest identity in bytes that is kept.
const LONGEST: usize = 255;
/// Ethernet among the hardware types (RFC 1700).
const ETHERNET: u8 = 1;

/// What a client is known by: its client identifier (option 61), or its hardware type and address without one
/// (RFC 2131 4.2). An identifier that merely repeats the hardware type and address is the same client.
///
/// As text: two hexadecimal digits for each byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClientId(Box<[u8]>);

impl ClientId {
    /// The identity of an Ethernet station that sends no client identifier.
    pub fn of_mac(mac: MacAddress) -> Self {
        let mut bytes = vec![ETHERNET];
        bytes.extend_from_slice(&mac.octets());
        Self(bytes.into())
    }

    /// The identity in a client identifier; `None` if that is shorter than RFC 2132 9.14 allows, or too long to keep.
    pub fn of_identifier(identifier: &[u8]) -> Option<Self> {
        (2..=LONGEST)
            .contains(&identifier.len())
            .then(|| Self(identifier.into()))
    }

    /// A number that follows from the identity alone.
    pub(crate) fn hash(&self) -> u64 {
        stable_hash(&self.0)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ClientId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for ClientId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
        let bytes: Option<Vec<u8>> = digits.filter(|digits| digits.len() % 2 == 0).map(|digits| {
            digits
                .chunks_exact(2)
                .map(|pair| (pair[0] * 16 + pair[1]) as u8)
                .collect()
        });
        bytes
            .and_then(|bytes| Self::of_identifier(&bytes))
            .ok_or_else(|| format!("{text:?} is no client identity of 2 to {LONGEST} bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_both_ways_and_one_identity_for_both_spellings_of_a_mac() {
        let mac: MacAddress = "52:54:00:00:00:01".parse().unwrap();
        let id = ClientId::of_mac(mac);
        assert_eq!(id.to_string(), "01525400000001");
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!(
            ClientId::of_identifier(&[1, 0x52, 0x54, 0, 0, 0, 1]),
            Some(id)
        );
        for bad in ["", "0", "01", "012", "xy01", "é000"] {
            assert!(bad.parse::<ClientId>().is_err(), "{bad}");
        }
        assert_eq!(ClientId::of_identifier(&[0; 256]), None);
    }
}
