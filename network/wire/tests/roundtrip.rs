//! For every protocol: what is emitted parses to the same, and no bytes make a parser panic.

use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;
use weft_wire::arp::Operation;
use weft_wire::icmp::Echo;
use weft_wire::{MacAddress, Malformed, UdpFrame, arp, ethernet, icmp, ipv4, udp};

fn mac() -> impl Strategy<Value = MacAddress> {
    any::<[u8; 6]>().prop_map(MacAddress)
}

fn unicast() -> impl Strategy<Value = MacAddress> {
    mac().prop_map(|MacAddress(mut octets)| {
        octets[0] &= 0xfe;
        MacAddress(octets)
    })
}

fn ip() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..2000)
}

proptest! {
    #[test]
    fn ethernet_is_identity(destination in mac(), source in unicast(), ether_type: u16, data in payload()) {
        let repr = ethernet::Repr { destination, source, ether_type: ether_type.into() };
        let mut frame = Vec::new();
        repr.emit(&mut frame);
        frame.extend_from_slice(&data);
        let packet = ethernet::Packet::new(&frame).unwrap();
        prop_assert_eq!(ethernet::Repr::parse(&packet), Ok(repr));
        prop_assert_eq!(packet.payload(), &data);
    }

    #[test]
    fn arp_is_identity(reply: bool, a in mac(), b in ip(), c in mac(), d in ip(), padding in 0usize..40) {
        let operation = if reply { Operation::Reply } else { Operation::Request };
        let repr = arp::Repr { operation, sender_mac: a, sender_ip: b, target_mac: c, target_ip: d };
        let mut bytes = Vec::new();
        repr.emit(&mut bytes);
        prop_assert_eq!(bytes.len(), arp::LENGTH);
        bytes.resize(arp::LENGTH + padding, 0);
        prop_assert_eq!(arp::Repr::parse(&arp::Packet::new(&bytes).unwrap()), Ok(repr));
    }

    #[test]
    fn ipv4_is_identity(source in ip(), destination in ip(), protocol: u8, ttl: u8, data in payload(), padding in 0usize..40) {
        let repr = ipv4::Repr { source, destination, protocol: protocol.into(), ttl, payload: data.len() };
        let mut bytes = Vec::new();
        repr.emit(&mut bytes);
        bytes.extend_from_slice(&data);
        bytes.resize(bytes.len() + padding, 0);
        let packet = ipv4::Packet::new(&bytes).unwrap();
        prop_assert_eq!(ipv4::Repr::parse(&packet), Ok(repr));
        prop_assert_eq!(packet.payload(), &data);
    }

    #[test]
    fn icmp_is_identity(reply: bool, identifier: u16, sequence: u16, data in payload()) {
        let echo = if reply { Echo::Reply } else { Echo::Request };
        let repr = icmp::Repr { echo, identifier, sequence };
        let mut bytes = Vec::new();
        repr.emit(&mut bytes, &data);
        let packet = icmp::Packet::new(&bytes).unwrap();
        prop_assert_eq!(icmp::Repr::parse(&packet), Ok(repr));
        prop_assert_eq!(packet.data(), &data);
    }

    #[test]
    fn a_udp_frame_is_identity_and_every_bit_counts(
        source_mac in unicast(), destination_mac in mac(), a in ip(), b in ip(), p: u16, q: u16, data in payload(),
        flip in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let frame = UdpFrame {
            source_mac, destination_mac, source: SocketAddrV4::new(a, p), destination: SocketAddrV4::new(b, q),
        };
        let mut bytes = frame.emit(&data);
        prop_assert_eq!(UdpFrame::parse(&bytes), Ok((frame, &data[..])));
        // Behind the Ethernet header one wrong bit is always found, unless it makes the UDP checksum zero, which says
        // that there is none.
        let at = ethernet::HEADER + flip.index(bytes.len() - ethernet::HEADER);
        bytes[at] ^= 1 << bit;
        let checksum = ethernet::HEADER + ipv4::HEADER + 6;
        let left_out = bytes[checksum..checksum + 2] == [0, 0];
        prop_assume!(!left_out);
        prop_assert!(UdpFrame::parse(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = UdpFrame::parse(&bytes);
        if let Ok(packet) = ethernet::Packet::new(&bytes) {
            let _ = ethernet::Repr::parse(&packet);
        }
        if let Ok(packet) = arp::Packet::new(&bytes) {
            let _ = arp::Repr::parse(&packet);
        }
        if let Ok(packet) = icmp::Packet::new(&bytes) {
            let _ = icmp::Repr::parse(&packet);
        }
        if let Ok(packet) = udp::Packet::new(&bytes) {
            let _ = udp::Repr::parse(&packet, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        }
        if let Ok(packet) = ipv4::Packet::new(&bytes)
            && let Ok(repr) = ipv4::Repr::parse(&packet)
        {
            prop_assert_eq!(repr.payload, packet.payload().len());
        }
    }
}

#[test]
fn what_is_wrong_has_a_name() {
    let frame = UdpFrame {
        source_mac: MacAddress::ZERO,
        destination_mac: MacAddress::BROADCAST,
        source: "10.0.0.1:67".parse().unwrap(),
        destination: "255.255.255.255:68".parse().unwrap(),
    };
    let whole = frame.emit(b"payload");
    let with = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        UdpFrame::parse(&bytes).unwrap_err()
    };
    assert_eq!(
        UdpFrame::parse(&whole[..10]).unwrap_err(),
        Malformed::Truncated
    );
    assert_eq!(
        UdpFrame::parse(&whole[..whole.len() - 1]).unwrap_err(),
        Malformed::Truncated
    );
    assert_eq!(with(12, 0x86), Malformed::Version);
    assert_eq!(with(14, 0x44), Malformed::Length);
    assert_eq!(with(24, 0x00), Malformed::Checksum);
    assert_eq!(with(whole.len() - 1, b'D'), Malformed::Checksum);
}

#[test]
fn the_checksum_is_that_of_a_known_header() {
    // The worked example of the article "Internet checksum" in Wikipedia: 192.168.0.1 to 192.168.0.199, 115 bytes.
    let frame = UdpFrame {
        source_mac: MacAddress::ZERO,
        destination_mac: MacAddress::BROADCAST,
        source: "192.168.0.1:1".parse().unwrap(),
        destination: "192.168.0.199:2".parse().unwrap(),
    };
    let bytes = frame.emit(&[0; 87]);
    let header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];
    assert_eq!(&bytes[14..34], &header);
}
