//! vhost-user messages: bytes and descriptors in, checked requests out; replies back into bytes. No I/O.
//!
//! The payloads and their checks are those of the `vhost` crate; the framing is ours, because the crate's handler
//! blocks its thread and neither sends a configuration change nor knows the device status. Source: QEMU,
//! docs/interop/vhost-user.rst.

use std::os::fd::OwnedFd;

use vhost::vhost_user::message::{
    FrontendReq, MAX_MSG_SIZE, VhostUserConfig, VhostUserInflight, VhostUserMemory,
    VhostUserMemoryRegion, VhostUserMsgValidator, VhostUserSingleMemoryRegion, VhostUserU64,
    VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;

use crate::Error;

/// Bytes of a header: request, flags, size.
pub(crate) const HEADER: usize = 12;
/// The protocol's version, in the two low bits of the flags.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
/// The message is a reply.
const REPLY: u32 = 1 << 2;
/// The sender wants an acknowledgement.
const NEED_REPLY: u32 = 1 << 3;
/// In the payload of the descriptor messages: no descriptor comes with it.
const NO_DESCRIPTOR: u64 = 1 << 8;
/// `VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`.
const CONFIG_CHANGE: u32 = 2;

/// What precedes each payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) code: u32,
    flags: u32,
    pub(crate) size: usize,
}

impl Header {
    /// Reads a request's header.
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Result<Self, Error> {
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let header = Self {
            code: word(0),
            flags: word(4),
            size: word(8) as usize,
        };
        if header.flags & VERSION_MASK != VERSION || header.flags & REPLY != 0 {
            return Err(Error::Protocol("a header is not that of a request"));
        }
        if header.size > MAX_MSG_SIZE {
            return Err(Error::Protocol("a message is too long"));
        }
        Ok(header)
    }

    /// Whether the front end waits for an acknowledgement, if that was negotiated.
    pub(crate) fn wants_ack(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// A reply to this request.
    pub(crate) fn reply(&self, payload: &[u8]) -> Vec<u8> {
        frame(self.code, VERSION | REPLY, payload)
    }

    /// An acknowledgement of this request.
    pub(crate) fn ack(&self, success: bool) -> Vec<u8> {
        self.reply(&u64::from(!success).to_ne_bytes())
    }
}

/// The message, to the front end, that the configuration space changed.
pub(crate) fn config_change() -> Vec<u8> {
    frame(CONFIG_CHANGE, VERSION, &[])
}

fn frame(code: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(code.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend((payload.len() as u32).to_ne_bytes());
    bytes.extend(payload);
    bytes
}

/// A request of the front end, its payload checked by itself; whether it fits the state is the session's business.
pub(crate) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemoryTable(Vec<(VhostUserMemoryRegion, OwnedFd)>),
    SetVringSize(Vring),
    SetVringAddress(VhostUserVringAddr),
    SetVringBase(Vring),
    GetVringBase(u32),
    SetVringKick(u32, Option<OwnedFd>),
    SetVringCall(u32, Option<OwnedFd>),
    SetVringError(u32, Option<OwnedFd>),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueCount,
    SetVringEnable(u32, bool),
    SetMtu,
    SetBackendChannel(OwnedFd),
    GetConfig { offset: u32, size: u32 },
    SetConfig { offset: u32, bytes: Vec<u8> },
    GetInFlight(VhostUserInflight),
    SetInFlight(VhostUserInflight, OwnedFd),
    ResetDevice,
    GetMemorySlots,
    AddMemory(VhostUserMemoryRegion, OwnedFd),
    RemoveMemory(VhostUserMemoryRegion),
    SetStatus(u64),
    GetStatus,
}

/// The number that a message says of a ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vring {
    pub(crate) index: u32,
    pub(crate) value: u32,
}

impl Request {
    /// Whether the answer, rather than an acknowledgement, says that it was done; of those that can fail.
    pub(crate) fn has_answer(&self) -> bool {
        matches!(self, Self::GetVringBase(_) | Self::GetInFlight(_))
    }

    /// Reads the request of `header` from its payload and the descriptors that came with it.
    pub(crate) fn parse(
        header: &Header,
        body: &[u8],
        mut files: Vec<OwnedFd>,
    ) -> Result<Self, Error> {
        let code =
            FrontendReq::try_from(header.code).map_err(|_| Error::Unsupported(header.code))?;
        Ok(match code {
            FrontendReq::GET_FEATURES => Self::GetFeatures,
            FrontendReq::SET_FEATURES => Self::SetFeatures(number(body)?),
            FrontendReq::SET_OWNER => Self::SetOwner,
            FrontendReq::RESET_OWNER => Self::ResetOwner,
            FrontendReq::SET_MEM_TABLE => Self::SetMemoryTable(memory_table(body, files)?),
            FrontendReq::SET_VRING_NUM => Self::SetVringSize(vring(body)?),
            FrontendReq::SET_VRING_ADDR => Self::SetVringAddress(whole(body)?),
            FrontendReq::SET_VRING_BASE => Self::SetVringBase(vring(body)?),
            FrontendReq::GET_VRING_BASE => Self::GetVringBase(vring(body)?.index),
            FrontendReq::SET_VRING_KICK => {
                let (index, file) = descriptor(body, files)?;
                Self::SetVringKick(index, file)
            }
            FrontendReq::SET_VRING_CALL => {
                let (index, file) = descriptor(body, files)?;
                Self::SetVringCall(index, file)
            }
            FrontendReq::SET_VRING_ERR => {
                let (index, file) = descriptor(body, files)?;
                Self::SetVringError(index, file)
            }
            FrontendReq::GET_PROTOCOL_FEATURES => Self::GetProtocolFeatures,
            FrontendReq::SET_PROTOCOL_FEATURES => Self::SetProtocolFeatures(number(body)?),
            FrontendReq::GET_QUEUE_NUM => Self::GetQueueCount,
            FrontendReq::SET_VRING_ENABLE => match vring(body)? {
                Vring { index, value: 0 } => Self::SetVringEnable(index, false),
                Vring { index, value: 1 } => Self::SetVringEnable(index, true),
                _ => return Err(Error::Protocol("a ring is neither enabled nor disabled")),
            },
            FrontendReq::NET_SET_MTU => {
                number(body)?;
                Self::SetMtu
            }
            FrontendReq::SET_BACKEND_REQ_FD => Self::SetBackendChannel(one(&mut files)?),
            FrontendReq::GET_CONFIG => {
                let (config, _) = config(body)?;
                Self::GetConfig {
                    offset: config.offset,
                    size: config.size,
                }
            }
            FrontendReq::SET_CONFIG => {
                let (config, bytes) = config(body)?;
                Self::SetConfig {
                    offset: config.offset,
                    bytes: bytes.to_vec(),
                }
            }
            FrontendReq::GET_INFLIGHT_FD => Self::GetInFlight(whole(body)?),
            FrontendReq::SET_INFLIGHT_FD => Self::SetInFlight(whole(body)?, one(&mut files)?),
            FrontendReq::RESET_DEVICE => Self::ResetDevice,
            FrontendReq::GET_MAX_MEM_SLOTS => Self::GetMemorySlots,
            FrontendReq::ADD_MEM_REG => Self::AddMemory(slot(body)?, one(&mut files)?),
            // Some front ends send the region's descriptor along; it is closed.
            FrontendReq::REM_MEM_REG => Self::RemoveMemory(slot(body)?),
            FrontendReq::SET_STATUS => Self::SetStatus(number(body)?),
            FrontendReq::GET_STATUS => Self::GetStatus,
            _ => return Err(Error::Unsupported(header.code)),
        })
    }
}

/// A payload that is exactly a `T`.
fn whole<T: ByteValued + VhostUserMsgValidator + Default>(body: &[u8]) -> Result<T, Error> {
    let (value, rest) = leading(body)?;
    if !rest.is_empty() {
        return Err(Error::Protocol("a payload is too long"));
    }
    Ok(value)
}

/// A payload that starts with a `T`, and what follows.
fn leading<T: ByteValued + VhostUserMsgValidator + Default>(
    body: &[u8],
) -> Result<(T, &[u8]), Error> {
    let (head, rest) = body
        .split_at_checked(size_of::<T>())
        .ok_or(Error::Protocol("a payload is too short"))?;
    let mut value = T::default();
    value.as_mut_slice().copy_from_slice(head);
    if !value.is_valid() {
        return Err(Error::Protocol("a payload contradicts itself"));
    }
    Ok((value, rest))
}

fn number(body: &[u8]) -> Result<u64, Error> {
    Ok(whole::<VhostUserU64>(body)?.value)
}

fn vring(body: &[u8]) -> Result<Vring, Error> {
    let state: VhostUserVringState = whole(body)?;
    Ok(Vring {
        index: state.index,
        value: state.num,
    })
}

fn slot(body: &[u8]) -> Result<VhostUserMemoryRegion, Error> {
    let region: VhostUserSingleMemoryRegion = whole(body)?;
    if !VhostUserMsgValidator::is_valid(&*region) {
        return Err(Error::Protocol("a memory region contradicts itself"));
    }
    Ok(*region)
}

fn one(files: &mut Vec<OwnedFd>) -> Result<OwnedFd, Error> {
    match files.pop() {
        Some(file) if files.is_empty() => Ok(file),
        _ => Err(Error::Protocol("a message takes exactly one descriptor")),
    }
}

fn descriptor(body: &[u8], mut files: Vec<OwnedFd>) -> Result<(u32, Option<OwnedFd>), Error> {
    let value = number(body)?;
    let index = (value & 0xff) as u32;
    let file = match value & NO_DESCRIPTOR {
        0 => Some(one(&mut files)?),
        _ => None,
    };
    Ok((index, file))
}

fn memory_table(
    body: &[u8],
    files: Vec<OwnedFd>,
) -> Result<Vec<(VhostUserMemoryRegion, OwnedFd)>, Error> {
    let (table, mut rest): (VhostUserMemory, _) = leading(body)?;
    let count = table.num_regions as usize;
    if files.len() != count {
        return Err(Error::Protocol(
            "a memory table has a descriptor for each region",
        ));
    }
    let mut regions = Vec::with_capacity(count);
    for file in files {
        let (region, tail) = leading(rest)?;
        regions.push((region, file));
        rest = tail;
    }
    Ok(regions)
}

fn config(body: &[u8]) -> Result<(VhostUserConfig, &[u8]), Error> {
    let (config, bytes): (VhostUserConfig, _) = leading(body)?;
    if bytes.len() != config.size as usize {
        return Err(Error::Protocol("a configuration is not as long as it says"));
    }
    Ok((config, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(code: FrontendReq, size: usize) -> Header {
        let bytes = frame(code.into(), VERSION | NEED_REPLY, &vec![0; size]);
        Header::parse(bytes.first_chunk().unwrap()).unwrap()
    }

    #[test]
    fn headers_are_checked() {
        let good = frame(1, VERSION, &[]);
        assert!(Header::parse(good.first_chunk().unwrap()).is_ok());
        for (flags, size) in [(0, 0_u32), (2, 0), (VERSION | REPLY, 0), (VERSION, 4097)] {
            let mut bytes = frame(1, flags, &[]);
            bytes[8..].copy_from_slice(&size.to_ne_bytes());
            assert!(Header::parse(bytes.first_chunk().unwrap()).is_err());
        }
    }

    #[test]
    fn payloads_are_exact() {
        let header = header(FrontendReq::SET_FEATURES, 8);
        assert!(header.wants_ack());
        assert!(matches!(
            Request::parse(&header, &7_u64.to_ne_bytes(), vec![]),
            Ok(Request::SetFeatures(7))
        ));
        assert!(Request::parse(&header, &[0; 7], vec![]).is_err());
        assert!(Request::parse(&header, &[0; 9], vec![]).is_err());
    }

    #[test]
    fn descriptors_are_counted() {
        let header = header(FrontendReq::SET_VRING_KICK, 8);
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let with = |value: u64, files| Request::parse(&header, &value.to_ne_bytes(), files);
        assert!(matches!(
            with(3, vec![null()]),
            Ok(Request::SetVringKick(3, Some(_)))
        ));
        assert!(matches!(
            with(0x103, vec![]),
            Ok(Request::SetVringKick(3, None))
        ));
        assert!(with(3, vec![]).is_err());
        assert!(with(3, vec![null(), null()]).is_err());
    }

    #[test]
    fn arbitrary_payloads_are_refused_or_read() {
        for code in 0..50_u32 {
            for len in 0..80 {
                let header = Header {
                    code,
                    flags: VERSION,
                    size: len,
                };
                let _ = Request::parse(&header, &vec![0xff; len], vec![]);
                let _ = Request::parse(&header, &vec![1; len], vec![]);
            }
        }
    }
}
