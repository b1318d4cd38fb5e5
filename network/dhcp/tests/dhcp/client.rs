//! A DHCP client as a machine, for tests: it keeps to RFC 2131 but for what a test makes it do.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{
    Decodable, Decoder, DhcpOption, Encodable, Encoder, Message, MessageType, Opcode, OptionCode,
};
use weft_wire::MacAddress;

/// A message of a client, of which a test changes what it needs.
pub(crate) struct Ask {
    pub(crate) kind: MessageType,
    pub(crate) mac: MacAddress,
    pub(crate) identifier: Option<Vec<u8>>,
    pub(crate) xid: u32,
    pub(crate) ciaddr: Ipv4Addr,
    pub(crate) giaddr: Ipv4Addr,
    pub(crate) broadcast: bool,
    pub(crate) options: Vec<DhcpOption>,
    /// What a relay adds: option 82 as bytes, before the end mark.
    pub(crate) relay: Option<Vec<u8>>,
}

impl Ask {
    pub(crate) fn new(kind: MessageType, mac: MacAddress) -> Self {
        Self {
            kind,
            mac,
            identifier: None,
            xid: 1,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            options: Vec::new(),
            relay: None,
        }
    }

    pub(crate) fn with(mut self, option: DhcpOption) -> Self {
        self.options.push(option);
        self
    }

    pub(crate) fn requested(self, address: Ipv4Addr) -> Self {
        self.with(DhcpOption::RequestedIpAddress(address))
    }

    pub(crate) fn server(self, address: Ipv4Addr) -> Self {
        self.with(DhcpOption::ServerIdentifier(address))
    }

    pub(crate) fn from(mut self, ciaddr: Ipv4Addr) -> Self {
        self.ciaddr = ciaddr;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mac = self.mac.octets();
        let mut message =
            Message::new_with_id(self.xid, self.ciaddr, none, none, self.giaddr, &mac);
        message.set_opcode(Opcode::BootRequest);
        if self.broadcast {
            message.set_flags(dhcproto::v4::Flags::default().set_broadcast());
        }
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(self.kind));
        if let Some(identifier) = &self.identifier {
            options.insert(DhcpOption::ClientIdentifier(identifier.clone()));
        }
        for option in &self.options {
            options.insert(option.clone());
        }
        let mut bytes = Vec::new();
        message
            .encode(&mut Encoder::new(&mut bytes))
            .expect("a client's message encodes");
        if let Some(relay) = &self.relay {
            bytes.pop();
            bytes.extend_from_slice(&[82, relay.len() as u8]);
            bytes.extend_from_slice(relay);
            bytes.push(255);
        }
        bytes
    }
}

/// A server's message, read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) message: Message,
    pub(crate) kind: MessageType,
    pub(crate) address: Ipv4Addr,
    pub(crate) lease: Option<u32>,
    pub(crate) server: Option<Ipv4Addr>,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let message =
            Message::decode(&mut Decoder::new(bytes)).expect("a server's message decodes");
        let options = message.opts();
        let kind = options.msg_type().expect("a DHCP message has a type");
        let lease = match options.get(OptionCode::AddressLeaseTime) {
            Some(DhcpOption::AddressLeaseTime(seconds)) => Some(*seconds),
            _ => None,
        };
        let server = match options.get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
            _ => None,
        };
        let address = message.yiaddr();
        Self {
            kind,
            address,
            lease,
            server,
            message,
        }
    }
}

/// A lease as its client sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Held {
    pub(crate) address: Ipv4Addr,
    pub(crate) server: Ipv4Addr,
    pub(crate) asked: Duration,
    pub(crate) lease: Duration,
}

impl Held {
    pub(crate) fn expires(&self) -> Duration {
        self.asked + self.lease
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum State {
    Init,
    Selecting,
    Requesting {
        asked: Duration,
    },
    Rebooting {
        asked: Duration,
    },
    Bound(Held),
    /// Renewing or rebinding since then.
    Extending {
        held: Held,
        asked: Duration,
    },
}

/// A client of the simulation.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) mac: MacAddress,
    pub(crate) identifier: Option<Vec<u8>>,
    pub(crate) state: State,
    /// The address it remembers across its own restarts.
    pub(crate) last: Option<Ipv4Addr>,
    /// Whether it asks for a shorter lease than the server gives, every other time.
    pub(crate) modest: bool,
    xid: u32,
}

/// How long a client waits for an answer before it asks again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);

impl Client {
    pub(crate) fn new(mac: MacAddress, identifier: Option<Vec<u8>>) -> Self {
        Self {
            mac,
            identifier,
            state: State::Init,
            last: None,
            modest: false,
            xid: u32::from(mac.octets()[5]) << 16,
        }
    }

    /// The lease that it uses now.
    pub(crate) fn held(&self, now: Duration) -> Option<Held> {
        match self.state {
            State::Bound(held) | State::Extending { held, .. } if now < held.expires() => {
                Some(held)
            }
            _ => None,
        }
    }

    fn ask(&self, kind: MessageType) -> Ask {
        let mut ask = Ask::new(kind, self.mac);
        ask.identifier.clone_from(&self.identifier);
        ask.xid = self.xid;
        if self.modest && self.xid.is_multiple_of(2) {
            ask = ask.with(DhcpOption::AddressLeaseTime(60));
        }
        ask
    }

    /// Does what the time calls for: gives the datagram to send, and when to be called again.
    pub(crate) fn on_timer(&mut self, now: Duration) -> (Option<Ask>, Duration) {
        self.xid += 1;
        match self.state {
            State::Bound(held) | State::Extending { held, .. } if now >= held.expires() => {
                self.state = State::Init;
                (None, now)
            }
            State::Bound(held) if now < held.asked + held.lease / 2 => {
                (None, held.asked + held.lease / 2)
            }
            State::Bound(held) | State::Extending { held, .. } => {
                self.state = State::Extending { held, asked: now };
                let ask = self.ask(MessageType::Request).from(held.address);
                (Some(ask), (now + 3 * PATIENCE).min(held.expires()))
            }
            State::Init if self.last.is_some() => {
                let address = self.last.take().expect("it was seen");
                self.state = State::Rebooting { asked: now };
                (
                    Some(self.ask(MessageType::Request).requested(address)),
                    now + PATIENCE,
                )
            }
            State::Init | State::Selecting | State::Requesting { .. } | State::Rebooting { .. } => {
                self.state = State::Selecting;
                (Some(self.ask(MessageType::Discover)), now + PATIENCE)
            }
        }
    }

    /// Takes a message of the server: gives the datagram to send, if any, and when to be called again, if that changes.
    pub(crate) fn on_message(
        &mut self,
        bytes: &[u8],
        now: Duration,
    ) -> (Option<Ask>, Option<Duration>) {
        let answer = Answer::parse(bytes);
        let for_us =
            answer.message.xid() == self.xid && answer.message.chaddr() == self.mac.octets();
        if !for_us {
            return (None, None);
        }
        match (self.state, answer.kind) {
            (State::Selecting, MessageType::Offer) => {
                let (address, server) = (answer.address, answer.server.expect("offers name it"));
                self.state = State::Requesting { asked: now };
                self.xid += 1;
                let ask = self
                    .ask(MessageType::Request)
                    .requested(address)
                    .server(server);
                (Some(ask), Some(now + PATIENCE))
            }
            (
                State::Requesting { asked, .. }
                | State::Rebooting { asked, .. }
                | State::Extending { asked, .. },
                MessageType::Ack,
            ) => {
                let lease = Duration::from_secs(answer.lease.expect("an ACK has a time").into());
                let server = answer.server.expect("an ACK names its server");
                let held = Held {
                    address: answer.address,
                    server,
                    asked,
                    lease,
                };
                self.state = State::Bound(held);
                (None, Some(asked + lease / 2))
            }
            (
                State::Requesting { .. } | State::Rebooting { .. } | State::Extending { .. },
                MessageType::Nak,
            ) => {
                self.state = State::Init;
                self.last = None;
                (None, Some(now + Duration::from_secs(1)))
            }
            _ => (None, None),
        }
    }

    /// Gives its address back.
    pub(crate) fn release(&mut self, now: Duration) -> Option<Ask> {
        let held = self.held(now)?;
        self.state = State::Init;
        self.xid += 1;
        Some(
            self.ask(MessageType::Release)
                .from(held.address)
                .server(held.server),
        )
    }

    /// Finds that somebody else uses its address.
    pub(crate) fn decline(&mut self, now: Duration) -> Option<Ask> {
        let held = self.held(now)?;
        self.state = State::Init;
        self.xid += 1;
        Some(
            self.ask(MessageType::Decline)
                .requested(held.address)
                .server(held.server),
        )
    }

    /// Loses power, and remembers its address on disk.
    pub(crate) fn restart(&mut self, now: Duration) {
        self.last = self.held(now).map(|held| held.address);
        self.state = State::Init;
    }
}
