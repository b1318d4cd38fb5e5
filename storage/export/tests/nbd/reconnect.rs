//! A server that goes away and comes back, or does not.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use weft_block::{BlockDevice, BlockQueue, ErrorKind, Info, IoVec, Request, Result};
use weft_export::nbd::client::{NbdDevice, Url};
use weft_export::nbd::server::{Export, Server};
use weft_sim::{Faulty, MemoryDevice, PowerCut, PowerSupply, Rates};
use weft_uring::{Address, Shard, block_on, sleep, spawn, spawner};

use crate::client::{agree, cookie_of};

const SIZE: u64 = 128 << 20;
const BLOCK: usize = 4096;

/// A machine with a disk and a server that dies without a word.
struct Machine {
    socket: PathBuf,
    power: PowerSupply,
    disk: Arc<dyn BlockDevice>,
    running: Option<(Shard, Server)>,
    _folder: tempfile::TempDir,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let power = PowerSupply::new(seed);
        power.set_tearing(false);
        let disk = Arc::new(PowerCut::new(&power, Info::new(SIZE, 512)));
        Self::of(disk, power)
    }

    fn of(disk: Arc<dyn BlockDevice>, power: PowerSupply) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            socket: folder.path().join("socket"),
            power,
            disk,
            running: None,
            _folder: folder,
        }
    }

    fn started(mut self) -> Self {
        self.start();
        self
    }

    fn start(&mut self) {
        let shard = Shard::start("nbd-machine").unwrap();
        let address = Address::Unix(self.socket.clone());
        let disk = Arc::clone(&self.disk);
        // A thread of its own: the caller may run an executor.
        let (shard, server) = thread::spawn(move || {
            let server = block_on(async {
                let server = Server::start(&shard.handle(), &[address]).await.unwrap();
                server.add("disk", Export::new(disk)).await.unwrap();
                server
            });
            (shard, server)
        })
        .join()
        .unwrap();
        self.running = Some((shard, server));
    }

    /// The power goes, and with it what was not flushed.
    fn cut(&mut self) {
        drop(self.running.take());
        self.power.cut();
        self.power.power_on();
    }

    fn url(&self, delay: u64) -> Url {
        url(&self.socket, delay)
    }
}

fn url(socket: &Path, delay: u64) -> Url {
    let socket = socket.display();
    let text = format!("nbd+unix:///disk?socket={socket}&reconnect-delay={delay}");
    text.parse().unwrap()
}

async fn open(url: &Url) -> (NbdDevice, Rc<dyn BlockQueue>) {
    let device = NbdDevice::connect(url).await.unwrap();
    let queue = device.open(&spawner()).unwrap();
    (device, Rc::from(queue))
}

async fn write(queue: &dyn BlockQueue, block: u64, value: u8) -> Result<()> {
    let data = IoVec::copy_of(&[value; BLOCK]);
    let write = Request::write(block * BLOCK as u64, data);
    queue.submit(write).await.result
}

async fn read(queue: &dyn BlockQueue, block: u64) -> Result<u8> {
    let request = Request::read(block * BLOCK as u64, IoVec::zeroed(BLOCK));
    let completion = queue.submit(request).await;
    completion.result?;
    let bytes = completion.buffer.to_buffer();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "one value");
    Ok(bytes[0])
}

#[test]
fn what_was_acknowledged_and_not_flushed_is_told_again() {
    let mut machine = Machine::new(3).started();
    block_on(async {
        let (_device, queue) = open(&machine.url(30)).await;
        for round in 0..8_u8 {
            write(&*queue, 0, 100 + round).await.unwrap();
            write(&*queue, 1, 1).await.unwrap();
            let flushed = queue.submit(Request::flush()).await;
            flushed.result.unwrap();
            // A guest may use its page again as soon as it has its answer.
            let mut page = IoVec::copy_of(&[round; BLOCK]);
            let sent = Request::write(0, page.clone());
            queue.submit(sent).await.result.unwrap();
            page.fill(0, BLOCK, 255);
            let zeroes = Request::write_zeroes(BLOCK as u64, BLOCK as u64, true);
            queue.submit(zeroes).await.result.unwrap();
            // Durable, and above what is not.
            let durable = Request::write_fua(512, IoVec::copy_of(&[round; 512]));
            queue.submit(durable).await.result.unwrap();
            machine.cut();
            machine.start();
            assert_eq!(read(&*queue, 0).await.unwrap(), round);
            assert_eq!(read(&*queue, 1).await.unwrap(), 0);
        }
    });
}

#[test]
fn a_durable_write_is_not_undone_by_what_is_told_again_below_it() {
    let mut machine = Machine::new(3).started();
    block_on(async {
        let (_device, queue) = open(&machine.url(30)).await;
        write(&*queue, 7, 1).await.unwrap();
        let durable = Request::write_fua(7 * BLOCK as u64, IoVec::copy_of(&[2; BLOCK]));
        queue.submit(durable).await.result.unwrap();
        machine.cut();
        machine.start();
        assert_eq!(read(&*queue, 7).await.unwrap(), 2);
    });
}

/// Writes to blocks of its own, one after the other; the last value of each.
async fn write_on(queue: Rc<dyn BlockQueue>, worker: u64, ended: Rc<Cell<bool>>) -> Vec<(u64, u8)> {
    let mut last = vec![0; 8];
    let mut count = 0_u64;
    while !ended.get() {
        let place = (count * 5 + worker) % 8;
        let value = (count % 251) as u8;
        write(&*queue, worker * 8 + place, value).await.unwrap();
        last[place as usize] = value;
        if count.is_multiple_of(97) {
            queue.submit(Request::flush()).await.result.unwrap();
        }
        count += 1;
    }
    let blocks = (0..).map(|place| worker * 8 + place);
    blocks.zip(last).collect()
}

#[test]
fn nobody_notices_a_machine_that_dies_again_and_again() {
    let mut machine = Machine::new(17).started();
    block_on(async {
        let (_device, queue) = open(&machine.url(60)).await;
        let ended = Rc::new(Cell::new(false));
        let workers: Vec<_> = (0..8)
            .map(|worker| spawn(write_on(Rc::clone(&queue), worker, Rc::clone(&ended))))
            .collect();
        for round in 0..20 {
            sleep(std::time::Duration::from_millis(round)).await;
            machine.cut();
            machine.start();
        }
        ended.set(true);
        for worker in workers {
            for (block, value) in worker.await {
                assert_eq!(read(&*queue, block).await.unwrap(), value, "block {block}");
            }
        }
    });
}

#[test]
fn a_server_that_stays_away_is_given_up() {
    let mut machine = Machine::new(1).started();
    block_on(async {
        let (device, queue) = open(&machine.url(1)).await;
        write(&*queue, 0, 9).await.unwrap();
        machine.cut();
        let error = read(&*queue, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Offline);
        assert!(
            error.sentence().contains("within 1 seconds"),
            "{}",
            error.sentence()
        );
        // What was not flushed is lost, and whoever asks learns that from this device for ever.
        machine.start();
        let error = read(&*queue, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Offline);
        let error = device.open(&spawner()).err().expect("given up");
        assert_eq!(error.kind(), ErrorKind::Offline);
        let (_device, queue) = open(&machine.url(1)).await;
        assert_eq!(read(&*queue, 1).await.unwrap(), 0);
    });
}

#[test]
fn without_a_delay_a_lost_connection_is_the_end() {
    let mut machine = Machine::new(1).started();
    block_on(async {
        let (_device, queue) = open(&machine.url(0)).await;
        assert!(read(&*queue, 0).await.is_ok());
        machine.cut();
        machine.start();
        // The first may have been sent before the loss is seen, and fails with it.
        let error = read(&*queue, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Offline);
    });
}

#[test]
fn an_export_that_has_another_size_is_another() {
    let mut machine = Machine::new(1).started();
    block_on(async {
        let (_device, queue) = open(&machine.url(30)).await;
        assert!(read(&*queue, 0).await.is_ok());
        machine.cut();
        machine.disk = Arc::new(MemoryDevice::new(SIZE * 2));
        machine.start();
        let error = read(&*queue, 0).await.unwrap_err();
        assert!(
            error.sentence().contains("has changed"),
            "{}",
            error.sentence()
        );
    });
}

#[test]
fn a_request_without_an_answer_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        // The first connection only asks.
        let (mut asking, _) = listener.accept().unwrap();
        agree(&mut asking);
        let mut seen = Vec::new();
        for attempt in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let agreed = agree(&mut stream);
            assert!(agreed.is_some());
            let mut request = [0; 28 + BLOCK];
            stream.read_exact(&mut request).unwrap();
            seen.push(request[28]);
            if attempt == 2 {
                let mut out = Vec::new();
                let head: [u8; 28] = request[..28].try_into().unwrap();
                let replies = weft_export::nbd::session::Replies::new(true);
                replies.done(&mut out, cookie_of(&head));
                stream.write_all(&out).unwrap();
                // Until the client hangs up.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
        seen
    });
    block_on(async {
        let (_device, queue) = open(&url(&socket, 30)).await;
        write(&*queue, 3, 42).await.unwrap();
    });
    assert_eq!(server.join().unwrap(), [42; 3]);
}

#[test]
fn what_is_kept_is_bounded_by_flushes_of_our_own() {
    let power = PowerSupply::new(5);
    let faulty = Faulty::new(Arc::new(MemoryDevice::new(SIZE)), 5);
    let faults = faulty.faults();
    let machine = Machine::of(Arc::new(faulty), power).started();
    let fill = async |queue: &dyn BlockQueue| {
        let data = IoVec::copy_of(&vec![7; 1 << 20]);
        let writes = (0..100).map(|place| {
            let write = Request::write(place << 20, data.clone());
            queue.submit(write)
        });
        for written in futures_util::future::join_all(writes).await {
            written.result.unwrap();
        }
    };
    block_on(async {
        let (_device, queue) = open(&machine.url(30)).await;
        fill(&*queue).await;
        queue.submit(Request::flush()).await.result.unwrap();
        // A flush that nobody asked for and that fails is told to the next who asks for one.
        faults.set_rates(Rates {
            flush: 1.0,
            ..Rates::default()
        });
        fill(&*queue).await;
        faults.set_rates(Rates::default());
        // Whatever of our own is under way now comes before it.
        assert!(queue.submit(Request::flush()).await.result.is_err());
        fill(&*queue).await;
    });
}

#[test]
fn queues_of_one_thread_share_the_one_connection_that_a_server_allows() {
    let machine = Machine::new(1).started();
    block_on(async {
        let (device, one) = open(&machine.url(30)).await;
        let two = device.open(&spawner()).unwrap();
        write(&*one, 0, 5).await.unwrap();
        drop(one);
        assert_eq!(read(&*two, 0).await.unwrap(), 5);
        let (_, server) = machine.running.as_ref().unwrap();
        let exports = server.exports().await.unwrap();
        assert_eq!(exports[0].connections, 1);
    });
}
