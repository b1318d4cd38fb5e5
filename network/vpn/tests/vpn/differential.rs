//! Our machine against other implementations', on links that follow from seeds.

use std::collections::HashSet;
use std::time::Duration;

use rand::Rng;
use weft_netsim::{Impairment, Link, Simulation};
use weft_vpn::{Endpoint, IpPacket, Now, Output, PeerId, Prefix, PresharedKey, PrivateKey, Tunnel};

use crate::rival::{Answer, Boringtun, Gotatun, Rival};
use crate::world::{chance, inner, outer, packet, seeds};

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);

type MakeRival = fn(&PrivateKey, &weft_vpn::PublicKey, &PresharedKey) -> Box<dyn Rival>;

const BORINGTUN: MakeRival = |own, peer, psk| Box::new(Boringtun::new(own, peer, psk));
const GOTATUN: MakeRival = |own, peer, psk| Box::new(Gotatun::new(own, peer, psk));

enum Happening {
    ToUs(Vec<u8>),
    ToRival(Vec<u8>),
    Tick,
}

struct Duel {
    simulation: Simulation<Happening>,
    link: Link,
    tunnel: Tunnel,
    peer: PeerId,
    rival: Box<dyn Rival>,
    /// All that was ever sent, each with whether it was to us.
    overheard: Vec<(bool, Vec<u8>)>,
    /// Numbers of the packets that each side was given: we, then the rival.
    delivered: [Vec<u32>; 2],
    wall_off: u64,
}

impl Duel {
    fn new(seed: u64, make: MakeRival) -> Self {
        let (ours, theirs) = (PrivateKey::new([1; 32]), PrivateKey::new([2; 32]));
        let psk = match seed % 2 {
            0 => PresharedKey::none(),
            _ => PresharedKey::new([3; 32]),
        };
        let mut tunnel = Tunnel::new(chance(seed));
        tunnel.set_private_key(Some(ours.clone()));
        let peer = tunnel.add_peer(theirs.public()).expect("another key");
        tunnel.set_preshared_key(peer, psk.clone());
        tunnel.allow(peer, Prefix::host(inner(1)));
        let mut duel = Self {
            simulation: Simulation::new(seed),
            link: Link::new(Impairment::none()),
            tunnel,
            peer,
            rival: make(&theirs, &ours.public(), &psk),
            overheard: Vec::new(),
            delivered: Default::default(),
            wall_off: 0,
        };
        duel.act(|tunnel, now, outputs| {
            tunnel.set_endpoint(peer, Endpoint::new(outer(1)), now, outputs);
        });
        duel.simulation.schedule(TICK, Happening::Tick);
        duel
    }

    fn carry(&mut self, to_us: bool, bytes: Vec<u8>) {
        let now = self.simulation.now();
        self.overheard.push((to_us, bytes.clone()));
        for at in self.link.carry(bytes.len(), now, self.simulation.rng()) {
            self.inject(at, to_us, bytes.clone());
        }
    }

    fn inject(&mut self, at: Duration, to_us: bool, bytes: Vec<u8>) {
        let happening = match to_us {
            true => Happening::ToUs(bytes),
            false => Happening::ToRival(bytes),
        };
        self.simulation.schedule(at, happening);
    }

    fn act<T>(&mut self, act: impl FnOnce(&mut Tunnel, Now, &mut Vec<Output>) -> T) -> T {
        let now = Now {
            monotonic: self.simulation.now(),
            wall: self.simulation.wall() - Duration::from_secs(self.wall_off),
        };
        let mut outputs = Vec::new();
        let result = act(&mut self.tunnel, now, &mut outputs);
        for output in outputs {
            if let Output::Send { bytes, .. } = output {
                self.carry(false, bytes.to_vec());
            }
        }
        result
    }

    fn send_ours(&mut self, number: u32, length: usize) {
        let bytes = packet(inner(0), inner(1), length, number);
        self.act(|tunnel, now, outputs| tunnel.send(&bytes, now, outputs))
            .expect("there is a way");
    }

    fn send_theirs(&mut self, number: u32, length: usize) {
        let bytes = packet(inner(1), inner(0), length, number);
        for datagram in self.rival.send(&bytes) {
            self.carry(true, datagram);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.simulation.now() + time;
        while let Some(happening) = self.simulation.next(end) {
            match happening {
                Happening::ToUs(mut bytes) => {
                    let from = Endpoint::new(outer(1));
                    let received = self
                        .act(|tunnel, now, outputs| tunnel.receive(&mut bytes, from, now, outputs));
                    if let Ok(Some(delivery)) = received {
                        self.deliver(0, &bytes[delivery.packet]);
                    }
                }
                Happening::ToRival(bytes) => {
                    let Answer { datagrams, packet } = self.rival.receive(&bytes);
                    for datagram in datagrams {
                        self.carry(true, datagram);
                    }
                    if let Some(packet) = packet {
                        self.deliver(1, &packet);
                    }
                }
                Happening::Tick => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        let now = self.simulation.now();
        for datagram in self.rival.tick(now) {
            self.carry(true, datagram);
        }
        if self.tunnel.poll_timeout().is_some_and(|at| at <= now) {
            self.act(|tunnel, now, outputs| tunnel.handle_timeout(now, outputs));
        }
        self.simulation.schedule(now + TICK, Happening::Tick);
    }

    fn deliver(&mut self, side: usize, bytes: &[u8]) {
        let length = IpPacket::parse(bytes).expect("an IP packet").length;
        assert!(length >= 24, "as long as it was sent");
        let number = u32::from_be_bytes(bytes[20..24].try_into().expect("four bytes"));
        assert!(
            !self.delivered[side].contains(&number),
            "a packet was delivered twice"
        );
        self.delivered[side].push(number);
    }

    /// Lets some of what was overheard arrive again.
    fn replay(&mut self) {
        for _ in 0..5 {
            let which = self.simulation.rng().random_range(0..self.overheard.len());
            let (to_us, bytes) = self.overheard[which].clone();
            let now = self.simulation.now();
            self.inject(now, to_us, bytes);
        }
    }

    fn draw(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.simulation.rng().random_range(range)
    }
}

fn overtaking() -> Impairment {
    Impairment {
        loss: 0.1,
        duplicate: 0.2,
        reorder: 0.3,
        reorder_delay: Duration::from_millis(200),
        ..Impairment::none()
    }
}

#[test]
fn both_ways_with_every_rival_on_a_link_that_loses_repeats_and_reorders() {
    for (make, seeds) in [(BORINGTUN, seeds(10)), (GOTATUN, seeds(10))] {
        for seed in seeds {
            let mut duel = Duel::new(seed, make);
            // Who opens the handshake depends on the seed. The link is good until it is done.
            match seed / 2 % 2 {
                0 => duel.send_ours(0, 100),
                _ => duel.send_theirs(0, 100),
            }
            duel.run(SECOND);
            duel.send_ours(1, 1420);
            duel.send_theirs(1, 1420);
            duel.run(SECOND);
            assert!(duel.delivered.iter().all(|numbers| numbers.contains(&1)));
            duel.link.set_impairment(overtaking());
            for number in 2..300 {
                let length = duel.draw(24..1421) as usize;
                duel.send_ours(number, length);
                duel.send_theirs(number, length);
                duel.run(Duration::from_millis(3));
                duel.replay();
            }
            duel.run(SECOND);
            for numbers in &duel.delivered {
                assert!(numbers.len() > 240, "seed {seed}: {}", numbers.len());
                assert!(!numbers.is_sorted());
            }
        }
    }
}

#[test]
fn hours_with_boringtun_on_a_bad_link_with_clocks_that_jump() {
    for seed in seeds(10) {
        let mut duel = Duel::new(seed, BORINGTUN);
        let mut sent: [HashSet<u32>; 2] = Default::default();
        for number in 0..200 {
            let impairment = match duel.draw(0..4) {
                0 => Impairment::bad(),
                1 => overtaking(),
                _ => Impairment::none(),
            };
            duel.link.set_impairment(impairment);
            match duel.draw(0..2) {
                0 => {
                    duel.send_ours(number, 100);
                    sent[1].insert(number);
                }
                _ => {
                    duel.send_theirs(number, 100);
                    sent[0].insert(number);
                }
            }
            let pause = [100, 3000, 100_000][duel.draw(0..3) as usize];
            let millis = duel.draw(0..pause);
            duel.run(Duration::from_millis(millis));
            duel.replay();
            if duel.draw(0..10) == 0 {
                duel.wall_off += duel.draw(0..1000);
            }
        }
        for (numbers, sent) in duel.delivered.iter().zip(&sent) {
            assert!(numbers.iter().all(|number| sent.contains(number)));
            assert!(2 * numbers.len() > sent.len(), "seed {seed}");
        }
        // On a good link they find each other again, whatever has become of their sessions.
        duel.link.set_impairment(Impairment::none());
        duel.run(200 * SECOND);
        for number in 1000..1010 {
            duel.send_ours(number, 100);
            duel.send_theirs(number, 100);
            duel.run(10 * SECOND);
        }
        let last: Vec<u32> = (1005..1010).collect();
        assert!(
            duel.delivered.iter().all(|all| all.ends_with(&last)),
            "seed {seed}"
        );
        assert!(duel.tunnel.status(duel.peer).is_some());
    }
}
