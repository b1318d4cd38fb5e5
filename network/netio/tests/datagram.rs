//! A guest's frames through a TAP device to the host and back, in a namespace of the test's own. Without the right to
//! make one there is nothing to test.

use std::future::Future;
use std::io::{IoSlice, IoSliceMut};
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use weft_netio::datagram::{LinkSocket, serve};
use weft_netio::link::{Links, Owner};
use weft_netio::tap::VNET_HEADER;
use weft_netio::{ErrorKind, InterfaceName, Namespace, Tap, TapOptions};
use weft_wire::arp::Operation;
use weft_wire::ethernet::EtherType;
use weft_wire::icmp::Echo;
use weft_wire::ipv4::Protocol;
use weft_wire::machine::{DatagramMachine, LinkTarget, Output, Received, Transmit};
use weft_wire::{MacAddress, UdpFrame, arp, ethernet, icmp, ipv4};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const HOST_MAC: MacAddress = MacAddress([0x52, 0, 0, 0, 0, 1]);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 9);
const GUEST_MAC: MacAddress = MacAddress([0x52, 0, 0, 0, 0, 9]);
const PORT: u16 = 67;

fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let namespace = match Namespace::create() {
        Ok(namespace) => namespace,
        Err(e) if e.kind() == ErrorKind::Denied => {
            eprintln!("skipped: {}", e.sentence());
            return;
        }
        Err(e) => panic!("{}", e.sentence()),
    };
    let run = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts")
            .block_on(test());
    };
    namespace.run(run).expect("the thread enters");
}

/// A bridge with an address, and a guest's end of a TAP device on it.
async fn network(links: &Links) -> Tap {
    let name = |name| InterfaceName::new(name).expect("a good name");
    let (bridge, port) = (name("br0"), name("tap0"));
    let made = async {
        links
            .create_bridge(&bridge, HOST_MAC, None, &Owner::bridge("lab"))
            .await?;
        links
            .add_address(&bridge, "10.7.0.1/24".parse().expect("an address"))
            .await?;
        links.set_up(&bridge, true).await?;
        let tap = Tap::open(&port, &TapOptions::default())?;
        links.set_bridge(&port, Some(&bridge)).await?;
        links.set_up(&port, true).await?;
        Ok::<_, weft_netio::Error>(tap)
    };
    made.await.expect("a network is made")
}

/// Sends `frame` and reads frames until one satisfies `wanted`.
async fn exchange<T>(tap: &Tap, frame: &[u8], wanted: impl Fn(&[u8]) -> Option<T>) -> T {
    let header = [0; VNET_HEADER];
    let mut buffer = [0; 4096];
    for _ in 0..200 {
        let sent = tap
            .send(&[IoSlice::new(&header), IoSlice::new(frame)])
            .expect("the device takes it");
        assert_eq!(sent, VNET_HEADER + frame.len());
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let mut header = [0; VNET_HEADER];
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut buffer)];
            while let Ok(length) = tap.receive(&mut parts) {
                if let Some(found) = wanted(&parts[1][..length - VNET_HEADER]) {
                    return found;
                }
            }
        }
    }
    panic!("no answer came");
}

fn frame(destination: MacAddress, ether_type: EtherType) -> Vec<u8> {
    let mut frame = Vec::new();
    let source = GUEST_MAC;
    ethernet::Repr {
        destination,
        source,
        ether_type,
    }
    .emit(&mut frame);
    frame
}

#[test]
fn the_gateway_answers_arp_and_ping() {
    in_namespace(|| async {
        let links = Links::open().unwrap();
        let tap = network(&links).await;
        let mut question = frame(MacAddress::BROADCAST, EtherType::Arp);
        arp::Repr {
            operation: Operation::Request,
            sender_mac: GUEST_MAC,
            sender_ip: GUEST,
            target_mac: MacAddress::ZERO,
            target_ip: HOST,
        }
        .emit(&mut question);
        let answer = exchange(&tap, &question, |frame| {
            let packet = ethernet::Packet::new(frame).ok()?;
            let arp = arp::Repr::parse(&arp::Packet::new(packet.payload()).ok()?).ok()?;
            (packet.ether_type() == EtherType::Arp && arp.operation == Operation::Reply)
                .then_some(arp)
        });
        let answer = answer.await;
        assert_eq!((answer.sender_ip, answer.sender_mac), (HOST, HOST_MAC));

        let ping = icmp::Repr {
            echo: Echo::Request,
            identifier: 7,
            sequence: 1,
        };
        let mut question = frame(HOST_MAC, EtherType::Ipv4);
        ipv4::Repr {
            source: GUEST,
            destination: HOST,
            protocol: Protocol::Icmp,
            ttl: ipv4::DEFAULT_TTL,
            payload: icmp::HEADER + 4,
        }
        .emit(&mut question);
        ping.emit(&mut question, b"weft");
        let pong = exchange(&tap, &question, |frame| {
            let packet = ethernet::Packet::new(frame).ok()?;
            let ip = ipv4::Packet::new(packet.payload()).ok()?;
            let icmp = icmp::Packet::new(ip.payload()).ok()?;
            let repr = icmp::Repr::parse(&icmp).ok()?;
            (ip.protocol() == Protocol::Icmp).then(|| (repr, icmp.data().to_vec()))
        });
        let expected = icmp::Repr {
            echo: Echo::Reply,
            ..ping
        };
        assert_eq!(pong.await, (expected, b"weft".to_vec()));
    });
}

/// Broadcasts datagrams of the host until the guest reads one; its virtio-net header and the frame.
async fn heard_by_guest(
    tap: &Tap,
    socket: &std::net::UdpSocket,
    size: usize,
) -> ([u8; VNET_HEADER], Vec<u8>) {
    let mut buffer = vec![0; 70_000];
    for _ in 0..200 {
        socket
            .send_to(&vec![7; size], "10.7.0.255:9")
            .expect("the host sends");
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut header = [0; VNET_HEADER];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut buffer)];
        while let Ok(length) = tap.receive(&mut parts) {
            let frame = parts[1][..length - VNET_HEADER].to_vec();
            let udp = ethernet::Packet::new(&frame)
                .and_then(|packet| ipv4::Packet::new(packet.payload()))
                .is_ok_and(|ip| ip.protocol() == Protocol::Udp);
            if udp {
                return (header, frame);
            }
            parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut buffer)];
        }
    }
    panic!("no datagram came");
}

#[test]
fn the_kernel_leaves_to_the_guest_what_the_guest_takes() {
    in_namespace(|| async {
        let links = Links::open().unwrap();
        let tap = network(&links).await;
        let socket = std::net::UdpSocket::bind("10.7.0.1:0").unwrap();
        socket.set_broadcast(true).unwrap();
        // virtio 1.3, 5.1.6: the header begins with flags, and NEEDS_CSUM is 1.
        tap.set_offloads(weft_netio::Offloads::NONE).unwrap();
        let (header, frame) = heard_by_guest(&tap, &socket, 100).await;
        assert_eq!(header[0] & 1, 0);
        let (headers, payload) = UdpFrame::parse(&frame).expect("a frame with its checksums");
        assert_eq!((headers.source_mac, payload), (HOST_MAC, &[7; 100][..]));
        tap.set_offloads(weft_netio::Offloads::CHECKSUM).unwrap();
        let left_to_guest = async {
            // A frame that was on its way before the change may come first.
            loop {
                let (header, frame) = heard_by_guest(&tap, &socket, 100).await;
                if header[0] & 1 != 0 {
                    return (header, frame);
                }
            }
        };
        let left = tokio::time::timeout(Duration::from_secs(60), left_to_guest).await;
        let (header, _) = left.expect("a frame without its checksum comes");
        let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let udp_starts = (ethernet::HEADER + ipv4::HEADER) as u16;
        assert_eq!(
            (field(6), field(8)),
            (udp_starts, 6),
            "where the checksum is to be filled in"
        );
    });
}

/// Stores what it hears and sends it back in capitals, to the link address that the first byte names.
struct Shouter;

impl DatagramMachine for Shouter {
    type Change = Vec<u8>;

    fn handle(
        &mut self,
        datagram: Received<'_>,
        _: SystemTime,
        outputs: &mut Vec<Output<Vec<u8>>>,
    ) {
        outputs.push(Output::Store(datagram.payload.to_vec()));
        let (link, address) = match datagram.payload.first() {
            Some(b's') => (LinkTarget::Station(GUEST_MAC), GUEST),
            _ => (LinkTarget::Everyone, Ipv4Addr::BROADCAST),
        };
        outputs.push(Output::Send(Transmit {
            source_port: PORT,
            destination: std::net::SocketAddrV4::new(address, datagram.source.port()),
            link,
            payload: datagram.payload.to_ascii_uppercase(),
        }));
    }

    fn poll_timeout(&self) -> Option<SystemTime> {
        None
    }

    fn handle_timeout(&mut self, _: SystemTime, _: &mut Vec<Output<Vec<u8>>>) {}
}

/// A broadcast of a station without an address.
fn broadcast(payload: &[u8]) -> Vec<u8> {
    UdpFrame {
        source_mac: GUEST_MAC,
        destination_mac: MacAddress::BROADCAST,
        source: "0.0.0.0:68".parse().expect("an address"),
        destination: "255.255.255.255:67".parse().expect("an address"),
    }
    .emit(payload)
}

#[test]
fn a_machine_hears_stations_without_address_and_answers_them() {
    in_namespace(|| async {
        let links = Links::open().unwrap();
        let tap = network(&links).await;
        let link = links.expect("br0").await.unwrap();
        let socket = LinkSocket::open(&link, HOST, PORT).unwrap();
        let (machine, stored) = (Mutex::new(Shouter), Mutex::new(Vec::new()));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let store = |changes: Vec<Vec<u8>>| {
            stored.lock().unwrap().extend(changes);
            // A store that is full once.
            let full = stored.lock().unwrap().len() == 1;
            std::future::ready(if full { Err("no space left") } else { Ok(()) })
        };
        let shutdown = async {
            let _ = stopped.await;
        };
        let guest = async {
            let heard = |frame: &[u8]| {
                let (headers, payload) = UdpFrame::parse(frame).ok()?;
                (headers.source_mac == HOST_MAC).then(|| (headers, payload.to_vec()))
            };
            let (headers, payload) = exchange(&tap, &broadcast(b"station"), heard).await;
            assert_eq!(payload, b"STATION");
            assert_eq!(headers.destination_mac, GUEST_MAC);
            assert_eq!(headers.source, "10.7.0.1:67".parse().unwrap());
            let everyone = |frame: &[u8]| heard(frame).filter(|(_, payload)| payload != b"STATION");
            let (headers, payload) = exchange(&tap, &broadcast(b"all"), everyone).await;
            assert_eq!(
                (headers.destination_mac, &payload[..]),
                (MacAddress::BROADCAST, &b"ALL"[..])
            );
            stop.send(()).unwrap();
        };
        let (served, ()) = tokio::join!(serve(&socket, &machine, store, shutdown), guest);
        served.unwrap();
        assert!(
            stored.lock().unwrap().len() >= 3,
            "the first was stored in vain, so it was asked again"
        );
    });
}

#[test]
fn a_server_ends_when_its_link_goes() {
    in_namespace(|| async {
        let links = Links::open().unwrap();
        let tap = network(&links).await;
        let link = links.expect("br0").await.unwrap();
        let socket = LinkSocket::open(&link, HOST, PORT).unwrap();
        let machine = Mutex::new(Shouter);
        let store = |_| std::future::ready(Ok::<_, String>(()));
        let bridge = InterfaceName::new("br0").unwrap();
        let remove = async {
            links.delete(&bridge, &Owner::bridge("lab")).await.unwrap();
        };
        let (served, ()) = tokio::join!(
            serve(&socket, &machine, store, std::future::pending()),
            remove
        );
        assert_eq!(served.unwrap_err().kind(), ErrorKind::NotFound);
        drop(tap);
    });
}
