//! Clients and a server on a bad network: whatever is lost, late, repeated or overtaken, and however often the server
//! loses power, no address is held by two clients at the same time.
//!
//! `WEFT_SEED=n cargo test -p weft-dhcp --test dhcp` replays one run, `WEFT_SEEDS=n` makes n of them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use rand::Rng;
use weft_dhcp::{Config, DatagramMachine, Lease, LinkTarget, Output, Received, Server, Transmit};
use weft_netsim::{Impairment, Link, Simulation};
use weft_wire::MacAddress;

use crate::client::{Answer, Ask, Client};

const CLIENTS: usize = 9;
const LEASE: Duration = Duration::from_secs(120);
const RUN: Duration = Duration::from_secs(1800);

enum Event {
    Timer {
        client: usize,
        armed: u64,
    },
    ToServer(Vec<u8>),
    ToClient {
        client: usize,
        payload: Vec<u8>,
    },
    /// A client does something that no protocol foresees.
    Whim,
    /// The server loses power.
    PowerCut,
}

struct World {
    simulation: Simulation<Event>,
    up: Link,
    down: Link,
    clients: Vec<Client>,
    /// The number of the timer that counts, for each client.
    armed: Vec<u64>,
    server: Server,
    /// What survives a power cut, as JSON, as a service would keep it.
    stored: BTreeMap<Ipv4Addr, String>,
    /// How many outputs happen before the next power cut, if it comes in the middle of them.
    power: Option<usize>,
    acks: usize,
}

fn config() -> Config {
    // Fewer addresses than clients.
    let mut config = Config::new(
        "10.0.0.1/24".parse().expect("a subnet"),
        "10.0.0.10-10.0.0.16".parse().expect("a range"),
    );
    config.lease_time = LEASE;
    config
}

fn clients() -> Vec<Client> {
    (0..CLIENTS)
        .map(|n| {
            let mac = MacAddress([2, 0, 0, 0, 0, n as u8]);
            let identifier = match n {
                0..=3 => None,
                // Two copies of one guest with the same identity.
                4 | 5 => Some(b"\0copy".to_vec()),
                _ => Some(vec![0, n as u8, 7]),
            };
            let mut client = Client::new(mac, identifier);
            client.modest = n % 3 == 0;
            client
        })
        .collect()
}

impl World {
    fn new(seed: u64, impairment: Impairment) -> Self {
        let mut world = Self {
            simulation: Simulation::new(seed),
            up: Link::new(impairment.clone()),
            down: Link::new(impairment),
            clients: clients(),
            armed: vec![0; CLIENTS],
            server: Server::new(config(), []).expect("a good configuration"),
            stored: BTreeMap::new(),
            power: None,
            acks: 0,
        };
        for client in 0..CLIENTS {
            world.arm(client, Duration::from_millis(100 * client as u64));
        }
        world
            .simulation
            .schedule(Duration::from_secs(20), Event::Whim);
        world
            .simulation
            .schedule(Duration::from_secs(50), Event::PowerCut);
        world
    }

    fn run(&mut self) {
        while let Some(event) = self.simulation.next(RUN) {
            self.apply(event);
            self.check();
        }
    }

    fn apply(&mut self, event: Event) {
        let now = self.simulation.now();
        match event {
            Event::Timer { client, armed } if armed == self.armed[client] => {
                let (ask, next) = self.clients[client].on_timer(now);
                self.send(ask);
                self.arm(client, next);
            }
            Event::Timer { .. } => {}
            Event::ToClient { client, payload } => {
                let (ask, next) = self.clients[client].on_message(&payload, now);
                self.send(ask);
                if let Some(next) = next {
                    self.arm(client, next);
                }
            }
            Event::ToServer(payload) => self.serve(&payload),
            Event::Whim => self.whim(now),
            Event::PowerCut => {
                let outputs = self.simulation.rng().random_range(0..4);
                self.power = Some(outputs);
                let next = Duration::from_secs(self.simulation.rng().random_range(5..300));
                self.simulation.schedule_after(next, Event::PowerCut);
            }
        }
    }

    fn arm(&mut self, client: usize, at: Duration) {
        self.armed[client] += 1;
        let armed = self.armed[client];
        self.simulation.schedule(at, Event::Timer { client, armed });
    }

    fn send(&mut self, ask: Option<Ask>) {
        let Some(ask) = ask else { return };
        let now = self.simulation.now();
        for (at, payload) in self
            .up
            .carry_bytes(&ask.bytes(), now, self.simulation.rng())
        {
            self.simulation.schedule(at, Event::ToServer(payload));
        }
    }

    fn whim(&mut self, now: Duration) {
        let client = self.simulation.rng().random_range(0..CLIENTS);
        let ask = match self.simulation.rng().random_range(0..4) {
            0 => self.clients[client].decline(now),
            1 => {
                self.clients[client].restart(now);
                None
            }
            _ => self.clients[client].release(now),
        };
        self.send(ask);
        let back = Duration::from_millis(self.simulation.rng().random_range(0..5000));
        self.arm(client, now + back);
        let next = Duration::from_millis(self.simulation.rng().random_range(0..20_000));
        self.simulation.schedule_after(next, Event::Whim);
    }

    fn serve(&mut self, payload: &[u8]) {
        let datagram = Received {
            source: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68),
            destination: Ipv4Addr::BROADCAST,
            payload,
        };
        let mut outputs = Vec::new();
        let now = self.simulation.wall();
        if self.server.poll_timeout().is_some_and(|at| at <= now) {
            self.server.handle_timeout(now, &mut outputs);
        }
        self.server.handle(datagram, now, &mut outputs);
        for output in outputs {
            if self.power == Some(0) {
                self.restart_server();
                return;
            }
            self.power = self.power.map(|outputs| outputs - 1);
            match output {
                Output::Store(lease) => {
                    let text = serde_json(&lease);
                    self.stored.insert(lease.address, text);
                }
                Output::Send(transmit) => self.deliver(&transmit),
            }
        }
    }

    fn restart_server(&mut self) {
        self.power = None;
        let leases: Vec<Lease> = self.stored.values().map(|text| from_json(text)).collect();
        self.server = Server::new(config(), leases).expect("a good configuration");
    }

    fn deliver(&mut self, transmit: &Transmit) {
        let now = self.simulation.now();
        if Answer::parse(&transmit.payload).kind == dhcproto::v4::MessageType::Ack {
            self.acks += 1;
        }
        for client in 0..CLIENTS {
            let meant = match transmit.link {
                LinkTarget::Station(mac) => mac == self.clients[client].mac,
                LinkTarget::Everyone => true,
                LinkTarget::Routed => false,
            };
            if !meant {
                continue;
            }
            let rng = self.simulation.rng();
            for (at, payload) in self.down.carry_bytes(&transmit.payload, now, rng) {
                self.simulation
                    .schedule(at, Event::ToClient { client, payload });
            }
        }
    }

    fn check(&self) {
        let now = self.simulation.now();
        let mut holders: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
        for (number, client) in self.clients.iter().enumerate() {
            if let Some(held) = client.held(now)
                && let Some(other) = holders.insert(held.address, number)
            {
                panic!(
                    "at {now:?} clients {other} and {number} both hold {}",
                    held.address
                );
            }
        }
    }
}

fn serde_json(lease: &Lease) -> String {
    ::serde_json::to_string(lease).expect("a lease is JSON")
}

fn from_json(text: &str) -> Lease {
    ::serde_json::from_str(text).expect("JSON is a lease")
}

fn seeds() -> Vec<u64> {
    match std::env::var("WEFT_SEED") {
        Ok(seed) => vec![seed.parse().expect("WEFT_SEED is a number")],
        Err(_) => {
            let count = std::env::var("WEFT_SEEDS").ok();
            let count = count.map_or(30, |count| count.parse().expect("WEFT_SEEDS is a number"));
            (0..count).collect()
        }
    }
}

#[test]
fn no_address_is_held_twice() {
    for seed in seeds() {
        let mut world = World::new(seed, Impairment::bad());
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        if run.is_err() {
            panic!("replay: WEFT_SEED={seed} cargo test -p weft-dhcp --test dhcp");
        }
        assert!(
            world.acks > 100,
            "seed {seed}: {} leases only, nothing was tested",
            world.acks
        );
    }
}

#[test]
fn on_a_good_network_everybody_keeps_the_same_address() {
    let mut config = config();
    config.range = "10.0.0.10-10.0.0.200".parse().unwrap();
    let mut world = World::new(1, Impairment::none());
    world.server = Server::new(config, []).unwrap();
    let mut first: BTreeMap<usize, Ipv4Addr> = BTreeMap::new();
    while let Some(event) = world.simulation.next(RUN) {
        if matches!(event, Event::Whim | Event::PowerCut) {
            continue;
        }
        world.apply(event);
        world.check();
        let now = world.simulation.now();
        for (number, client) in world.clients.iter().enumerate() {
            if let Some(held) = client.held(now) {
                assert_eq!(*first.entry(number).or_insert(held.address), held.address);
            }
        }
    }
    assert_eq!(first.len(), CLIENTS);
}
