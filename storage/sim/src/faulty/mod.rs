//! Devices that fail and lie.

mod answers;
mod faults;

use std::rc::Rc;
use std::sync::Arc;

use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, ErrorKind, Extent, Info, LocalBoxFuture, Op,
    Request, Result, Spawner, detached,
};

use answers::Answer;
pub use answers::Answers;
use faults::Verdict;
pub use faults::{Faults, Rates};

/// A device that does to the requests on their way down what its [`Faults`] say. Without faults it changes nothing.
pub struct Faulty {
    inner: Arc<dyn BlockDevice>,
    faults: Faults,
}

impl Faulty {
    /// Wraps `inner`; random faults follow from `seed`.
    pub fn new(inner: Arc<dyn BlockDevice>, seed: u64) -> Self {
        let faults = Faults::new(seed);
        Self { inner, faults }
    }

    /// The switches; they may be kept and used while the device is in use.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

impl BlockDevice for Faulty {
    fn info(&self) -> Info {
        self.inner.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        if self.faults.is_offline() {
            return Err(offline());
        }
        Ok(Box::new(Queue {
            inner: self.inner.open(spawner)?.into(),
            faults: self.faults.clone(),
            device: Arc::clone(&self.inner),
            spawner: spawner.clone(),
        }))
    }

    fn max_queues(&self) -> usize {
        self.inner.max_queues()
    }

    fn set_len(&self, size: u64) -> Result<()> {
        if self.faults.is_offline() {
            return Err(offline());
        }
        self.inner.set_len(size)
    }
}

struct Queue {
    inner: Rc<dyn BlockQueue>,
    faults: Faults,
    device: Arc<dyn BlockDevice>,
    spawner: Spawner,
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let info = self.device.info();
        if let Err(error) = request.check(&info) {
            return ready(request.failed(error));
        }
        match self.faults.judge(&request, info.logical_block) {
            Verdict::Offline => ready(request.failed(offline())),
            Verdict::Fail => ready(request.failed(medium_error())),
            Verdict::FailAfter(len) => self.fail_after(request, len),
            Verdict::Pretend => ready(request.done()),
            Verdict::Watch => self.watch(request),
        }
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        if self.faults.is_offline() {
            return Box::pin(std::future::ready(Err(offline())));
        }
        self.inner.extents(offset, len)
    }
}

impl Queue {
    /// Does the first `len` bytes of a write, then fails it.
    fn fail_after(&self, request: Request, len: u64) -> LocalBoxFuture<'static, Completion> {
        let mut part = Request {
            len,
            buffer: request.buffer.clone(),
            ..request
        };
        if !part.buffer.is_empty() {
            part.buffer = request.buffer.slice(0, len as usize);
        }
        let below = self.inner.submit(part);
        detached(&self.spawner, async move {
            let _ = below.await;
            request.failed(medium_error())
        })
    }

    /// Passes the request, and looks again when it completes: the device may be offline by then, the data corrupt, or
    /// a bad sector healed.
    fn watch(&self, mut request: Request) -> LocalBoxFuture<'static, Completion> {
        if let Op::Write { fua } | Op::WriteZeroes { fua, .. } = &mut request.op {
            *fua &= !self.faults.drops_fua();
        }
        let (op, offset, len) = (request.op, request.offset, request.len);
        let below = self.inner.submit(request);
        let (faults, spawner) = (self.faults.clone(), self.spawner.clone());
        detached(&self.spawner, async move {
            let mut completion = below.await;
            if faults.is_offline() {
                completion.result = Err(offline());
            } else if completion.result.is_ok() {
                match op {
                    Op::Read => faults.corrupt(offset, &mut completion.buffer),
                    _ => faults.heal(offset, len),
                }
                match faults.answer(op) {
                    Answer::Told => {}
                    Answer::Late(by) => spawner.sleep(by).await,
                    Answer::Lost => completion.result = Err(no_answer()),
                    Answer::Never => std::future::pending().await,
                }
            }
            completion
        })
    }
}

fn ready(completion: Completion) -> LocalBoxFuture<'static, Completion> {
    Box::pin(std::future::ready(completion))
}

fn offline() -> Error {
    Error::new(ErrorKind::Offline, "the simulated device is offline")
}

fn no_answer() -> Error {
    Error::new(ErrorKind::Io, "the answer of the simulated device was lost")
}

fn medium_error() -> Error {
    Error::new(ErrorKind::Io, "the simulated medium fails")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::{Executor, MemoryDevice};
    use weft_block::IoVec;

    struct Rig {
        executor: Executor,
        memory: MemoryDevice,
        faults: Faults,
        queue: Box<dyn BlockQueue>,
    }

    fn rig() -> Rig {
        let executor = Executor::new(1);
        let memory = MemoryDevice::new(1 << 20);
        let faulty = Faulty::new(Arc::new(memory.clone()), 1);
        let queue = faulty.open(&executor.spawner()).expect("opens");
        Rig {
            executor,
            memory,
            faults: faulty.faults(),
            queue,
        }
    }

    impl Rig {
        fn run(&self, request: Request) -> Completion {
            self.executor.block_on(self.queue.submit(request))
        }

        fn kind(&self, request: Request) -> Option<ErrorKind> {
            self.run(request).result.err().map(|error| error.kind())
        }
    }

    #[test]
    fn a_bad_sector_heals_when_it_is_written() {
        let rig = rig();
        rig.faults.bad_sectors(1024..2048);
        let read = || Request::read(512, IoVec::zeroed(1024));
        assert_eq!(rig.kind(read()), Some(ErrorKind::Io));
        assert_eq!(
            rig.kind(Request::write(1024, IoVec::copy_of(&[1; 512]))),
            None
        );
        assert_eq!(rig.kind(read()), None);
        assert_eq!(
            rig.kind(Request::read(1536, IoVec::zeroed(512))),
            Some(ErrorKind::Io)
        );
    }

    #[test]
    fn a_lost_write_is_acknowledged_and_not_done() {
        let rig = rig();
        rig.faults.lose_writes(0..512);
        assert_eq!(rig.kind(Request::write(0, IoVec::copy_of(&[9; 512]))), None);
        assert_eq!(rig.memory.peek(0, 512), [0; 512]);
    }

    #[test]
    fn a_write_whose_answer_is_lost_or_late_is_done() {
        let rig = rig();
        let mut answers = Answers::default();
        answers.lost.write = 1.0;
        rig.faults.set_answers(answers.clone());
        let write = || Request::write(0, IoVec::copy_of(&[9; 512]));
        assert_eq!(rig.kind(write()), Some(ErrorKind::Io));
        assert_eq!(rig.memory.peek(0, 512), [9; 512]);
        let hour = Duration::from_secs(3600);
        answers.lost.write = 0.0;
        (answers.late, answers.delay) = (1.0, hour..hour * 2);
        rig.faults.set_answers(answers.clone());
        assert_eq!(rig.kind(write()), None);
        assert!(rig.executor.clock().now() >= hour);
        answers.never = 1.0;
        rig.faults.set_answers(answers);
        let unanswered = rig.executor.try_block_on(rig.queue.submit(write()));
        assert!(unanswered.is_err());
    }

    #[test]
    fn a_corrupt_range_reads_wrong_without_an_error() {
        let rig = rig();
        rig.faults.corrupt_reads(512..1024);
        let completion = rig.run(Request::read(0, IoVec::zeroed(1536)));
        let bytes = completion.buffer.to_buffer();
        assert!(completion.result.is_ok());
        assert!(bytes[..512].iter().all(|&byte| byte == 0));
        assert!(bytes[512..1024].iter().any(|&byte| byte != 0));
        assert!(bytes[1024..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn an_offline_device_answers_nothing_and_comes_back() {
        let rig = rig();
        rig.faults.set_offline(true);
        assert_eq!(rig.kind(Request::flush()), Some(ErrorKind::Offline));
        rig.faults.set_offline(false);
        assert_eq!(rig.kind(Request::flush()), None);
    }
}
