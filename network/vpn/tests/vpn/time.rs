//! What happens when time passes.

use std::time::Duration;

use weft_netsim::Impairment;
use weft_vpn::{Event, timing};

use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);

fn cut() -> Impairment {
    Impairment {
        loss: 1.0,
        ..Impairment::none()
    }
}

#[test]
fn a_session_in_use_is_followed_by_another_without_a_loss() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    for number in 0..1000 {
        world.send(0, 1, 100, number).unwrap();
        world.run(SECOND);
    }
    assert_eq!(world.numbers(1).len(), 1000);
    assert_eq!(world.handshakes(0), 1 + 1000 / 120);
}

#[test]
fn a_session_that_only_receives_is_followed_by_another() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    world.send(0, 1, 100, 0).unwrap();
    world.run(SECOND);
    for number in 1..1000 {
        world.send(1, 0, 100, number).unwrap();
        world.run(SECOND);
    }
    assert_eq!(world.numbers(0).len(), 999);
    let handshakes = world.handshakes(0);
    assert!((6..10).contains(&handshakes), "{handshakes}");
}

#[test]
fn what_comes_late_in_a_session_opens_its_successor_at_once() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    world.send(0, 1, 100, 0).unwrap();
    world.run(166 * SECOND);
    world.send(1, 0, 100, 1).unwrap();
    world.run(SECOND);
    assert_eq!(world.handshakes(0), 2);
}

#[test]
fn silence_costs_nothing() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    world.send(0, 1, 100, 0).unwrap();
    world.run(30 * SECOND);
    // A handshake, the packet, and one keepalive that answers it.
    assert_eq!(world.datagrams, 4);
    world.run(3600 * SECOND);
    assert_eq!(world.datagrams, 4);
    for node in &world.nodes {
        assert_eq!(node.tunnel.poll_timeout(), None);
    }
    world.send(0, 1, 100, 1).unwrap();
    world.run(SECOND);
    assert_eq!(world.numbers(1), [0, 1]);
}

#[test]
fn a_handshake_is_given_up_and_wanted_again() {
    let (mut world, _, b) = World::pair(1, cut());
    world.send(0, 1, 100, 0).unwrap();
    world.run(100 * SECOND);
    assert_eq!(world.nodes[0].events, [Event::HandshakeGivenUp(b)]);
    let tries = world.datagrams;
    assert!((17..=19).contains(&tries), "{tries}");
    world.run(1000 * SECOND);
    assert_eq!(
        (world.datagrams, world.nodes[0].tunnel.poll_timeout()),
        (tries, None)
    );
    world.set_impairment(Impairment::none());
    world.send(0, 1, 100, 1).unwrap();
    world.run(SECOND);
    assert_eq!(world.numbers(1), [1], "what had waited was dropped");
}

#[test]
fn a_peer_that_has_forgotten_all_is_found_again() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    world.send(0, 1, 100, 0).unwrap();
    world.run(SECOND);
    // As after a restart: the same key, no sessions.
    let key = world.nodes[1].tunnel.private_key().cloned();
    world.nodes[1].tunnel.set_private_key(key);
    world.send(0, 1, 100, 1).unwrap();
    world.run(20 * SECOND);
    world.send(0, 1, 100, 2).unwrap();
    world.run(SECOND);
    assert_eq!(world.numbers(1), [0, 2]);
    assert_eq!(world.nodes[1].refusals["UnknownSession"], 1);
}

#[test]
fn an_old_session_is_used_by_nobody() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    world.send(0, 1, 100, 0).unwrap();
    world.run(SECOND);
    world.overheard = Some(Vec::new());
    world.set_impairment(cut());
    world.send(0, 1, 100, 1).unwrap();
    let (from, to, late) = world.overheard.take().unwrap().pop().unwrap();
    world.run(timing::REJECT_AFTER_TIME);
    let now = world.elapsed();
    world.inject(now, from, to, late);
    world.run(SECOND);
    assert_eq!(world.numbers(1), [0]);
    assert_eq!(world.nodes[1].refusals["UnknownSession"], 1);
}

#[test]
fn a_persistent_keepalive_goes_at_once_and_for_ever() {
    let (mut world, _, b) = World::pair(1, Impairment::none());
    world.act(0, |tunnel, now, outputs| {
        tunnel.set_persistent_keepalive(b, 25, now, outputs);
    });
    world.run(SECOND);
    assert_eq!(world.handshakes(1), 1, "with nothing to send");
    let before = world.nodes[1].tunnel.peers().next().unwrap().received_bytes;
    world.run(100 * SECOND);
    let after = world.nodes[1].tunnel.peers().next().unwrap().received_bytes;
    assert_eq!(after - before, 4 * 32);
    world.run(3600 * SECOND);
    let handshakes = world.handshakes(1);
    assert!((24..=31).contains(&handshakes), "{handshakes}");
    // Even when the peer was away for longer than handshakes are tried.
    world.set_impairment(cut());
    world.run(600 * SECOND);
    world.set_impairment(Impairment::none());
    world.run(60 * SECOND);
    assert!(world.handshakes(1) > handshakes);
}

#[test]
fn a_time_of_day_that_goes_back_stops_nobody() {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    for number in 0..20 {
        world.send(0, 1, 100, number).unwrap();
        world.run(125 * SECOND);
        world.nodes[0].wall_off -= 10_000;
    }
    assert_eq!(world.numbers(1).len(), 20);
}
