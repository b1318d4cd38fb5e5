//! Our client device against our server, and against servers that break off or lie.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use weft_block::{BlockDevice, BlockQueue, ErrorKind, ExtentKind, IoVec, Request, Result};
use weft_export::nbd::client::{NbdDevice, Url};
use weft_export::nbd::proto::{Errno, REQUEST_HEADER};
use weft_export::nbd::server::Export;
use weft_export::nbd::session::{Agreed, Catalogue, ExportFacts, Negotiation, Replies, Step};
use weft_sim::{Faulty, MemoryDevice, conformance};
use weft_uring::{Backend, block_on, block_on_with, spawner};

use crate::peer::{Site, pattern};

const SIZE: u64 = 64 << 20;

fn url(socket: &Path, name: &str) -> Url {
    let socket = socket.display();
    // These servers do not come back.
    let text = format!("nbd+unix:///{name}?socket={socket}&reconnect-delay=0");
    text.parse().unwrap()
}

async fn open(url: &Url) -> (NbdDevice, Box<dyn BlockQueue>) {
    let device = NbdDevice::connect(url).await.unwrap();
    let queue = device.open(&spawner()).unwrap();
    (device, queue)
}

async fn read(queue: &dyn BlockQueue, offset: u64, len: usize) -> Result<Vec<u8>> {
    let completion = queue
        .submit(Request::read(offset, IoVec::zeroed(len)))
        .await;
    completion
        .result
        .map(|()| completion.buffer.to_buffer().to_vec())
}

#[test]
fn the_device_keeps_the_contract() {
    for backend in [Backend::Auto, Backend::Poll] {
        let site = Site::with("disk", MemoryDevice::new(SIZE));
        block_on_with(backend, async {
            let url = url(&site.socket, "disk");
            let device = NbdDevice::connect(&url).await.unwrap();
            conformance::check(Arc::new(device), &spawner()).await;
        })
        .unwrap();
    }
}

#[test]
fn a_read_only_export_is_a_read_only_device() {
    let mut export = Export::new(Arc::new(MemoryDevice::new(SIZE)));
    export.read_only = true;
    let site = Site::offering("disk", export);
    block_on(async {
        let device = NbdDevice::connect(&url(&site.socket, "")).await.unwrap();
        conformance::check_read_only(Arc::new(device), &spawner()).await;
    });
}

#[test]
fn requests_of_any_size_go_over_tcp() {
    let site = Site::with("disk", MemoryDevice::new(256 << 20));
    let address = &site.server.addresses()[1];
    let url: Url = format!("nbd://{address}/disk").parse().unwrap();
    block_on(async {
        let (_device, queue) = open(&url).await;
        let data = pattern(40 << 20, 1);
        let write = Request::write(512, IoVec::copy_of(&data));
        queue.submit(write).await.result.unwrap();
        assert!(read(&*queue, 512, 40 << 20).await.unwrap() == data);
        let zero = Request::write_zeroes(512, 35 << 20, true);
        queue.submit(zero).await.result.unwrap();
        let extents = queue.extents(4096, 128 << 20).await.unwrap();
        assert!(extents[0].kind != ExtentKind::Data && extents[0].len > 1 << 20);
        queue.submit(Request::flush()).await.result.unwrap();
    });
}

#[test]
fn errors_keep_their_kind_and_name_the_server() {
    let device = Faulty::new(Arc::new(MemoryDevice::new(SIZE)), 1);
    device.faults().bad_sectors(8192..16384);
    let site = Site::with("disk", device);
    block_on(async {
        let (_device, queue) = open(&url(&site.socket, "disk")).await;
        let error = read(&*queue, 8192, 4096).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("nbd+unix:///disk"), "{error}");
        assert!(read(&*queue, 0, 4096).await.is_ok());
    });
}

#[test]
fn what_cannot_be_reached_is_offline() {
    let folder = tempfile::tempdir().unwrap();
    let kind = |url: &Url| {
        let device = block_on(NbdDevice::connect(url));
        device.unwrap_err().kind()
    };
    assert_eq!(
        kind(&url(&folder.path().join("nobody"), "")),
        ErrorKind::Offline
    );
    let site = Site::with("disk", MemoryDevice::new(SIZE));
    assert_eq!(kind(&url(&site.socket, "tape")), ErrorKind::Invalid);
}

#[test]
fn a_removed_export_is_offline_and_a_new_device_finds_it_again() {
    let backing = MemoryDevice::new(SIZE);
    let site = Site::with("disk", backing.clone());
    block_on(async {
        let (device, queue) = open(&url(&site.socket, "disk")).await;
        assert!(read(&*queue, 0, 512).await.is_ok());
        site.server.remove("disk").await.unwrap();
        let error = read(&*queue, 0, 512).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Offline);
        let again = Export::new(Arc::new(backing.clone()));
        site.server.add("disk", again).await.unwrap();
        let given_up = device.open(&spawner()).err();
        assert_eq!(given_up.map(|error| error.kind()), Some(ErrorKind::Offline));
        let (_device, queue) = open(&url(&site.socket, "disk")).await;
        assert!(read(&*queue, 0, 512).await.is_ok());
    });
}

/// A server that agrees on a disk of one MiB and then does as it is told with the first request.
fn liar(act: impl FnOnce(&mut UnixStream, [u8; REQUEST_HEADER]) + Send + 'static) -> Liar {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("liar");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = thread::spawn(move || {
        // The first connection only asks, the second is the queue's.
        let (mut asking, _) = listener.accept().unwrap();
        agree(&mut asking);
        let (mut stream, _) = listener.accept().unwrap();
        agree(&mut stream).expect("the queue goes on to transmission");
        let mut request = [0; REQUEST_HEADER];
        stream.read_exact(&mut request).unwrap();
        act(&mut stream, request);
    });
    Liar {
        url: url(&socket, "disk"),
        thread: Some(thread),
        _folder: folder,
    }
}

struct Liar {
    url: Url,
    thread: Option<thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Drop for Liar {
    fn drop(&mut self) {
        let thread = self.thread.take().unwrap();
        assert!(thread.join().is_ok() || thread::panicking());
    }
}

struct Shop;

impl Catalogue for Shop {
    fn find(&self, name: &str) -> Option<ExportFacts> {
        Some(ExportFacts {
            name: name.into(),
            description: String::new(),
            size: 1 << 20,
            min_block: 512,
            preferred_block: 4096,
            read_only: false,
            trim: false,
        })
    }

    fn list(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// The server's side of a handshake; what was agreed on, if the client does not leave.
pub(crate) fn agree(stream: &mut UnixStream) -> Option<Agreed> {
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(&mut out);
    let mut received = Vec::new();
    loop {
        stream.write_all(&out).unwrap();
        out.clear();
        let mut input = &received[..];
        let step = negotiation.advance(&mut input, &Shop, &mut out);
        let taken = received.len() - input.len();
        received.drain(..taken);
        match step {
            Step::Wait => {
                let mut buffer = [0; 512];
                let len = stream.read(&mut buffer).unwrap();
                received.extend_from_slice(&buffer[..len]);
            }
            Step::Answered => {}
            Step::Enter(agreed) => {
                stream.write_all(&out).unwrap();
                return Some(agreed);
            }
            Step::Close(_) => return None,
        }
    }
}

pub(crate) fn cookie_of(request: &[u8; REQUEST_HEADER]) -> u64 {
    u64::from_be_bytes(request[8..16].try_into().unwrap())
}

/// What a read of 4096 bytes at 8192 comes to when the server answers with `reply`.
fn read_answered_with(
    reply: impl FnOnce(&mut Vec<u8>, Replies, u64) + Send + 'static,
) -> Result<Vec<u8>> {
    let liar = liar(move |stream, request| {
        let mut out = Vec::new();
        reply(&mut out, Replies::new(true), cookie_of(&request));
        stream.write_all(&out).unwrap();
        // Until the client hangs up.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    block_on(async {
        let (_device, queue) = open(&liar.url).await;
        read(&*queue, 8192, 4096).await
    })
}

#[test]
fn data_comes_in_chunks_of_any_order() {
    let data = read_answered_with(|out, replies, cookie| {
        replies.data(out, cookie, 10240, 2048, false);
        out.extend_from_slice(&[2; 2048]);
        replies.hole(out, cookie, 9216, 1024, false);
        replies.data(out, cookie, 8192, 1024, false);
        out.extend_from_slice(&[1; 1024]);
        replies.end_of_read(out, cookie);
    })
    .unwrap();
    let wanted = [vec![1; 1024], vec![0; 1024], vec![2; 2048]].concat();
    assert!(data == wanted);
}

#[test]
fn lies_about_data_end_the_connection() {
    type Lie = fn(&mut Vec<u8>, Replies, u64);
    let lies: [Lie; 7] = [
        // Outside of the range, before it and behind it.
        |out, replies, cookie| replies.data(out, cookie, 4096, 4096, true),
        |out, replies, cookie| replies.data(out, cookie, 8192, 4608, true),
        |out, replies, cookie| replies.hole(out, cookie, u64::MAX - 100, 4096, true),
        // Twice, too little, for nobody.
        |out, replies, cookie| {
            replies.hole(out, cookie, 8192, 4096, false);
            replies.hole(out, cookie, 8192, 512, true);
        },
        |out, replies, cookie| replies.hole(out, cookie, 8192, 512, true),
        |out, replies, cookie| replies.end_of_read(out, cookie + 1),
        // No structured reply to a read.
        |out, replies, cookie| replies.done(out, cookie),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let error = read_answered_with(lie).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Offline, "lie {number}");
    }
}

#[test]
fn an_error_after_data_fails_the_read_alone() {
    let error = read_answered_with(|out, replies, cookie| {
        replies.hole(out, cookie, 8192, 4096, false);
        replies.error(out, cookie, Errno::NoSpace, "the pool is full");
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.sentence().ends_with("the pool is full"), "{error:?}");
}

#[test]
fn a_connection_that_breaks_off_in_the_data_is_offline() {
    let error = {
        let liar = liar(|stream, request| {
            let mut out = Vec::new();
            let replies = Replies::new(true);
            replies.data(&mut out, cookie_of(&request), 8192, 65536, true);
            out.extend_from_slice(&[7; 10_000]);
            stream.write_all(&out).unwrap();
        });
        block_on(async {
            let (_device, queue) = open(&liar.url).await;
            let first = read(&*queue, 8192, 65536).await.unwrap_err();
            assert_eq!(first.kind(), ErrorKind::Offline);
            read(&*queue, 0, 512).await.unwrap_err()
        })
    };
    assert_eq!(error.kind(), ErrorKind::Offline);
}
