//! What the server does for clients that behave.

use std::sync::Arc;
use std::sync::mpsc;

use futures_channel::oneshot;
use weft_block::{
    BlockDevice, BlockQueue, Completion, ErrorKind, Info, LocalBoxFuture, Op, Request, Result,
    Spawner,
};
use weft_export::nbd::proto::{CommandCode, Errno, command_flag, state_flag, transmission_flag};
use weft_export::nbd::server::Export;
use weft_sim::MemoryDevice;

use crate::peer::{Reply, Site, pattern, wait};

const SIZE: u64 = 64 << 20;

#[test]
fn reads_and_writes_over_unix_and_tcp() {
    let device = MemoryDevice::new(SIZE);
    let site = Site::with("disk", device.clone());
    let mut unix = site.join();
    let mut tcp = site.connect_tcp();
    let joined = tcp.join("disk").unwrap();
    assert_eq!(joined.size, SIZE);
    assert!(joined.offers(transmission_flag::CAN_MULTI_CONN | transmission_flag::SEND_FUA));

    for (number, len) in [512, 4096, 65536, 1 << 20, 32 << 20]
        .into_iter()
        .enumerate()
    {
        let data = pattern(len, number as u8);
        assert_eq!(unix.write(4096, &data), Reply::Done);
        assert!(tcp.read(4096, len as u32) == Reply::Data(data), "{len}");
    }
    assert_eq!(tcp.ask(CommandCode::Flush, 0, 0, 0), Reply::Done);
    assert_eq!(device.peek(4096, 512), pattern(512, 4));
}

#[test]
fn many_requests_in_one_packet_are_all_answered() {
    let site = Site::with("disk", MemoryDevice::new(SIZE));
    let mut peer = site.join();
    for cookie in 0..1000 {
        peer.send(cookie, CommandCode::Read, 0, cookie * 512, 512);
    }
    for cookie in 0..1000 {
        assert_eq!(peer.reply(), (cookie, Reply::Data(vec![0; 512])));
    }
}

#[test]
fn sparse_reads_send_no_zeroes() {
    let device = MemoryDevice::new(SIZE);
    device.poke(1 << 20, &pattern(65536, 1));
    let site = Site::with("disk", device.clone());
    let mut peer = site.join();
    let wanted = device.peek(0, 4 << 20);
    assert!(peer.read(0, 4 << 20) == Reply::Data(wanted.clone()));
    assert_eq!(peer.holes, 2);
    let whole = peer.ask(CommandCode::Read, command_flag::DF, 0, 4 << 20);
    assert!(whole == Reply::Data(wanted));
    assert_eq!(peer.holes, 2);
}

#[test]
fn block_status_zeroes_and_trim() {
    let site = Site::with("disk", MemoryDevice::new(SIZE));
    let mut peer = site.join();
    let hole = state_flag::HOLE | state_flag::ZERO;
    assert_eq!(peer.write(1 << 20, &pattern(1 << 20, 3)), Reply::Done);
    let status = |peer: &mut crate::peer::Peer<_>, flags| {
        peer.ask(CommandCode::BlockStatus, flags, 0, 4 << 20)
    };
    assert_eq!(
        status(&mut peer, 0),
        Reply::Status(vec![(1 << 20, hole), (1 << 20, 0), (2 << 20, hole)])
    );
    assert_eq!(
        status(&mut peer, command_flag::REQ_ONE),
        Reply::Status(vec![(1 << 20, hole)])
    );
    let zeroes = peer.ask(
        CommandCode::WriteZeroes,
        command_flag::NO_HOLE | command_flag::FAST_ZERO,
        1 << 20,
        512 << 10,
    );
    assert_eq!(zeroes, Reply::Done);
    let trim = peer.ask(CommandCode::Trim, command_flag::FUA, 1536 << 10, 512 << 10);
    assert_eq!(trim, Reply::Done);
    assert_eq!(peer.ask(CommandCode::Cache, 0, 0, 1 << 20), Reply::Done);
    assert!(peer.read(1 << 20, 1 << 20) == Reply::Data(vec![0; 1 << 20]));
    // What must not become a hole stays data.
    assert_eq!(
        status(&mut peer, 0),
        Reply::Status(vec![(1 << 20, hole), (512 << 10, 0), (2560 << 10, hole)])
    );
}

#[test]
fn wrong_requests_get_the_errors_of_the_specification() {
    let site = Site::with("disk", MemoryDevice::new(SIZE));
    let mut peer = site.join();
    let error = |errno: Errno| Reply::Error(errno.code());
    assert_eq!(peer.read(SIZE, 512), error(Errno::Inval));
    assert_eq!(peer.read(1, 512), error(Errno::Inval));
    assert_eq!(peer.write(SIZE, &[0; 512]), error(Errno::NoSpace));
    let big = vec![1; (32 << 20) + 512];
    assert_eq!(peer.write(0, &big), error(Errno::Inval));
    assert_eq!(peer.read(0, 0), Reply::Done);
    assert!(peer.read(0, 512) == Reply::Data(vec![0; 512]));
}

#[test]
fn a_read_only_export_says_so_and_refuses() {
    let mut export = Export::new(Arc::new(MemoryDevice::new(SIZE)));
    export.read_only = true;
    let site = Site::offering("disk", export);
    let mut peer = site.connect();
    let joined = peer.join("disk").unwrap();
    assert!(joined.offers(transmission_flag::READ_ONLY));
    assert_eq!(peer.write(0, &[0; 512]), Reply::Error(Errno::Perm.code()));
}

#[test]
fn exports_come_and_go_while_the_server_runs() {
    let first = MemoryDevice::new(SIZE);
    let site = Site::with("first", first.clone());
    let mut peer = site.join();
    assert_eq!(peer.write(0, &pattern(512, 1)), Reply::Done);

    let second = Arc::new(MemoryDevice::new(1 << 20));
    wait(site.server.add("second", Export::new(second.clone()))).unwrap();
    let again = wait(site.server.add("second", Export::new(second.clone())));
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Busy);
    let exports = wait(site.server.exports()).unwrap();
    let seen: Vec<_> = exports
        .iter()
        .map(|export| (export.name.as_str(), export.connections))
        .collect();
    assert_eq!(seen, [("first", 1), ("second", 0)]);

    wait(site.server.remove("first")).unwrap();
    assert!(peer.is_hung_up_on());
    assert_eq!(
        wait(site.server.remove("first")).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let mut peer = site.connect();
    assert!(peer.join("first").is_err());

    // A resize is seen by those who come later.
    assert_eq!(site.connect().join("second").unwrap().size, 1 << 20);
    second.resize(2 << 20);
    assert_eq!(site.connect().join("second").unwrap().size, 2 << 20);
}

#[test]
fn a_shutdown_hangs_up_and_closes_the_door() {
    let site = Site::with("disk", MemoryDevice::new(SIZE));
    let mut peer = site.join();
    let mut idler = site.connect();
    let Site {
        server,
        socket,
        shard,
        folder,
    } = site;
    wait(server.shutdown());
    assert!(peer.is_hung_up_on() && idler.is_hung_up_on());
    assert!(!socket.exists());
    drop((shard, folder));
}

/// A device whose reads wait until they are let go, one by one.
struct Gated {
    inner: MemoryDevice,
    gates: mpsc::SyncSender<oneshot::Sender<()>>,
}

struct GatedQueue {
    inner: Box<dyn BlockQueue>,
    gates: mpsc::SyncSender<oneshot::Sender<()>>,
}

impl BlockDevice for Gated {
    fn info(&self) -> Info {
        self.inner.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(GatedQueue {
            inner: self.inner.open(spawner)?,
            gates: self.gates.clone(),
        }))
    }
}

impl BlockQueue for GatedQueue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let gated = request.op == Op::Read;
        let done = self.inner.submit(request);
        if !gated {
            return done;
        }
        let (open, opened) = oneshot::channel();
        self.gates.send(open).unwrap();
        Box::pin(async move {
            opened.await.unwrap();
            done.await
        })
    }
}

fn gated() -> (Site, MemoryDevice, mpsc::Receiver<oneshot::Sender<()>>) {
    let inner = MemoryDevice::new(SIZE);
    let (gates, opened) = mpsc::sync_channel(1000);
    let device = Gated {
        inner: inner.clone(),
        gates,
    };
    (Site::with("disk", device), inner, opened)
}

#[test]
fn replies_come_in_the_order_of_the_device() {
    let (site, device, gates) = gated();
    device.poke(0, &pattern(4096, 5));
    let mut peer = site.join();
    for cookie in 0..3 {
        peer.send(cookie, CommandCode::Read, 0, cookie * 512, 512);
    }
    let waiting: Vec<_> = (0..3).map(|_| gates.recv().unwrap()).collect();
    assert_eq!(peer.write(8192, &[1; 512]), Reply::Done, "overtakes");
    for (cookie, gate) in waiting.into_iter().enumerate().rev() {
        gate.send(()).unwrap();
        let (at, cookie) = (cookie * 512, cookie as u64);
        let wanted = pattern(4096, 5)[at..at + 512].to_vec();
        assert_eq!(peer.reply(), (cookie, Reply::Data(wanted)));
    }
}

#[test]
fn removal_lets_what_was_begun_complete() {
    let (site, _, gates) = gated();
    let mut peer = site.join();
    peer.send(1, CommandCode::Read, 0, 0, 512);
    let gate = gates.recv().unwrap();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| wait(site.server.remove("disk")));
        // The export is gone from the list before its clients are.
        while !wait(site.server.exports()).unwrap().is_empty() {
            std::thread::yield_now();
        }
        gate.send(()).unwrap();
        assert_eq!(peer.reply(), (1, Reply::Data(vec![0; 512])));
        removal.join().unwrap().unwrap();
    });
    assert!(peer.is_hung_up_on());
}

#[test]
fn a_disconnect_waits_for_what_was_begun() {
    let (site, _, gates) = gated();
    let mut peer = site.join();
    peer.send(1, CommandCode::Read, 0, 0, 512);
    peer.send(2, CommandCode::Disconnect, 0, 0, 0);
    let gate = gates.recv().unwrap();
    gate.send(()).unwrap();
    assert_eq!(peer.reply(), (1, Reply::Data(vec![0; 512])));
    assert!(peer.is_hung_up_on());
}

#[test]
fn a_client_has_a_bounded_number_of_requests_on_the_device() {
    let (site, _, gates) = gated();
    let mut peer = site.join();
    for cookie in 0..300 {
        peer.send(cookie, CommandCode::Read, 0, 0, 512);
    }
    let mut waiting: Vec<_> = (0..256).map(|_| gates.recv().unwrap()).collect();
    assert_eq!(gates.try_recv().err(), Some(mpsc::TryRecvError::Empty));
    // Another client has its own.
    let mut other = site.join();
    other.send(1, CommandCode::Read, 0, 0, 512);
    gates.recv().unwrap().send(()).unwrap();
    assert_eq!(other.reply(), (1, Reply::Data(vec![0; 512])));
    for _ in 0..300 {
        let gate = waiting.pop().unwrap_or_else(|| gates.recv().unwrap());
        gate.send(()).unwrap();
        let (_, reply) = peer.reply();
        assert_eq!(reply, Reply::Data(vec![0; 512]));
    }
}
