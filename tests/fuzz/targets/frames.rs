//! Frames from a guest or the network.

use weft_wire::{arp, ethernet, icmp, ipv4, udp};

pub(super) fn frames(bytes: &[u8]) {
    let _ = weft_wire::UdpFrame::parse(bytes);
    let Ok(frame) = ethernet::Packet::new(bytes) else {
        return;
    };
    let _ = ethernet::Repr::parse(&frame);
    let payload = frame.payload();
    if let Ok(packet) = arp::Packet::new(payload) {
        let _ = (
            packet.kind(),
            packet.operation(),
            packet.sender_mac(),
            packet.target_mac(),
        );
        if let Ok(repr) = arp::Repr::parse(&packet) {
            let mut written = Vec::new();
            repr.emit(&mut written);
            let again = arp::Packet::new(&written).and_then(|packet| arp::Repr::parse(&packet));
            assert_eq!(again.ok(), Some(repr));
        }
    }
    if let Ok(packet) = ipv4::Packet::new(payload) {
        let _ = (
            packet.version(),
            packet.ttl(),
            packet.is_fragment(),
            packet.checksum_fits(),
        );
        let _ = ipv4::Repr::parse(&packet);
        inside(packet.source(), packet.destination(), packet.payload());
    }
}

fn inside(source: std::net::Ipv4Addr, destination: std::net::Ipv4Addr, payload: &[u8]) {
    if let Ok(packet) = udp::Packet::new(payload) {
        let _ = (packet.checksum_fits(source, destination), packet.payload());
        let _ = udp::Repr::parse(&packet, source, destination);
    }
    if let Ok(packet) = icmp::Packet::new(payload) {
        let _ = (packet.kind(), packet.checksum_fits(), packet.data());
        let _ = icmp::Repr::parse(&packet);
    }
}
