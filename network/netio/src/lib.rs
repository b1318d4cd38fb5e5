//! The network edge: the only network crate with system calls.
//!
//! [`tap`] is the data side: one frame a call, driven by whoever moves frames. Everything else is the control side.
//! All of it acts in the network namespace of the calling thread.

mod error;
mod name;
pub mod namespace;
pub mod tap;

pub use error::{Error, ErrorKind, Result};
pub use name::{InterfaceName, LONGEST_INTERFACE_NAME};
pub use namespace::Namespace;
pub use tap::{Offloads, Tap, TapOptions};
