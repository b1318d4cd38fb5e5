//! Other implementations, as machines.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use gotatun::noise::index_table::IndexTable;
use gotatun::packet::Packet;
use gotatun::tun::MtuWatcher;
use mock_instant::MockClock;
use weft_vpn::{PresharedKey, PrivateKey, PublicKey};

const ROOM: usize = 70_000;

/// What came of a datagram.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) datagrams: Vec<Vec<u8>>,
    pub(crate) packet: Option<Vec<u8>>,
}

/// Another implementation with one peer.
pub(crate) trait Rival {
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>>;
    fn receive(&mut self, datagram: &[u8]) -> Answer;
    /// Lets its clock show `elapsed`, if that can be done, and does what is due.
    fn tick(&mut self, elapsed: Duration) -> Vec<Vec<u8>>;
}

pub(crate) struct Boringtun(boringtun::noise::Tunn);

impl Boringtun {
    pub(crate) fn new(own: &PrivateKey, peer: &PublicKey, psk: &PresharedKey) -> Self {
        MockClock::set_time(Duration::ZERO);
        Self(boringtun::noise::Tunn::new(
            (*own.expose()).into(),
            peer.0.into(),
            psk.is_some().then(|| *psk.expose()),
            None,
            7,
            None,
        ))
    }

    fn take(result: boringtun::noise::TunnResult<'_>, answer: &mut Answer) -> bool {
        use boringtun::noise::TunnResult::{
            Done, Err, WriteToNetwork, WriteToTunnelV4, WriteToTunnelV6,
        };
        match result {
            WriteToNetwork(bytes) => {
                answer.datagrams.push(bytes.to_vec());
                return true;
            }
            WriteToTunnelV4(packet, _) => answer.packet = Some(packet.to_vec()),
            WriteToTunnelV6(packet, _) => answer.packet = Some(packet.to_vec()),
            Done | Err(_) => {}
        }
        false
    }
}

impl Rival for Boringtun {
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let (mut answer, mut room) = (Answer::default(), vec![0; ROOM]);
        Self::take(self.0.encapsulate(packet, &mut room), &mut answer);
        answer.datagrams
    }

    fn receive(&mut self, datagram: &[u8]) -> Answer {
        let (mut answer, mut room) = (Answer::default(), vec![0; ROOM]);
        let from: IpAddr = Ipv4Addr::LOCALHOST.into();
        let mut input = datagram;
        while Self::take(
            self.0.decapsulate(Some(from), input, &mut room),
            &mut answer,
        ) {
            input = &[];
        }
        answer
    }

    fn tick(&mut self, elapsed: Duration) -> Vec<Vec<u8>> {
        MockClock::set_time(elapsed);
        let (mut answer, mut room) = (Answer::default(), vec![0; ROOM]);
        Self::take(self.0.update_timers(&mut room), &mut answer);
        answer.datagrams
    }
}

/// Its clock is the host's, so it is not asked what it does when time passes.
pub(crate) struct Gotatun(gotatun::noise::Tunn);

impl Gotatun {
    pub(crate) fn new(own: &PrivateKey, peer: &PublicKey, psk: &PresharedKey) -> Self {
        use gotatun::noise::rate_limiter::RateLimiter;
        let limiter = RateLimiter::new(&own.public().0.into(), 1000);
        Self(gotatun::noise::Tunn::new(
            (*own.expose()).into(),
            peer.0.into(),
            psk.is_some().then(|| *psk.expose()),
            None,
            IndexTable::from_os_rng(),
            Arc::new(limiter),
        ))
    }
}

fn bytes(kind: gotatun::packet::WgKind) -> Vec<u8> {
    Packet::from(kind).to_vec()
}

impl Rival for Gotatun {
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let packet = Packet::copy_from(packet);
        let sent = self
            .0
            .handle_outgoing_packet(packet, Some(&mut MtuWatcher::new(1420)));
        sent.map(bytes).into_iter().collect()
    }

    fn receive(&mut self, datagram: &[u8]) -> Answer {
        use gotatun::noise::TunnResult::{WriteToNetwork, WriteToTunnel};
        let mut answer = Answer::default();
        let Ok(kind) = Packet::copy_from(datagram).try_into_wg() else {
            return answer;
        };
        match self.0.handle_incoming_packet(kind) {
            WriteToNetwork(kind) => {
                answer.datagrams.push(bytes(kind));
                let mut mtu = MtuWatcher::new(1420);
                let queued = self.0.get_queued_packets(&mut mtu).map(bytes);
                answer.datagrams.extend(queued);
            }
            WriteToTunnel(packet) if !packet.is_empty() => answer.packet = Some(packet.to_vec()),
            _ => {}
        }
        answer
    }

    fn tick(&mut self, _elapsed: Duration) -> Vec<Vec<u8>> {
        Vec::new()
    }
}
