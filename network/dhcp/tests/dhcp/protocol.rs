//! What each message leads to.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, SystemTime};

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use proptest::prelude::*;
use weft_dhcp::{
    Config, DatagramMachine, Lease, LeaseState, LinkTarget, Output, Received, Reservation, Server,
    Transmit,
};
use weft_wire::MacAddress;

use crate::client::{Answer, Ask};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn mac(n: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 0, n])
}

fn config() -> Config {
    let mut config = Config::new(
        "10.0.0.1/24".parse().expect("a subnet"),
        "10.0.0.10-10.0.0.99".parse().expect("a range"),
    );
    config.dns = vec![SERVER];
    config.domain = Some("lab.example".into());
    config.mtu = Some(1400);
    config.reservations = vec![Reservation {
        mac: mac(200),
        address: Ipv4Addr::new(10, 0, 0, 200),
        hostname: Some("fixed".into()),
    }];
    config
}

/// A server, its clock and what it has stored.
struct Bench {
    server: Server,
    now: SystemTime,
    stored: Vec<Lease>,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self {
            server: Server::new(config, []).expect("a good configuration"),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            stored: Vec::new(),
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn seconds(&self) -> u64 {
        let since = self.now.duration_since(SystemTime::UNIX_EPOCH);
        since.expect("after 1970").as_secs()
    }

    fn outputs(&mut self, payload: &[u8]) -> Vec<Output<Lease>> {
        let mut outputs = Vec::new();
        let datagram = Received {
            source: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68),
            destination: Ipv4Addr::BROADCAST,
            payload,
        };
        self.server.handle(datagram, self.now, &mut outputs);
        outputs
    }

    /// The datagram that answers, if any; what is stored comes before it.
    fn send(&mut self, ask: &Ask) -> Option<Transmit> {
        let mut sent = None;
        for output in self.outputs(&ask.bytes()) {
            assert!(sent.is_none(), "one datagram at most, and nothing after it");
            match output {
                Output::Store(lease) => self.stored.push(lease),
                Output::Send(transmit) => sent = Some(transmit),
            }
        }
        sent
    }

    fn answer(&mut self, ask: &Ask) -> Answer {
        let transmit = self.send(ask).expect("the server answers");
        Answer::parse(&transmit.payload)
    }

    /// DISCOVER, OFFER, REQUEST, ACK.
    fn lease(&mut self, mac: MacAddress) -> Ipv4Addr {
        let offer = self.answer(&Ask::new(MessageType::Discover, mac));
        assert_eq!(offer.kind, MessageType::Offer);
        let ack = self.answer(&select(mac, offer.address));
        assert_eq!((ack.kind, ack.address), (MessageType::Ack, offer.address));
        ack.address
    }

    fn restart(&mut self) {
        let config = self.server.config().clone();
        let leases = std::mem::take(&mut self.stored);
        self.server = Server::new(config, leases.clone()).expect("a good configuration");
        self.stored = leases;
    }
}

fn select(mac: MacAddress, address: Ipv4Addr) -> Ask {
    Ask::new(MessageType::Request, mac)
        .requested(address)
        .server(SERVER)
}

#[test]
fn a_lease_carries_what_the_client_needs() {
    let mut bench = Bench::new(config());
    let offer = bench.answer(&Ask::new(MessageType::Discover, mac(1)));
    assert_eq!(offer.kind, MessageType::Offer);
    assert!(bench.stored.is_empty(), "an offer is no promise");
    let ack = bench.answer(&select(mac(1), offer.address));
    assert_eq!(ack.kind, MessageType::Ack);
    assert_eq!(ack.lease, Some(3600));
    assert_eq!(ack.server, Some(SERVER));
    let options = ack.message.opts();
    for expected in [
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![SERVER]),
        DhcpOption::DomainNameServer(vec![SERVER]),
        DhcpOption::DomainName("lab.example".into()),
        DhcpOption::InterfaceMtu(1400),
        DhcpOption::BroadcastAddr(Ipv4Addr::new(10, 0, 0, 255)),
        DhcpOption::Renewal(1800),
        DhcpOption::Rebinding(3150),
    ] {
        assert_eq!(options.get(OptionCode::from(&expected)), Some(&expected));
    }
    let lease = &bench.stored[0];
    assert_eq!((lease.address, lease.mac), (ack.address, mac(1)));
    assert!(lease.is_bound(bench.seconds() + 3600));
    assert!(!lease.is_bound(bench.seconds() + 3602));
}

#[test]
fn only_what_was_asked_for_is_sent() {
    let mut bench = Bench::new(config());
    let wanted = DhcpOption::ParameterRequestList(vec![OptionCode::Router]);
    let offer = bench.answer(&Ask::new(MessageType::Discover, mac(1)).with(wanted));
    let options = offer.message.opts();
    assert!(options.contains(OptionCode::Router) && options.contains(OptionCode::SubnetMask));
    assert!(!options.contains(OptionCode::DomainName));
}

#[test]
fn replies_go_where_the_client_hears_them() {
    let mut bench = Bench::new(config());
    let mut ask = Ask::new(MessageType::Discover, mac(1));
    let unicast = bench.send(&ask).unwrap();
    assert_eq!(unicast.link, LinkTarget::Station(mac(1)));
    assert_eq!(
        *unicast.destination.ip(),
        Answer::parse(&unicast.payload).address
    );
    assert!(unicast.payload.len() >= 300);
    ask.broadcast = true;
    let broadcast = bench.send(&ask).unwrap();
    assert_eq!(broadcast.link, LinkTarget::Everyone);
    assert_eq!(broadcast.destination, "255.255.255.255:68".parse().unwrap());
    ask.giaddr = Ipv4Addr::new(10, 0, 0, 250);
    ask.relay = Some(vec![1, 2, 7, 7, 99, 1, 5]);
    let relayed = bench.send(&ask).unwrap();
    assert_eq!(relayed.link, LinkTarget::Routed);
    assert_eq!(relayed.destination, "10.0.0.250:67".parse().unwrap());
    let echoed: &[u8] = &[82, 7, 1, 2, 7, 7, 99, 1, 5, 255];
    assert!(
        relayed.payload.windows(10).any(|window| window == echoed),
        "as it came, and last"
    );
    let mut foreign = Ask::new(MessageType::Discover, mac(1));
    foreign.giaddr = Ipv4Addr::new(192, 168, 0, 1);
    assert_eq!(bench.send(&foreign), None, "a relay of another subnet");
}

#[test]
fn a_client_renews_rebinds_and_reboots_into_the_same_address() {
    let mut bench = Bench::new(config());
    let address = bench.lease(mac(1));
    for _ in 0..3 {
        bench.wait(1800);
        let ask = Ask::new(MessageType::Request, mac(1)).from(address);
        let transmit = bench.send(&ask).unwrap();
        let ack = Answer::parse(&transmit.payload);
        assert_eq!((ack.kind, ack.address), (MessageType::Ack, address));
        assert_eq!(ack.message.ciaddr(), address);
        assert_eq!(*transmit.destination.ip(), address);
    }
    bench.restart();
    let ack = bench.answer(&Ask::new(MessageType::Request, mac(1)).requested(address));
    assert_eq!(
        (ack.kind, ack.address),
        (MessageType::Ack, address),
        "INIT-REBOOT"
    );
    bench.wait(100_000);
    assert_eq!(
        bench.lease(mac(1)),
        address,
        "long after the lease has ended"
    );
}

#[test]
fn what_a_client_cannot_have_is_refused_at_once() {
    let mut bench = Bench::new(config());
    let address = bench.lease(mac(1));
    let ask = |mac| Ask::new(MessageType::Request, mac);
    for wrong in [
        select(mac(2), address),
        ask(mac(2)).requested(address),
        ask(mac(2)).from(address),
        ask(mac(2)).requested(Ipv4Addr::new(192, 168, 7, 7)),
        ask(mac(2)).requested(SERVER),
        ask(mac(2)).requested(Ipv4Addr::new(10, 0, 0, 255)),
        ask(mac(2)).requested(Ipv4Addr::new(10, 0, 0, 200)),
    ] {
        let transmit = bench.send(&wrong).unwrap();
        let nak = Answer::parse(&transmit.payload);
        assert_eq!(nak.kind, MessageType::Nak);
        assert_eq!(transmit.link, LinkTarget::Everyone);
        assert_eq!(nak.address, Ipv4Addr::UNSPECIFIED);
    }
    let elsewhere = ask(mac(2))
        .requested(address)
        .server(Ipv4Addr::new(10, 0, 0, 9));
    assert_eq!(bench.send(&elsewhere), None, "another server was chosen");
}

#[test]
fn a_client_that_the_server_forgot_keeps_a_free_address() {
    let mut bench = Bench::new(config());
    let address = Ipv4Addr::new(10, 0, 0, 55);
    let ack = bench.answer(&Ask::new(MessageType::Request, mac(1)).from(address));
    assert_eq!((ack.kind, ack.address), (MessageType::Ack, address));
}

#[test]
fn an_identifier_tells_clients_apart() {
    let mut bench = Bench::new(config());
    let ask = |identifier: &[u8], mac| {
        let mut ask = Ask::new(MessageType::Discover, mac);
        ask.identifier = Some(identifier.to_vec());
        ask
    };
    let first = bench.answer(&ask(b"\0one", mac(1)));
    assert_eq!(
        first.message.opts().get(OptionCode::ClientIdentifier),
        Some(&DhcpOption::ClientIdentifier(b"\0one".to_vec()))
    );
    let second = bench.answer(&ask(b"\0two", mac(1)));
    assert_ne!(
        first.address, second.address,
        "two identities of one station"
    );
    let moved = bench.answer(&ask(b"\0one", mac(9)));
    assert_eq!(
        first.address, moved.address,
        "one identity on another station"
    );
    // The identifier that repeats type and address is the same client as none.
    let plain = bench.answer(&Ask::new(MessageType::Discover, mac(3)));
    let spelled = bench.answer(&ask(&[1, 0x52, 0x54, 0, 0, 0, 3], mac(3)));
    assert_eq!(plain.address, spelled.address);
}

#[test]
fn copies_of_one_guest_get_addresses_of_their_own() {
    let mut bench = Bench::new(config());
    let mut get = |mac| {
        let mut ask = Ask::new(MessageType::Discover, mac);
        ask.identifier = Some(b"\xffsame-machine-id".to_vec());
        let address = bench.answer(&ask).address;
        let mut select = select(mac, address);
        select.identifier = ask.identifier;
        assert_eq!(bench.answer(&select).kind, MessageType::Ack);
        address
    };
    assert_ne!(get(mac(1)), get(mac(2)));
}

#[test]
fn a_reserved_address_is_its_stations_alone() {
    let mut bench = Bench::new(config());
    let mut ask = Ask::new(MessageType::Discover, mac(200));
    ask.identifier = Some(b"\0firmware".to_vec());
    let offer = bench.answer(&ask);
    assert_eq!(offer.address, Ipv4Addr::new(10, 0, 0, 200));
    assert_eq!(
        offer.message.opts().get(OptionCode::Hostname),
        Some(&DhcpOption::Hostname("fixed".into()))
    );
    let mut chosen = select(mac(200), offer.address);
    chosen.identifier = ask.identifier;
    assert_eq!(bench.answer(&chosen).kind, MessageType::Ack);
    // The system that the firmware starts has another identity.
    assert_eq!(bench.lease(mac(200)), Ipv4Addr::new(10, 0, 0, 200));
    let other = Ask::new(MessageType::Discover, mac(1)).requested(offer.address);
    assert_ne!(bench.answer(&other).address, offer.address);
}

#[test]
fn a_wish_is_granted_if_it_can_be() {
    let mut bench = Bench::new(config());
    let wish = Ipv4Addr::new(10, 0, 0, 77);
    let ask = Ask::new(MessageType::Discover, mac(1))
        .requested(wish)
        .with(DhcpOption::AddressLeaseTime(600));
    let offer = bench.answer(&ask);
    assert_eq!((offer.address, offer.lease), (wish, Some(600)));
    let greedy = Ask::new(MessageType::Discover, mac(2))
        .requested(wish)
        .with(DhcpOption::AddressLeaseTime(u32::MAX));
    let offer = bench.answer(&greedy);
    assert_ne!(offer.address, wish, "offered to another");
    assert_eq!(offer.lease, Some(3600));
}

#[test]
fn a_released_address_waits_for_its_client() {
    let mut bench = Bench::new(config());
    let address = bench.lease(mac(1));
    let release = Ask::new(MessageType::Release, mac(1))
        .from(address)
        .server(SERVER);
    assert_eq!(bench.send(&release), None);
    assert_eq!(bench.stored.len(), 1, "so soon it is older than the lease");
    bench.wait(10);
    let stranger = Ask::new(MessageType::Release, mac(2)).from(address);
    assert_eq!(bench.send(&stranger), None);
    assert_eq!(bench.stored.len(), 1, "a stranger cannot release it");
    assert_eq!(bench.send(&release), None, "a release is not answered");
    assert_eq!(
        bench.stored[1].state,
        LeaseState::Released {
            at: bench.seconds()
        }
    );
    let wish = Ask::new(MessageType::Discover, mac(2));
    assert_ne!(
        bench.answer(&wish).address,
        address,
        "others get unused ones first"
    );
    assert_eq!(bench.lease(mac(1)), address);
}

#[test]
fn a_declined_address_is_quarantined() {
    let mut bench = Bench::new(config());
    let address = bench.lease(mac(1));
    let stranger = Ask::new(MessageType::Decline, mac(2))
        .requested(address)
        .server(SERVER);
    bench.send(&stranger);
    assert_eq!(bench.stored.len(), 1, "a stranger cannot decline it");
    let decline = Ask::new(MessageType::Decline, mac(1))
        .requested(address)
        .server(SERVER);
    assert_eq!(bench.send(&decline), None);
    bench.restart();
    assert_ne!(bench.lease(mac(1)), address);
    let again = Ask::new(MessageType::Request, mac(3)).requested(address);
    assert_eq!(bench.answer(&again).kind, MessageType::Nak);
    bench.wait(4000);
    assert_eq!(bench.answer(&again).kind, MessageType::Ack);
    assert_eq!(bench.server.counters().declined, 0, "of the new server");
}

#[test]
fn a_shorter_lease_never_takes_back_an_earlier_promise() {
    let mut bench = Bench::new(config());
    let address = bench.lease(mac(1));
    let short = Ask::new(MessageType::Request, mac(1))
        .from(address)
        .with(DhcpOption::AddressLeaseTime(60));
    assert_eq!(bench.answer(&short).lease, Some(60));
    bench.wait(3000);
    let other = Ask::new(MessageType::Request, mac(2)).requested(address);
    assert_eq!(
        bench.answer(&other).kind,
        MessageType::Nak,
        "the first ACK may be all it has seen"
    );
}

#[test]
fn inform_tells_parameters_and_leases_nothing() {
    let mut bench = Bench::new(config());
    let own = Ipv4Addr::new(10, 0, 0, 5);
    let transmit = bench
        .send(&Ask::new(MessageType::Inform, mac(1)).from(own))
        .unwrap();
    let ack = Answer::parse(&transmit.payload);
    assert_eq!(
        (ack.kind, ack.address, ack.lease),
        (MessageType::Ack, Ipv4Addr::UNSPECIFIED, None)
    );
    assert!(ack.message.opts().contains(OptionCode::Router));
    assert_eq!(*transmit.destination.ip(), own);
    assert!(bench.stored.is_empty());
    let outside = Ask::new(MessageType::Inform, mac(1)).from(Ipv4Addr::new(8, 8, 8, 8));
    assert_eq!(bench.send(&outside), None);
}

#[test]
fn an_exhausted_pool_reuses_the_address_free_for_longest() {
    let mut config = config();
    config.range = "10.0.0.10-10.0.0.12".parse().unwrap();
    let mut bench = Bench::new(config);
    let first = bench.lease(mac(1));
    bench.wait(10);
    bench.lease(mac(2));
    bench.lease(mac(3));
    assert_eq!(bench.send(&Ask::new(MessageType::Discover, mac(4))), None);
    assert_eq!(bench.server.counters().exhausted, 1);
    bench.wait(3595);
    assert_eq!(bench.lease(mac(4)), first, "the first that ended");
    bench.wait(4000);
    assert_eq!(bench.lease(mac(4)), first);
}

#[test]
fn the_same_guest_gets_the_same_address_everywhere() {
    let mut one = Bench::new(config());
    let mut other = Bench::new(config());
    other.lease(mac(77));
    assert_eq!(one.lease(mac(1)), other.lease(mac(1)));
    assert_eq!(
        one.lease(mac(2)),
        Ipv4Addr::new(10, 0, 0, 44),
        "frozen: guests rely on it"
    );
}

#[test]
fn a_host_name_is_kept_if_it_is_one() {
    let mut bench = Bench::new(config());
    for (given, kept) in [
        ("Guest-1", Some("guest-1")),
        ("no good", None),
        ("-x", None),
    ] {
        let ask = Ask::new(MessageType::Request, mac(1))
            .requested(Ipv4Addr::new(10, 0, 0, 30))
            .with(DhcpOption::Hostname(given.into()));
        bench.send(&ask);
        let lease = bench.stored.last().unwrap();
        assert_eq!(lease.hostname.as_deref(), kept);
    }
}

#[test]
fn options_that_do_not_fit_are_left_out() {
    let mut config = config();
    let label = "a".repeat(63);
    config.domain = Some([label.as_str(); 3].join("."));
    let mut bench = Bench::new(config);
    let mut big = Ask::new(MessageType::Discover, mac(1));
    big.relay = Some(vec![9; 200]);
    let transmit = bench.send(&big).unwrap();
    assert!(transmit.payload.len() <= 548, "{}", transmit.payload.len());
    let answer = Answer::parse(&transmit.payload);
    assert!(answer.message.opts().contains(OptionCode::Router));
    assert!(!answer.message.opts().contains(OptionCode::DomainName));
}

#[test]
fn a_lease_is_text_that_a_store_can_keep() {
    let mut bench = Bench::new(config());
    bench.lease(mac(1));
    let text = serde_json::to_string(&bench.stored[0]).unwrap();
    assert_eq!(
        text,
        "{\"address\":\"10.0.0.25\",\"client\":\"01525400000001\",\"mac\":\"52:54:00:00:00:01\",\
         \"hostname\":null,\"state\":{\"bound\":{\"renewed\":1700000000,\"expires\":1700003601}}}"
    );
    assert_eq!(
        serde_json::from_str::<Lease>(&text).unwrap(),
        bench.stored[0]
    );
}

#[test]
fn messages_that_are_no_requests_are_ignored() {
    let mut bench = Bench::new(config());
    let good = Ask::new(MessageType::Discover, mac(1)).bytes();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let multicast = with(28, 0x01);
    for bad in [
        with(0, 2),
        with(1, 6),
        with(2, 255),
        with(2, 0),
        with(236, 0),
        multicast,
        good[..200].to_vec(),
    ] {
        assert!(bench.outputs(&bad).is_empty());
    }
    assert_eq!(bench.server.counters().ignored, 7);
    assert_eq!(bench.outputs(&good).len(), 1);
}

proptest! {
    #[test]
    fn any_bytes_are_taken_without_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        tail in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bench = Bench::new(config());
        let mut bytes = Ask::new(MessageType::Request, mac(1)).requested(SERVER).bytes();
        bytes.truncate(bytes.len() - 1);
        bytes.extend_from_slice(&tail);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bench.outputs(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        bench.outputs(&bytes);
    }
}
