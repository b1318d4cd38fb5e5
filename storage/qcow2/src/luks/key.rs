//! The key of the payload.

use std::fmt;

use zeroize::Zeroizing;

use super::header::{DIGEST_BYTES, Header, SALT_BYTES};

/// The key that the payload is encrypted with. It is overwritten when it is dropped, and is never shown.
///
/// It knows whose it is: only an [`Area`](super::Area) makes it, after it was compared with the digest there.
pub struct MasterKey {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) digest: [u8; DIGEST_BYTES],
    pub(super) digest_salt: [u8; SALT_BYTES],
}

impl MasterKey {
    /// Whether it is the key of this header's payload, so that nobody reads noise with that of another.
    pub fn is_of(&self, header: &Header) -> bool {
        let same_length = self.bytes.len() == header.spec.key_bytes();
        same_length && self.digest == header.digest && self.digest_salt == header.digest_salt
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({} bits)", self.bytes.len() * 8)
    }
}
