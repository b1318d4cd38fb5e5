//! Cookies: proof that a sender can receive where it says it is (whitepaper, 5.4.7).
//!
//! A [`Checker`] keeps one secret, from which the cookie of any address and port follows, so that it remembers nothing
//! of anybody. A [`Jar`] keeps the cookie that a peer has given to us.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use zeroize::Zeroizing;

use crate::entropy::{Entropy, draw, draw_secret};
use crate::mac::{self, Mac, mac};
use crate::message::{COOKIE_REPLY, CookieReply, Macs};
use crate::{PublicKey, timing};

type Cookie = Mac;

/// What the MACs of a handshake message prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Nothing: whoever sent it does not know to whom.
    Nothing,
    /// That the sender knows our public key.
    Knows,
    /// And that it receives what is sent to its address.
    Receives,
}

/// Judges handshake messages to us.
pub(crate) struct Checker {
    first_key: [u8; 32],
    seal: XChaCha20Poly1305,
    /// What cookies follow from, and when it was drawn.
    secret: Option<(Zeroizing<[u8; 32]>, Duration)>,
}

impl Checker {
    pub(crate) fn new(own: &PublicKey) -> Self {
        Self {
            first_key: mac::first_key(own),
            seal: XChaCha20Poly1305::new(&mac::cookie_key(own).into()),
            secret: None,
        }
    }

    pub(crate) fn prove(&self, macs: Macs<'_>, from: SocketAddr, now: Duration) -> Proof {
        let first = mac(&self.first_key, &[macs.under_first()]);
        if !mac::equal(&first, macs.first()) {
            return Proof::Nothing;
        }
        let Some(secret) = self.fresh_secret(now) else {
            return Proof::Knows;
        };
        let second = mac(&cookie(secret, from), &[macs.under_second()]);
        if mac::equal(&second, macs.second()) {
            Proof::Receives
        } else {
            Proof::Knows
        }
    }

    /// The answer to a message that is not handled until its sender has proved where it is.
    pub(crate) fn reply(
        &mut self,
        sender: u32,
        macs: Macs<'_>,
        from: SocketAddr,
        now: Duration,
        entropy: &mut dyn Entropy,
    ) -> [u8; COOKIE_REPLY] {
        if self.fresh_secret(now).is_none() {
            self.secret = Some((draw_secret(entropy), now));
        }
        let (secret, _) = self.secret.as_ref().expect("it was drawn just now");
        let mut sealed = [0; 32];
        sealed[..16].copy_from_slice(&cookie(secret, from));
        let nonce: [u8; 24] = draw(entropy);
        let tag = self
            .seal
            .encrypt_in_place_detached(&nonce.into(), macs.first(), &mut sealed[..16])
            .expect("16 bytes can be sealed");
        sealed[16..].copy_from_slice(&tag);
        CookieReply::emit(sender, &nonce, &sealed)
    }

    fn fresh_secret(&self, now: Duration) -> Option<&[u8; 32]> {
        let (secret, drawn) = self.secret.as_ref()?;
        (now.saturating_sub(*drawn) < timing::COOKIE_SECRET_AGE).then_some(secret)
    }
}

/// The cookie of an address and a port.
fn cookie(secret: &[u8; 32], from: SocketAddr) -> Cookie {
    let port = from.port().to_be_bytes();
    match from.ip() {
        IpAddr::V4(ip) => mac(secret, &[&ip.octets(), &port]),
        IpAddr::V6(ip) => mac(secret, &[&ip.octets(), &port]),
    }
}

/// Signs handshake messages to a peer.
pub(crate) struct Jar {
    first_key: [u8; 32],
    seal: XChaCha20Poly1305,
    /// The first MAC of the latest message, to which alone a cookie is expected.
    awaited: Option<Mac>,
    cookie: Option<(Cookie, Duration)>,
}

impl Jar {
    pub(crate) fn new(peer: &PublicKey) -> Self {
        Self {
            first_key: mac::first_key(peer),
            seal: XChaCha20Poly1305::new(&mac::cookie_key(peer).into()),
            awaited: None,
            cookie: None,
        }
    }

    /// Fills in the MACs of a message, the second one if there is a cookie.
    pub(crate) fn sign(&mut self, message: &mut [u8], now: Duration) {
        let (under, macs) = Macs::split(message);
        let first = mac(&self.first_key, &[under]);
        macs[..16].copy_from_slice(&first);
        self.awaited = Some(first);
        let fresh = |taken: Duration| now.saturating_sub(taken) < timing::COOKIE_AGE;
        if let Some((cookie, taken)) = &self.cookie
            && fresh(*taken)
        {
            let second = mac(cookie, &[under, &first]);
            macs[16..].copy_from_slice(&second);
        }
    }

    /// Takes a cookie, if it answers the latest message.
    pub(crate) fn take(&mut self, reply: &CookieReply<'_>, now: Duration) -> bool {
        let Some(awaited) = self.awaited else {
            return false;
        };
        let mut cookie: Cookie = [0; 16];
        let (sealed, tag) = reply.sealed().split_at(16);
        cookie.copy_from_slice(sealed);
        let nonce = (*reply.nonce()).into();
        let opened = self
            .seal
            .decrypt_in_place_detached(&nonce, &awaited, &mut cookie, tag.into());
        if opened.is_err() {
            return false;
        }
        self.awaited = None;
        self.cookie = Some((cookie, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrivateKey;
    use crate::message::{Initiation, Message, NOISE_FIRST};

    const NOW: Duration = Duration::from_secs(1000);

    fn signed(jar: &mut Jar, now: Duration) -> [u8; 148] {
        let mut message = Initiation::emit(7, &[1; NOISE_FIRST]);
        jar.sign(&mut message, now);
        message
    }

    fn prove(checker: &Checker, message: &[u8], from: &str, now: Duration) -> Proof {
        let Some(Message::Initiation(initiation)) = Message::parse(message) else {
            panic!("an initiation");
        };
        checker.prove(initiation.macs(), from.parse().unwrap(), now)
    }

    #[test]
    fn a_cookie_is_bound_to_address_and_port_and_grows_stale() {
        let own = PrivateKey::new([1; 32]).public();
        let (mut checker, mut jar) = (Checker::new(&own), Jar::new(&own));
        let here = "10.0.0.1:5";
        let message = signed(&mut jar, NOW);
        assert_eq!(prove(&checker, &message, here, NOW), Proof::Knows);
        let Some(Message::Initiation(initiation)) = Message::parse(&message) else {
            panic!("an initiation");
        };
        let mut entropy = |bytes: &mut [u8]| bytes.fill(9);
        let from = here.parse().unwrap();
        let reply = checker.reply(7, initiation.macs(), from, NOW, &mut entropy);
        let Some(Message::CookieReply(reply)) = Message::parse(&reply) else {
            panic!("a cookie reply");
        };
        assert!(!Jar::new(&own).take(&reply, NOW), "nobody has asked");
        assert!(jar.take(&reply, NOW) && !jar.take(&reply, NOW));
        let message = signed(&mut jar, NOW);
        assert_eq!(prove(&checker, &message, here, NOW), Proof::Receives);
        for elsewhere in ["10.0.0.1:6", "10.0.0.2:5", "[::1]:5"] {
            assert_eq!(prove(&checker, &message, elsewhere, NOW), Proof::Knows);
        }
        let later = NOW + timing::COOKIE_SECRET_AGE;
        assert_eq!(prove(&checker, &message, here, later), Proof::Knows);
        assert_eq!(signed(&mut jar, later)[132..], [0; 16], "a stale cookie");
        let mut forged = message;
        forged[100] ^= 1;
        assert_eq!(prove(&checker, &forged, here, NOW), Proof::Nothing);
    }
}
