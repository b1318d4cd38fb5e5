//! The handshake: magics, flags, options and option replies. "Handshake phase".

use super::{Fields, MAX_STRING};

/// The first eight bytes a server sends: `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// The second eight bytes a server sends, and the first of each option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The first eight bytes of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// What the server can do in the handshake. "Handshake flags".
pub mod handshake_flag {
    /// Options other than EXPORT_NAME are answered.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// The 124 zero bytes after EXPORT_NAME can be left out.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// What the client agrees to. "Client flags".
pub mod client_flag {
    /// Knows fixed newstyle.
    pub const FIXED_NEWSTYLE: u32 = 1;
    /// Wants no zeroes after EXPORT_NAME.
    pub const NO_ZEROES: u32 = 1 << 1;
}

/// What an export can do. "Transmission flags".
pub mod transmission_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The flag FUA is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES and the flag NO_HOLE are understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The flag DF is understood.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers all of them.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The flag FAST_ZERO is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// The options that this implementation knows by name. "Option types".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionCode {
    /// Enter transmission; cannot be refused but by hanging up.
    ExportName = 1,
    /// End the session.
    Abort = 2,
    /// Name all exports.
    List = 3,
    /// Begin TLS.
    StartTls = 5,
    /// Describe an export.
    Info = 6,
    /// Describe an export and enter transmission.
    Go = 7,
    /// Use structured replies.
    StructuredReply = 8,
    /// Name the metadata contexts of an export.
    ListMetaContext = 9,
    /// Choose metadata contexts.
    SetMetaContext = 10,
    /// Use extended headers (64-bit lengths).
    ExtendedHeaders = 11,
}

impl OptionCode {
    /// The option of a number.
    pub fn of(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            _ => return None,
        })
    }
}

/// How an option is answered. "Option reply types".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ReplyCode {
    /// Done.
    Ack = 1,
    /// An export.
    Server = 2,
    /// One thing about an export.
    Info = 3,
    /// A metadata context.
    MetaContext = 4,
    /// The option is not known.
    ErrUnsup = 0x8000_0001,
    /// The option is forbidden.
    ErrPolicy = 0x8000_0002,
    /// The option's data is wrong.
    ErrInvalid = 0x8000_0003,
    /// The option is not possible on this platform.
    ErrPlatform = 0x8000_0004,
    /// TLS first.
    ErrTlsReqd = 0x8000_0005,
    /// No such export.
    ErrUnknown = 0x8000_0006,
    /// The server is going down.
    ErrShutdown = 0x8000_0007,
    /// The client must ask for block sizes.
    ErrBlockSizeReqd = 0x8000_0008,
    /// The option's data is too long.
    ErrTooBig = 0x8000_0009,
}

impl ReplyCode {
    /// The bit that marks an error.
    pub const ERROR: u32 = 1 << 31;
}

/// What a client may ask about an export in INFO and GO. "`NBD_OPT_INFO` (6) and `NBD_OPT_GO` (7)".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum InfoKind {
    /// Size and transmission flags; always told.
    Export = 0,
    /// The canonical name.
    Name = 1,
    /// A description for people.
    Description = 2,
    /// Minimum, preferred and maximum block size.
    BlockSize = 3,
}

/// The 16 bytes before an option's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option; see [`OptionCode`].
    pub code: u32,
    /// Bytes of data.
    pub len: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const SIZE: usize = 16;

    /// Reads a header; `None` if the magic is wrong.
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let mut fields = Fields::of(bytes);
        (fields.u64()? == OPTION_MAGIC).then_some(())?;
        Some(Self {
            code: fields.u32()?,
            len: fields.u32()?,
        })
    }

    /// Appends an option with its data.
    pub fn put(out: &mut Vec<u8>, code: OptionCode, data: &[u8]) {
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(code as u32).to_be_bytes());
        put_len(out, data.len());
        out.extend_from_slice(data);
    }
}

/// The 20 bytes before the data of a reply to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that is answered.
    pub option: u32,
    /// See [`ReplyCode`].
    pub code: u32,
    /// Bytes of data.
    pub len: u32,
}

impl OptionReply {
    /// Bytes on the wire.
    pub const SIZE: usize = 20;

    /// Reads a header; `None` if the magic is wrong.
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let mut fields = Fields::of(bytes);
        (fields.u64()? == OPTION_REPLY_MAGIC).then_some(())?;
        Some(Self {
            option: fields.u32()?,
            code: fields.u32()?,
            len: fields.u32()?,
        })
    }

    /// Appends a reply with its data.
    pub fn put(out: &mut Vec<u8>, option: u32, code: ReplyCode, data: &[u8]) {
        out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&(code as u32).to_be_bytes());
        put_len(out, data.len());
        out.extend_from_slice(data);
    }
}

/// The data of INFO and GO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportQuery<'a> {
    /// The export; empty for the default one.
    pub name: &'a str,
    /// What the client wants to know; see [`InfoKind`].
    pub wants: Vec<u16>,
}

impl<'a> ExportQuery<'a> {
    /// Reads the data; `None` if its lengths contradict each other or the name is no name.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::of(data);
        let name = fields.counted_string()?;
        let count = fields.u16()?;
        let wants = (0..count)
            .map(|_| fields.u16())
            .collect::<Option<Vec<u16>>>()?;
        fields.is_empty().then_some(Self { name, wants })
    }

    /// The data on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.name.len() + 6 + 2 * self.wants.len());
        put_string(&mut data, self.name);
        data.extend_from_slice(&(self.wants.len() as u16).to_be_bytes());
        for want in &self.wants {
            data.extend_from_slice(&want.to_be_bytes());
        }
        data
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaQuery<'a> {
    /// The export.
    pub name: &'a str,
    /// The queries, each beginning with a namespace and a colon.
    pub queries: Vec<&'a str>,
}

impl<'a> MetaQuery<'a> {
    /// Reads the data; `None` if its lengths contradict each other or a string is none.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::of(data);
        let name = fields.counted_string()?;
        let count = fields.u32()? as usize;
        // Every query takes four bytes or more, so a count beyond the data ends early and never reserves memory.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.counted_string()?);
        }
        fields.is_empty().then_some(Self { name, queries })
    }

    /// The data on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_string(&mut data, self.name);
        put_len(&mut data, self.queries.len());
        for query in &self.queries {
            put_string(&mut data, query);
        }
        data
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    debug_assert!(
        text.len() <= MAX_STRING,
        "strings are checked where they enter"
    );
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("handshake messages are far below 4 GiB");
    out.extend_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_come_back() {
        let query = ExportQuery {
            name: "disk",
            wants: vec![1, 3],
        };
        let data = query.encode();
        assert_eq!(ExportQuery::parse(&data), Some(query));
        let query = MetaQuery {
            name: "",
            queries: vec!["base:allocation", "qemu:"],
        };
        let data = query.encode();
        assert_eq!(MetaQuery::parse(&data), Some(query));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut data = MetaQuery {
            name: "disk",
            queries: vec!["base:allocation"],
        }
        .encode();
        assert_eq!(MetaQuery::parse(&data[..data.len() - 1]), None);
        data[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(MetaQuery::parse(&data), None);

        let mut data = ExportQuery {
            name: "disk",
            wants: vec![],
        }
        .encode();
        data.push(0);
        assert_eq!(ExportQuery::parse(&data), None, "bytes are left over");
        data[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(ExportQuery::parse(&data), None);
    }

    #[test]
    fn a_name_is_utf8_without_nul_of_bounded_length() {
        let with_name = |name: &[u8]| {
            let mut data = (name.len() as u32).to_be_bytes().to_vec();
            data.extend_from_slice(name);
            data.extend_from_slice(&[0, 0]);
            ExportQuery::parse(&data).is_some()
        };
        assert!(with_name("Festplatte äöü".as_bytes()));
        assert!(with_name(&[b'x'; MAX_STRING]));
        assert!(!with_name(&[b'x'; MAX_STRING + 1]));
        assert!(!with_name(b"a\0b"));
        assert!(!with_name(b"\xff"));
    }
}
