//! Keys that grow old. The machine's clock is the test's, so it ages while the judge stays where it is.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use weft_netio::Namespace;
use weft_tests::{can, require, skip};
use weft_tunnel::{entropy, now};
use weft_vpn::{Data, Endpoint, Event, Now, Output, PeerId, Prefix, PrivateKey, Tunnel};

use crate::lab::{Judge, Runner, Site, join};

const LIMIT: Duration = Duration::from_secs(60);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
const ICMP: u8 = 1;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// Our machine on a socket of its own, ahead of the host's clocks.
struct Ahead {
    machine: Tunnel,
    peer: PeerId,
    socket: UdpSocket,
    by: Duration,
    handshakes: u32,
    sent: u16,
    /// What the judge calls the sessions that data went out with.
    sessions: BTreeSet<u32>,
}

impl Ahead {
    fn new(site: &Site, theirs: &Site, endpoint: SocketAddr) -> Result<Self> {
        let netns = Namespace::open_named(site.netns.name())?;
        let socket = netns.run(|| UdpSocket::bind("0.0.0.0:7001"))??;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut machine = Tunnel::new(entropy());
        machine.set_private_key(Some(PrivateKey::new([1; 32])));
        let peer = machine
            .add_peer(theirs.public.parse()?)
            .context("another")?;
        machine.allow(peer, Prefix::host(THEIRS.into()));
        machine.set_endpoint(peer, Endpoint::new(endpoint), now(), &mut Vec::new());
        Ok(Self {
            machine,
            peer,
            socket,
            by: Duration::ZERO,
            handshakes: 0,
            sent: 0,
            sessions: BTreeSet::new(),
        })
    }

    fn now(&self) -> Now {
        let now = now();
        Now {
            monotonic: now.monotonic + self.by,
            wall: now.wall + self.by,
        }
    }

    fn put_out(&mut self, outputs: Vec<Output>) -> Result<()> {
        for output in outputs {
            match output {
                Output::Send { to, bytes } => {
                    let data = Data::parse(&bytes);
                    self.sessions.extend(data.map(|data| data.receiver()));
                    self.socket.send_to(&bytes, to.remote)?;
                }
                Output::Event(Event::HandshakeCompleted(_)) => self.handshakes += 1,
                Output::Event(_) => {}
            }
        }
        Ok(())
    }

    /// Takes what has come, and does what is due. Returns the numbers of the echoes that came back.
    fn take(&mut self) -> Result<Vec<u16>> {
        let (mut outputs, mut echoes) = (Vec::new(), Vec::new());
        let mut buffer = [0; 2048];
        if let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let (now, from) = (self.now(), Endpoint::new(from));
            let datagram = &mut buffer[..length];
            if let Ok(Some(came)) = self.machine.receive(datagram, from, now, &mut outputs) {
                let packet = &datagram[came.packet];
                if packet.len() >= 28 && (packet[9], packet[20]) == (ICMP, ECHO_REPLY) {
                    echoes.push(u16::from_be_bytes([packet[26], packet[27]]));
                }
            }
        }
        let now = self.now();
        self.machine.handle_timeout(now, &mut outputs);
        self.put_out(outputs)?;
        Ok(echoes)
    }

    /// Sends an echo request and waits until it comes back; what was lost is sent again.
    fn echo(&mut self) -> Result<()> {
        let start = Instant::now();
        let mut outputs = Vec::new();
        self.sent += 1;
        while start.elapsed() < LIMIT {
            let (packet, now) = (echo_request(self.sent), self.now());
            self.machine.stage(self.peer, &packet, now, &mut outputs)?;
            self.put_out(std::mem::take(&mut outputs))?;
            for _ in 0..5 {
                if self.take()?.contains(&self.sent) {
                    return Ok(());
                }
            }
            // What the judge takes for a flood is tried again soon.
            self.by += Duration::from_secs(6);
        }
        bail!("no echo comes back after {} handshakes", self.handshakes)
    }

    /// Waits for a session that the judge has opened.
    fn is_opened_by(&mut self, theirs: &Site) -> Result<()> {
        let (before, start) = (self.handshakes, Instant::now());
        let mut knock = theirs.netns.command("ping");
        knock
            .args(["-q", "-c", "1", "-W", "1", "10.66.0.1"])
            .stdout(std::process::Stdio::null());
        let _knock = weft_tests::Process::spawn(knock)?;
        while self.handshakes == before {
            if start.elapsed() > LIMIT {
                bail!("the judge opens no session");
            }
            self.take()?;
        }
        Ok(())
    }

    /// Sends `count` echo requests, each once, and waits until all have come back, also while keys change.
    fn echo_all(&mut self, count: u16) -> Result<()> {
        let (start, mut owed) = (Instant::now(), BTreeSet::new());
        let mut outputs = Vec::new();
        for _ in 0..count {
            self.sent += 1;
            owed.insert(self.sent);
            let (packet, now) = (echo_request(self.sent), self.now());
            self.machine.stage(self.peer, &packet, now, &mut outputs)?;
            self.put_out(std::mem::take(&mut outputs))?;
            // No more on the way than any queue holds.
            while owed.len() > 16 {
                self.settle(&mut owed, start)?;
            }
        }
        while !owed.is_empty() {
            self.settle(&mut owed, start)?;
        }
        Ok(())
    }

    fn settle(&mut self, owed: &mut BTreeSet<u16>, start: Instant) -> Result<()> {
        for echo in self.take()? {
            owed.remove(&echo);
        }
        if start.elapsed() > LIMIT {
            bail!("lost: {owed:?}, after {} handshakes", self.handshakes);
        }
        Ok(())
    }

    /// Lets time pass, and echoes until there is another session.
    fn grow_old(&mut self, by: Duration) -> Result<()> {
        // Judges take handshakes that come close after each other for a flood.
        std::thread::sleep(Duration::from_millis(60));
        let (before, start) = (self.handshakes, Instant::now());
        self.by += by;
        self.echo()?;
        while self.handshakes == before {
            if start.elapsed() > LIMIT {
                bail!("no session follows the old one");
            }
            self.take()?;
        }
        self.echo()
    }
}

/// An ICMP echo request in an IPv4 packet.
fn echo_request(number: u16) -> [u8; 36] {
    let mut packet = [0; 36];
    packet[..10].copy_from_slice(&[0x45, 0, 0, 36, 0, 0, 0, 0, 64, ICMP]);
    packet[12..16].copy_from_slice(&OURS.octets());
    packet[16..20].copy_from_slice(&THEIRS.octets());
    packet[20] = ECHO_REQUEST;
    packet[26..28].copy_from_slice(&number.to_be_bytes());
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum);
    let sum = checksum(&packet[20..]);
    packet[22..24].copy_from_slice(&sum);
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum + (sum >> 16)) as u16).to_be_bytes()
}

/// Sessions that the machine replaces in time, too late, and after it has forgotten them; and those that the judge
/// replaces, for it has forgotten all.
fn sessions_follow_each_other(judge: Judge) -> Result<()> {
    let (program, _) = judge.program();
    require!("ip", "ping", "wg", program);
    if !can::be_root() {
        skip!("needs root");
    }
    let (ours, theirs) = (
        Site::new(Runner::Ours, 1)?,
        Site::new(Runner::Judge(judge), 2)?,
    );
    join(&ours, &theirs)?;
    theirs.bring_up(7002, 1420)?;
    theirs.know(&ours, None, false)?;
    let mut ahead = Ahead::new(&ours, &theirs, "192.168.66.2:7002".parse()?)?;
    ahead.echo()?;
    assert_eq!(ahead.handshakes, 1);
    for seconds in [121, 121, 150, 179, 181, 200, 541, 3600, 121] {
        ahead.grow_old(Duration::from_secs(seconds))?;
    }
    // Many in a row, as if a connection lived for a day.
    for _ in 0..10 {
        ahead.grow_old(Duration::from_secs(121))?;
    }
    for _ in 0..3 {
        theirs.wg(&["set", "peer", &ours.public, "remove"])?;
        theirs.know(&ours, Some("192.168.66.1:7001"), false)?;
        ahead.is_opened_by(&theirs)?;
        ahead.echo()?;
    }
    Ok(())
}

/// Messages under one key here. The protocol's number, 2^60, is not reached by counting.
const MESSAGES: u16 = 40;

/// Sessions that the machine replaces because enough was sent with them, long before they are old: those that it has
/// opened, and one that the judge has.
fn keys_change_by_count(judge: Judge) -> Result<()> {
    let (program, _) = judge.program();
    require!("ip", "ping", "wg", program);
    if !can::be_root() {
        skip!("needs root");
    }
    let (ours, theirs) = (
        Site::new(Runner::Ours, 1)?,
        Site::new(Runner::Judge(judge), 2)?,
    );
    join(&ours, &theirs)?;
    theirs.bring_up(7002, 1420)?;
    theirs.know(&ours, Some("192.168.66.1:7001"), false)?;
    let mut ahead = Ahead::new(&ours, &theirs, "192.168.66.2:7002".parse()?)?;
    ahead
        .machine
        .set_rekey_after_messages((MESSAGES - 1).into());
    ahead.is_opened_by(&theirs)?;
    ahead.by += Duration::from_secs(6);
    ahead.echo_all(MESSAGES - 2)?;
    assert_eq!(ahead.handshakes, 1, "not before it is time");
    for _ in 0..8 {
        let (before, start) = (ahead.handshakes, Instant::now());
        // A handshake comes no sooner after another one, and judges take what does for a flood.
        ahead.by += Duration::from_secs(6);
        std::thread::sleep(Duration::from_millis(60));
        ahead.echo_all(2 * MESSAGES)?;
        while ahead.handshakes == before {
            if start.elapsed() > LIMIT {
                bail!("no session follows the one that is used up");
            }
            ahead.take()?;
        }
        // With the new keys, which the judge has as well.
        ahead.echo_all(1)?;
        let sessions = ahead.sessions.len();
        assert_eq!(sessions, ahead.handshakes as usize, "each has its keys");
    }
    // All of that within the time of one session.
    assert!(ahead.by < Duration::from_secs(60));
    Ok(())
}

#[test]
fn wireguard_go_follows_when_keys_change_by_count() -> Result<()> {
    keys_change_by_count(Judge::WireguardGo)
}

#[test]
fn boringtun_follows_when_keys_change_by_count() -> Result<()> {
    keys_change_by_count(Judge::Boringtun)
}

#[test]
fn gotatun_follows_when_keys_change_by_count() -> Result<()> {
    keys_change_by_count(Judge::Gotatun)
}

#[test]
fn wireguard_go_follows_from_session_to_session() -> Result<()> {
    sessions_follow_each_other(Judge::WireguardGo)
}

#[test]
fn boringtun_follows_from_session_to_session() -> Result<()> {
    sessions_follow_each_other(Judge::Boringtun)
}

#[test]
fn gotatun_follows_from_session_to_session() -> Result<()> {
    sessions_follow_each_other(Judge::Gotatun)
}
