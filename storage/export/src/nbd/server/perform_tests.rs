//! Requests on a device in memory.

use weft_sim::{Executor, Faulty, MemoryDevice};

use super::*;
use crate::nbd::pool::Pool;

const SIZE: u64 = 16 << 20;

struct Bench {
    executor: Executor,
    target: Rc<Target>,
    pool: Rc<Pool>,
}

impl Bench {
    fn over(device: Arc<dyn BlockDevice>) -> Self {
        let executor = Executor::new(1);
        let target = Target::open(&device, &executor.spawner()).unwrap();
        Self {
            executor,
            target: Rc::new(target),
            pool: Pool::new(),
        }
    }

    fn run(&self, action: Action, offset: u64, len: u32, data: Option<&[u8]>) -> Outcome {
        let carries = matches!(action, Action::Read { .. } | Action::Cache);
        let payload = match data {
            Some(data) => {
                let mut payload = self.pool.take(data.len());
                payload.fill(0, data);
                Some(payload)
            }
            None => carries.then(|| self.pool.take(len as usize)),
        };
        let command = Command {
            cookie: 1,
            offset,
            len,
            action,
        };
        let future = perform(Rc::clone(&self.target), command, payload, true);
        self.executor.block_on(future).outcome
    }

    fn read(&self, offset: u64, len: u32) -> Outcome {
        self.run(Action::Read { whole: false }, offset, len, None)
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn data_goes_in_and_comes_out() {
    let device = MemoryDevice::new(SIZE);
    let bench = Bench::over(Arc::new(device.clone()));
    let data = pattern(8192);
    let write = Action::Write { fua: true };
    assert!(matches!(
        bench.run(write, 4096, 8192, Some(&data)),
        Outcome::Done
    ));
    assert_eq!(device.peek(4096, 8192), data);
    let Outcome::Data(payload, 4608) = bench.read(4608, 1024) else {
        panic!("data");
    };
    assert_eq!(&*payload.whole().to_buffer(), &data[512..1536]);
    assert!(matches!(
        bench.run(Action::Cache, 4096, 8192, None),
        Outcome::Done
    ));
    assert!(matches!(
        bench.run(Action::Flush, 0, 0, None),
        Outcome::Done
    ));
}

#[test]
fn a_long_read_of_a_sparse_range_is_answered_with_holes() {
    let device = MemoryDevice::new(SIZE);
    device.poke(1 << 20, &pattern(65536));
    let bench = Bench::over(Arc::new(device));
    let Outcome::Sparse(payload, offset, parts) = bench.read((1 << 20) - 65536, 3 * 65536) else {
        panic!("holes");
    };
    assert_eq!(offset, (1 << 20) - 65536);
    let found: Vec<(u64, bool)> = parts
        .iter()
        .map(|part| (part.len, part.kind == ExtentKind::Data))
        .collect();
    assert_eq!(found, [(65536, false), (65536, true), (65536, false)]);
    let data = payload.part(65536, 65536).to_buffer();
    assert_eq!(&*data, &pattern(65536)[..]);
    // A short read, or one that must not be cut, is data.
    assert!(matches!(bench.read(0, 32768), Outcome::Data(..)));
    let whole = Action::Read { whole: true };
    assert!(matches!(
        bench.run(whole, 0, 1 << 20, None),
        Outcome::Data(..)
    ));
}

#[test]
fn a_hole_that_was_written_to_is_data_at_once() {
    let device = MemoryDevice::new(SIZE);
    let bench = Bench::over(Arc::new(device.clone()));
    assert!(matches!(bench.read(0, 1 << 20), Outcome::Sparse(..)));
    device.poke(0, &pattern(1 << 20));
    let Outcome::Data(payload, 0) = bench.read(0, 1 << 20) else {
        panic!("data");
    };
    assert_eq!(&*payload.whole().to_buffer(), &pattern(1 << 20)[..]);
    assert!(bench.target.data.borrow().contains(0, 1 << 20));
    let trim = Action::Trim { fua: true };
    assert!(matches!(bench.run(trim, 0, 1 << 20, None), Outcome::Done));
    assert!(matches!(bench.read(0, 1 << 20), Outcome::Sparse(..)));
}

#[test]
fn a_scattered_range_is_sent_in_one_piece() {
    let device = MemoryDevice::new(SIZE);
    for island in 0..100 {
        device.poke(island * 8192, &pattern(4096));
    }
    let bench = Bench::over(Arc::new(device.clone()));
    let Outcome::Data(payload, 0) = bench.read(0, 800 << 10) else {
        panic!("data");
    };
    let data = payload.whole().to_buffer();
    assert_eq!(&*data, &device.peek(0, 800 << 10)[..]);
}

#[test]
fn zeroes_are_written_fast_or_not_at_all() {
    let zeroes = |fast| Action::WriteZeroes {
        unmap: true,
        fast,
        fua: false,
    };
    let device = MemoryDevice::new(SIZE);
    device.poke(0, &pattern(65536));
    let bench = Bench::over(Arc::new(device.clone()));
    assert!(matches!(
        bench.run(zeroes(true), 0, 65536, None),
        Outcome::Done
    ));
    assert_eq!(device.peek(0, 65536), vec![0; 65536]);

    let mut info = device.info();
    info.fast_zeroes = false;
    device.set_info(info);
    let bench = Bench::over(Arc::new(device));
    assert!(matches!(
        bench.run(zeroes(true), 0, 65536, None),
        Outcome::Failed(Errno::NotSup, _)
    ));
    assert!(matches!(
        bench.run(zeroes(false), 0, 65536, None),
        Outcome::Done
    ));
}

#[test]
fn block_status_tells_data_from_holes() {
    let device = MemoryDevice::new(SIZE);
    device.poke(1 << 20, &pattern(1 << 20));
    let bench = Bench::over(Arc::new(device));
    let status = |one, offset, len| match bench.run(Action::BlockStatus { one }, offset, len, None)
    {
        Outcome::Status(extents) => extents,
        _ => panic!("a status"),
    };
    let mib = 1 << 20;
    let hole = state_flag::HOLE | state_flag::ZERO;
    assert_eq!(
        status(false, 0, 3 * mib),
        [(mib, hole), (mib, 0), (mib, hole)]
    );
    assert_eq!(status(true, 0, 3 * mib), [(mib, hole)]);
    assert_eq!(status(true, 512, 512), [(512, hole)]);
    assert_eq!(status(true, u64::from(mib), mib), [(mib, 0)]);
}

#[test]
fn a_failing_device_is_told_to_the_client() {
    let device = Faulty::new(Arc::new(MemoryDevice::new(SIZE)), 1);
    let faults = device.faults();
    faults.bad_sectors(4096..8192);
    let bench = Bench::over(Arc::new(device));
    assert!(matches!(
        bench.read(0, 32768),
        Outcome::Failed(Errno::Io, _)
    ));
    assert!(matches!(bench.read(65536, 512), Outcome::Data(..)));
    faults.set_offline(true);
    assert!(matches!(
        bench.run(Action::Flush, 0, 0, None),
        Outcome::Failed(Errno::Io, _)
    ));
}
