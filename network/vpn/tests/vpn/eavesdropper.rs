//! Somebody on the way who hears everything and sends what it likes.

use std::net::SocketAddr;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_netsim::Impairment;
use weft_vpn::{Endpoint, Message};

use crate::world::{World, outer, seeds};

const SECOND: Duration = Duration::from_secs(1);

fn lair() -> SocketAddr {
    ([203, 0, 113, 66], 666).into()
}

/// One datagram made of what was overheard; it is never one of them.
fn forged(overheard: &[(SocketAddr, SocketAddr, Vec<u8>)], rng: &mut ChaCha8Rng) -> Vec<u8> {
    loop {
        let pick = |rng: &mut ChaCha8Rng| overheard[rng.random_range(0..overheard.len())].2.clone();
        let mut bytes = pick(rng);
        match rng.random_range(0..6) {
            0 => bytes.truncate(rng.random_range(0..bytes.len())),
            1 => {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            2 => {
                let (one, other) = (
                    rng.random_range(0..bytes.len()),
                    rng.random_range(0..bytes.len()),
                );
                bytes.swap(one, other);
            }
            3 => bytes.extend(pick(rng)),
            4 => {
                let other = pick(rng);
                let at = rng.random_range(0..bytes.len().min(other.len()));
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at..]);
            }
            _ => {
                let at = rng.random_range(4..bytes.len());
                rng.fill(&mut bytes[at..]);
            }
        }
        // All but the last of the MACs is covered by something; that one nobody looks at without load.
        let covered = |bytes: &[u8]| match Message::parse(bytes) {
            Some(Message::Initiation(_) | Message::Response(_)) => bytes.len() - 16,
            _ => bytes.len(),
        };
        let known = |heard: &[u8]| heard[..covered(heard)] == bytes[..covered(&bytes)];
        if !overheard.iter().any(|(_, _, heard)| known(heard)) {
            return bytes;
        }
    }
}

#[test]
fn forged_datagrams_change_nothing() {
    for seed in seeds(5) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut world, a, b) = World::pair(seed, Impairment::none());
        world.overheard = Some(Vec::new());
        for number in 0..200 {
            world.send(0, 1, 60 + number as usize, number).unwrap();
            world.send(1, 0, 60, number).ok();
            let heard = world.overheard.clone().unwrap();
            for _ in 0..20 {
                let bytes = forged(&heard, &mut rng);
                let to = outer(rng.random_range(0..2));
                let now = world.elapsed();
                world.inject(now, lair(), to, bytes);
            }
            world.run(Duration::from_millis(700));
        }
        assert_eq!(world.numbers(1), (0..200).collect::<Vec<_>>());
        assert!(world.numbers(0).len() > 190);
        let endpoint = |n: usize, peer| world.nodes[n].tunnel.status(peer).unwrap().endpoint;
        assert_eq!(endpoint(0, b), Some(Endpoint::new(outer(1))));
        assert_eq!(endpoint(1, a), Some(Endpoint::new(outer(0))));
    }
}

#[test]
fn replayed_datagrams_change_nothing() {
    for seed in seeds(5) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut world, a, b) = World::pair(seed, Impairment::none());
        world.overheard = Some(Vec::new());
        for number in 0..300 {
            world.send(0, 1, 100, number).unwrap();
            world.run(Duration::from_millis(900));
            // By now all that was overheard has arrived; so whatever comes again, and from anywhere, is refused.
            let heard = world.overheard.clone().unwrap();
            for _ in 0..10 {
                let (_, to, bytes) = heard[rng.random_range(0..heard.len())].clone();
                let now = world.elapsed();
                world.inject(now, lair(), to, bytes);
            }
        }
        world.run(SECOND);
        assert_eq!(world.numbers(1), (0..300).collect::<Vec<_>>());
        let endpoint = |n: usize, peer| world.nodes[n].tunnel.status(peer).unwrap().endpoint;
        assert_eq!(endpoint(0, b), Some(Endpoint::new(outer(1))));
        assert_eq!(endpoint(1, a), Some(Endpoint::new(outer(0))));
        assert!(world.nodes[1].refusals["Stale"] > 100);
    }
}

#[test]
fn an_initiation_is_taken_once() {
    let (mut world, a, _) = World::pair(1, Impairment::none());
    world.overheard = Some(Vec::new());
    world.send(0, 1, 100, 0).unwrap();
    world.run(SECOND);
    let (_, to, initiation) = world.overheard.as_ref().unwrap()[0].clone();
    let now = world.elapsed();
    world.inject(now, lair(), to, initiation);
    world.run(SECOND);
    assert_eq!(world.nodes[1].refusals["Stale"], 1);
    let endpoint = world.nodes[1].tunnel.status(a).unwrap().endpoint;
    assert_eq!(endpoint, Some(Endpoint::new(outer(0))));
}

#[test]
fn a_datagram_that_is_kept_and_sent_from_elsewhere_comes_through_once() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    world.send(0, 1, 100, 0).unwrap();
    world.run(SECOND);
    world.overheard = Some(Vec::new());
    world.set_impairment(Impairment {
        loss: 1.0,
        ..Impairment::none()
    });
    world.send(0, 1, 100, 1).unwrap();
    let (_, to, kept) = world.overheard.take().unwrap().pop().unwrap();
    world.set_impairment(Impairment::none());
    for _ in 0..3 {
        let now = world.elapsed();
        world.inject(now, lair(), to, kept.clone());
    }
    world.run(SECOND);
    assert_eq!(world.numbers(1), [0, 1]);
    // The next packet from where the peer really is brings the endpoint back.
    world.send(0, 1, 100, 2).unwrap();
    world.run(SECOND);
    world.send(1, 0, 100, 3).unwrap();
    world.run(SECOND);
    assert_eq!(world.numbers(0), [3]);
}
