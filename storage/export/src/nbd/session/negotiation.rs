//! The server's side of the handshake. "Fixed newstyle negotiation", "Option types".

use super::{ALLOCATION_CONTEXT, BASE_ALLOCATION};
use crate::nbd::proto::{
    ExportQuery, Fields, GREETING_MAGIC, InfoKind, MAX_PAYLOAD, MAX_STRING, MetaQuery,
    OPTION_MAGIC, OptionCode, OptionHeader, OptionReply, ReplyCode, client_flag, handshake_flag,
    transmission_flag,
};

/// Bytes: the longest data of an option that is read. Longer ones are skipped and answered as too big.
/// Room for a name and three queries of the greatest length, and far more of what clients really send.
pub const MAX_OPTION_DATA: usize = 4 * (MAX_STRING + 4);

/// Bytes: what a receive buffer must hold so that every option which is read fits.
pub const HANDSHAKE_BUFFER: usize = OptionHeader::SIZE + MAX_OPTION_DATA;

/// Options in one handshake, after which the client is hung up on: it is not getting anywhere.
const MAX_OPTIONS: u32 = 4096;

/// The zeroes that follow the answer to EXPORT_NAME unless the client declined them.
const PADDING: usize = 124;

/// What a client is told about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFacts {
    /// The canonical name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Bytes, a multiple of `min_block`.
    pub size: u64,
    /// Bytes: the unit of requests, a power of two of at most 65536.
    pub min_block: u32,
    /// Bytes: a power of two, at least `min_block` and 512.
    pub preferred_block: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether trim gives space back.
    pub trim: bool,
}

impl ExportFacts {
    /// The transmission flags. "Transmission flags".
    pub fn flags(&self, structured: bool) -> u16 {
        use transmission_flag::*;
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN | SEND_CACHE;
        if structured {
            flags |= SEND_DF;
        }
        if self.read_only {
            flags |= READ_ONLY;
        } else {
            flags |= SEND_WRITE_ZEROES | SEND_FAST_ZERO;
            if self.trim {
                flags |= SEND_TRIM;
            }
        }
        flags
    }
}

/// What the handshake asks about the exports.
pub trait Catalogue {
    /// The export of that name; the empty name stands for the default export, if there is one.
    fn find(&self, name: &str) -> Option<ExportFacts>;

    /// The name and the description of each export.
    fn list(&self) -> Vec<(String, String)>;
}

/// What both sides know when transmission begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The export, as it was described to this client.
    pub export: ExportFacts,
    /// Whether replies come in chunks.
    pub structured: bool,
    /// Whether `base:allocation` may be asked for.
    pub allocation: bool,
}

/// What to do after [`Negotiation::advance`].
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Receive more.
    Wait,
    /// Send what was written, then call again: more may be waiting in the input.
    Answered,
    /// Send what was written; transmission begins with what is left of the input.
    Enter(Agreed),
    /// Send what was written, if anything was, and hang up.
    Close(&'static str),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Flags,
    Option,
    /// The rest of an option's data goes unread; then `code` is the answer.
    Skip {
        left: u32,
        option: u32,
        code: ReplyCode,
    },
    Over,
}

/// A handshake with one client.
#[derive(Debug)]
pub struct Negotiation {
    state: State,
    options: u32,
    padding: bool,
    structured: bool,
    /// The export for which `base:allocation` was chosen last.
    allocation_of: Option<String>,
}

impl Negotiation {
    /// Begins, with the greeting in `out`.
    pub fn new(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&GREETING_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        out.extend_from_slice(&flags.to_be_bytes());
        Self {
            state: State::Flags,
            options: 0,
            padding: true,
            structured: false,
            allocation_of: None,
        }
    }

    /// Takes at most one option off `input` and appends its answer to `out`.
    pub fn advance(
        &mut self,
        input: &mut &[u8],
        catalogue: &dyn Catalogue,
        out: &mut Vec<u8>,
    ) -> Step {
        match self.state {
            State::Flags => self.take_flags(input),
            State::Option => self.take_option(input, catalogue, out),
            State::Skip { left, option, code } => {
                let skipped = input.len().min(left as usize);
                *input = &input[skipped..];
                let left = left - skipped as u32;
                if left > 0 {
                    self.state = State::Skip { left, option, code };
                    return Step::Wait;
                }
                self.state = State::Option;
                OptionReply::put(out, option, code, b"");
                Step::Answered
            }
            State::Over => Step::Close("the handshake is over"),
        }
    }

    fn take_flags(&mut self, input: &mut &[u8]) -> Step {
        let mut fields = Fields::of(input);
        let Some(flags) = fields.u32() else {
            return Step::Wait;
        };
        *input = fields.rest();
        if flags & !(client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES) != 0 {
            return self.close("unknown client flags");
        }
        self.padding = flags & client_flag::NO_ZEROES == 0;
        self.state = State::Option;
        Step::Answered
    }

    fn take_option(
        &mut self,
        input: &mut &[u8],
        catalogue: &dyn Catalogue,
        out: &mut Vec<u8>,
    ) -> Step {
        let Some((header, rest)) = input.split_first_chunk() else {
            return Step::Wait;
        };
        let Some(header) = OptionHeader::parse(header) else {
            return self.close("an option without its magic");
        };
        let code = OptionCode::of(header.code);
        if header.len as usize > MAX_OPTION_DATA || code.is_none() {
            if code == Some(OptionCode::ExportName) {
                return self.close("an export name of impossible length");
            }
            *input = rest;
            self.state = State::Skip {
                left: header.len,
                option: header.code,
                code: code.map_or(ReplyCode::ErrUnsup, |_| ReplyCode::ErrTooBig),
            };
            return self.count().unwrap_or(Step::Answered);
        }
        let Some((data, rest)) = rest.split_at_checked(header.len as usize) else {
            return Step::Wait;
        };
        *input = rest;
        if let Some(close) = self.count() {
            return close;
        }
        let code = code.unwrap_or(OptionCode::Abort);
        self.answer(code, data, catalogue, out)
    }

    fn answer(
        &mut self,
        code: OptionCode,
        data: &[u8],
        catalogue: &dyn Catalogue,
        out: &mut Vec<u8>,
    ) -> Step {
        let refusal = match code {
            OptionCode::ExportName => return self.export_name(data, catalogue, out),
            OptionCode::Abort => {
                OptionReply::put(out, code as u32, ReplyCode::Ack, b"");
                return self.close("the client changed its mind");
            }
            OptionCode::Info | OptionCode::Go => match self.info(code, data, catalogue, out) {
                Ok(Some(agreed)) => {
                    self.state = State::Over;
                    return Step::Enter(agreed);
                }
                Ok(None) => None,
                Err(refusal) => Some(refusal),
            },
            OptionCode::List if data.is_empty() => {
                list(catalogue, out);
                None
            }
            OptionCode::StructuredReply if data.is_empty() => {
                self.structured = true;
                OptionReply::put(out, code as u32, ReplyCode::Ack, b"");
                None
            }
            OptionCode::List | OptionCode::StructuredReply => Some((
                ReplyCode::ErrInvalid,
                "this option takes no data".to_string(),
            )),
            OptionCode::ListMetaContext | OptionCode::SetMetaContext => {
                self.meta_context(code, data, catalogue, out).err()
            }
            OptionCode::StartTls => Some((ReplyCode::ErrUnsup, "TLS is not offered".to_string())),
            OptionCode::ExtendedHeaders => Some((ReplyCode::ErrUnsup, String::new())),
        };
        if let Some((reply, message)) = refusal {
            OptionReply::put(out, code as u32, reply, message.as_bytes());
        }
        Step::Answered
    }

    fn export_name(&mut self, data: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<u8>) -> Step {
        let name = Fields::of(data).string(data.len());
        let Some(export) = name.and_then(|name| catalogue.find(name)) else {
            return self.close("no such export");
        };
        out.extend_from_slice(&export.size.to_be_bytes());
        out.extend_from_slice(&export.flags(self.structured).to_be_bytes());
        if self.padding {
            out.extend_from_slice(&[0; PADDING]);
        }
        self.state = State::Over;
        Step::Enter(self.agreed(export))
    }

    /// Answers INFO and GO; for a GO that succeeds, what was agreed on.
    fn info(
        &mut self,
        code: OptionCode,
        data: &[u8],
        catalogue: &dyn Catalogue,
        out: &mut Vec<u8>,
    ) -> Result<Option<Agreed>, Refused> {
        let query = ExportQuery::parse(data).ok_or_else(malformed)?;
        let export = catalogue
            .find(query.name)
            .ok_or_else(|| unknown_export(query.name))?;
        let mut tell = |kind: InfoKind, parts: &[&[u8]]| {
            let mut info = (kind as u16).to_be_bytes().to_vec();
            parts.iter().for_each(|part| info.extend_from_slice(part));
            OptionReply::put(out, code as u32, ReplyCode::Info, &info);
        };
        let flags = export.flags(self.structured).to_be_bytes();
        tell(InfoKind::Export, &[&export.size.to_be_bytes(), &flags]);
        if query.wants.contains(&(InfoKind::Name as u16)) {
            tell(InfoKind::Name, &[export.name.as_bytes()]);
        }
        if query.wants.contains(&(InfoKind::Description as u16)) && !export.description.is_empty() {
            tell(InfoKind::Description, &[export.description.as_bytes()]);
        }
        if query.wants.contains(&(InfoKind::BlockSize as u16)) {
            let sizes = [export.min_block, export.preferred_block, MAX_PAYLOAD];
            let sizes = sizes.map(u32::to_be_bytes);
            tell(InfoKind::BlockSize, &[&sizes[0], &sizes[1], &sizes[2]]);
        }
        OptionReply::put(out, code as u32, ReplyCode::Ack, b"");
        Ok((code == OptionCode::Go).then(|| self.agreed(export)))
    }

    fn meta_context(
        &mut self,
        code: OptionCode,
        data: &[u8],
        catalogue: &dyn Catalogue,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let setting = code == OptionCode::SetMetaContext;
        if setting {
            // The set is replaced "including when this command fails".
            self.allocation_of = None;
        }
        if !self.structured {
            let message = "structured replies must be negotiated first";
            return Err((ReplyCode::ErrInvalid, message.to_string()));
        }
        let query = MetaQuery::parse(data).ok_or_else(malformed)?;
        let export = catalogue
            .find(query.name)
            .ok_or_else(|| unknown_export(query.name))?;
        let named = query.queries.contains(&BASE_ALLOCATION);
        let listed = !setting && (query.queries.is_empty() || query.queries.contains(&"base:"));
        if named || listed {
            let id = if setting { ALLOCATION_CONTEXT } else { 0 };
            let mut context = id.to_be_bytes().to_vec();
            context.extend_from_slice(BASE_ALLOCATION.as_bytes());
            OptionReply::put(out, code as u32, ReplyCode::MetaContext, &context);
            if setting {
                self.allocation_of = Some(export.name);
            }
        }
        OptionReply::put(out, code as u32, ReplyCode::Ack, b"");
        Ok(())
    }

    fn agreed(&self, export: ExportFacts) -> Agreed {
        Agreed {
            structured: self.structured,
            allocation: self.allocation_of.as_ref() == Some(&export.name),
            export,
        }
    }

    fn count(&mut self) -> Option<Step> {
        self.options += 1;
        (self.options > MAX_OPTIONS).then(|| self.close("too many options"))
    }

    fn close(&mut self, why: &'static str) -> Step {
        self.state = State::Over;
        Step::Close(why)
    }
}

/// An error reply and its message.
type Refused = (ReplyCode, String);

fn malformed() -> Refused {
    let message = "the lengths in this option contradict each other, or a name is none";
    (ReplyCode::ErrInvalid, message.to_string())
}

fn unknown_export(name: &str) -> Refused {
    let message = match name {
        "" => "there is no default export".to_string(),
        // A message is a string too; the name alone may have the length of one.
        name if name.len() > 256 => "there is no such export".to_string(),
        name => format!("there is no export {name:?}"),
    };
    (ReplyCode::ErrUnknown, message)
}

fn list(catalogue: &dyn Catalogue, out: &mut Vec<u8>) {
    let option = OptionCode::List as u32;
    for (name, description) in catalogue.list() {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(description.as_bytes());
        OptionReply::put(out, option, ReplyCode::Server, &data);
    }
    OptionReply::put(out, option, ReplyCode::Ack, b"");
}

#[cfg(test)]
#[path = "negotiation_tests.rs"]
mod tests;
