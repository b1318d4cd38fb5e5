//! What takes too many messages to be tried from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Lane, Tunnel};
use crate::timing::{REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES};
use crate::{
    Endpoint, INITIATION, Now, OVERHEAD, Output, PeerId, PrivateKey, Session, SessionError,
};

const NOW: Now = Now {
    monotonic: Duration::from_secs(100),
    wall: SystemTime::UNIX_EPOCH,
};

fn endpoint() -> Endpoint {
    Endpoint::new(SocketAddr::from(([192, 0, 2, 1], 51820)))
}

fn tunnel(own: u8, other: u8) -> (Tunnel, PeerId) {
    let mut next = own;
    let mut tunnel = Tunnel::new(Box::new(move |bytes: &mut [u8]| {
        for byte in bytes {
            next = next.wrapping_mul(5).wrapping_add(1);
            *byte = next;
        }
    }));
    tunnel.set_private_key(Some(PrivateKey::new([own; 32])));
    let other = PrivateKey::new([other; 32]).public();
    let peer = tunnel.add_peer(other).unwrap();
    tunnel.set_endpoint(peer, endpoint(), NOW, &mut Vec::new());
    (tunnel, peer)
}

fn sent(outputs: &mut Vec<Output>) -> Vec<Vec<u8>> {
    let all = outputs.drain(..).filter_map(|output| match output {
        Output::Send { bytes, .. } => Some(bytes.to_vec()),
        Output::Event(_) => None,
    });
    all.collect()
}

/// Lets all that both have to say arrive.
fn settle(one: &mut Tunnel, other: &mut Tunnel, outputs: &mut Vec<Output>) {
    let (mut from, mut to) = (one, other);
    let mut datagrams = sent(outputs);
    while !datagrams.is_empty() {
        for mut datagram in datagrams {
            to.receive(&mut datagram, endpoint(), NOW, outputs).ok();
        }
        datagrams = sent(outputs);
        std::mem::swap(&mut from, &mut to);
    }
}

fn pair() -> (Tunnel, Tunnel, PeerId, PeerId) {
    let ((mut a, to_b), (mut b, to_a)) = (tunnel(1, 2), tunnel(2, 1));
    let mut outputs = Vec::new();
    a.stage(to_b, &[0x45; 20], NOW, &mut outputs).unwrap();
    settle(&mut a, &mut b, &mut outputs);
    (a, b, to_b, to_a)
}

fn session(tunnel: &Tunnel, peer: PeerId, now: Now) -> Arc<Session> {
    tunnel.lane(peer, now).expect("a session").session
}

#[test]
fn after_too_many_messages_either_side_opens_a_handshake() {
    let later = Now {
        monotonic: NOW.monotonic + Duration::from_secs(6),
        ..NOW
    };
    let (a, b, to_b, to_a) = pair();
    for (mut tunnel, peer) in [(a, to_b), (b, to_a)] {
        let mut outputs = Vec::new();
        session(&tunnel, peer, later).skip_to(REKEY_AFTER_MESSAGES - 1);
        tunnel.stage(peer, &[1], later, &mut outputs).unwrap();
        assert_eq!(sent(&mut outputs).len(), 1);
        tunnel.stage(peer, &[1], later, &mut outputs).unwrap();
        let datagrams = sent(&mut outputs);
        assert_eq!(datagrams.len(), 2);
        assert_eq!(datagrams[1].len(), INITIATION);
    }
}

#[test]
fn a_used_up_key_is_not_used() {
    let (mut a, b, to_b, to_a) = pair();
    let later = Now {
        monotonic: NOW.monotonic + Duration::from_secs(6),
        ..NOW
    };
    let used = session(&a, to_b, later);
    used.skip_to(REJECT_AFTER_MESSAGES - 1);
    let mut message = [0; OVERHEAD];
    used.seal(&mut message).unwrap();
    // The other side takes the last one and forgets all before.
    let receiving = session(&b, to_a, NOW);
    assert_eq!(receiving.open(&mut message.clone()), Ok(16..16));
    assert_eq!(receiving.open(&mut message), Err(SessionError::Replayed));
    for _ in 0..3 {
        assert_eq!(used.seal(&mut [0; OVERHEAD]), Err(SessionError::Exhausted));
    }
    assert!(a.lane(to_b, later).is_none());
    let mut outputs = Vec::new();
    a.stage(to_b, &[1], later, &mut outputs).unwrap();
    let datagrams = sent(&mut outputs);
    assert_eq!((datagrams.len(), datagrams[0].len()), (1, INITIATION));
}

#[test]
fn batches_are_sealed_and_opened_in_place_and_out_of_the_machine() {
    const SEGMENT: usize = OVERHEAD + 1420;
    let (a, b, to_b, to_a) = pair();
    let Lane { session, .. } = a.lane(to_b, NOW).unwrap();
    let mut buffer = vec![7; 40 * SEGMENT];
    std::thread::scope(|scope| {
        for half in buffer.chunks_mut(20 * SEGMENT) {
            let session = &session;
            scope.spawn(move || {
                for segment in half.chunks_mut(SEGMENT) {
                    session.seal(segment).unwrap();
                }
            });
        }
    });
    let receiver = u32::from_le_bytes(buffer[4..8].try_into().unwrap());
    let opening = b.incoming(receiver, NOW).unwrap();
    assert_eq!(opening.peer(), to_a);
    for segment in buffer.chunks_mut(SEGMENT) {
        let packet = opening.open(segment).unwrap();
        assert!(segment[packet].iter().all(|&byte| byte == 7));
    }
}

#[test]
fn no_number_is_left_behind() {
    let (mut a, mut b, to_b, to_a) = pair();
    let mut outputs = Vec::new();
    for round in 1..20 {
        let now = Now {
            monotonic: NOW.monotonic + Duration::from_secs(200 * round),
            ..NOW
        };
        let (from, to, peer) = match round % 2 {
            0 => (&mut a, &mut b, to_b),
            _ => (&mut b, &mut a, to_a),
        };
        from.stage(peer, &[1], now, &mut outputs).unwrap();
        let mut datagrams = sent(&mut outputs);
        for datagram in &mut datagrams {
            to.receive(datagram, endpoint(), now, &mut outputs).ok();
        }
        for mut datagram in sent(&mut outputs) {
            from.receive(&mut datagram, endpoint(), now, &mut outputs)
                .ok();
        }
        for mut datagram in sent(&mut outputs) {
            to.receive(&mut datagram, endpoint(), now, &mut outputs)
                .ok();
        }
        assert!(a.indices.len() <= 3 && b.indices.len() <= 3);
    }
    a.remove_peer(to_b);
    assert_eq!((a.indices.len(), a.poll_timeout()), (0, None));
    b.end_sessions(to_a.slot as usize);
    assert_eq!(b.indices.len(), 0);
}
