//! The key of the payload.

use std::fmt;

use zeroize::Zeroizing;

/// The key that the payload is encrypted with. It is overwritten when it is dropped, and is never shown.
pub struct MasterKey(pub(super) Zeroizing<Vec<u8>>);

impl MasterKey {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({} bits)", self.0.len() * 8)
    }
}
