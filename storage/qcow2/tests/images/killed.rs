//! What is left when the process that serves an image is killed and its users live on.

use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::select;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, Info, IoVec, Request, Spawner};
use weft_qcow2::format::{Version, incompatible};
use weft_qcow2::{Image, OpenOptions, RedoMemory, Repair, SnapshotName};
use weft_sim::{
    Executor, MemoryDevice, Oracle, PowerCut, PowerSupply, Workload, for_each_seed, yield_now,
};

use super::kit::{Form, Held, Holding, assert_clean};

/// Memory that the host keeps until it loses its power.
fn memory(records: usize) -> RedoMemory {
    let words: Vec<_> = (0..4 + 2 * records).map(|_| AtomicU64::new(0)).collect();
    RedoMemory {
        words: Arc::new(words),
        identity: [7, 9],
    }
}

/// How the use of an image ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    PowerCut,
    Closed,
}

impl End {
    fn draw(random: &mut ChaCha8Rng) -> Self {
        match random.random_range(0..6) {
            0 => Self::PowerCut,
            1 => Self::Closed,
            _ => Self::Killed,
        }
    }
}

/// A host whose image is used again and again, as long as processes and power last.
struct Host {
    form: Form,
    random: ChaCha8Rng,
    supply: PowerSupply,
    file: PowerCut,
    oracle: Oracle,
    memory: Option<RedoMemory>,
    records: usize,
    /// Sectors of the longest request.
    blocks: u64,
}

impl Host {
    fn new(form: Form, seed: u64, redo: bool) -> Self {
        let supply = PowerSupply::new(seed);
        supply.set_tearing(false);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // A small one fills, and then requests wait for a publication.
        let records = if random.random() { 4096 } else { 1 << 16 };
        Self {
            file: PowerCut::new(&supply, Info::new(0, 512)),
            oracle: form.oracle(),
            memory: redo.then(|| memory(records)),
            records,
            blocks: 300,
            form,
            random,
            supply,
        }
    }

    fn options(&self) -> OpenOptions {
        OpenOptions {
            redo: self.memory.clone(),
            ..self.form.open_options()
        }
    }

    /// Uses the image once, and lets that end.
    fn round(&mut self, seed: u64, first: bool) {
        let end = End::draw(&mut self.random);
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let below: Arc<dyn BlockDevice> = Arc::new(self.file.clone());
            if first {
                self.form.make(Arc::clone(&below), &spawner).await;
            }
            let image = Image::open(below, self.options(), &spawner)
                .await
                .expect("it opens");
            let report = image
                .check(Repair::Nothing, &spawner)
                .await
                .expect("it is checked");
            assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
            let device = self.oracle.watch(Arc::new(image.clone()));
            let queue = device.open(&spawner).expect("opens");
            self.oracle.verify(&*queue).await;
            self.load(&image, &*device, end, &spawner).await;
        });
        drop(executor);
        match end {
            End::Killed => {
                self.oracle.process_killed();
                self.supply.restart();
            }
            End::PowerCut => {
                self.oracle.power_cut();
                self.supply.power_on();
                // It was that of this boot.
                self.memory = self.memory.take().map(|_| memory(self.records));
            }
            End::Closed => {}
        }
        self.oracle.assert_honest();
    }

    /// Writes to the image, and makes snapshots, until the end comes.
    async fn load(&mut self, image: &Image, device: &dyn BlockDevice, end: End, spawner: &Spawner) {
        let mut load = Workload::new(self.random.random(), 300);
        load.max_blocks = self.blocks;
        // Few flushes: what is not flushed is what this is about.
        load.mix.flush /= 4;
        load.mix.fua /= 4;
        let snapshots = self.form.options.refcount_order > 1 && self.random.random_bool(0.3);
        let steps = self.supply.steps() + self.random.random_range(0..400);
        if end == End::PowerCut {
            self.supply.cut_after(steps - self.supply.steps());
        }
        let work = async {
            let load = load.run(device, spawner);
            let keep = async {
                if snapshots {
                    // It fails when the power does.
                    let name = SnapshotName {
                        name: "kept".into(),
                        seconds: 0,
                        nanoseconds: 0,
                    };
                    let _ = image.create_snapshot(name, spawner).await;
                }
            };
            let (outcome, ()) = futures_util::join!(load, keep);
            outcome.expect("queues open");
        };
        let killed = async {
            while end != End::Killed || self.supply.steps() < steps {
                yield_now().await;
            }
        };
        select(pin!(work), pin!(killed)).await;
        if end == End::Closed {
            image.close(spawner).await.expect("it closes");
            let dirty = image.header().has(incompatible::DIRTY);
            assert!(!dirty, "a closed image is marked as open");
        }
    }
}

#[test]
fn what_was_acknowledged_outlives_the_process() {
    for_each_seed(40, |seed| {
        let mut host = Host::new(Form::number(seed), seed, true);
        for round in 0..5 {
            host.round(seed ^ round << 32, round == 0);
        }
    });
}

#[test]
fn what_was_acknowledged_and_encrypted_outlives_the_process() {
    for_each_seed(16, |seed| {
        let mut host = Host::new(Form::number(seed * 5).encrypted(), seed, true);
        for round in 0..4 {
            host.round(seed ^ round << 32, round == 0);
        }
    });
}

#[test]
fn a_refcount_table_that_has_moved_outlives_the_process() {
    for_each_seed(3, |seed| {
        // Clusters of 512 bytes with refcounts of 64 bits: each table reaches 2 MiB.
        let mut form = Form::number(16);
        form.options.size = 4 << 20;
        let mut host = Host::new(form, seed, true);
        host.blocks = 2000;
        for round in 0..3 {
            host.round(seed ^ round << 32, round == 0);
        }
    });
}

#[test]
fn without_a_log_a_process_that_is_killed_takes_what_was_acknowledged_along() {
    let lost = (0..8).any(|seed| {
        let run = || {
            let mut host = Host::new(Form::number(2), seed, false);
            for round in 0..5 {
                host.round(seed ^ round << 32, round == 0);
            }
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
    });
    assert!(lost, "the oracle sees no difference");
}

/// Writes a cluster in each of `places`, unflushed, in an image that is open with `redo`.
async fn write(file: &MemoryDevice, redo: &RedoMemory, places: &[u64], spawner: &Spawner) -> Image {
    let options = OpenOptions {
        redo: Some(redo.clone()),
        ..OpenOptions::default()
    };
    let image = Image::open(Arc::new(file.clone()), options, spawner)
        .await
        .expect("it opens");
    let queue = image.open(spawner).expect("opens");
    for &place in places {
        let data = IoVec::copy_of(&[place as u8 + 1; 1 << 16]);
        let written = queue.submit(Request::write(place << 16, data)).await;
        written.result.expect("it is written");
    }
    image
}

async fn first_byte(image: &Image, place: u64, spawner: &Spawner) -> u8 {
    let queue = image.open(spawner).expect("opens");
    let read = Request::read(place << 16, IoVec::zeroed(512));
    let read = queue.submit(read).await;
    read.result.expect("it is read");
    read.buffer.to_buffer()[0]
}

#[test]
fn a_log_is_worth_nothing_when_somebody_else_has_written_the_image() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let (file, redo) = (MemoryDevice::new(0), memory(1 << 16));
        let form = Form::number(3);
        form.make(Arc::new(file.clone()), &spawner).await;
        drop(write(&file, &redo, &[1, 2], &spawner).await);
        // Killed. Somebody else repairs it, and writes something of their own.
        let plain = Image::open(Arc::new(file.clone()), OpenOptions::default(), &spawner)
            .await
            .expect("it opens");
        let queue = plain.open(&spawner).expect("opens");
        let data = IoVec::copy_of(&[99; 1 << 16]);
        let written = queue.submit(Request::write(5 << 16, data)).await;
        written.result.expect("it is written");
        plain.close(&spawner).await.expect("it closes");
        let image = write(&file, &redo, &[], &spawner).await;
        assert_clean(&image, &spawner).await;
        assert_eq!(first_byte(&image, 5, &spawner).await, 99);
        assert_eq!(first_byte(&image, 1, &spawner).await, 0);
    });
}

#[test]
fn a_log_of_another_boot_is_worth_nothing() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let (file, redo) = (MemoryDevice::new(0), memory(1 << 16));
        Form::number(3).make(Arc::new(file.clone()), &spawner).await;
        drop(write(&file, &redo, &[1], &spawner).await);
        let later = RedoMemory {
            identity: [8, 9],
            ..redo.clone()
        };
        let image = write(&file, &later, &[2], &spawner).await;
        assert_eq!(first_byte(&image, 1, &spawner).await, 0);
        drop(image);
        let image = write(&file, &later, &[], &spawner).await;
        assert_eq!(first_byte(&image, 2, &spawner).await, 3);
        assert_clean(&image, &spawner).await;
    });
}

#[test]
fn an_image_that_cannot_tell_of_a_log_publishes_first() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let (file, redo) = (MemoryDevice::new(0), memory(1 << 16));
        let mut form = Form::number(3);
        form.options.version = Version::V2;
        form.make(Arc::new(file.clone()), &spawner).await;
        drop(write(&file, &redo, &[1], &spawner).await);
        let plain = Image::open(Arc::new(file.clone()), OpenOptions::default(), &spawner)
            .await
            .expect("it opens");
        assert_eq!(first_byte(&plain, 1, &spawner).await, 2);
        assert_clean(&plain, &spawner).await;
    });
}

/// A write takes a cluster, and its publication is under way; another one finds the cluster in its place. What that one
/// is told must not rest on tables that only memory has.
#[test]
fn a_write_into_a_place_that_is_not_published_yet_outlives_the_process() {
    let executor = Executor::new(1);
    let held = Arc::new(Mutex::new(Held::default()));
    let file = Arc::new(Holding {
        below: MemoryDevice::new(0),
        held: Arc::clone(&held),
    });
    executor.block_on(async {
        let spawner = executor.spawner();
        let mut form = Form::number(3);
        form.options.version = Version::V2;
        drop(
            form.make(Arc::clone(&file) as Arc<dyn BlockDevice>, &spawner)
                .await,
        );
        let options = OpenOptions {
            redo: Some(memory(1 << 16)),
            ..OpenOptions::default()
        };
        let image = Image::open(file.clone(), options, &spawner).await;
        let image = image.expect("it opens");
        let queue = image.open(&spawner).expect("opens");
        // The first thing that a publication writes: the refcount block, which lies third.
        held.lock().expect("nobody panics").at = Some(2 << 16);
        let data = |value: u8| IoVec::copy_of(&[value; 1 << 16]);
        let mut first = queue.submit(Request::write(0, data(1)));
        while held.lock().expect("nobody panics").release.is_none() {
            assert!((&mut first).now_or_never().is_none());
            yield_now().await;
        }
        let mut second = queue.submit(Request::write(0, data(2)));
        for _ in 0..100 {
            if let Some(done) = (&mut second).now_or_never() {
                done.result.expect("it is written");
                // Now the process is killed.
                let left = Arc::new(file.below.clone());
                let left = Image::open(left, OpenOptions::default(), &spawner).await;
                let byte = first_byte(&left.expect("it opens"), 0, &spawner).await;
                assert_eq!(byte, 2, "what was acknowledged is gone");
                return;
            }
            yield_now().await;
        }
        let release = held.lock().expect("nobody panics").release.take();
        let sent = release.map(|release| release.send(()));
        assert_eq!(sent, Some(Ok(())), "a write is held");
        first.await.result.expect("it is written");
        second.await.result.expect("it is written");
        let left = Arc::new(file.below.clone());
        let left = Image::open(left, OpenOptions::default(), &spawner).await;
        let byte = first_byte(&left.expect("it opens"), 0, &spawner).await;
        assert_eq!(byte, 2);
    });
}
