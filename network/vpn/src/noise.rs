//! The handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, by `snow` (whitepaper, 5.4).
//!
//! `snow` does the pattern, and is given the two primitives that matter for secrets: X25519 with keys that are wiped
//! and results that are refused when they are zero, and the ephemeral key, drawn by the caller. The transport keys
//! come out raw: see docs/adr/0020.

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use x25519_dalek::x25519;
use zeroize::{Zeroize, Zeroizing};

use crate::message::{NOISE_FIRST, NOISE_SECOND};
use crate::tai64n::Timestamp;
use crate::{PresharedKey, PrivateKey, PublicKey};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Where the pattern mixes the preshared key in.
const PSK_PLACE: usize = 2;
/// The sealed timestamp is the payload of the first message.
const TIMESTAMP: usize = 12;

/// A secret of 32 bytes that is wiped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// The keys of a session, from the side of whoever holds them.
pub(crate) struct TransportKeys {
    pub(crate) sending: Secret,
    pub(crate) receiving: Secret,
}

/// A handshake that this side has opened and that is not answered yet.
pub(crate) struct Opened(Box<HandshakeState>);

/// Opens a handshake. `None` if the peer's key has no secret in common with any.
pub(crate) fn open(
    local: &PrivateKey,
    remote: &PublicKey,
    ephemeral: Secret,
    timestamp: Timestamp,
) -> Option<(Opened, [u8; NOISE_FIRST])> {
    let builder = builder(local, ephemeral)?;
    let builder = builder.remote_public_key(&remote.0).ok()?;
    let mut state = Box::new(builder.build_initiator().ok()?);
    let mut message = [0; NOISE_FIRST];
    let length = state.write_message(&timestamp.0, &mut message).ok()?;
    debug_assert_eq!(length, message.len());
    Some((Opened(state), message))
}

impl Opened {
    /// Reads the answer. A wrong one changes nothing.
    pub(crate) fn finish(
        &mut self,
        psk: &PresharedKey,
        message: &[u8; NOISE_SECOND],
    ) -> Option<TransportKeys> {
        self.0.set_psk(PSK_PLACE, psk.expose()).ok()?;
        self.0.read_message(message, &mut []).ok()?;
        let (initiator, responder) = split(&mut self.0);
        Some(TransportKeys {
            sending: initiator,
            receiving: responder,
        })
    }
}

/// An initiation that was read: who sent it, and when.
pub(crate) struct Accepted {
    state: Box<HandshakeState>,
    pub(crate) peer: PublicKey,
    pub(crate) timestamp: Timestamp,
}

/// Reads an initiation. `ephemeral` is for the answer.
pub(crate) fn accept(
    local: &PrivateKey,
    ephemeral: Secret,
    message: &[u8; NOISE_FIRST],
) -> Option<Accepted> {
    let mut state = Box::new(builder(local, ephemeral)?.build_responder().ok()?);
    let mut timestamp = [0; TIMESTAMP];
    let length = state.read_message(message, &mut timestamp).ok()?;
    let peer = PublicKey(state.get_remote_static()?.try_into().ok()?);
    (length == TIMESTAMP).then_some(Accepted {
        state,
        peer,
        timestamp: Timestamp(timestamp),
    })
}

impl Accepted {
    /// Answers it, which ends the handshake on this side.
    pub(crate) fn answer(
        mut self,
        psk: &PresharedKey,
    ) -> Option<([u8; NOISE_SECOND], TransportKeys)> {
        self.state.set_psk(PSK_PLACE, psk.expose()).ok()?;
        let mut message = [0; NOISE_SECOND];
        let length = self.state.write_message(&[], &mut message).ok()?;
        debug_assert_eq!(length, message.len());
        let (initiator, responder) = split(&mut self.state);
        let keys = TransportKeys {
            sending: responder,
            receiving: initiator,
        };
        Some((message, keys))
    }
}

/// The key of what the initiator sends, and of what the responder sends.
fn split(state: &mut HandshakeState) -> (Secret, Secret) {
    let (mut initiator, mut responder) = state.dangerously_get_raw_split();
    let keys = (Zeroizing::new(initiator), Zeroizing::new(responder));
    initiator.zeroize();
    responder.zeroize();
    keys
}

fn builder(local: &PrivateKey, ephemeral: Secret) -> Option<Builder<'_>> {
    let params: NoiseParams = PATTERN.parse().ok()?;
    Builder::with_resolver(params, Box::new(Primitives(ephemeral)))
        .prologue(PROLOGUE)
        .ok()?
        .local_private_key(local.expose())
        .ok()
}

/// What `snow` is to use.
struct Primitives(Secret);

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Drawn(Some(self.0.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::<X25519>::default()),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// 32 bytes that were drawn before, given once.
struct Drawn(Option<Secret>);

impl Random for Drawn {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), snow::Error> {
        let drawn = self.0.take().ok_or(snow::Error::Rng)?;
        if bytes.len() != drawn.len() {
            return Err(snow::Error::Rng);
        }
        bytes.copy_from_slice(&*drawn);
        Ok(())
    }
}

#[derive(Default)]
struct X25519 {
    private: Secret,
    public: [u8; 32],
}

impl X25519 {
    fn follow(&mut self) {
        self.public = x25519(*self.private, x25519_dalek::X25519_BASEPOINT_BYTES);
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.follow();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        rng.try_fill_bytes(&mut *self.private)?;
        self.follow();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    /// Refuses a result of zero, which any private key has with a few public ones (RFC 7748, 6.1).
    fn dh(&self, public: &[u8], shared: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.first_chunk().ok_or(snow::Error::Dh)?;
        let result = Zeroizing::new(x25519(*self.private, *public));
        if result.iter().fold(0, |all, byte| all | byte) == 0 {
            return Err(snow::Error::Dh);
        }
        shared
            .get_mut(..32)
            .ok_or(snow::Error::Dh)?
            .copy_from_slice(&*result);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn secret(byte: u8) -> Secret {
        Zeroizing::new([byte; 32])
    }

    #[test]
    fn both_sides_agree_and_a_wrong_answer_changes_nothing() {
        let (a, b) = (PrivateKey::new([1; 32]), PrivateKey::new([2; 32]));
        let psk = PresharedKey::new([3; 32]);
        let timestamp = Timestamp::after(None, SystemTime::UNIX_EPOCH);
        let (mut opened, first) = open(&a, &b.public(), secret(4), timestamp).unwrap();
        let accepted = accept(&b, secret(5), &first).unwrap();
        assert_eq!((accepted.peer, accepted.timestamp), (a.public(), timestamp));
        let (second, answered) = accepted.answer(&psk).unwrap();
        for byte in [0, 31, 40] {
            let mut forged = second;
            forged[byte] ^= 1;
            assert!(opened.finish(&psk, &forged).is_none());
        }
        assert!(opened.finish(&PresharedKey::none(), &second).is_none());
        let finished = opened.finish(&psk, &second).unwrap();
        assert_eq!(finished.sending, answered.receiving);
        assert_eq!(finished.receiving, answered.sending);
        assert_ne!(finished.receiving, finished.sending);
    }

    #[test]
    fn points_of_low_order_are_refused() {
        let local = PrivateKey::new([1; 32]);
        let timestamp = Timestamp::after(None, SystemTime::UNIX_EPOCH);
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one] {
            assert!(open(&local, &PublicKey(point), secret(4), timestamp).is_none());
        }
        let (_, mut first) = open(&local, &local.public(), secret(4), timestamp).unwrap();
        first[..32].fill(0);
        assert!(accept(&local, secret(5), &first).is_none());
    }
}
