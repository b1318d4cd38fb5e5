//! Cutting and taking together are each other's opposite.

use proptest::prelude::*;
use weft_wire::offload::{Bundle, Cut, CutKind, Missing, Segments, VNET_HEADER, VnetHeader};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// A large packet as a kernel gives it, with the pseudo header's sum left out: it is not looked at.
fn large(kind: CutKind, v6: bool, payload: usize, size: u16, flags: u8) -> (VnetHeader, Vec<u8>) {
    let v6 = v6 && kind == CutKind::Udp || kind == CutKind::Tcp6;
    let ip = if v6 { 40 } else { 20 };
    let (transport, place) = match kind {
        CutKind::Udp => (8, 6),
        _ => (32, 16),
    };
    let length = ip + transport + payload;
    let mut packet: Vec<u8> = (0..length).map(|n| (n * 7 % 251) as u8).collect();
    let protocol = if kind == CutKind::Udp { 17 } else { 6 };
    if v6 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        packet[6] = protocol;
    } else {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&[0x40, 0]);
        packet[9] = protocol;
    }
    if kind == CutKind::Udp {
        packet[ip + 4..ip + 6].copy_from_slice(&((length - ip) as u16).to_be_bytes());
    } else {
        packet[ip + 4..ip + 8].copy_from_slice(&0xffff_f000_u32.to_be_bytes());
        packet[ip + 12] = 8 << 4;
        packet[ip + 13] = flags;
    }
    let header = VnetHeader {
        missing: Some(Missing {
            start: ip as u16,
            offset: place,
        }),
        cut: Some(Cut {
            kind,
            headers: (ip + transport) as u16,
            size,
        }),
    };
    (header, packet)
}

fn kinds() -> impl Strategy<Value = CutKind> {
    prop_oneof![Just(CutKind::Tcp4), Just(CutKind::Tcp6), Just(CutKind::Udp)]
}

/// All segments behind each other, and where they are.
fn cut(header: &VnetHeader, packet: &[u8]) -> (Vec<u8>, Vec<std::ops::Range<usize>>) {
    let segments = Segments::new(packet, header).expect("it can be cut");
    let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
    for number in 0..segments.count() {
        let start = buffer.len();
        buffer.resize(start + segments.length(number), 0xee);
        segments.write(number, &mut buffer[start..]);
        ranges.push(start..buffer.len());
    }
    (buffer, ranges)
}

/// What stands in fields that are not the same after a way there and back.
fn neutral(packet: &[u8], header: &VnetHeader) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let missing = header.missing.expect("a checksum is missing");
    let at = usize::from(missing.start + missing.offset);
    packet[at..at + 2].fill(0);
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
    }
    packet
}

proptest! {
    #[test]
    fn what_is_cut_and_taken_together_is_what_it_was(
        kind in kinds(),
        v6: bool,
        size in 50u16..1500,
        count in 2usize..40,
        less in 0usize..50,
        push: bool,
    ) {
        let payload = usize::from(size) * count - less;
        let flags = if push { ACK | PSH } else { ACK };
        let (header, packet) = large(kind, v6, payload, size, flags);
        let (mut buffer, ranges) = cut(&header, &packet);
        prop_assert_eq!(ranges.len(), count);
        let mut bundle = Bundle::new();
        for range in ranges {
            prop_assert!(bundle.offer(&buffer, range));
        }
        let again = bundle.finish(&mut buffer);
        prop_assert_eq!(again, header);
        let joined: Vec<u8> = bundle.parts().flat_map(|part| buffer[part].to_vec()).collect();
        prop_assert_eq!(neutral(&joined, &header), neutral(&packet, &header));
        prop_assert_eq!(VnetHeader::parse(&header.emit()), Ok(header));
        // And what was taken together can be cut again, to the same segments.
        prop_assert_eq!(cut(&again, &joined).0.len(), cut(&header, &packet).0.len());
    }

    #[test]
    fn a_segment_with_any_bit_wrong_is_not_taken_in(
        kind in kinds(),
        v6: bool,
        bit in 0usize..8 * 200,
    ) {
        let (header, packet) = large(kind, v6, 300, 100, ACK);
        let (buffer, ranges) = cut(&header, &packet);
        let mut bundle = Bundle::new();
        prop_assert!(bundle.offer(&buffer, ranges[0].clone()));
        let mut wrong = buffer.clone();
        let second = ranges[1].clone();
        wrong[second.start + bit / 8 % second.len()] ^= 1 << (bit % 8);
        prop_assert!(!bundle.offer(&wrong, second.clone()));
        prop_assert!(bundle.offer(&buffer, second));
    }

    #[test]
    fn no_bytes_make_it_panic(
        header: [u8; VNET_HEADER],
        start in 0u16..64,
        packet in prop::collection::vec(any::<u8>(), 0..200),
        first in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
    ) {
        let mut packet = packet;
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        let mut bundle = Bundle::new();
        bundle.offer(&packet, 0..packet.len());
        bundle.offer(&packet, 0..packet.len());
        let mut copy = packet.clone();
        bundle.finish(&mut copy);
        if let Ok(mut header) = VnetHeader::parse(&header) {
            for kind in [CutKind::Tcp4, CutKind::Tcp6, CutKind::Udp] {
                let offset = if kind == CutKind::Udp { 6 } else { 16 };
                header.missing = Some(Missing { start, offset });
                header.cut = Some(Cut { kind, headers: 0, size: start + 1 });
                if let Ok(segments) = Segments::new(&packet, &header) {
                    for number in 0..segments.count() {
                        segments.write(number, &mut vec![0; segments.length(number)]);
                    }
                }
            }
            if let Some(missing) = header.missing {
                missing.fill_in(&mut copy).ok();
            }
        }
    }
}

#[test]
fn order_and_gaps_end_a_bundle() {
    let (header, packet) = large(CutKind::Tcp4, false, 500, 100, ACK);
    let (buffer, ranges) = cut(&header, &packet);
    let mut bundle = Bundle::new();
    assert!(bundle.offer(&buffer, ranges[0].clone()));
    assert!(!bundle.offer(&buffer, ranges[2].clone()), "a gap");
    assert!(!bundle.offer(&buffer, ranges[0].clone()), "the same again");
    assert!(bundle.offer(&buffer, ranges[1].clone()));
    let mut alone = Bundle::new();
    assert!(alone.offer(&buffer, ranges[4].clone()) && !alone.is_empty());
    assert_eq!(alone.finish(&mut buffer.clone()), VnetHeader::default());
    alone.clear();
    assert!(alone.is_empty());
}
