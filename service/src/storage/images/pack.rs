//! A copy into compressed clusters. They are made short on threads of their own, one for each CPU.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use futures_channel::oneshot;
use weft_block::{
    BlockDevice, BlockQueue, Buffer, Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Request,
    Result,
};
use weft_qcow2::format::CompressionType;
use weft_qcow2::{Image, Packed, Packer};
use weft_uring::spawner;

use super::Progress;
use super::copy::{FLUSHED, is_zero, read, zeroes};
use super::feed::{Cut, Feed, Piece};

/// Clusters in one piece come to this many bytes, or one cluster.
const PIECE: u64 = 512 << 10;

/// Pieces that are made short or written at once.
const IN_FLIGHT: usize = 8;

/// Threads that make clusters short, at most.
const MAX_THREADS: usize = 16;

/// A copy into compressed clusters of an image of at least its size.
pub(super) struct Pack<'a> {
    pub(super) from: &'a Arc<dyn BlockDevice>,
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
        let header = self.to.header();
        let cluster = header.geometry.cluster();
        // Of a cluster that the target goes on in, only a part is written.
        let whole = match self.to.info().size > self.size {
            true => self.size / cluster * cluster,
            false => self.size,
        };
        let cut = Cut {
            size: whole,
            piece: PIECE.max(cluster),
            unit: cluster.max(u64::from(self.from.info().logical_block)),
        };
        let mut copy = Copy {
            feed: Feed::start(self.from, cut)?,
            packer: self.to.packer(&spawner())?,
            to: self.to.open(&spawner())?,
            onto_zeroes: self.onto_zeroes,
            cluster,
            threads: Threads::start(header.compression, cluster as usize)?,
            waiting: VecDeque::new(),
            data: 0,
        };
        let (mut done, mut flushed, mut flushing) = (0, 0, None);
        while let Some(piece) = copy.feed.next().await? {
            done += piece.len();
            copy.begin(piece).await?;
            (self.progress)(done, self.size);
            if copy.data - flushed >= FLUSHED {
                flushed = copy.data;
                ended(flushing.replace(copy.to.submit(Request::flush()))).await?;
            }
        }
        while !copy.waiting.is_empty() {
            copy.finish_one().await?;
        }
        ended(flushing).await?;
        if whole < self.size {
            let from = self.from.open(&spawner())?;
            let bytes = read(&*from, whole, self.size - whole).await?;
            let write = Request::write(whole, IoVec::from(bytes));
            copy.to.submit(write).await.result?;
            copy.data += self.size - whole;
            (self.progress)(self.size, self.size);
        }
        Ok(copy.data)
    }
}

/// Waits for a flush, if there is one.
async fn ended(flushing: Option<LocalBoxFuture<'static, Completion>>) -> Result<()> {
    match flushing {
        Some(flushing) => flushing.await.result,
        None => Ok(()),
    }
}

struct Copy {
    feed: Feed,
    packer: Packer,
    to: Box<dyn BlockQueue>,
    /// Whether the target reads as zeroes already.
    onto_zeroes: bool,
    cluster: u64,
    threads: Threads,
    /// Pieces that are being made short.
    waiting: VecDeque<(Range<u64>, oneshot::Receiver<Shortened>)>,
    data: u64,
}

impl Copy {
    /// Has the clusters of a piece made short; as many as are waited for at once are.
    async fn begin(&mut self, piece: Piece) -> Result<()> {
        let Piece { range, memory } = piece;
        let Some(memory) = memory else {
            return self.clear(range.start, range.end).await;
        };
        if self.waiting.len() == IN_FLIGHT {
            self.finish_one().await?;
        }
        let len = (range.end - range.start) as usize;
        self.waiting
            .push_back((range, self.threads.shorten(memory, len)));
        Ok(())
    }

    /// Lets a part of the target read as zeroes, if it does not already.
    async fn clear(&self, start: u64, end: u64) -> Result<()> {
        match self.onto_zeroes {
            true => Ok(()),
            false => zeroes(&*self.to, start, end).await,
        }
    }

    /// Writes the piece that was begun first, in order, so that what is side by side on the disk is so in the file.
    async fn finish_one(&mut self) -> Result<()> {
        let Some((range, shortened)) = self.waiting.pop_front() else {
            return Ok(());
        };
        let Shortened { clusters, memory } = shortened.await.map_err(|_| {
            let sentence = "a thread that compresses has ended";
            Error::new(ErrorKind::Offline, sentence)
        })?;
        self.feed.give_back(memory);
        let (mut at, mut run, mut run_start) = (range.start, Vec::new(), range.start);
        for cluster in clusters {
            match cluster {
                Some(packed) => {
                    if run.is_empty() {
                        run_start = at;
                    }
                    run.push(packed);
                    self.data += self.cluster;
                }
                None => {
                    if !run.is_empty() {
                        let run = std::mem::take(&mut run);
                        self.packer.write(run_start, run).await?;
                    }
                    self.clear(at, range.end.min(at + self.cluster)).await?;
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

/// Clusters side by side that are to be made short.
struct Job {
    memory: Buffer,
    /// Bytes of them in `memory`.
    len: usize,
    answer: oneshot::Sender<Shortened>,
}

/// Clusters that were made short, nothing for those of zeroes, and the memory they came in.
struct Shortened {
    clusters: Vec<Option<Packed>>,
    memory: Buffer,
}

/// Threads that make clusters short. They end when this is dropped.
struct Threads {
    /// Bounded by the pieces in flight.
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(kind: CompressionType, cluster: usize) -> Result<Self> {
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
                    let Ok(Job {
                        memory,
                        len,
                        answer,
                    }) = job
                    else {
                        return;
                    };
                    let clusters = memory[..len].chunks(cluster);
                    let clusters = clusters
                        .map(|bytes| shorten(kind, bytes, cluster))
                        .collect();
                    // Nobody listens when the copy has failed.
                    let _ = answer.send(Shortened { clusters, memory });
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

    fn shorten(&self, memory: Buffer, len: usize) -> oneshot::Receiver<Shortened> {
        let (answer, receiver) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            // Without a thread the receiver hears that there is no answer.
            let _ = jobs.send(Job {
                memory,
                len,
                answer,
            });
        }
        receiver
    }
}

/// A cluster made short; nothing for one of zeroes. What is missing at the disk's end is taken for zeroes.
fn shorten(kind: CompressionType, bytes: &[u8], cluster: usize) -> Option<Packed> {
    if is_zero(bytes) {
        return None;
    }
    if bytes.len() == cluster {
        return Some(Packed::new(kind, bytes));
    }
    let mut whole = bytes.to_vec();
    whole.resize(cluster, 0);
    Some(Packed::new(kind, &whole))
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
