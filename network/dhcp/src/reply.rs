//! What the server says.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcproto::v4::{
    DhcpOption, Encodable, Encoder, Flags, Message, MessageType, Opcode, OptionCode,
};
use weft_wire::machine::{LinkTarget, Transmit};

use crate::config::Config;
use crate::request::Request;
use crate::{CLIENT_PORT, SERVER_PORT};

/// The least bytes of a message: old clients and relays drop shorter ones (RFC 1542 2.1).
const SMALLEST_MESSAGE: usize = 300;
/// The fixed fields and the magic cookie.
const FIXED: usize = 240;
const BROADCAST_FLAG: u16 = 0x8000;

/// An answer, before it is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This address is kept for you for a while.
    Offer { address: Ipv4Addr, lease: Duration },
    /// The address is yours for this time.
    Ack { address: Ipv4Addr, lease: Duration },
    /// Here are the parameters for the address that you have.
    Inform { address: Ipv4Addr },
    /// You cannot have that address.
    Nak,
}

impl Answer {
    fn kind(self) -> MessageType {
        match self {
            Self::Offer { .. } => MessageType::Offer,
            Self::Ack { .. } | Self::Inform { .. } => MessageType::Ack,
            Self::Nak => MessageType::Nak,
        }
    }
}

/// The datagram that carries `answer` to the client of `request` (RFC 2131 4.1 and table 3).
pub(crate) fn transmit(
    answer: Answer,
    request: &Request,
    hostname: Option<&str>,
    config: &Config,
) -> Transmit {
    let (destination, link) = target(answer, request);
    Transmit {
        source_port: SERVER_PORT,
        destination,
        link,
        payload: encode(answer, request, hostname, config),
    }
}

fn target(answer: Answer, request: &Request) -> (SocketAddrV4, LinkTarget) {
    let everyone = (
        SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
        LinkTarget::Everyone,
    );
    let station = |address| {
        (
            SocketAddrV4::new(address, CLIENT_PORT),
            LinkTarget::Station(request.mac),
        )
    };
    if !request.giaddr.is_unspecified() {
        let relay = SocketAddrV4::new(request.giaddr, SERVER_PORT);
        return (relay, LinkTarget::Routed);
    }
    match answer {
        Answer::Nak => everyone,
        Answer::Inform { address } => station(address),
        _ if !request.ciaddr.is_unspecified() => station(request.ciaddr),
        _ if request.wants_broadcast() => everyone,
        Answer::Offer { address, .. } | Answer::Ack { address, .. } => station(address),
    }
}

fn encode(answer: Answer, request: &Request, hostname: Option<&str>, config: &Config) -> Vec<u8> {
    let yours = match answer {
        Answer::Offer { address, .. } | Answer::Ack { address, .. } => address,
        Answer::Inform { .. } | Answer::Nak => Ipv4Addr::UNSPECIFIED,
    };
    let theirs = match answer {
        Answer::Ack { .. } | Answer::Inform { .. } => request.ciaddr,
        Answer::Offer { .. } | Answer::Nak => Ipv4Addr::UNSPECIFIED,
    };
    // A relay must broadcast a NAK, for the client's address is in doubt (RFC 2131 4.3.2).
    let relayed_nak = answer == Answer::Nak && !request.giaddr.is_unspecified();
    let flags = request.flags | if relayed_nak { BROADCAST_FLAG } else { 0 };
    let mut message = Message::new_with_id(
        request.xid,
        theirs,
        yours,
        Ipv4Addr::UNSPECIFIED,
        request.giaddr,
        &request.mac.octets(),
    );
    message
        .set_opcode(Opcode::BootReply)
        .set_flags(Flags::new(flags));
    let relay_information = request
        .relay_information
        .as_deref()
        .map_or_else(Vec::new, relay_option);
    let mut room = request.max_size - FIXED - 1 - relay_information.len();
    for (needed, option) in options(answer, request, hostname, config) {
        let length = length(&option);
        if needed || length <= room {
            room = room.saturating_sub(length);
            message.opts_mut().insert(option);
        }
    }
    let mut bytes = Vec::with_capacity(SMALLEST_MESSAGE);
    message
        .encode(&mut Encoder::new(&mut bytes))
        .expect("options were checked to fit when they were configured or received");
    // The relay's option goes last, before the end mark (RFC 3046 2.1), byte for byte.
    bytes.pop();
    bytes.extend_from_slice(&relay_information);
    bytes.push(OptionCode::End.into());
    bytes.resize(bytes.len().max(SMALLEST_MESSAGE), 0);
    bytes
}

/// The options of an answer, most important first, and whether they must be there.
fn options(
    answer: Answer,
    request: &Request,
    hostname: Option<&str>,
    config: &Config,
) -> Vec<(bool, DhcpOption)> {
    let mut options = vec![
        (true, DhcpOption::MessageType(answer.kind())),
        (true, DhcpOption::ServerIdentifier(config.server.address())),
    ];
    if let Some(identifier) = &request.identifier {
        options.push((true, DhcpOption::ClientIdentifier(identifier.clone())));
    }
    match answer {
        Answer::Nak => return options,
        Answer::Offer { lease, .. } | Answer::Ack { lease, .. } => {
            let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
            // A half and seven eighths of the time (RFC 2131 4.4.5).
            let renewal = seconds / 2;
            let rebinding = seconds - seconds / 8;
            options.extend([
                (true, DhcpOption::AddressLeaseTime(seconds)),
                (true, DhcpOption::Renewal(renewal)),
                (true, DhcpOption::Rebinding(rebinding)),
            ]);
        }
        Answer::Inform { .. } => {}
    }
    options.push((true, DhcpOption::SubnetMask(config.server.netmask())));
    let mut optional = |option: Option<DhcpOption>| {
        let wanted = |option: &DhcpOption| request.wants(OptionCode::from(option));
        options.extend(option.filter(wanted).map(|option| (false, option)));
    };
    optional(config.router.map(|router| DhcpOption::Router(vec![router])));
    optional((!config.dns.is_empty()).then(|| DhcpOption::DomainNameServer(config.dns.clone())));
    optional(config.mtu.map(DhcpOption::InterfaceMtu));
    optional(Some(DhcpOption::BroadcastAddr(config.server.broadcast())));
    optional(config.domain.clone().map(DhcpOption::DomainName));
    optional(hostname.map(|name| DhcpOption::Hostname(name.into())));
    options
}

/// Option 82 as the relay sent it, in pieces of at most 255 bytes (RFC 3396).
fn relay_option(data: &[u8]) -> Vec<u8> {
    data.chunks(usize::from(u8::MAX))
        .flat_map(|piece| {
            // A piece fits the length byte.
            let head = [OptionCode::RelayAgentInformation.into(), piece.len() as u8];
            head.into_iter().chain(piece.iter().copied())
        })
        .collect()
}

/// Bytes of an option in a message.
fn length(option: &DhcpOption) -> usize {
    let mut bytes = Vec::new();
    match option.encode(&mut Encoder::new(&mut bytes)) {
        Ok(()) => bytes.len(),
        Err(_) => usize::MAX,
    }
}
