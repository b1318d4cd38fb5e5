//! Two tunnels whose ports meet on the loopback of one namespace, and whose devices are in two others. Without the
//! right to make namespaces there is nothing to test.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use weft_netio::{ErrorKind, Namespace};

use side::{LONGEST_WAIT, Side};

mod side;

/// Runs `test` where the ports are to be.
fn between(test: impl FnOnce() + Send) {
    match Namespace::create() {
        Ok(namespace) => {
            let up = || {
                std::process::Command::new("ip")
                    .args(["link", "set", "lo", "up"])
                    .status()
            };
            namespace
                .run(|| {
                    if up().is_ok_and(|status| status.success()) {
                        test();
                    } else {
                        eprintln!("skipped: needs ip");
                    }
                })
                .expect("the thread enters");
        }
        Err(e) if e.kind() == ErrorKind::Denied => eprintln!("skipped: {}", e.sentence()),
        Err(e) => panic!("{}", e.sentence()),
    }
}

/// Bytes that are the same in no two places.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).to_le_bytes())
        .take(length)
        .collect()
}

fn stream(from: &Side, to: &Side, length: usize) {
    let bytes = pattern(length);
    let listener = to.inside(|| TcpListener::bind((to.address, 0)).expect("a listener"));
    let at = listener.local_addr().expect("an address");
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(LONGEST_WAIT)).expect("set");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("all of it");
            received
        });
        let mut stream =
            from.inside(|| TcpStream::connect_timeout(&at, LONGEST_WAIT).expect("a way"));
        stream.write_all(&bytes).expect("it is taken");
        drop(stream);
        let received = receiver.join().expect("it was received");
        assert!(received == bytes, "the bytes are the same");
    });
}

fn pair(mtu: u32, outer: IpAddr) -> (Side, Side) {
    let (a, b) = (Side::new(1, mtu), Side::new(2, mtu));
    a.know(&b, Some(outer));
    b.know(&a, None);
    (a, b)
}

#[test]
fn streams_cross_in_both_directions_over_both_versions_with_any_mtu() {
    for (mtu, outer) in [
        (1420, "127.0.0.1"),
        (1280, "::1"),
        (9000, "127.0.0.1"),
        (65_000, "::1"),
    ] {
        between(move || {
            let (a, b) = pair(mtu, outer.parse().expect("an address"));
            stream(&a, &b, 20 << 20);
            stream(&b, &a, 20 << 20);
            for side in [&a, &b] {
                assert_eq!(side.device.counters().refused, 0, "MTU {mtu}");
            }
        });
    }
}

#[test]
fn datagrams_keep_their_bounds_and_their_order() {
    between(|| {
        let (a, b) = pair(1420, Ipv4Addr::LOCALHOST.into());
        let to = b.inside(|| UdpSocket::bind((b.address, 0)).expect("a port"));
        to.set_read_timeout(Some(LONGEST_WAIT)).expect("set");
        let at = to.local_addr().expect("an address");
        let from = a.inside(|| UdpSocket::bind((a.address, 0)).expect("a port"));
        let mut buffer = [0; 2000];
        for round in 0..200_usize {
            // Few enough at a time that no queue is full.
            let sizes: Vec<usize> = (0..20).map(|n| 1 + (round * 37 + n * 211) % 1392).collect();
            for size in &sizes {
                from.send_to(&pattern(*size), at).expect("it is sent");
            }
            for size in &sizes {
                let length = to.recv(&mut buffer).expect("it arrives");
                assert_eq!(length, *size);
                assert_eq!(buffer[..length], pattern(*size));
            }
        }
    });
}

#[test]
fn a_port_changes_while_packets_flow_and_the_peer_follows() {
    between(|| {
        let (a, b) = pair(1420, Ipv4Addr::LOCALHOST.into());
        stream(&a, &b, 1 << 20);
        let before = a.device.port();
        // Also when whoever asks for it is elsewhere.
        a.inside(|| a.device.set_port(0)).expect("another port");
        assert_ne!(a.device.port(), before);
        stream(&a, &b, 1 << 20);
        stream(&b, &a, 1 << 20);
        let taken = b.device.port();
        let busy = a.device.set_port(taken).expect_err("it is taken");
        assert_eq!(busy.kind(), ErrorKind::Busy);
        stream(&b, &a, 1 << 20);
    });
}

#[test]
fn a_device_ends_with_its_owner() {
    between(|| {
        let (a, _b) = pair(1420, Ipv4Addr::LOCALHOST.into());
        drop(a.device);
        let gone = a.inside.run(|| {
            let devices = std::fs::read_to_string("/proc/thread-self/net/dev");
            !devices.expect("proc is mounted").contains("wg0:")
        });
        assert!(gone.expect("the thread enters"));
    });
}
