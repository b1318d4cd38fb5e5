//! The DHCP server, with messages of a hostile client.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, SystemTime};

use weft_dhcp::{Config, Server};
use weft_wire::Ipv4Cidr;
use weft_wire::machine::{DatagramMachine, Output, Received};

/// Messages are laid one after the other, each behind its length in two bytes, so that one input can hold a
/// conversation.
pub(super) fn server(bytes: &[u8]) {
    let own = Ipv4Cidr::new(Ipv4Addr::new(10, 1, 0, 1), 28).expect("a prefix length of 28 is one");
    let range = Config::default_range(own).expect("a /28 has room");
    let mut server = Server::new(Config::new(own, range), []).expect("the configuration is sound");
    let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
    let mut input = bytes;
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        input = rest;
        let received = Received {
            source: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68),
            destination: Ipv4Addr::BROADCAST,
            payload,
        };
        let mut outputs = Vec::new();
        server.handle(received, now, &mut outputs);
        for output in outputs {
            if let Output::Send(datagram) = output {
                assert!(
                    datagram.payload.len() <= 1500 - 28,
                    "an answer fits a frame"
                );
            }
        }
        now += Duration::from_secs(7);
    }
    assert!(server.leases().len() <= 14);
}
