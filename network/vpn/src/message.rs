//! The four messages of the protocol, as bytes with accessors whose lengths were checked once (whitepaper, 5.4).

use crate::mac::Mac;

/// Bytes of a handshake initiation.
pub const INITIATION: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY: usize = 64;
/// Bytes in front of what a data message has sealed.
pub const DATA_HEADER: usize = 16;
/// Bytes of the tag that closes each sealed part.
pub const TAG: usize = 16;
/// Bytes that a data message adds to what it carries.
pub const OVERHEAD: usize = DATA_HEADER + TAG;

/// Bytes of Noise's first and second message.
pub(crate) const NOISE_FIRST: usize = 108;
pub(crate) const NOISE_SECOND: usize = 48;
/// Bytes of the two MACs that close both handshake messages.
const MACS: usize = 32;

/// What stands in the first four bytes, little-endian.
const INITIATION_TYPE: u32 = 1;
const RESPONSE_TYPE: u32 = 2;
const COOKIE_REPLY_TYPE: u32 = 3;
const DATA_TYPE: u32 = 4;

/// A datagram that is one of the four messages, by its type and length.
#[derive(Debug, Clone, Copy)]
pub enum Message<'a> {
    /// Opens a handshake.
    Initiation(Initiation<'a>),
    /// Answers an initiation.
    Response(Response<'a>),
    /// Asks a sender to prove where it is.
    CookieReply(CookieReply<'a>),
    /// Carries a packet, or nothing (a keepalive).
    Data(Data<'a>),
}

impl<'a> Message<'a> {
    /// `None` for any other bytes. Nothing is allocated.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (kind, _) = bytes.split_first_chunk()?;
        match u32::from_le_bytes(*kind) {
            INITIATION_TYPE => Some(Self::Initiation(Initiation(bytes.try_into().ok()?))),
            RESPONSE_TYPE => Some(Self::Response(Response(bytes.try_into().ok()?))),
            COOKIE_REPLY_TYPE => Some(Self::CookieReply(CookieReply(bytes.try_into().ok()?))),
            DATA_TYPE => Data::parse(bytes).map(Self::Data),
            _ => None,
        }
    }

    /// Whether it answers a message, and is of use to its sender alone.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Response(_) | Self::CookieReply(_))
    }
}

/// Opens a handshake.
#[derive(Debug, Clone, Copy)]
pub struct Initiation<'a>(&'a [u8; INITIATION]);

impl<'a> Initiation<'a> {
    /// The index by which the initiator wants to be answered.
    pub fn sender(&self) -> u32 {
        number(self.0, 4)
    }

    /// Noise's first message.
    pub(crate) fn noise(&self) -> &'a [u8; NOISE_FIRST] {
        part(self.0, 8)
    }

    /// Its MACs.
    pub(crate) fn macs(&self) -> Macs<'a> {
        Macs(self.0)
    }

    /// A message whose MACs are not filled in yet.
    pub(crate) fn emit(sender: u32, noise: &[u8; NOISE_FIRST]) -> [u8; INITIATION] {
        let mut bytes = [0; INITIATION];
        bytes[..4].copy_from_slice(&INITIATION_TYPE.to_le_bytes());
        bytes[4..8].copy_from_slice(&sender.to_le_bytes());
        bytes[8..8 + NOISE_FIRST].copy_from_slice(noise);
        bytes
    }
}

/// Answers an initiation.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a>(&'a [u8; RESPONSE]);

impl<'a> Response<'a> {
    /// The index by which the responder wants to be addressed.
    pub fn sender(&self) -> u32 {
        number(self.0, 4)
    }

    /// The index that the initiator gave.
    pub fn receiver(&self) -> u32 {
        number(self.0, 8)
    }

    /// Noise's second message.
    pub(crate) fn noise(&self) -> &'a [u8; NOISE_SECOND] {
        part(self.0, 12)
    }

    /// Its MACs.
    pub(crate) fn macs(&self) -> Macs<'a> {
        Macs(self.0)
    }

    /// A message whose MACs are not filled in yet.
    pub(crate) fn emit(sender: u32, receiver: u32, noise: &[u8; NOISE_SECOND]) -> [u8; RESPONSE] {
        let mut bytes = [0; RESPONSE];
        bytes[..4].copy_from_slice(&RESPONSE_TYPE.to_le_bytes());
        bytes[4..8].copy_from_slice(&sender.to_le_bytes());
        bytes[8..12].copy_from_slice(&receiver.to_le_bytes());
        bytes[12..12 + NOISE_SECOND].copy_from_slice(noise);
        bytes
    }
}

/// The two MACs that close a handshake message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Macs<'a>(&'a [u8]);

impl<'a> Macs<'a> {
    /// The bytes that the first MAC is over.
    pub(crate) fn under_first(&self) -> &'a [u8] {
        &self.0[..self.0.len() - MACS]
    }

    /// Proves that the sender knows whom it talks to.
    pub(crate) fn first(&self) -> &'a Mac {
        part(self.0, self.0.len() - MACS)
    }

    /// The bytes that the second MAC is over.
    pub(crate) fn under_second(&self) -> &'a [u8] {
        &self.0[..self.0.len() - MACS / 2]
    }

    /// Proves that the sender had a cookie.
    pub(crate) fn second(&self) -> &'a Mac {
        part(self.0, self.0.len() - MACS / 2)
    }

    /// Where the two MACs of a message are that is being written, behind the bytes that the first is over.
    pub(crate) fn split(message: &mut [u8]) -> (&mut [u8], &mut [u8]) {
        let at = message.len() - MACS;
        message.split_at_mut(at)
    }
}

/// Asks a sender to prove where it is.
#[derive(Debug, Clone, Copy)]
pub struct CookieReply<'a>(&'a [u8; COOKIE_REPLY]);

impl<'a> CookieReply<'a> {
    /// The index of the message that was not handled.
    pub fn receiver(&self) -> u32 {
        number(self.0, 4)
    }

    /// What the cookie was sealed with, besides the key.
    pub(crate) fn nonce(&self) -> &'a [u8; 24] {
        part(self.0, 8)
    }

    /// The cookie and its tag.
    pub(crate) fn sealed(&self) -> &'a [u8; 32] {
        part(self.0, 32)
    }

    /// The message.
    pub(crate) fn emit(receiver: u32, nonce: &[u8; 24], sealed: &[u8; 32]) -> [u8; COOKIE_REPLY] {
        let mut bytes = [0; COOKIE_REPLY];
        bytes[..4].copy_from_slice(&COOKIE_REPLY_TYPE.to_le_bytes());
        bytes[4..8].copy_from_slice(&receiver.to_le_bytes());
        bytes[8..32].copy_from_slice(nonce);
        bytes[32..].copy_from_slice(sealed);
        bytes
    }
}

/// Carries a packet, or nothing.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    /// `None` unless it is a data message with room for its tag.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let whole = bytes.len() >= OVERHEAD && number(bytes, 0) == DATA_TYPE;
        whole.then_some(Self(bytes))
    }

    /// The index of the session, as the receiver named it.
    pub fn receiver(&self) -> u32 {
        number(self.0, 4)
    }

    /// The message's number in its session.
    pub fn counter(&self) -> u64 {
        u64::from_le_bytes(*part(self.0, 8))
    }

    /// Writes the header.
    pub(crate) fn emit_header(receiver: u32, counter: u64, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&DATA_TYPE.to_le_bytes());
        bytes[4..8].copy_from_slice(&receiver.to_le_bytes());
        bytes[8..DATA_HEADER].copy_from_slice(&counter.to_le_bytes());
    }
}

/// `N` bytes from `at` on, which must be there.
fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..]
        .first_chunk()
        .expect("the length was checked when the message was parsed")
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*part(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_messages_are_taken() {
        let initiation = Initiation::emit(7, &[1; NOISE_FIRST]);
        assert!(
            matches!(Message::parse(&initiation), Some(Message::Initiation(m)) if m.sender() == 7)
        );
        assert!(Message::parse(&initiation[..147]).is_none());
        let mut reserved = initiation;
        reserved[2] = 1;
        assert!(Message::parse(&reserved).is_none());
        let response = Response::emit(7, 8, &[1; NOISE_SECOND]);
        assert!(
            matches!(Message::parse(&response), Some(Message::Response(m)) if m.receiver() == 8)
        );
        let mut data = [0; OVERHEAD];
        Data::emit_header(9, 1 << 40, &mut data);
        assert!(
            matches!(Message::parse(&data), Some(Message::Data(m)) if m.receiver() == 9 && m.counter() == 1 << 40)
        );
        assert!(Message::parse(&data[..31]).is_none());
        assert!(Message::parse(&[]).is_none() && Message::parse(&[5; 200]).is_none());
    }
}
