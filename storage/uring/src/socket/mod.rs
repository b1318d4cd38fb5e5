//! Unix and TCP sockets.

mod address;
mod listener;
#[allow(unsafe_code)] // A room of unsafe: who owns the memory that a socket operation names.
mod memory;
mod reader;
mod stream;
#[allow(unsafe_code)] // A room of unsafe: socket operations over raw segments.
mod transfer;

pub use address::{Address, ParseAddressError};
pub use listener::Listener;
pub use memory::Memory;
pub use reader::Reader;
pub use stream::Stream;
