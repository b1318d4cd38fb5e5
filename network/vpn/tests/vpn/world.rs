//! Machines on simulated links.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use weft_netsim::{Impairment, Link, Simulation};
use weft_vpn::{
    Delivery, Endpoint, Event, Now, Output, PeerId, PrivateKey, PublicKey, Refusal, Tunnel,
};

/// Chance that follows from a seed.
pub(crate) fn chance(seed: u64) -> Box<dyn weft_vpn::Entropy> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    Box::new(move |bytes: &mut [u8]| rng.fill_bytes(bytes))
}

/// How many seeds a test tries: `WEFT_SEED=N` that one alone, `WEFT_SEEDS=N` as many.
pub(crate) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let variable = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect("a number"))
    };
    match variable("WEFT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("WEFT_SEEDS").unwrap_or(usual),
    }
}

/// An IPv4 packet of `length` bytes, with a number in it.
pub(crate) fn packet(source: IpAddr, destination: IpAddr, length: usize, number: u32) -> Vec<u8> {
    let header = if source.is_ipv4() { 20 } else { 40 };
    let mut bytes = vec![0; length.max(header + 4)];
    let length = bytes.len();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes[0] = 0x45;
            bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            bytes[12..16].copy_from_slice(&source.octets());
            bytes[16..20].copy_from_slice(&destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
            bytes[8..24].copy_from_slice(&source.octets());
            bytes[24..40].copy_from_slice(&destination.octets());
        }
        _ => panic!("both of one version"),
    }
    bytes[header..header + 4].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The address of node `n` inside of the tunnels.
pub(crate) fn inner(n: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, (n >> 8) as u8, n as u8).into()
}

/// The address of node `n` on the network between them.
pub(crate) fn outer(n: usize) -> SocketAddr {
    (Ipv4Addr::new(192, 0, (n >> 8) as u8, n as u8), 51820).into()
}

/// One machine.
pub(crate) struct Node {
    pub(crate) tunnel: Tunnel,
    pub(crate) address: SocketAddr,
    pub(crate) delivered: Vec<(PeerId, Vec<u8>)>,
    pub(crate) events: Vec<Event>,
    pub(crate) refusals: BTreeMap<String, u32>,
    /// How far its time of day is off, in seconds.
    pub(crate) wall_off: i64,
    pub(crate) public: PublicKey,
    timer: Option<Duration>,
}

enum Happening {
    Arrival {
        to: SocketAddr,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Timer(usize),
}

/// Machines, the network between them, and who listens there.
pub(crate) struct World {
    pub(crate) simulation: Simulation<()>,
    happenings: Simulation<Happening>,
    pub(crate) nodes: Vec<Node>,
    link: Link,
    /// Every datagram that was sent, if somebody listens.
    pub(crate) overheard: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
    pub(crate) datagrams: u64,
}

impl World {
    pub(crate) fn new(seed: u64, impairment: Impairment) -> Self {
        Self {
            simulation: Simulation::new(seed),
            happenings: Simulation::new(seed ^ 0x5eed),
            nodes: Vec::new(),
            link: Link::new(impairment),
            overheard: None,
            datagrams: 0,
        }
    }

    /// Two machines that know each other, of which the first knows where the second is.
    pub(crate) fn pair(seed: u64, impairment: Impairment) -> (Self, PeerId, PeerId) {
        let mut world = Self::new(seed, impairment);
        world.add(seed);
        world.add(seed);
        let b = world.introduce(0, 1, true);
        let a = world.introduce(1, 0, false);
        (world, a, b)
    }

    /// Adds a machine with a key of its own.
    pub(crate) fn add(&mut self, seed: u64) -> usize {
        let n = self.nodes.len();
        let mut tunnel = Tunnel::new(chance(seed << 16 | n as u64));
        let mut key = [n as u8 + 1; 32];
        key[1..9].copy_from_slice(&(n as u64).to_le_bytes());
        let private = PrivateKey::new(key);
        let public = private.public();
        tunnel.set_private_key(Some(private));
        self.nodes.push(Node {
            tunnel,
            address: outer(n),
            delivered: Vec::new(),
            events: Vec::new(),
            refusals: BTreeMap::new(),
            wall_off: 0,
            public,
            timer: None,
        });
        n
    }

    /// Makes `other` a peer of `n`.
    pub(crate) fn introduce(&mut self, n: usize, other: usize, located: bool) -> PeerId {
        let (public, address) = (self.nodes[other].public, self.nodes[other].address);
        let tunnel = &mut self.nodes[n].tunnel;
        let peer = tunnel.add_peer(public).expect("another key than ours");
        tunnel.allow(peer, weft_vpn::Prefix::host(inner(other)));
        if located {
            self.act(n, |tunnel, now, outputs| {
                tunnel.set_endpoint(peer, Endpoint::new(address), now, outputs);
            });
        }
        peer
    }

    pub(crate) fn set_impairment(&mut self, impairment: Impairment) {
        self.link.set_impairment(impairment);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.happenings.now()
    }

    pub(crate) fn now(&self, n: usize) -> Now {
        let wall = self.happenings.wall();
        let off = self.nodes[n].wall_off;
        let shift = Duration::from_secs(off.unsigned_abs());
        let wall: SystemTime = if off < 0 { wall - shift } else { wall + shift };
        Now {
            monotonic: self.happenings.now(),
            wall,
        }
    }

    /// Does something with a machine, and what follows.
    pub(crate) fn act<T>(
        &mut self,
        n: usize,
        act: impl FnOnce(&mut Tunnel, Now, &mut Vec<Output>) -> T,
    ) -> T {
        let now = self.now(n);
        let mut outputs = Vec::new();
        let result = act(&mut self.nodes[n].tunnel, now, &mut outputs);
        for output in outputs {
            match output {
                Output::Send { to, bytes } => {
                    self.put_on_wire(self.nodes[n].address, to.remote, &bytes)
                }
                Output::Event(event) => self.nodes[n].events.push(event),
            }
        }
        let next = self.nodes[n].tunnel.poll_timeout();
        if let Some(at) = next
            && self.nodes[n].timer.is_none_or(|timer| at < timer)
        {
            self.nodes[n].timer = Some(at);
            self.happenings.schedule(at, Happening::Timer(n));
        }
        result
    }

    fn put_on_wire(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.datagrams += 1;
        if let Some(overheard) = &mut self.overheard {
            overheard.push((from, to, bytes.to_vec()));
        }
        let now = self.happenings.now();
        let arrivals = self.link.carry_bytes(bytes, now, self.simulation.rng());
        for (at, bytes) in arrivals {
            self.inject(at, from, to, bytes);
        }
    }

    /// Lets a datagram arrive, whoever made it.
    pub(crate) fn inject(
        &mut self,
        at: Duration,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    ) {
        self.happenings
            .schedule(at, Happening::Arrival { to, from, bytes });
    }

    /// Sends a packet to the machine `to` through the tunnel of `n`.
    pub(crate) fn send(
        &mut self,
        n: usize,
        to: usize,
        length: usize,
        number: u32,
    ) -> Result<(), Refusal> {
        let bytes = packet(inner(n), inner(to), length, number);
        self.act(n, |tunnel, now, outputs| tunnel.send(&bytes, now, outputs))
            .map(drop)
    }

    /// Lets a time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.happenings.now() + time;
        while let Some(happening) = self.happenings.next(end) {
            match happening {
                Happening::Arrival { to, from, bytes } => self.arrive(to, from, bytes),
                Happening::Timer(n) => {
                    if self.nodes[n].timer == Some(self.happenings.now()) {
                        self.nodes[n].timer = None;
                        self.act(n, |tunnel, now, outputs| {
                            tunnel.handle_timeout(now, outputs)
                        });
                    }
                }
            }
        }
    }

    fn arrive(&mut self, to: SocketAddr, from: SocketAddr, mut bytes: Vec<u8>) {
        let Some(n) = self.nodes.iter().position(|node| node.address == to) else {
            return;
        };
        let result = self.act(n, |tunnel, now, outputs| {
            tunnel.receive(&mut bytes, Endpoint::new(from), now, outputs)
        });
        let node = &mut self.nodes[n];
        match result {
            Ok(Some(Delivery { peer, packet })) => {
                node.delivered.push((peer, bytes[packet].to_vec()));
            }
            Ok(None) => {}
            Err(refusal) => *node.refusals.entry(format!("{refusal:?}")).or_default() += 1,
        }
    }

    /// The numbers of the packets that `n` was given, each of which must have come once.
    pub(crate) fn numbers(&self, n: usize) -> Vec<u32> {
        let numbers: Vec<u32> = self.nodes[n]
            .delivered
            .iter()
            .map(|(_, packet)| {
                let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
                u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"))
            })
            .collect();
        let once: HashSet<u32> = numbers.iter().copied().collect();
        assert_eq!(once.len(), numbers.len(), "a packet was delivered twice");
        numbers
    }

    pub(crate) fn handshakes(&self, n: usize) -> usize {
        let completed = |event: &&Event| matches!(event, Event::HandshakeCompleted(_));
        self.nodes[n].events.iter().filter(completed).count()
    }

    pub(crate) fn draw(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.simulation.rng().random_range(range)
    }
}
