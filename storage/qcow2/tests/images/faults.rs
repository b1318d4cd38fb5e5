//! Full disks and media that fail: a request fails whole, and the image stays what it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_block::{BlockDevice, BlockQueue, Error, ErrorKind, Info, Request, Result, Spawner};
use weft_qcow2::{Image, Repair, SnapshotName};
use weft_sim::{Executor, Faulty, MemoryDevice, Rates, Workload, for_each_seed};

use super::kit::Form;

/// A file that cannot become longer than a limit.
struct Limited {
    below: MemoryDevice,
    limit: Arc<AtomicU64>,
}

impl BlockDevice for Limited {
    fn info(&self) -> Info {
        self.below.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        self.below.open(spawner)
    }

    fn set_len(&self, size: u64) -> Result<()> {
        if size > self.limit.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::NoSpace, "the simulated disk is full"));
        }
        self.below.set_len(size)
    }
}

/// Finds no contradiction.
async fn check(image: &Image, spawner: &Spawner) -> u64 {
    let report = image
        .check(Repair::Nothing, spawner)
        .await
        .expect("it is checked");
    assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
    report.leaks
}

/// The disk is full again and again, wherever a step may be, and then has room.
#[test]
fn a_full_disk_costs_requests_and_nothing_else() {
    for_each_seed(Form::FORMS, |seed| {
        let form = Form::number(seed);
        let executor = Executor::new(seed);
        let oracle = form.oracle();
        executor.block_on(async {
            let spawner = executor.spawner();
            let limit = Arc::new(AtomicU64::new(u64::MAX));
            let below = MemoryDevice::new(0);
            let file = Arc::new(Limited {
                below: below.clone(),
                limit: Arc::clone(&limit),
            });
            let image = form.make(file, &spawner).await;
            let device = oracle.watch(Arc::new(image.clone()));
            let mut failed = 0;
            for round in 0..8 {
                // What is there, and a little more every time.
                let room = (seed * 7 + round * 1000) % 40_000;
                limit.store(below.info().size + room, Ordering::Relaxed);
                let mut load = Workload::new(seed ^ round << 8, 60);
                load.max_blocks = 200;
                failed += load
                    .run(&*device, &spawner)
                    .await
                    .expect("queues open")
                    .failed;
                let name = SnapshotName {
                    name: "s".into(),
                    seconds: 0,
                    nanoseconds: 0,
                };
                if image.create_snapshot(name, &spawner).await.is_ok() && round % 2 == 0 {
                    let _ = image.delete_snapshot("s", &spawner).await;
                }
            }
            assert!(failed > 0 || form.backed, "the disk was full");
            limit.store(u64::MAX, Ordering::Relaxed);
            let queue = device.open(&spawner).expect("opens");
            queue
                .submit(Request::flush())
                .await
                .result
                .expect("there is room now");
            image.close(&spawner).await.expect("closes");
            assert_eq!(
                check(&image, &spawner).await,
                0,
                "nothing is counted that is not used"
            );
            oracle.verify(&*queue).await;
        });
        oracle.assert_honest();
    });
}

/// Reads and writes of the file fail now and then.
#[test]
fn a_failing_medium_costs_requests_and_nothing_else() {
    for_each_seed(Form::FORMS, |seed| {
        let form = Form::number(seed);
        let executor = Executor::new(seed);
        let oracle = form.oracle();
        oracle.allow_read_errors(true);
        executor.block_on(async {
            let spawner = executor.spawner();
            let memory = MemoryDevice::new(0);
            let image = form.make(Arc::new(memory.clone()), &spawner).await;
            image.close(&spawner).await.expect("closes");
            let faulty = Faulty::new(Arc::new(memory.clone()), seed);
            let faults = faulty.faults();
            let image = Image::open(Arc::new(faulty), form.open_options(), &spawner).await;
            let image = image.expect("it opens");
            let device = oracle.watch(Arc::new(image.clone()));
            faults.set_rates(Rates {
                read: 0.03,
                write: 0.03,
                flush: 0.0,
            });
            let mut load = Workload::new(seed, 300);
            load.max_blocks = 200;
            load.run(&*device, &spawner).await.expect("queues open");
            faults.set_rates(Rates::default());
            oracle.allow_read_errors(false);
            image.close(&spawner).await.expect("closes");
            drop((device, image));
            let image = Image::open(Arc::new(memory), form.open_options(), &spawner).await;
            let image = image.expect("it opens");
            check(&image, &spawner).await;
            let device = oracle.watch(Arc::new(image));
            oracle.verify(&*device.open(&spawner).expect("opens")).await;
        });
        oracle.assert_honest();
    });
}
