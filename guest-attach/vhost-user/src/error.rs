//! Why a connection ended, or a backend could not be made.

use std::io;

use weft_virtio::queue::QueueError;

/// A failure of the transport. None of them is a failure of the device below.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket cannot be served.
    #[error("the socket {path} cannot be served")]
    Socket {
        /// Where it was to be.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another backend listens there.
    #[error("another process serves the socket {0}")]
    Busy(String),
    /// The block device cannot be opened.
    #[error("the device cannot be opened")]
    Device(#[source] weft_block::Error),
    /// The port cannot be used.
    #[error("the port cannot be used")]
    Port(#[source] io::Error),
    /// The shard that was to serve is gone.
    #[error("the shard is gone")]
    ShardGone,
    /// The connection broke.
    #[error("the connection to the front end broke")]
    Connection(#[source] io::Error),
    /// The front end broke the protocol.
    #[error("the front end broke the protocol: {0}")]
    Protocol(&'static str),
    /// A message that was not negotiated.
    #[error("the front end sent message {0}, which was not negotiated")]
    Unsupported(u32),
    /// The front end's memory cannot be mapped.
    #[error("the front end's memory cannot be mapped: {0}")]
    Memory(String),
    /// A ring cannot be started.
    #[error("ring {index} cannot be started")]
    Ring {
        /// Which.
        index: u32,
        /// Why.
        source: QueueError,
    },
}
