//! Devices behind other NBD servers.
//!
//! An [`NbdDevice`] is an export of a server, seen through the block contract. Each of its queues is a connection of its
//! own that lives on the thread of its opener, with as many requests in flight as the layer above submits. A connection
//! that breaks, or on which a server is silent for [`SILENCE`] with requests in flight, fails those and all later
//! requests of its queue as [`Offline`](weft_block::ErrorKind::Offline); a new queue connects anew.

mod driver;
mod line;
mod requests;
mod url;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use weft_block::{
    BUFFER_ALIGNMENT, BlockDevice, BlockQueue, Error, ErrorKind, Info, Result, SECTOR, Spawner,
};
use weft_uring::{Address, Stream, sleep};

use crate::nbd::proto::transmission_flag;
use crate::nbd::session::{HANDSHAKE_BUFFER, Joined, Joining, Progress};
use line::Line;
use requests::Queue;
pub use url::{Place, Url};

/// How long a server may take to accept a connection and agree on the export.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How long a server may be silent with requests in flight, at least; twice as long at most.
pub const SILENCE: Duration = Duration::from_secs(30);

/// Queues, and so connections, of one device where the server allows several.
const MAX_QUEUES: usize = 16;

/// An export of an NBD server as a block device.
///
/// Offsets and lengths are in blocks of at least 512 bytes: the last bytes of an export that is not a multiple of that
/// are out of reach.
#[derive(Debug)]
pub struct NbdDevice {
    url: Url,
    address: Address,
    joined: Joined,
    info: Info,
    open: Arc<AtomicUsize>,
}

impl NbdDevice {
    /// Asks the server about the export. Must be called on a thread with a weft executor; a host's name is looked up,
    /// which blocks that thread as long as the resolver does.
    ///
    /// # Errors
    /// `Offline` if the server does not answer, `Invalid` if it has no such export, `Unsupported` if it wants TLS or does
    /// not speak the fixed newstyle handshake, `Corrupt` if it does not speak NBD.
    pub async fn connect(url: &Url) -> Result<Self> {
        let address = address_of(url)?;
        let (_, joined, _) = join(url, &address, false).await?;
        let info = info_of(&joined);
        Ok(Self {
            url: url.clone(),
            address,
            joined,
            info,
            open: Arc::default(),
        })
    }
}

impl BlockDevice for NbdDevice {
    fn info(&self) -> Info {
        self.info.clone()
    }

    /// The connection is made in the background; requests wait for it.
    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        let max = self.max_queues();
        let taken = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < max).then_some(open + 1)
            });
        if taken.is_err() {
            let message = format!("{} has {max} queues open, and takes no more", self.url);
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let line = Line::new(self.url.to_string(), self.joined.clone());
        let (url, address) = (self.url.clone(), self.address.clone());
        spawner.spawn(Box::pin(driver::run(line.clone(), url, address)));
        Ok(Box::new(Queue::new(
            line,
            self.info.clone(),
            self.open.clone(),
        )))
    }

    fn max_queues(&self) -> usize {
        if self.joined.offers(transmission_flag::CAN_MULTI_CONN) {
            MAX_QUEUES
        } else {
            1
        }
    }
}

fn address_of(url: &Url) -> Result<Address> {
    let text = match &url.place {
        Place::Unix(path) => return Ok(Address::Unix(path.clone())),
        Place::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        Place::Tcp(host, port) => format!("{host}:{port}"),
    };
    text.parse().map_err(|error| {
        let message = format!("{url} cannot be reached");
        Error::new(ErrorKind::Offline, message).with_source(error)
    })
}

/// What the layers above are told.
fn info_of(joined: &Joined) -> Info {
    use transmission_flag::*;
    let block = joined.min_block.max(SECTOR as u32);
    let size = joined.size - joined.size % u64::from(block);
    let mut info = Info::new(size, block);
    info.physical_block = joined.preferred_block.clamp(block, block.max(4096));
    if joined.preferred_block > info.physical_block {
        info.optimal_io = joined.preferred_block;
    }
    info.volatile_cache = joined.offers(SEND_FLUSH);
    info.read_only = joined.offers(READ_ONLY);
    info.discard = joined.offers(SEND_TRIM) && !info.read_only;
    info.fast_zeroes = joined.offers(SEND_WRITE_ZEROES) && !info.read_only;
    debug_assert!(info.memory_alignment as usize <= BUFFER_ALIGNMENT, "any");
    info
}

/// Connects and agrees on the export; the socket, what was agreed on, and what came after it.
async fn join(url: &Url, address: &Address, transmit: bool) -> Result<(Stream, Joined, Vec<u8>)> {
    let talk = Box::pin(haggle(url, address, transmit));
    match select(talk, Box::pin(sleep(CONNECT_TIME))).await {
        Either::Left((joined, _)) => joined,
        Either::Right(_) => {
            let seconds = CONNECT_TIME.as_secs();
            let message = format!("{url} did not answer for {seconds} seconds");
            Err(Error::new(ErrorKind::Offline, message))
        }
    }
}

async fn haggle(url: &Url, address: &Address, transmit: bool) -> Result<(Stream, Joined, Vec<u8>)> {
    let offline = |error: std::io::Error| {
        let message = format!("{url} cannot be reached");
        Error::new(ErrorKind::Offline, message).with_source(error)
    };
    let refused = |error: Error| error.in_context(format!("{url} cannot be used"));
    let mut joining = Joining::new(&url.name, transmit).map_err(refused)?;
    let stream = Stream::connect(address).await.map_err(offline)?;
    let (mut received, mut out) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; HANDSHAKE_BUFFER];
    loop {
        let mut input = &received[..];
        let progress = joining.advance(&mut input, &mut out).map_err(refused)?;
        let taken = received.len() - input.len();
        received.drain(..taken);
        if !out.is_empty() {
            let (sent, memory) = stream.send(out).await;
            sent.map_err(offline)?;
            out = memory;
            out.clear();
        }
        if let Progress::Done(joined) = progress {
            return Ok((stream, joined, received));
        }
        let (result, memory) = stream.recv(buffer).await;
        buffer = memory;
        let len = result.map_err(offline)?;
        if len == 0 {
            let message = format!("{url} hung up in the handshake");
            return Err(Error::new(ErrorKind::Offline, message));
        }
        received.extend_from_slice(&buffer[..len]);
    }
}
