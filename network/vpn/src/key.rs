//! Keys, and how people write them.

use std::fmt;
use std::str::FromStr;

use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::Zeroizing;

/// Bytes of every key of the protocol.
pub const KEY_BYTES: usize = 32;
/// Characters of a key in base64, with the closing `=`.
const BASE64_LENGTH: usize = 44;

/// A key that is not 44 characters of base64 or 64 hexadecimal digits. What was given is not repeated, for it may be a
/// secret that was mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key is 32 bytes, written as 44 characters of base64 that end in = or as 64 hexadecimal digits"
)]
pub struct BadKey;

/// Who a peer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; KEY_BYTES]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        read(text).map(|bytes| Self(*bytes))
    }
}

/// The secret that a [`PublicKey`] follows from. Wiped when it is dropped, and never printed.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; KEY_BYTES]>);

impl PrivateKey {
    /// The key of these bytes, of which those bits are set that Curve25519 wants (RFC 7748, 5). So 32 bytes of chance
    /// make a new key.
    pub fn new(mut bytes: [u8; KEY_BYTES]) -> Self {
        bytes[0] &= 248;
        bytes[31] = bytes[31] & 127 | 64;
        let key = Self(Zeroizing::new(bytes));
        zeroize::Zeroize::zeroize(&mut bytes);
        key
    }

    /// The secret itself.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The secret in base64, wiped when it is dropped.
    pub fn expose_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(base64(&self.0))
    }

    /// The key that others may know.
    pub fn public(&self) -> PublicKey {
        PublicKey(Point::from(&StaticSecret::from(*self.0)).to_bytes())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl FromStr for PrivateKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        read(text).map(|bytes| Self::new(*bytes))
    }
}

/// A secret that two peers have in common beside their key pairs; all zeroes if they have none. Wiped when it is
/// dropped, and never printed.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; KEY_BYTES]>);

impl PresharedKey {
    /// The secret of these bytes.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// What stands for none.
    pub fn none() -> Self {
        Self::new([0; KEY_BYTES])
    }

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.0.iter().fold(0, |all, byte| all | byte) != 0
    }

    /// The secret itself.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The secret in base64, wiped when it is dropped.
    pub fn expose_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(base64(&self.0))
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

impl FromStr for PresharedKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        read(text).map(|bytes| Self::new(*bytes))
    }
}

fn read(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, BadKey> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    let read = match text.len() {
        BASE64_LENGTH => read_base64(text.as_bytes(), &mut bytes),
        length if length == 2 * KEY_BYTES => read_hex(text.as_bytes(), &mut bytes),
        _ => None,
    };
    read.map(|()| bytes).ok_or(BadKey)
}

fn base64(key: &[u8; KEY_BYTES]) -> String {
    let letter = |six: u32| {
        let offset = match six {
            0..26 => u32::from(b'A'),
            26..52 => u32::from(b'a') - 26,
            52..62 => u32::from(b'0').wrapping_sub(52),
            62 => u32::from(b'+').wrapping_sub(62),
            _ => u32::from(b'/').wrapping_sub(63),
        };
        six.wrapping_add(offset) as u8 as char
    };
    let mut text = String::with_capacity(BASE64_LENGTH);
    for three in key.chunks(3) {
        let bits = (0..3).fold(0, |bits, n| {
            bits << 8 | u32::from(three.get(n).copied().unwrap_or(0))
        });
        for n in 0..=three.len() {
            text.push(letter(bits >> (18 - 6 * n) & 63));
        }
    }
    text.push('=');
    text
}

fn read_base64(text: &[u8], key: &mut [u8; KEY_BYTES]) -> Option<()> {
    let six = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (letters, padding) = text.split_at(BASE64_LENGTH - 1);
    if padding != b"=" {
        return None;
    }
    for (three, four) in key.chunks_mut(3).zip(letters.chunks(4)) {
        let mut bits = 0_u32;
        for n in 0..4 {
            let value = four.get(n).map_or(Some(0), |&letter| six(letter))?;
            bits = bits << 6 | u32::from(value);
        }
        // The last group has three letters for two bytes: two bits are over, and must be zero.
        if three.len() == 2 && bits & 0xff != 0 {
            return None;
        }
        for (n, byte) in three.iter_mut().enumerate() {
            *byte = (bits >> (16 - 8 * n)) as u8;
        }
    }
    Some(())
}

fn read_hex(text: &[u8], key: &mut [u8; KEY_BYTES]) -> Option<()> {
    let four = |digit: u8| (digit as char).to_digit(16).map(|value| value as u8);
    for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
        *byte = four(pair[0])? << 4 | four(pair[1])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_public_key_follows_and_the_secret_is_not_shown() {
        // RFC 7748, 6.1: Alice.
        let private: PrivateKey =
            "77076d0a7318a57d3c16c17251b26645f2e54fbe6a6e0c2d5e1d2f3b9d2c2a2a"
                .parse()
                .unwrap();
        assert_eq!(format!("{private:?}"), "PrivateKey(..)");
        assert_eq!(
            format!("{:?}", PresharedKey::new([7; 32])),
            "PresharedKey(..)"
        );
        assert_eq!(private.expose()[31] & 0xc0, 0x40);
        assert!(!PresharedKey::none().is_some() && PresharedKey::new([7; 32]).is_some());
    }

    #[test]
    fn refuses_what_is_no_key() {
        for bad in [
            "",
            "AAAA",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAAAAAA AAAAAAAAAAAAAAAA=",
            "zz00000000000000000000000000000000000000000000000000000000000000",
        ] {
            assert_eq!(bad.parse::<PublicKey>(), Err(BadKey), "{bad}");
        }
        let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(zero.parse::<PublicKey>(), Ok(PublicKey([0; 32])));
    }

    proptest! {
        #[test]
        fn text_is_identity(bytes: [u8; 32], text in "\\PC*") {
            let key = PublicKey(bytes);
            prop_assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(hex.parse::<PublicKey>(), Ok(key));
            let _ = text.parse::<PublicKey>();
        }
    }
}
