//! Three machines on a bad network, from seeds.

use std::collections::HashSet;
use std::time::Duration;

use weft_netsim::Impairment;

use crate::world::{World, seeds};

const SECOND: Duration = Duration::from_secs(1);
const NODES: usize = 3;

/// What the network may be for a while.
fn weather(world: &mut World) -> Impairment {
    match world.draw(0..4) {
        0 => Impairment::none(),
        1 => Impairment::bad(),
        2 => Impairment {
            corrupt: 0.2,
            ..Impairment::bad()
        },
        _ => Impairment {
            loss: 1.0,
            ..Impairment::none()
        },
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed, Impairment::none());
    for _ in 0..NODES {
        world.add(seed);
    }
    for n in 0..NODES {
        for other in (0..NODES).filter(|&other| other != n) {
            world.introduce(n, other, n < other);
        }
    }
    let mut number = 0;
    let mut sent: Vec<HashSet<u32>> = vec![HashSet::new(); NODES];
    for _ in 0..40 {
        let impairment = weather(&mut world);
        world.set_impairment(impairment);
        let node = world.draw(0..NODES as u64) as usize;
        world.nodes[node].wall_off += world.draw(0..2000) as i64 - 1000;
        let pause = [1, 50, 1000, 20_000][world.draw(0..4) as usize];
        for _ in 0..world.draw(1..60) {
            let from = world.draw(0..NODES as u64) as usize;
            let to = (from + world.draw(1..NODES as u64) as usize) % NODES;
            let length = world.draw(24..1421) as usize;
            number += 1;
            if world.send(from, to, length, number).is_ok() {
                sent[to].insert(number);
            }
            let millis = world.draw(0..pause);
            world.run(Duration::from_millis(millis));
        }
    }
    check_delivered(&world, &sent);
    heal(&mut world, number);
}

/// Each packet went to whom it was for, once, and only if it was sent.
fn check_delivered(world: &World, sent: &[HashSet<u32>]) {
    for (n, sent) in sent.iter().enumerate() {
        let delivered = world.numbers(n);
        assert!(delivered.iter().all(|number| sent.contains(number)));
        assert!(!delivered.is_empty(), "nothing came through at all");
    }
}

/// Once the network is good, all can be reached by all who know where they are, and then come to rest.
fn heal(world: &mut World, mut number: u32) {
    world.set_impairment(Impairment::none());
    world.run(20 * SECOND);
    let before: Vec<usize> = (0..NODES).map(|n| world.numbers(n).len()).collect();
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        number += 1;
        world
            .send(from, to, 100, number)
            .expect("it is known where");
        world.run(20 * SECOND);
        number += 1;
        world
            .send(from, to, 100, number)
            .expect("it is known where");
        world.run(SECOND);
        assert_eq!(world.numbers(to).last(), Some(&number));
    }
    assert!(world.numbers(2).len() > before[2]);
    world.run(1200 * SECOND);
    for node in &world.nodes {
        assert_eq!(node.tunnel.poll_timeout(), None, "all are at rest");
    }
}

#[test]
fn a_bad_network_loses_packets_and_nothing_else() {
    for seed in seeds(30) {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(
            result.is_ok(),
            "replay: WEFT_SEED={seed} cargo test -p weft-vpn --test vpn a_bad_network"
        );
    }
}
