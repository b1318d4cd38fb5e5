//! Many clients behind one relay.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use weft_netio::Namespace;
use weft_tests::Netns;

/// Exchanges under way at the same time.
const WINDOW: usize = 32;
/// After how long a question that was not answered is asked again.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A relay's socket and the clients behind it.
pub(crate) struct Clients {
    socket: UdpSocket,
    server: SocketAddrV4,
    relay: Ipv4Addr,
}

/// A question and when it was asked.
struct Asked {
    bytes: Vec<u8>,
    at: Instant,
}

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

impl Clients {
    pub(crate) fn open(netns: &Netns, server: Ipv4Addr, relay: Ipv4Addr) -> Result<Self> {
        let told = |e: weft_netio::Error| anyhow!("{}", e.sentence());
        let namespace = Namespace::open_named(netns.name()).map_err(told)?;
        let socket = namespace
            .run(|| UdpSocket::bind((relay, 67)))
            .map_err(told)??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let server = SocketAddrV4::new(server, 67);
        Ok(Self {
            socket,
            server,
            relay,
        })
    }

    /// Asks as one more client until there is an offer.
    pub(crate) fn wait_for_server(&self) -> Result<()> {
        let started = Instant::now();
        let question = self.message(u32::MAX, DISCOVER, None);
        let mut buffer = [0; 1500];
        while started.elapsed() < LIMIT {
            self.socket.send_to(&question, self.server)?;
            if self
                .receive(&mut buffer)?
                .is_some_and(|(id, kind, _)| (id, kind) == (u32::MAX, OFFER))
            {
                return Ok(());
            }
        }
        bail!("no offer came within {LIMIT:?}")
    }

    /// Gets a lease for each of `count` clients.
    pub(crate) fn lease(&self, count: u32) -> Result<()> {
        let started = Instant::now();
        let mut under_way: HashMap<u32, Asked> = HashMap::new();
        let (mut next, mut done) = (0, 0);
        let mut buffer = [0; 1500];
        while done < count {
            while under_way.len() < WINDOW && next < count {
                let question = self.message(next, DISCOVER, None);
                under_way.insert(next, self.ask(question)?);
                next += 1;
            }
            match self.receive(&mut buffer)? {
                Some((id, OFFER, address)) if under_way.contains_key(&id) => {
                    let question = self.message(id, REQUEST, Some(address));
                    under_way.insert(id, self.ask(question)?);
                }
                Some((id, ACK, _)) => done += u32::from(under_way.remove(&id).is_some()),
                Some(_) => {}
                None => self.ask_again(&mut under_way)?,
            }
            if started.elapsed() > LIMIT {
                bail!("{done} of {count} clients have a lease after {LIMIT:?}");
            }
        }
        Ok(())
    }

    fn ask(&self, bytes: Vec<u8>) -> Result<Asked> {
        self.socket.send_to(&bytes, self.server)?;
        let at = Instant::now();
        Ok(Asked { bytes, at })
    }

    fn ask_again(&self, under_way: &mut HashMap<u32, Asked>) -> Result<()> {
        for asked in under_way.values_mut() {
            if asked.at.elapsed() > PATIENCE {
                self.socket.send_to(&asked.bytes, self.server)?;
                asked.at = Instant::now();
            }
        }
        Ok(())
    }

    /// Transaction, message type and address of the next answer; nothing if none comes soon.
    fn receive(&self, buffer: &mut [u8]) -> Result<Option<(u32, u8, Ipv4Addr)>> {
        let length = match self.socket.recv(buffer) {
            Ok(length) => length,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let message = &buffer[..length];
        let four = |at: usize| -> [u8; 4] { message[at..at + 4].try_into().expect("four bytes") };
        if length < 240 {
            return Ok(None);
        }
        let kind = message_type(&message[240..]);
        Ok(kind.map(|kind| (u32::from_be_bytes(four(4)), kind, four(16).into())))
    }

    /// A client's message as its relay passes it on.
    fn message(&self, id: u32, kind: u8, address: Option<Ipv4Addr>) -> Vec<u8> {
        let mut message = vec![0; 240];
        message[..4].copy_from_slice(&[1, 1, 6, 1]);
        message[4..8].copy_from_slice(&id.to_be_bytes());
        message[24..28].copy_from_slice(&self.relay.octets());
        message[28] = 2;
        message[30..34].copy_from_slice(&id.to_be_bytes());
        message[236..240].copy_from_slice(&[99, 130, 83, 99]);
        message.extend_from_slice(&[53, 1, kind]);
        if let Some(address) = address {
            message.extend_from_slice(&[50, 4]);
            message.extend_from_slice(&address.octets());
            message.extend_from_slice(&[54, 4]);
            message.extend_from_slice(&self.server.ip().octets());
        }
        message.push(255);
        message.resize(300, 0);
        message
    }
}

/// The value of option 53.
fn message_type(mut options: &[u8]) -> Option<u8> {
    loop {
        match options {
            [53, 1, kind, ..] => return Some(*kind),
            [0, rest @ ..] => options = rest,
            [255, ..] => return None,
            [_, length, rest @ ..] => options = rest.get(usize::from(*length)..)?,
            _ => return None,
        }
    }
}
