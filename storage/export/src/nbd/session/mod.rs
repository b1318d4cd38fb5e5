//! The protocol as machines: bytes in, decisions out; no I/O, no clock, no memory beyond the named bounds.
//!
//! A server's side of a connection is a [`Negotiation`] until it says [`Step::Enter`], then a [`Requests`] that reads
//! and a [`Replies`] that writes. A client's side is a [`Joining`] and then an [`Answers`].
//!
//! Each machine takes whole items off the front of the bytes it is given and leaves an incomplete one where it is, so
//! the caller keeps one receive buffer and shows what is left of it again when more has come.

mod answers;
mod joining;
mod negotiation;
mod replies;
mod requests;

pub use answers::{Answer, Answers, MAX_CHUNK};
pub use joining::{Joined, Joining, Progress};
pub use negotiation::{
    Agreed, Catalogue, ExportFacts, HANDSHAKE_BUFFER, MAX_OPTION_DATA, Negotiation, Step,
};
pub use replies::{ALLOCATION_CONTEXT, Replies};
pub use requests::{Action, Command, Event, Refusal, Requests};

/// The one metadata context that is served. "`base:allocation` metadata context".
pub const BASE_ALLOCATION: &str = "base:allocation";
