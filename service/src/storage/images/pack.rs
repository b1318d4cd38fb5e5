//! A copy into compressed clusters. They are made short on threads of their own, one for each CPU.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use futures_channel::oneshot;
use weft_block::{BlockDevice, BlockQueue, Error, ErrorKind, ExtentKind, IoVec, Request, Result};
use weft_qcow2::format::CompressionType;
use weft_qcow2::{Image, Packed, Packer};
use weft_uring::spawner;

use super::Progress;
use super::copy::{is_zero, read, zeroes};

/// Clusters in one piece come to this many bytes, or one cluster.
const PIECE: u64 = 1 << 20;

/// Pieces that are read, made short or written at once.
const IN_FLIGHT: usize = 8;

/// Threads that make clusters short, at most.
const MAX_THREADS: usize = 16;

/// A copy into compressed clusters of an image of at least its size.
pub(super) struct Pack<'a> {
    pub(super) from: &'a dyn BlockDevice,
    pub(super) to: &'a Image,
    /// Bytes, whole sectors.
    pub(super) size: u64,
    /// Whether the target reads as zeroes already.
    pub(super) onto_zeroes: bool,
    pub(super) progress: Progress<'a>,
}

impl Pack<'_> {
    /// Copies, and answers how many bytes held data. Nothing is durable before a flush of the target.
    ///
    /// # Errors
    /// As reading and writing; `Unsupported` where the format goes without compression.
    pub(super) async fn run(&self) -> Result<u64> {
        let queue = self.from.open(&spawner())?;
        let header = self.to.header();
        let cluster = header.geometry.cluster();
        // Of a cluster that the target goes on in, only a part is written.
        let whole = match self.to.info().size > self.size {
            true => self.size / cluster * cluster,
            false => self.size,
        };
        let mut copy = Copy {
            packer: self.to.packer(&spawner())?,
            blank: match self.onto_zeroes {
                true => None,
                false => Some(self.to.open(&spawner())?),
            },
            cluster,
            end: whole,
            threads: Threads::start(header.compression)?,
            waiting: VecDeque::new(),
            data: 0,
        };
        let mut at = 0;
        while at < whole {
            let (empty, end) = next(&*queue, at, whole, cluster).await?;
            if empty {
                copy.clear(at, end).await?;
            } else {
                if copy.waiting.len() == IN_FLIGHT {
                    copy.finish_one().await?;
                }
                let bytes = read(&*queue, at, end - at).await?;
                copy.begin(at, &bytes);
            }
            at = end;
            (self.progress)(at, self.size);
        }
        while !copy.waiting.is_empty() {
            copy.finish_one().await?;
        }
        if whole < self.size {
            let bytes = read(&*queue, whole, self.size - whole).await?;
            let to = self.to.open(&spawner())?;
            let write = Request::write(whole, IoVec::from(bytes));
            to.submit(write).await.result?;
            copy.data += self.size - whole;
            (self.progress)(self.size, self.size);
        }
        Ok(copy.data)
    }
}

/// Whether there is no data at `at`, a cluster's start, and to which cluster's end that is so.
async fn next(queue: &dyn BlockQueue, at: u64, size: u64, cluster: u64) -> Result<(bool, u64)> {
    let extents = queue.extents(at, size - at).await?;
    let holes = extents
        .iter()
        .take_while(|extent| extent.kind != ExtentKind::Data);
    let empty: u64 = holes.map(|extent| extent.len).sum();
    if at + empty == size {
        return Ok((true, size));
    }
    let whole = empty / cluster * cluster;
    if whole > 0 {
        return Ok((true, at + whole));
    }
    let piece = PIECE.max(cluster);
    Ok((false, size.min((at / piece + 1) * piece)))
}

struct Copy {
    packer: Packer,
    /// Where zeroes are written, if the target holds anything else.
    blank: Option<Box<dyn BlockQueue>>,
    cluster: u64,
    /// Bytes that are copied.
    end: u64,
    threads: Threads,
    /// Where each piece begins, and its clusters, nothing for those of zeroes.
    waiting: VecDeque<(u64, Vec<Option<oneshot::Receiver<Packed>>>)>,
    data: u64,
}

impl Copy {
    /// Has the clusters of a piece made short.
    fn begin(&mut self, start: u64, bytes: &[u8]) {
        let mut clusters = Vec::new();
        for cluster in bytes.chunks(self.cluster as usize) {
            if is_zero(cluster) {
                clusters.push(None);
                continue;
            }
            let mut cluster = cluster.to_vec();
            cluster.resize(self.cluster as usize, 0);
            self.data += self.cluster;
            clusters.push(Some(self.threads.pack(cluster)));
        }
        self.waiting.push_back((start, clusters));
    }

    /// Lets a part of the target read as zeroes, if it does not already.
    async fn clear(&self, start: u64, end: u64) -> Result<()> {
        match &self.blank {
            Some(queue) => zeroes(&**queue, start, end).await,
            None => Ok(()),
        }
    }

    /// Writes the piece that was begun first, in order, so that what is side by side on the disk is so in the file.
    async fn finish_one(&mut self) -> Result<()> {
        let Some((start, clusters)) = self.waiting.pop_front() else {
            return Ok(());
        };
        let (mut at, mut run, mut run_start) = (start, Vec::new(), start);
        for cluster in clusters {
            match cluster {
                Some(packed) => {
                    if run.is_empty() {
                        run_start = at;
                    }
                    let packed = packed.await.map_err(|_| {
                        let sentence = "a thread that compresses has ended";
                        Error::new(ErrorKind::Offline, sentence)
                    })?;
                    run.push(packed);
                }
                None => {
                    if !run.is_empty() {
                        let run = std::mem::take(&mut run);
                        self.packer.write(run_start, run).await?;
                    }
                    self.clear(at, self.end.min(at + self.cluster)).await?;
                }
            }
            at += self.cluster;
        }
        if run.is_empty() {
            return Ok(());
        }
        self.packer.write(run_start, run).await
    }
}

/// A cluster to be made short, and where the answer goes.
type Job = (Vec<u8>, oneshot::Sender<Packed>);

/// Threads that make clusters short. They end when this is dropped.
struct Threads {
    /// Bounded by the pieces in flight.
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(kind: CompressionType) -> Result<Self> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let mut this = Self {
            jobs: Some(jobs),
            threads: Vec::new(),
        };
        for _ in 0..count.min(MAX_THREADS) {
            let receiver = Arc::clone(&receiver);
            let work = move || {
                loop {
                    let job = receiver
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .recv();
                    let Ok((cluster, answer)) = job else {
                        return;
                    };
                    // Nobody listens when the copy has failed.
                    let _ = answer.send(Packed::new(kind, cluster));
                }
            };
            let thread = std::thread::Builder::new()
                .name("weft-pack".into())
                .spawn(work);
            this.threads.push(thread.map_err(|error| {
                let sentence = "no thread can be had to compress";
                Error::new(ErrorKind::Io, sentence).with_source(error)
            })?);
        }
        Ok(this)
    }

    fn pack(&self, cluster: Vec<u8>) -> oneshot::Receiver<Packed> {
        let (answer, receiver) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            // Without a thread the receiver hears that there is no answer.
            let _ = jobs.send((cluster, answer));
        }
        receiver
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            // A panic was heard of by whoever waited for its answer.
            let _ = thread.join();
        }
    }
}
