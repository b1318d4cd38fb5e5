//! The WireGuard machine, with datagrams of anybody.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use weft_vpn::uapi::{Reader, Request, describe};
use weft_vpn::wg_quick::Config;
use weft_vpn::{Endpoint, IpPacket, Message, Now, Output, Prefix, PrivateKey, PublicKey, Tunnel};

/// Whoever looks at a run wants the same chance each time.
fn chance() -> Box<dyn weft_vpn::Entropy> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    Box::new(move |bytes: &mut [u8]| {
        for byte in bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
    })
}

fn tunnel(own: u8, other: u8) -> Tunnel {
    let mut tunnel = Tunnel::new(chance());
    tunnel.set_private_key(Some(PrivateKey::new([own; 32])));
    let peer = PrivateKey::new([other; 32]).public();
    let peer = tunnel.add_peer(peer).expect("another key than ours");
    tunnel.allow(peer, Prefix::host(Ipv4Addr::new(10, 0, 0, other).into()));
    tunnel
}

/// Puts the first MAC of a handshake message to `receiver` right, without which nothing behind it is reached.
fn sign(datagram: &mut [u8], receiver: &PublicKey) {
    if !matches!(
        Message::parse(datagram),
        Some(Message::Initiation(_) | Message::Response(_))
    ) {
        return;
    }
    let mut hash = Blake2s256::new();
    Digest::update(&mut hash, b"mac1----");
    Digest::update(&mut hash, receiver.0);
    let key = Digest::finalize(hash);
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key).expect("a key of 32 bytes");
    let end = datagram.len() - 32;
    Update::update(&mut mac, &datagram[..end]);
    datagram[end..end + 16].copy_from_slice(&mac.finalize_fixed());
}

fn packet() -> [u8; 28] {
    let mut packet = [0; 28];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 28]);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

/// Datagrams are laid one after the other, each behind a byte of what to do with it and its length in two bytes: given
/// as it is, signed, or laid over the next of the datagrams that a real peer sends (so that zeroes change nothing).
pub(super) fn datagrams(bytes: &[u8]) {
    let (mut ours, mut theirs) = (tunnel(2, 1), tunnel(1, 2));
    let own = ours.public_key().expect("a key was set");
    let from = Endpoint::new(SocketAddr::from(([192, 0, 2, 1], 51820)));
    let mut now = Now {
        monotonic: Duration::from_secs(100),
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30),
    };
    let mut to_us = Vec::new();
    let mut outputs = Vec::new();
    let peer = theirs.peers().next().expect("one was added").id;
    theirs.set_endpoint(peer, from, now, &mut outputs);
    let mut input = bytes;
    while let Some((&[what, high, low], rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (given, rest) = rest.split_at(length);
        input = rest;
        let mut datagram = given.to_vec();
        if what & 1 != 0 {
            theirs.send(&packet(), now, &mut outputs).ok();
            take(&mut outputs, &mut to_us);
            if !to_us.is_empty() {
                let mut real: Vec<u8> = to_us.remove(0);
                real.iter_mut().zip(given).for_each(|(to, by)| *to ^= by);
                datagram = real;
            }
        }
        if what & 2 != 0 {
            sign(&mut datagram, &own);
        }
        if let Ok(Some(delivery)) = ours.receive(&mut datagram, from, now, &mut outputs) {
            let packet = IpPacket::parse(&datagram[delivery.packet.clone()]);
            assert_eq!(
                packet.map(|packet| packet.length),
                Some(delivery.packet.len())
            );
        }
        let mut to_them = Vec::new();
        take(&mut outputs, &mut to_them);
        for mut datagram in to_them {
            theirs.receive(&mut datagram, from, now, &mut outputs).ok();
        }
        take(&mut outputs, &mut to_us);
        now.monotonic += Duration::from_secs(u64::from(what >> 2));
        ours.handle_timeout(now, &mut outputs);
        theirs.handle_timeout(now, &mut outputs);
        outputs.clear();
    }
    assert_eq!(ours.peers().count(), 1);
}

fn take(outputs: &mut Vec<Output>, datagrams: &mut Vec<Vec<u8>>) {
    for output in outputs.drain(..) {
        if let Output::Send { bytes, .. } = output {
            datagrams.push(bytes.to_vec());
        }
    }
}

/// Lines of a client that configures a tunnel. Whatever can be set can be shown.
pub(super) fn uapi(bytes: &[u8]) {
    let mut tunnel = tunnel(2, 1);
    let mut reader = Reader::new();
    let now = Now {
        monotonic: Duration::from_secs(100),
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30),
    };
    for line in String::from_utf8_lossy(bytes).split('\n') {
        match reader.line(line) {
            Some(Ok(Request::Set(change))) => tunnel.apply(*change, now, &mut Vec::new()),
            Some(Ok(Request::Get)) => {
                let text = describe(&tunnel, 7, 7);
                let mut again = Reader::new();
                assert!(again.line("set=1").is_none());
                // All of it but what only a peer's history tells can be given back.
                for line in text.lines().filter(|line| !is_history(line)) {
                    assert!(again.line(line).is_none());
                }
                assert!(
                    matches!(again.line(""), Some(Ok(Request::Set(_)))),
                    "{}",
                    *text
                );
            }
            Some(Err(_)) | None => {}
        }
    }
}

fn is_history(line: &str) -> bool {
    let history = ["last_handshake_time", "tx_bytes", "rx_bytes"];
    history.iter().any(|key| line.starts_with(key))
}

/// Keys and prefixes as text.
pub(super) fn text(bytes: &[u8]) {
    for line in String::from_utf8_lossy(bytes).lines() {
        if let Ok(key) = line.parse::<PublicKey>() {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        if let Ok(prefix) = line.parse::<Prefix>() {
            assert_eq!(prefix.to_string().parse(), Ok(prefix));
        }
    }
}

/// A file of wg-quick. What was read is written so that it is read as the same.
pub(super) fn wg_quick(bytes: &[u8]) {
    if let Ok(config) = String::from_utf8_lossy(bytes).parse::<Config>() {
        let written = config.expose();
        let again: Config = written.parse().expect("what we write we read");
        assert_eq!(*again.expose(), *written);
    }
}
