//! A client that does what it is told, right or wrong, and a server to tell it to.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use weft_block::{BlockDevice, Result};
use weft_export::nbd::proto::{CommandCode, Request};
use weft_export::nbd::server::{Export, Server};
use weft_export::nbd::session::{Answer, Answers, Joined, Joining, Progress};
use weft_uring::{Address, Shard, block_on};

/// A failure to answer ends the test, not the patience of whoever waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with one export, on a Unix socket in a folder of its own and on a TCP port.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) socket: PathBuf,
    pub(crate) shard: Shard,
    pub(crate) folder: tempfile::TempDir,
}

impl Site {
    pub(crate) fn with(name: &str, device: impl BlockDevice + 'static) -> Self {
        Self::offering(name, Export::new(Arc::new(device)))
    }

    pub(crate) fn offering(name: &str, export: Export) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd.sock");
        let shard = Shard::start("nbd-test").unwrap();
        let addresses = [
            Address::Unix(socket.clone()),
            "127.0.0.1:0".parse().unwrap(),
        ];
        let server = wait(Server::start(&shard.handle(), &addresses)).unwrap();
        wait(server.add(name, export)).unwrap();
        Self {
            server,
            socket,
            shard,
            folder,
        }
    }

    pub(crate) fn connect(&self) -> Peer<UnixStream> {
        let socket = UnixStream::connect(&self.socket).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer::over(socket)
    }

    pub(crate) fn connect_tcp(&self) -> Peer<TcpStream> {
        let Address::Tcp(address) = self.server.addresses()[1] else {
            panic!("a TCP address");
        };
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer::over(socket)
    }

    /// A client that uses the default export with everything there is.
    pub(crate) fn join(&self) -> Peer<UnixStream> {
        let mut peer = self.connect();
        peer.join("").unwrap();
        peer
    }
}

/// Runs a future of the control side.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    block_on(future.boxed_local())
}

/// A reply as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Done,
    /// Data and holes of a read, laid together.
    Data(Vec<u8>),
    Status(Vec<(u32, u32)>),
    Error(u32),
}

/// The client's end of a connection.
pub(crate) struct Peer<S> {
    pub(crate) socket: S,
    received: Vec<u8>,
    structured: bool,
    /// Chunks of holes seen so far.
    pub(crate) holes: usize,
}

impl<S: Read + Write> Peer<S> {
    fn over(socket: S) -> Self {
        Self {
            socket,
            received: Vec::new(),
            structured: false,
            holes: 0,
        }
    }

    pub(crate) fn join(&mut self, name: &str) -> Result<Joined> {
        let mut joining = Joining::new(name, true)?;
        loop {
            let mut out = Vec::new();
            let mut input = &self.received[..];
            let progress = joining.advance(&mut input, &mut out)?;
            let taken = self.received.len() - input.len();
            self.received.drain(..taken);
            self.socket.write_all(&out).unwrap();
            match progress {
                Progress::Wait => assert!(self.receive() > 0, "hung up on in the handshake"),
                Progress::Done(joined) => {
                    self.structured = joined.structured;
                    return Ok(joined);
                }
            }
        }
    }

    fn receive(&mut self) -> usize {
        let mut buffer = vec![0; 256 << 10];
        let len = uninterrupted(|| self.socket.read(&mut buffer)).expect("an answer in time");
        self.received.extend_from_slice(&buffer[..len]);
        len
    }

    /// Whether the server hangs up, after whatever it still says.
    pub(crate) fn is_hung_up_on(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match uninterrupted(|| self.socket.read(&mut buffer)) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    pub(crate) fn send(
        &mut self,
        cookie: u64,
        code: CommandCode,
        flags: u16,
        offset: u64,
        len: u32,
    ) {
        let request = Request {
            flags,
            code: code as u16,
            cookie,
            offset,
            len,
        };
        self.socket.write_all(&request.encode()).unwrap();
    }

    fn answer(&mut self) -> Answer {
        let mut answers = Answers::new(self.structured);
        loop {
            let mut input = &self.received[..];
            match answers.next(&mut input) {
                Answer::Wait => assert!(self.receive() > 0, "hung up on"),
                answer => {
                    let taken = self.received.len() - input.len();
                    self.received.drain(..taken);
                    return answer;
                }
            }
        }
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        while self.received.len() < len {
            assert!(self.receive() > 0, "hung up on in the data");
        }
        self.received.drain(..len).collect()
    }

    /// The next reply and its cookie, if replies are structured and chunks of different replies do not mix.
    pub(crate) fn reply(&mut self) -> (u64, Reply) {
        let mut data = Vec::new();
        loop {
            let (cookie, reply, last) = match self.answer() {
                Answer::Simple { cookie, error } => {
                    let reply = error.map_or(Reply::Done, |errno| Reply::Error(errno.code()));
                    (cookie, Some(reply), true)
                }
                Answer::Data {
                    cookie, len, last, ..
                } => {
                    data.extend(self.take(len as usize));
                    (cookie, None, last)
                }
                Answer::Hole {
                    cookie, len, last, ..
                } => {
                    self.holes += 1;
                    data.resize(data.len() + len as usize, 0);
                    (cookie, None, last)
                }
                Answer::Status {
                    cookie, extents, ..
                } => (cookie, Some(Reply::Status(extents)), true),
                Answer::Error { cookie, errno, .. } => {
                    (cookie, Some(Reply::Error(errno.code())), true)
                }
                Answer::End { cookie } => (cookie, Some(Reply::Done), true),
                answer => panic!("{answer:?}"),
            };
            if last {
                return (cookie, reply.unwrap_or(Reply::Data(data)));
            }
        }
    }

    pub(crate) fn read(&mut self, offset: u64, len: u32) -> Reply {
        self.send(7, CommandCode::Read, 0, offset, len);
        let (cookie, reply) = self.reply();
        assert_eq!(cookie, 7);
        reply
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Reply {
        self.send(8, CommandCode::Write, 0, offset, data.len() as u32);
        self.socket.write_all(data).unwrap();
        let (cookie, reply) = self.reply();
        assert_eq!(cookie, 8);
        reply
    }

    pub(crate) fn ask(&mut self, code: CommandCode, flags: u16, offset: u64, len: u32) -> Reply {
        self.send(9, code, flags, offset, len);
        let (cookie, reply) = self.reply();
        assert_eq!(cookie, 9);
        reply
    }
}

/// Calls again when a signal came in between; the end of a ring sends one to its thread.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Bytes in which every 4 KiB differ from their neighbours.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let block: Vec<u8> = (0..=255)
        .map(|byte: u8| byte.wrapping_mul(31) ^ seed)
        .collect();
    let mut bytes = block.repeat(len.div_ceil(256));
    bytes.truncate(len);
    for (number, start) in (0..len).step_by(4096).enumerate() {
        bytes[start] = number as u8;
    }
    bytes
}
