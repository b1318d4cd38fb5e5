//! Devices behind other NBD servers.
//!
//! An [`NbdDevice`] is an export of a server, seen through the block contract. Its queues on one thread share a
//! connection, with as many requests in flight as the layers above submit; each further thread has one of its own, if the
//! server allows several.
//!
//! # When the server goes away
//!
//! A connection that the server closes is made again, with pauses that grow, for as long as the URL's `reconnect-delay`
//! says ([`RECONNECT_DELAY`] unless it does); requests wait meanwhile, and that time runs only while some do. Then all
//! goes on where it was:
//!
//! - The export must be what it was: another size, other blocks or an ability less end the device.
//! - A server that died may have forgotten what it had acknowledged and not flushed. Such writes are kept until a flush
//!   covers them, and are told to the server again before anything else is. They are bounded: when they come to
//!   32 MiB the connection flushes by itself, and at 64 MiB writes wait for that.
//! - What was sent and not answered is sent again: reads, writes, zeroes, trims and flushes may be done twice.
//!
//! Otherwise the device is *given up*: the requests of the connection fail as
//! [`Offline`](weft_block::ErrorKind::Offline), now and later, no queue opens any more, and who wants the export again
//! connects to it anew. That is so when the time is over, when the connections of several threads would have something to
//! tell again (nobody knows in which order), and at once when a server breaks the protocol or is silent for [`SILENCE`]
//! with requests in flight: it may still do what it was sent, and what is sent again must not be followed by its own
//! past. (A server whose connection was closed by a third party may do that too; NBD has no means against it.)

mod driver;
mod keeper;
mod kept;
mod line;
mod pending;
mod requests;
mod retry;
mod seats;
mod url;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
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
use seats::Seats;
pub use url::{Place, RECONNECT_DELAY, Url};

/// How long a server may take to accept a connection and agree on the export.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How long a server may be silent with requests in flight, at least; twice as long at most.
pub const SILENCE: Duration = Duration::from_secs(30);

/// Connections of one device where the server allows several.
const MAX_CONNECTIONS: usize = 16;

thread_local! {
    /// The lines of this thread.
    static LINES: RefCell<Vec<Weak<Line>>> = const { RefCell::new(Vec::new()) };
}

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
    seats: Arc<Seats>,
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
        let several = joined.offers(transmission_flag::CAN_MULTI_CONN);
        Ok(Self {
            url: url.clone(),
            address,
            joined,
            info,
            seats: Seats::new(if several { MAX_CONNECTIONS } else { 1 }),
        })
    }

    /// Why the device was given up, if it was.
    pub fn given_up(&self) -> Option<String> {
        self.seats.dead()
    }

    /// The line of this thread, if there is one that may be used.
    fn line(&self) -> Option<Rc<Line>> {
        LINES.with_borrow_mut(|lines| {
            lines.retain(|line| line.strong_count() > 0);
            let mut lines = lines.iter().filter_map(Weak::upgrade);
            lines.find(|line| Arc::ptr_eq(line.seats(), &self.seats) && line.is_open())
        })
    }

    fn new_line(&self, spawner: &Spawner) -> Rc<Line> {
        let again = !self.url.reconnect_delay.is_zero();
        let (name, joined) = (self.url.to_string(), self.joined.clone());
        let line = Line::new(name, joined, Arc::clone(&self.seats), again);
        let (url, address) = (self.url.clone(), self.address.clone());
        spawner.spawn(Box::pin(keeper::run(Rc::clone(&line), url, address)));
        LINES.with_borrow_mut(|lines| lines.push(Rc::downgrade(&line)));
        line
    }
}

impl BlockDevice for NbdDevice {
    fn info(&self) -> Info {
        self.info.clone()
    }

    /// The connection is made in the background; requests wait for it. On a thread more than the server allows
    /// connections, they wait until another thread lets its own go, for ten seconds at most.
    ///
    /// # Errors
    /// `Offline` if the device was given up.
    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        if let Some(why) = self.seats.dead() {
            let message = format!("{} was given up and has to be opened anew", self.url);
            return Err(Error::new(ErrorKind::Offline, message).with_source(why));
        }
        let line = self.line().unwrap_or_else(|| self.new_line(spawner));
        Ok(Box::new(Queue::new(line, self.info.clone())))
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
