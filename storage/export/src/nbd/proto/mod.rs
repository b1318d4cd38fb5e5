//! The wire types of NBD: bytes to values and back. All numbers are in network byte order.

mod error;
mod fields;
mod handshake;
mod transmission;

pub use error::Errno;
pub use fields::Fields;
pub use handshake::{
    ExportQuery, GREETING_MAGIC, InfoKind, MetaQuery, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionCode,
    OptionHeader, OptionReply, ReplyCode, client_flag, handshake_flag, transmission_flag,
};
pub use transmission::{
    CHUNK_DONE, CHUNK_HEADER, CHUNK_MAGIC, Chunk, ChunkKind, CommandCode, REQUEST_HEADER,
    REQUEST_MAGIC, Request, SIMPLE_REPLY, SIMPLE_REPLY_MAGIC, SimpleReply, command_flag,
    state_flag,
};

/// Bytes: the longest string of the protocol (export names, descriptions, messages, contexts). "Conventions".
pub const MAX_STRING: usize = 4096;

/// Bytes: the longest payload of a read or a write, which every implementation is asked to take.
/// "Block size constraints".
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// The port that IANA gave to NBD.
pub const PORT: u16 = 10809;
