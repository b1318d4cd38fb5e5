//! The client's side of the handshake: structured replies if offered, `base:allocation` if offered, then INFO or GO.

use weft_block::{Error, ErrorKind};

use super::BASE_ALLOCATION;
use crate::nbd::proto::{
    ExportQuery, Fields, GREETING_MAGIC, InfoKind, MAX_STRING, MetaQuery, OPTION_MAGIC, OptionCode,
    OptionHeader, OptionReply, ReplyCode, client_flag, handshake_flag, transmission_flag,
};

/// Bytes of one reply to an option; a name and a description at their longest fit.
const MAX_REPLY: usize = 3 * MAX_STRING;

/// Replies to one option, after which the server is taken for broken.
const MAX_REPLIES: u32 = 1024;

/// What a client knows of an export when its handshake is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Bytes.
    pub size: u64,
    /// See [`transmission_flag`](crate::nbd::proto::transmission_flag).
    pub flags: u16,
    /// Bytes: the unit of requests.
    pub min_block: u32,
    /// Bytes: what is written without reading first.
    pub preferred_block: u32,
    /// Bytes: the longest payload.
    pub max_payload: u32,
    /// Whether replies come in chunks.
    pub structured: bool,
    /// The number of `base:allocation`, if the server has it.
    pub allocation: Option<u32>,
}

impl Joined {
    /// Whether all of `flags` were offered.
    pub fn offers(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

/// What to do after [`Joining::advance`].
#[derive(Debug)]
pub enum Progress {
    /// Send what was written, if anything was, and receive more.
    Wait,
    /// The handshake is over. After GO transmission begins; after INFO send what was written and close.
    Done(Joined),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Option(OptionCode),
    Over,
}

/// A handshake with one server.
#[derive(Debug)]
pub struct Joining {
    name: String,
    transmit: bool,
    state: State,
    replies: u32,
    told_size: bool,
    joined: Joined,
}

impl Joining {
    /// Wants the export `name`, to use it if `transmit`, otherwise to learn about it alone.
    ///
    /// # Errors
    /// `Invalid` if the name is too long for the protocol or holds a NUL.
    pub fn new(name: &str, transmit: bool) -> Result<Self, Error> {
        if name.len() > MAX_STRING || name.contains('\0') {
            let message = "the export name is longer than 4096 bytes or holds a NUL";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self {
            name: name.to_string(),
            transmit,
            state: State::Greeting,
            replies: 0,
            told_size: false,
            joined: Joined {
                size: 0,
                flags: 0,
                min_block: 1,
                preferred_block: 4096,
                max_payload: crate::nbd::proto::MAX_PAYLOAD,
                structured: false,
                allocation: None,
            },
        })
    }

    /// Takes what is whole off `input` and appends what is to be sent to `out`.
    ///
    /// # Errors
    /// `Unsupported` if the server is none of the fixed newstyle, `Invalid` if it refuses the export (with its reason),
    /// `Corrupt` if it does not speak NBD.
    pub fn advance(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Progress, Error> {
        loop {
            let more = match self.state {
                State::Greeting => self.take_greeting(input, out)?,
                State::Option(option) => self.take_reply(option, input, out)?,
                State::Over => return Ok(Progress::Done(self.joined.clone())),
            };
            if !more {
                return Ok(Progress::Wait);
            }
        }
    }

    fn take_greeting(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, Error> {
        let mut fields = Fields::of(input);
        let (Some(magic), Some(style), Some(flags)) = (fields.u64(), fields.u64(), fields.u16())
        else {
            return Ok(false);
        };
        if magic != GREETING_MAGIC {
            return Err(corrupt("what answers there is no NBD server"));
        }
        if style != OPTION_MAGIC || flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            let message = "the server does not speak the fixed newstyle handshake";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        *input = fields.rest();
        let mut answer = client_flag::FIXED_NEWSTYLE;
        if flags & handshake_flag::NO_ZEROES != 0 {
            answer |= client_flag::NO_ZEROES;
        }
        out.extend_from_slice(&answer.to_be_bytes());
        self.ask(OptionCode::StructuredReply, b"", out);
        Ok(true)
    }

    fn ask(&mut self, option: OptionCode, data: &[u8], out: &mut Vec<u8>) {
        OptionHeader::put(out, option, data);
        self.state = State::Option(option);
        self.replies = 0;
    }

    fn take_reply(
        &mut self,
        option: OptionCode,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let Some((header, rest)) = input.split_first_chunk() else {
            return Ok(false);
        };
        let reply = OptionReply::parse(header)
            .filter(|reply| reply.option == option as u32 && reply.len as usize <= MAX_REPLY)
            .ok_or_else(|| corrupt("the server's answer to an option is malformed"))?;
        let Some((data, rest)) = rest.split_at_checked(reply.len as usize) else {
            return Ok(false);
        };
        *input = rest;
        self.replies += 1;
        if self.replies > MAX_REPLIES {
            return Err(corrupt("the server's answer to an option does not end"));
        }
        if reply.code & ReplyCode::ERROR != 0 {
            self.refused(option, reply.code, data, out)?;
        } else if reply.code == ReplyCode::Ack as u32 {
            self.acknowledged(option, out)?;
        } else if reply.code == ReplyCode::Info as u32 {
            self.learn(data)
                .ok_or_else(|| corrupt("the server's description of the export is malformed"))?;
        } else if reply.code == ReplyCode::MetaContext as u32 {
            let mut fields = Fields::of(data);
            let id = fields.u32();
            if fields.rest() == BASE_ALLOCATION.as_bytes() {
                self.joined.allocation = id;
            }
        }
        Ok(true)
    }

    fn acknowledged(&mut self, option: OptionCode, out: &mut Vec<u8>) -> Result<(), Error> {
        match option {
            OptionCode::StructuredReply => {
                self.joined.structured = true;
                let query = MetaQuery {
                    name: &self.name,
                    queries: vec![BASE_ALLOCATION],
                };
                let data = query.encode();
                self.ask(OptionCode::SetMetaContext, &data, out);
            }
            OptionCode::SetMetaContext => self.ask_for_export(out),
            _ => {
                if !self.told_size {
                    return Err(corrupt("the server did not tell the export's size"));
                }
                if !self.transmit {
                    OptionHeader::put(out, OptionCode::Abort, b"");
                }
                self.state = State::Over;
            }
        }
        Ok(())
    }

    fn refused(
        &mut self,
        option: OptionCode,
        code: u32,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match option {
            OptionCode::StructuredReply => self.ask_for_export(out),
            OptionCode::SetMetaContext => {
                self.joined.allocation = None;
                self.ask_for_export(out);
            }
            _ => return Err(self.refusal(code, message)),
        }
        Ok(())
    }

    fn refusal(&self, code: u32, message: &[u8]) -> Error {
        let name = &self.name;
        let (kind, what) = match code {
            code if code == ReplyCode::ErrUnknown as u32 => (
                ErrorKind::Invalid,
                format!("the server has no export {name:?}"),
            ),
            code if code == ReplyCode::ErrTlsReqd as u32 => (
                ErrorKind::Unsupported,
                format!("the server wants TLS for export {name:?}, which is not supported yet"),
            ),
            code if code == ReplyCode::ErrShutdown as u32 => {
                (ErrorKind::Offline, "the server is going down".to_string())
            }
            code => (
                ErrorKind::Invalid,
                format!("the server refuses export {name:?} with error {code:#x}"),
            ),
        };
        let error = Error::new(kind, what);
        match std::str::from_utf8(message) {
            Ok(text) if !text.is_empty() => error.with_source(text.to_string()),
            _ => error,
        }
    }

    fn ask_for_export(&mut self, out: &mut Vec<u8>) {
        let query = ExportQuery {
            name: &self.name,
            wants: vec![InfoKind::BlockSize as u16],
        };
        let data = query.encode();
        let option = if self.transmit {
            OptionCode::Go
        } else {
            OptionCode::Info
        };
        self.ask(option, &data, out);
    }

    fn learn(&mut self, data: &[u8]) -> Option<()> {
        let mut fields = Fields::of(data);
        match fields.u16()? {
            kind if kind == InfoKind::Export as u16 => {
                self.joined.size = fields.u64()?;
                self.joined.flags = fields.u16()?;
                self.told_size = self.joined.flags & transmission_flag::HAS_FLAGS != 0;
            }
            kind if kind == InfoKind::BlockSize as u16 => {
                let (min, preferred, max) = (fields.u32()?, fields.u32()?, fields.u32()?);
                let sane = min.is_power_of_two()
                    && min <= 1 << 16
                    && preferred.is_power_of_two()
                    && preferred >= min
                    && max >= min;
                sane.then_some(())?;
                self.joined.min_block = min;
                self.joined.preferred_block = preferred;
                let max = max - max % min;
                self.joined.max_payload = self.joined.max_payload.min(max);
            }
            _ => {}
        }
        Some(())
    }
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
#[path = "joining_tests.rs"]
mod tests;
