//! Too many handshakes.

use std::time::Duration;

use weft_netsim::Impairment;
use weft_vpn::{COOKIE_REPLY, INITIATION, LoadLimits};

use crate::world::{World, outer};

const SECOND: Duration = Duration::from_secs(1);

const LIMITS: LoadLimits = LoadLimits {
    burst: 10,
    per_second: 1,
};

/// Lets the machine 1 be flooded with an initiation of the machine 0 for a while, from an address of nobody's.
fn flood(world: &mut World, initiation: &[u8], seconds: u32) {
    let nobody = ([203, 0, 113, 1], 1).into();
    for tenth in 0..seconds * 10 {
        let at = world.elapsed() + SECOND * tenth / 10;
        for _ in 0..5 {
            world.inject(at, nobody, outer(1), initiation.to_vec());
        }
    }
}

/// Two machines without sessions, of which one wants to send, in the middle of a flood.
fn flooded() -> World {
    let (mut world, _, _) = World::pair(1, Impairment::none());
    world.nodes[1].tunnel.set_load_limits(LIMITS);
    world.overheard = Some(Vec::new());
    world.send(0, 1, 100, 0).expect("a queue with room");
    world.run(SECOND);
    let initiation = world.overheard.take().expect("all is overheard")[0]
        .2
        .clone();
    // Sessions of both end, so that a new handshake is needed.
    for node in &mut world.nodes {
        let key = node.tunnel.private_key().cloned();
        node.tunnel.set_private_key(key);
    }
    flood(&mut world, &initiation, 20);
    world.run(3 * SECOND);
    world.overheard = Some(Vec::new());
    world.send(0, 1, 100, 1).expect("a queue with room");
    world
}

#[test]
fn a_peer_gets_through_a_flood_with_a_cookie() {
    let mut world = flooded();
    world.run(SECOND);
    assert_eq!(world.numbers(1), [0], "not without a cookie");
    let cookies = |world: &World| {
        let heard = world.overheard.as_ref().unwrap().iter();
        heard
            .filter(|(_, to, bytes)| *to == outer(0) && bytes.len() == COOKIE_REPLY)
            .count()
    };
    assert_eq!(cookies(&world), 1);
    world.run(6 * SECOND);
    assert_eq!(world.numbers(1), [0, 1], "with the next attempt");
    assert_eq!(cookies(&world), 1);
    assert!(world.nodes[1].refusals["CookieSent"] > 100);
}

#[test]
fn a_source_with_a_cookie_has_a_share_and_no_more() {
    let mut world = flooded();
    world.run(6 * SECOND);
    // The one that carried the cookie, again and again from the same place.
    let heard = world.overheard.take().unwrap();
    let proven = heard
        .iter()
        .rfind(|(from, _, bytes)| *from == outer(0) && bytes.len() == INITIATION)
        .unwrap();
    for _ in 0..50 {
        let now = world.elapsed();
        world.inject(now, outer(0), outer(1), proven.2.clone());
    }
    world.run(Duration::from_millis(10));
    let refused = world.nodes[1].refusals["TooMany"];
    assert!((44..=50).contains(&refused), "{refused}");
}
