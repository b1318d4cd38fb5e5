//! What a lab's Wireshark needs to read a tunnel's packets.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use crate::{PresharedKey, PrivateKey, PublicKey};

/// The secrets of this side in one handshake.
#[derive(Debug)]
pub struct HandshakeSecrets<'a> {
    /// Who we are.
    pub local: &'a PrivateKey,
    /// Who the peer is.
    pub remote: &'a PublicKey,
    /// The key that was drawn for this handshake alone.
    pub ephemeral: &'a PrivateKey,
    /// The secret that both have besides.
    pub preshared: &'a PresharedKey,
}

/// Whoever is told the secrets of each handshake, before its first message leaves.
pub trait KeyLog: Send {
    /// A handshake begins on this side.
    fn handshake(&mut self, secrets: &HandshakeSecrets<'_>);
}

impl<F: FnMut(&HandshakeSecrets<'_>) + Send> KeyLog for F {
    fn handshake(&mut self, secrets: &HandshakeSecrets<'_>) {
        self(secrets);
    }
}

impl HandshakeSecrets<'_> {
    /// As Wireshark's `wg.keylog_file` reads it (its manual, "WireGuard"): a preshared key belongs to the ephemeral key
    /// before it.
    pub fn expose_lines(&self) -> Zeroizing<String> {
        const ROOM: usize = 512;
        let mut text = Zeroizing::new(String::with_capacity(ROOM));
        // Writing into a string does not fail.
        let _ = writeln!(
            text,
            "LOCAL_STATIC_PRIVATE_KEY = {}",
            *self.local.expose_base64()
        );
        let _ = writeln!(text, "REMOTE_STATIC_PUBLIC_KEY = {}", self.remote);
        let _ = writeln!(
            text,
            "LOCAL_EPHEMERAL_PRIVATE_KEY = {}",
            *self.ephemeral.expose_base64()
        );
        if self.preshared.is_some() {
            let _ = writeln!(text, "PRESHARED_KEY = {}", *self.preshared.expose_base64());
        }
        text
    }
}
