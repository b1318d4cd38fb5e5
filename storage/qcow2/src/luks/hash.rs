//! Hashes that a header may name, and PBKDF2 over them.

use std::fmt;

use digest::Digest;
use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroize;

/// A hash, for deriving keys and splitting them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-1, the default of old cryptsetup.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256, the default.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// RIPEMD-160.
    Ripemd160,
}

/// Every hash, with its name in headers.
const NAMES: [(Hash, &str); 6] = [
    (Hash::Sha1, "sha1"),
    (Hash::Sha224, "sha224"),
    (Hash::Sha256, "sha256"),
    (Hash::Sha384, "sha384"),
    (Hash::Sha512, "sha512"),
    (Hash::Ripemd160, "ripemd160"),
];

/// Bytes of the longest digest.
const LONGEST: usize = 64;

/// Calls `$function` with the type of `$hash` as its type argument.
macro_rules! with_hash {
    ($hash:expr, $function:ident($($argument:expr),*)) => {
        match $hash {
            Hash::Sha1 => $function::<Sha1>($($argument),*),
            Hash::Sha224 => $function::<Sha224>($($argument),*),
            Hash::Sha256 => $function::<Sha256>($($argument),*),
            Hash::Sha384 => $function::<Sha384>($($argument),*),
            Hash::Sha512 => $function::<Sha512>($($argument),*),
            Hash::Ripemd160 => $function::<Ripemd160>($($argument),*),
        }
    };
}

impl Hash {
    /// The hash of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(hash, _)| *hash)
    }

    /// The name in headers.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(known, _)| *known == self)
            .map_or("", |(_, name)| name)
    }

    /// Bytes of a digest.
    pub fn digest_bytes(self) -> usize {
        with_hash!(self, digest_bytes())
    }

    /// The digest of `parts`, one after the other, as much of it as `out` takes.
    pub(super) fn digest(self, parts: &[&[u8]], out: &mut [u8]) {
        with_hash!(self, digest_into(parts, out));
    }

    /// PBKDF2 with HMAC (RFC 8018, section 5.2): fills `out` with a key made of `secret`.
    ///
    /// It takes long by design: `iterations` times two runs of the hash for each `digest_bytes` of `out`.
    pub fn pbkdf2(self, secret: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
        with_hash!(self, pbkdf2_into(secret, salt, iterations, out));
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn digest_bytes<D: Digest>() -> usize {
    <D as Digest>::output_size()
}

fn digest_into<D: Digest>(parts: &[&[u8]], out: &mut [u8]) {
    let mut hasher = D::new();
    for part in parts {
        hasher.update(part);
    }
    let mut whole = [0; LONGEST];
    let whole = &mut whole[..digest_bytes::<D>()];
    whole.copy_from_slice(&hasher.finalize());
    out.copy_from_slice(&whole[..out.len()]);
    whole.zeroize();
}

fn pbkdf2_into<D: pbkdf2::hmac::EagerHash>(
    secret: &[u8],
    salt: &[u8],
    iterations: u32,
    out: &mut [u8],
) {
    pbkdf2::pbkdf2_hmac::<D>(secret, salt, iterations, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luks::tests::unhex;

    #[test]
    fn names_go_both_ways() {
        for (hash, name) in NAMES {
            assert_eq!(Hash::of_name(name), Some(hash));
            assert_eq!(hash.to_string(), name);
        }
        assert_eq!(Hash::of_name("whirlpool"), None);
        assert_eq!(Hash::of_name("SHA256"), None);
    }

    #[test]
    fn digests_are_those_of_the_standards() {
        // FIPS 180-4 and the RIPEMD-160 paper, of "abc".
        let expected = [
            (Hash::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                Hash::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (Hash::Ripemd160, "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
        ];
        for (hash, digest) in expected {
            let mut out = vec![0; hash.digest_bytes()];
            hash.digest(&[b"a", b"", b"bc"], &mut out);
            assert_eq!(out, unhex(digest), "{hash}");
        }
    }

    #[test]
    fn pbkdf2_is_that_of_rfc_6070() {
        let vectors: [(&[u8], &[u8], u32, &str); 5] = [
            (
                b"password",
                b"salt",
                1,
                "0c60c80f961f0e71f3a9b524af6012062fe037a6",
            ),
            (
                b"password",
                b"salt",
                2,
                "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957",
            ),
            (
                b"password",
                b"salt",
                4096,
                "4b007901b765489abead49d926f721d065a429c1",
            ),
            (
                b"passwordPASSWORDpassword",
                b"saltSALTsaltSALTsaltSALTsaltSALTsalt",
                4096,
                "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038",
            ),
            (
                b"pass\0word",
                b"sa\0lt",
                4096,
                "56fa6aa75548099dcc37d7f03425e0c3",
            ),
        ];
        for (secret, salt, iterations, key) in vectors {
            let key = unhex(key);
            let mut out = vec![0; key.len()];
            Hash::Sha1.pbkdf2(secret, salt, iterations, &mut out);
            assert_eq!(out, key);
        }
    }
}
