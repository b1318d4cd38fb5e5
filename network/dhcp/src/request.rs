//! What a client says, checked once.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message;
use dhcproto::v4::{HType, MAGIC, MessageType, Opcode, OptionCode};
use weft_wire::MacAddress;

use crate::ClientId;
use crate::config::is_domain_name;

/// The largest message that every client takes: a datagram of 576 bytes without its headers (RFC 2131 2).
const SMALLEST_MAXIMUM: usize = 576 - 28;
/// The most that is given back to a relay, so that there is always room for the rest.
const LARGEST_RELAY_INFORMATION: usize = 255;
/// The largest message that is ever sent: an Ethernet frame without headers.
const LARGEST_MAXIMUM: usize = 1500 - 28;

/// A message from a client that may be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) asks: Asks,
    pub(crate) client: ClientId,
    pub(crate) mac: MacAddress,
    pub(crate) xid: u32,
    pub(crate) secs: u16,
    pub(crate) flags: u16,
    pub(crate) ciaddr: Ipv4Addr,
    pub(crate) giaddr: Ipv4Addr,
    pub(crate) hostname: Option<String>,
    /// Seconds of lease that the client would like.
    pub(crate) lease_time: Option<u32>,
    /// Codes of the options that it wants; all without a list.
    pub(crate) parameters: Option<Vec<u8>>,
    /// Bytes of message that it takes.
    pub(crate) max_size: usize,
    /// What a relay added (option 82), to be given back as it is.
    pub(crate) relay_information: Option<Vec<u8>>,
    /// Whether the client sent an identifier, which is then repeated (RFC 6842).
    pub(crate) identifier: Option<Vec<u8>>,
}

/// What a client asks for, or tells (RFC 2131, table 4 and 4.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Which address may I have?
    Discover { requested: Option<Ipv4Addr> },
    /// I take the address that this server offered.
    Select { server: Ipv4Addr, address: Ipv4Addr },
    /// I start again and had this address.
    Reboot { address: Ipv4Addr },
    /// I use this address and would like to go on (renewing and rebinding).
    Extend { address: Ipv4Addr },
    /// Somebody else uses the address that I was given.
    Decline {
        server: Option<Ipv4Addr>,
        address: Ipv4Addr,
    },
    /// I give the address back.
    Release {
        server: Option<Ipv4Addr>,
        address: Ipv4Addr,
    },
    /// I have this address by other means; tell me the rest.
    Inform { address: Ipv4Addr },
}

/// The options of a message that matter to a server.
#[derive(Default)]
struct Options {
    kind: Option<MessageType>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    lease_time: Option<u32>,
    hostname: Option<String>,
    parameters: Option<Vec<u8>>,
    max_size: Option<u16>,
    relay_information: Option<Vec<u8>>,
    identifier: Option<Vec<u8>>,
}

impl Request {
    /// Reads a message; `None` for what is no request of an Ethernet client, contradicts itself or is of no use.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let message = Message::new(payload).ok()?;
        let mac = hardware_address(&message)?;
        let from_client = message.opcode() == Opcode::BootRequest;
        // The magic cookie stands behind the fixed fields, of which `Message::new` has seen that they are there.
        if !from_client || payload.get(236..240) != Some(&MAGIC[..]) {
            return None;
        }
        let options = Options::read(&message);
        let client = match &options.identifier {
            Some(identifier) => ClientId::of_identifier(identifier)?,
            None => ClientId::of_mac(mac),
        };
        Some(Self {
            asks: options.asks(message.ciaddr())?,
            client,
            mac,
            xid: message.xid(),
            secs: message.secs(),
            flags: message.flags().into(),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            hostname: options.hostname,
            lease_time: options.lease_time,
            parameters: options.parameters,
            max_size: options
                .max_size
                .map_or(SMALLEST_MAXIMUM, |size| {
                    usize::from(size).saturating_sub(28)
                })
                .clamp(SMALLEST_MAXIMUM, LARGEST_MAXIMUM),
            relay_information: options
                .relay_information
                .filter(|data| data.len() <= LARGEST_RELAY_INFORMATION),
            identifier: options.identifier,
        })
    }

    /// Whether the client cannot take unicasts yet.
    pub(crate) fn wants_broadcast(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// Whether the client wants this option.
    pub(crate) fn wants(&self, code: OptionCode) -> bool {
        self.parameters
            .as_ref()
            .is_none_or(|list| list.contains(&code.into()))
    }
}

/// The client's Ethernet address. The length is checked here because the codec trusts it.
fn hardware_address(message: &Message<'_>) -> Option<MacAddress> {
    if message.htype() != HType::Eth || message.hlen() != 6 {
        return None;
    }
    let octets: [u8; 6] = message.chaddr().try_into().ok()?;
    Some(MacAddress(octets)).filter(|mac| mac.is_unicast())
}

impl Options {
    /// Reads the options one by one, so that one which makes no sense does not hide those behind it. The first of a
    /// kind counts.
    fn read(message: &Message<'_>) -> Self {
        let mut options = Self::default();
        for option in message.opts() {
            let data = option.data();
            match option.code() {
                OptionCode::MessageType if data.len() == 1 => {
                    options.kind.get_or_insert(data[0].into());
                }
                OptionCode::RequestedIpAddress => {
                    options.requested = options.requested.or(ip(data))
                }
                OptionCode::ServerIdentifier => options.server = options.server.or(ip(data)),
                OptionCode::AddressLeaseTime => {
                    options.lease_time =
                        options.lease_time.or(number(data).map(u32::from_be_bytes));
                }
                OptionCode::MaxMessageSize => {
                    options.max_size = options.max_size.or(number(data).map(u16::from_be_bytes));
                }
                OptionCode::Hostname => options.hostname = options.hostname.or_else(|| host(data)),
                OptionCode::ParameterRequestList => {
                    options.parameters.get_or_insert_with(|| data.to_vec());
                }
                OptionCode::RelayAgentInformation => {
                    options
                        .relay_information
                        .get_or_insert_with(|| data.to_vec());
                }
                OptionCode::ClientIdentifier => {
                    options.identifier.get_or_insert_with(|| data.to_vec());
                }
                _ => {}
            }
        }
        options
    }

    fn asks(&self, ciaddr: Ipv4Addr) -> Option<Asks> {
        let held = (!ciaddr.is_unspecified()).then_some(ciaddr);
        let Self {
            requested, server, ..
        } = *self;
        Some(match self.kind? {
            MessageType::Discover => Asks::Discover { requested },
            MessageType::Request => match (server, requested, held) {
                (Some(server), Some(address), None) => Asks::Select { server, address },
                (None, Some(address), None) => Asks::Reboot { address },
                (None, None, Some(address)) => Asks::Extend { address },
                // Not as RFC 2131 has it, but clear: some clients repeat the address they use when renewing.
                (None, Some(requested), Some(address)) if requested == address => {
                    Asks::Extend { address }
                }
                _ => return None,
            },
            MessageType::Decline => Asks::Decline {
                server,
                address: requested?,
            },
            MessageType::Release => Asks::Release {
                server,
                address: held?,
            },
            MessageType::Inform => Asks::Inform { address: held? },
            _ => return None,
        })
    }
}

fn number<const N: usize>(data: &[u8]) -> Option<[u8; N]> {
    data.try_into().ok()
}

fn ip(data: &[u8]) -> Option<Ipv4Addr> {
    number::<4>(data).map(Ipv4Addr::from)
}

/// A host name, if it is one; the zero with which some clients end it is left out.
fn host(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    let name = text.trim_end_matches('\0');
    is_domain_name(name).then(|| name.to_ascii_lowercase())
}
