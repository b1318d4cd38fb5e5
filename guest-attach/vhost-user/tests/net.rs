//! A vhost-user-net backend whose port is a pair of datagram sockets: what a TAP is, without the kernel's network.

#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use weft_uring::{Shard, block_on};
use weft_vhost_client::{Connection, ConnectionOptions, DriverRing, Part};
use weft_vhost_user::{FrameFile, NetBackend, NetOptions, NetPort, Offloads, Served, Setting};
use weft_virtio::net::HEADER;

const LONG: Duration = Duration::from_secs(20);
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_CTRL_VQ: u64 = 1 << 17;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_GUEST_TSO4: u64 = 1 << 7;

struct World {
    /// What the network does: the other end of the port.
    network: UnixDatagram,
    connection: Connection,
    rings: Vec<DriverRing>,
    next: u64,
    settings: Arc<Mutex<Vec<Setting>>>,
    served: Option<Served>,
    _shard: Shard,
    folder: tempfile::TempDir,
}

impl World {
    fn new(features: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nic.sock");
        let shard = Shard::start("attach").unwrap();
        let (port, network) = UnixDatagram::pair().unwrap();
        port.set_nonblocking(true).unwrap();
        network.set_read_timeout(Some(LONG)).unwrap();
        let settings: Arc<Mutex<Vec<Setting>>> = Arc::default();
        let heard = settings.clone();
        let options = NetOptions {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: None,
            pairs: 0,
            offloads: Offloads::TCP,
        };
        let handle = shard.handle();
        let serving = NetBackend::serve(&handle, &socket, options, move || {
            let port = FrameFile::new(port, move |_, setting| {
                heard.lock().unwrap().push(setting);
                Ok(())
            });
            let port: Box<dyn NetPort> = Box::new(port);
            Ok(vec![port])
        });
        let served = block_on(serving).unwrap();
        let mut connection = Connection::open(
            &socket,
            ConnectionOptions {
                queues: 3,
                features,
                ..ConnectionOptions::default()
            },
        )
        .unwrap();
        let rings = connection
            .rings
            .iter_mut()
            .map(|ring| ring.take().unwrap())
            .collect();
        Self {
            network,
            next: connection.data_start(),
            connection,
            rings,
            settings,
            served: Some(served),
            _shard: shard,
            folder,
        }
    }

    fn part(&mut self, bytes: &[u8], writable: bool) -> Part {
        let address = self.next;
        self.next += bytes.len() as u64;
        self.connection
            .memory()
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
        Part {
            address,
            len: bytes.len() as u32,
            writable,
        }
    }

    fn publish(&mut self, ring: usize) {
        if self.rings[ring].publish() {
            self.connection.wires(ring).unwrap().0.write(1).unwrap();
        }
    }

    fn send(&mut self, frame: &[u8]) {
        let header = self.part(&[0; HEADER], false);
        let body = self.part(frame, false);
        self.rings[TRANSMIT].add(&[header, body]).unwrap();
        self.publish(TRANSMIT);
    }

    /// A receive buffer.
    fn offer(&mut self, len: usize) -> Part {
        let part = self.part(&vec![0; len], true);
        self.rings[RECEIVE].add(&[part]).unwrap();
        self.publish(RECEIVE);
        part
    }

    fn used(&mut self, ring: usize) -> u32 {
        let started = Instant::now();
        loop {
            if let Some((_, len)) = self.rings[ring].take() {
                return len;
            }
            assert!(started.elapsed() < LONG, "no chain came back");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn read(&self, part: Part, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.connection
            .memory()
            .read_slice(&mut bytes, GuestAddress(part.address))
            .unwrap();
        bytes
    }

    /// The next frame on the network, without its header.
    fn heard(&self) -> Vec<u8> {
        let mut bytes = vec![0; 70_000];
        // The end of this thread's own ring may interrupt a call.
        let len = loop {
            match self.network.recv(&mut bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        bytes[HEADER..len].to_vec()
    }

    fn tell(&self, frame: &[u8]) {
        let bytes = [&[0; HEADER], frame].concat();
        self.network.send(&bytes).unwrap();
    }
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| seed.wrapping_add((at % 251) as u8))
        .collect()
}

#[test]
fn frames_go_out() {
    let mut world = World::new(F_MRG_RXBUF);
    for round in 0..200 {
        let sent = frame(60 + round * 7, round as u8);
        world.send(&sent);
        assert_eq!(world.heard(), sent);
        world.used(TRANSMIT);
    }
    let statistics = world.served.as_ref().unwrap().statistics();
    assert_eq!(statistics.writes, 200);
    assert_eq!(statistics.dropped, 0);
}

#[test]
fn frames_come_in() {
    let mut world = World::new(F_MRG_RXBUF);
    for round in 0..200 {
        let told = frame(60 + round * 7, round as u8);
        let place = world.offer(2048);
        world.tell(&told);
        let len = world.used(RECEIVE) as usize;
        assert_eq!(len, HEADER + told.len());
        let got = world.read(place, len);
        assert_eq!(got[10..12], [1, 0]);
        assert_eq!(got[HEADER..], told);
    }
    assert_eq!(world.served.as_ref().unwrap().statistics().reads, 200);
}

#[test]
fn a_frame_waits_for_the_guests_buffers() {
    let mut world = World::new(F_MRG_RXBUF);
    let told = frame(3000, 5);
    world.tell(&told);
    let places = [world.offer(2000), world.offer(2000)];
    let mut got = Vec::new();
    for place in places {
        let len = world.used(RECEIVE) as usize;
        got.extend(world.read(place, len));
    }
    assert_eq!(got[10..12], [2, 0]);
    assert_eq!(got[HEADER..], told);
}

#[test]
fn the_port_hears_what_the_guest_takes() {
    let world = World::new(F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4);
    let settings = world.settings.lock().unwrap();
    let Some(Setting::Setup(setup)) = settings.last() else {
        panic!("the port was set up");
    };
    assert_eq!(setup.header, HEADER);
    let expected = Offloads::CHECKSUM.union(Offloads::TSO4);
    assert_eq!(setup.offloads, expected);
}

#[test]
fn the_control_ring_answers() {
    let mut world = World::new(F_MRG_RXBUF | F_CTRL_VQ);
    let command = world.part(&[0, 0, 1], false);
    let answer = world.part(&[9], true);
    world.rings[CONTROL].add(&[command, answer]).unwrap();
    world.publish(CONTROL);
    assert_eq!(world.used(CONTROL), 1);
    assert_eq!(world.read(answer, 1), [0]);
}

#[test]
fn a_stop_gives_the_buffers_back() {
    let mut world = World::new(F_MRG_RXBUF);
    for _ in 0..8 {
        world.offer(2048);
    }
    world.send(&frame(60, 1));
    world.heard();
    world.used(TRANSMIT);
    assert_eq!(world.connection.stop().unwrap(), [0, 1, 0]);
    world.connection.resume(&[0, 1, 0]).unwrap();
    world.tell(&frame(100, 2));
    assert_eq!(world.used(RECEIVE) as usize, HEADER + 100);
    block_on(world.served.take().unwrap().stop());
    assert!(!world.folder.path().join("nic.sock").exists());
}
