//! Two machines on a good link.

use std::time::Duration;

use weft_netsim::Impairment;
use weft_vpn::{
    Endpoint, Event, OVERHEAD, Prefix, PresharedKey, PrivateKey, Refusal, STAGED_BYTES,
    STAGED_PACKETS,
};

use crate::world::{World, inner, outer, packet};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn packets_wait_for_the_handshake_and_arrive_in_order() {
    let (mut world, a, b) = World::pair(1, Impairment::none());
    for number in 0..10 {
        world.send(0, 1, 100, number).unwrap();
    }
    world.run(SECOND);
    assert_eq!(world.numbers(1), (0..10).collect::<Vec<_>>());
    assert!(
        world.nodes[1]
            .delivered
            .iter()
            .all(|(from, packet)| { *from == a && packet.len() == 100 })
    );
    world.send(1, 0, 1420, 10).unwrap();
    world.run(SECOND);
    assert_eq!(world.numbers(0), [10]);
    assert_eq!((world.handshakes(0), world.handshakes(1)), (1, 1));
    let status = world.nodes[0].tunnel.status(b).unwrap();
    assert_eq!(status.endpoint, Some(Endpoint::new(outer(1))));
    assert_eq!(status.sent_bytes, 148 + 10 * (112 + OVERHEAD as u64));
    assert_eq!(status.received_bytes, 92 + 1420 + OVERHEAD as u64);
    assert!(status.last_handshake.is_some());
}

#[test]
fn ipv6_travels_and_padding_does_not() {
    let (mut world, a, b) = World::pair(1, Impairment::none());
    let (here, there) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    world.nodes[0].tunnel.allow(b, Prefix::host(there));
    world.nodes[1]
        .tunnel
        .allow(a, "fd00::/127".parse().unwrap());
    let bytes = packet(here, there, 77, 5);
    world
        .act(0, |tunnel, now, outputs| tunnel.send(&bytes, now, outputs))
        .unwrap();
    world.run(SECOND);
    assert_eq!(world.nodes[1].delivered, [(a, bytes)]);
}

#[test]
fn a_preshared_key_must_be_the_same_and_can_change_while_packets_flow() {
    let (mut world, a, b) = World::pair(1, Impairment::none());
    let psk = PresharedKey::new([7; 32]);
    world.nodes[0].tunnel.set_preshared_key(b, psk.clone());
    world.send(0, 1, 100, 0).unwrap();
    world.run(3 * SECOND);
    assert_eq!((world.numbers(1), world.handshakes(0)), (vec![], 0));
    world.nodes[1].tunnel.set_preshared_key(a, psk);
    world.run(10 * SECOND);
    assert_eq!(world.numbers(1), [0]);
    // The session outlives the change.
    world.nodes[0]
        .tunnel
        .set_preshared_key(b, PresharedKey::none());
    world.send(0, 1, 100, 1).unwrap();
    world.run(SECOND);
    assert_eq!(world.numbers(1), [0, 1]);
}

#[test]
fn only_owned_addresses_are_sent_to_and_taken_from() {
    let (mut world, a, _) = World::pair(1, Impairment::none());
    let stray = packet(inner(0), inner(9), 100, 0);
    let sent = world.act(0, |tunnel, now, outputs| tunnel.send(&stray, now, outputs));
    assert_eq!(sent, Err(Refusal::NoRoute));
    let garbage = world.act(0, |tunnel, now, outputs| {
        tunnel.send(&[0x45; 10], now, outputs)
    });
    assert_eq!(garbage, Err(Refusal::NotIp));
    let spoofed = packet(inner(9), inner(1), 100, 0);
    world
        .act(0, |tunnel, now, outputs| {
            tunnel.send(&spoofed, now, outputs)
        })
        .unwrap();
    world.run(SECOND);
    assert_eq!(world.numbers(1), []);
    assert_eq!(world.nodes[1].refusals["NotAllowed"], 1);
    // The address moves to another peer, and with it the right to send from it.
    world.send(0, 1, 100, 1).unwrap();
    world.run(SECOND);
    let other = PrivateKey::new([99; 32]).public();
    let tunnel = &mut world.nodes[1].tunnel;
    let other = tunnel.add_peer(other).unwrap();
    tunnel.allow(other, Prefix::host(inner(0)));
    assert!(tunnel.status(a).unwrap().allowed_ips.is_empty());
    world.send(0, 1, 100, 2).unwrap();
    world.run(SECOND);
    assert_eq!(world.numbers(1), [1]);
    let tunnel = &mut world.nodes[1].tunnel;
    tunnel.remove_peer(other);
    assert_eq!(tunnel.route(inner(0)), None);
}

#[test]
fn a_peer_roams_with_its_packets() {
    let (mut world, a, _) = World::pair(1, Impairment::none());
    world.send(0, 1, 100, 0).unwrap();
    world.run(SECOND);
    let elsewhere = "[2001:db8::7]:1234".parse().unwrap();
    world.nodes[0].address = elsewhere;
    world.send(0, 1, 100, 1).unwrap();
    world.run(SECOND);
    let roamed = Event::Roamed(a, elsewhere);
    assert!(world.nodes[1].events.contains(&roamed));
    world.send(1, 0, 100, 2).unwrap();
    world.run(SECOND);
    assert_eq!(world.numbers(0), [2]);
}

#[test]
fn both_may_open_a_handshake_at_the_same_instant() {
    for seed in 0..20 {
        let (mut world, _, _) = World::pair(seed, Impairment::none());
        let address = world.nodes[0].address;
        let public = world.nodes[0].public;
        world.act(1, |tunnel, now, outputs| {
            let peer = tunnel.peer(&public).unwrap();
            tunnel.set_endpoint(peer, Endpoint::new(address), now, outputs);
        });
        world.send(0, 1, 100, 0).unwrap();
        world.send(1, 0, 100, 1).unwrap();
        world.run(SECOND);
        world.send(0, 1, 100, 2).unwrap();
        world.send(1, 0, 100, 3).unwrap();
        world.run(SECOND);
        assert_eq!(world.numbers(1), [0, 2]);
        assert_eq!(world.numbers(0), [1, 3]);
    }
}

#[test]
fn what_waits_is_bounded() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    world.set_impairment(Impairment {
        loss: 1.0,
        ..Impairment::none()
    });
    for number in 0..1000 {
        world.send(0, 1, 100, number).unwrap();
    }
    world.set_impairment(Impairment::none());
    world.run(10 * SECOND);
    let kept: Vec<u32> = (1000 - STAGED_PACKETS as u32..1000).collect();
    assert_eq!(world.numbers(1), kept);

    let (mut world, _, _) = World::pair(1, Impairment::none());
    for number in 0..10 {
        world.send(0, 1, 60_000, number).unwrap();
    }
    world.run(SECOND);
    assert_eq!(world.numbers(1).len(), STAGED_BYTES / 60_000);
}

#[test]
fn who_has_no_key_or_no_way_says_so() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    assert_eq!(world.send(1, 0, 100, 0), Err(Refusal::NoEndpoint));
    world.nodes[1].tunnel.set_private_key(None);
    world.send(0, 1, 100, 0).unwrap();
    world.run(SECOND);
    assert_eq!(world.nodes[1].refusals["NoPrivateKey"], 1);
    // A key of our own is no peer's.
    let own = world.nodes[0].public;
    assert_eq!(world.nodes[0].tunnel.add_peer(own), None);
    world.nodes[1]
        .tunnel
        .set_private_key(Some(PrivateKey::new([5; 32])));
    let own = PrivateKey::new([5; 32]).public();
    assert_eq!(world.nodes[1].tunnel.add_peer(own), None);
}
