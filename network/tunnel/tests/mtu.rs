//! The MTU of an interface, which somebody changes while packets flow.

#![allow(clippy::unwrap_used)] // In tests a panic is the message.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weft_tunnel::{Device, Packets, entropy};
use weft_vpn::{Endpoint, Prefix, PrivateKey, Tunnel};
use weft_wire::offload::VnetHeader;

/// An interface whose other end is a socket of the test.
struct Interface {
    socket: UnixDatagram,
    mtu: Arc<AtomicUsize>,
}

impl Packets for Interface {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>> {
        match self.socket.recv(buffer) {
            Ok(length) => Ok(Some((VnetHeader::default(), length))),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn send(&mut self, _: &VnetHeader, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let packet: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        self.socket.send(&packet).map(drop)
    }

    fn readable(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn mtu(&self) -> Option<usize> {
        Some(self.mtu.load(Ordering::Relaxed))
    }
}

/// A tunnel's end, and what the test has of it.
struct End {
    device: Device,
    outside: UnixDatagram,
    mtu: Arc<AtomicUsize>,
    peer: weft_vpn::PeerId,
}

fn end(own: u8, other: u8) -> End {
    let mut machine = Tunnel::new(entropy());
    machine.set_private_key(Some(PrivateKey::new([own; 32])));
    let peer = machine
        .add_peer(PrivateKey::new([other; 32]).public())
        .unwrap();
    machine.allow(peer, Prefix::host([10, 0, 0, other].into()));
    let (inside, outside) = UnixDatagram::pair().unwrap();
    inside.set_nonblocking(true).unwrap();
    outside
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mtu = Arc::new(AtomicUsize::new(1420));
    let packets = Interface {
        socket: inside,
        mtu: mtu.clone(),
    };
    End {
        device: Device::start(machine, Box::new(packets), 0).unwrap(),
        outside,
        mtu,
        peer,
    }
}

impl End {
    fn received(&self) -> u64 {
        self.device
            .with(|machine, _, _| machine.status(self.peer).unwrap().received_bytes)
    }
}

fn packet(length: u16) -> Vec<u8> {
    let mut packet = vec![0; length.into()];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

#[test]
fn an_mtu_that_was_lowered_bounds_the_very_next_packet() {
    let (a, b) = (end(1, 2), end(2, 1));
    let to = SocketAddr::from(([127, 0, 0, 1], b.device.port()));
    a.device.with(|machine, now, outputs| {
        machine.set_endpoint(a.peer, Endpoint::new(to), now, outputs);
    });
    let mut buffer = [0; 2000];
    let mut cost = |length: u16| {
        let before = b.received();
        a.outside.send(&packet(length)).unwrap();
        assert_eq!(b.outside.recv(&mut buffer).unwrap(), usize::from(length));
        b.received() - before
    };
    cost(100);
    // Padded to sixteen bytes, but never beyond what the interface carries.
    assert_eq!(cost(1405), 1408 + 32);
    a.mtu.store(1405, Ordering::Relaxed);
    assert_eq!(cost(1405), 1405 + 32);
    a.mtu.store(1500, Ordering::Relaxed);
    assert_eq!(cost(1405), 1408 + 32);
}
