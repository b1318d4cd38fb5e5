//! Power cuts, kills and failing files in the middle of a commit under use, over simulated files.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use weft_block::{BlockDevice, Info, IoVec, Request, Spawner};
use weft_copy::Mirror;
use weft_qcow2::format::{Backing, Version};
use weft_qcow2::{CreateOptions, Image, OpenOptions, RedoMemory, Repair, create};
use weft_sim::{Executor, Faulty, Oracle, PowerCut, PowerSupply, Workload, for_each_seed};

use super::own::Above;

/// Bytes of the disk.
const SIZE: u64 = 512 << 10;

/// Memory that the host keeps until it loses its power.
fn memory() -> RedoMemory {
    let words: Vec<_> = (0..4 + (2 << 14)).map(|_| AtomicU64::new(0)).collect();
    RedoMemory {
        words: Arc::new(words),
        identity: [7, 9],
    }
}

/// One image over another, used again and again, as long as processes and power last.
struct Host {
    seed: u64,
    supply: PowerSupply,
    oracle: Oracle,
    top: PowerCut,
    base: PowerCut,
    /// Of both.
    memories: [RedoMemory; 2],
    /// The one below has taken the place.
    turned: bool,
}

impl Host {
    fn new(seed: u64) -> Self {
        let supply = PowerSupply::new(seed);
        supply.set_tearing(false);
        Self {
            oracle: Oracle::new(512),
            top: PowerCut::new(&supply, Info::new(0, 512)),
            base: PowerCut::new(&supply, Info::new(0, 512)),
            memories: [memory(), memory()],
            turned: false,
            supply,
            seed,
        }
    }

    /// A number below `end` that the seed gives.
    fn draw(&self, what: u64, end: u64) -> u64 {
        (self.seed ^ what << 40)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23)
            % end
    }

    /// Makes both, the lower one perhaps shorter and with other clusters.
    async fn make(&self, spawner: &Spawner) {
        let size = if self.seed.is_multiple_of(3) {
            SIZE / 2
        } else {
            SIZE
        };
        let mut lower = CreateOptions::new(size);
        lower.cluster_bits = [9, 12, 16, 17][self.draw(1, 4) as usize];
        let mut upper = CreateOptions::new(SIZE);
        upper.cluster_bits = [9, 12, 16][self.draw(2, 3) as usize];
        upper.extended_l2 = upper.cluster_bits == 16 && self.draw(3, 2) == 0;
        if !upper.extended_l2 && self.draw(4, 4) == 0 {
            upper.version = Version::V2;
        }
        upper.backing = Some(Backing {
            path: "base".to_owned(),
            format: Some("qcow2".to_owned()),
        });
        for (file, options) in [(&self.base, &lower), (&self.top, &upper)] {
            create(file, options, spawner).await.expect("it is made");
        }
        let base = self.lower(false, self.file(), spawner).await;
        let bytes: Vec<u8> = (0..size / 2).map(|byte| (byte / 512) as u8 | 1).collect();
        let queue = base.open(spawner).expect("opens");
        let write = Request::write(size / 4, IoVec::copy_of(&bytes));
        queue.submit(write).await.result.expect("it is written");
        drop(queue);
        base.close(spawner).await.expect("it closes");
        self.oracle.holds(size / 4, &bytes);
    }

    /// The file of the lower one.
    fn file(&self) -> Arc<dyn BlockDevice> {
        Arc::new(self.base.clone())
    }

    async fn lower(&self, read_only: bool, file: Arc<dyn BlockDevice>, spawner: &Spawner) -> Image {
        let options = OpenOptions {
            read_only,
            redo: (!read_only).then(|| self.memories[1].clone()),
            ..OpenOptions::default()
        };
        open(file, options, spawner).await
    }

    async fn upper(&self, base: &Image, spawner: &Spawner) -> Image {
        let options = OpenOptions {
            redo: Some(self.memories[0].clone()),
            backing: Some(Arc::new(base.clone())),
            ..OpenOptions::default()
        };
        open(Arc::new(self.top.clone()), options, spawner).await
    }

    /// What the disk reads as, when it is found by who knows nothing of a commit.
    async fn verify(&self, disk: &Image, spawner: &Spawner) {
        let device = self.oracle.watch(Arc::new(disk.clone()));
        let queue = device.open(spawner).expect("opens");
        self.oracle.verify(&*queue).await;
    }

    fn load(&self, round: u64) -> Workload {
        let mut load = Workload::new(self.seed ^ round, 120);
        load.max_blocks = 200;
        load
    }

    /// Finds the disk as the next daemon does, for which nobody writes what is below.
    async fn look(&self, spawner: &Spawner) {
        let found = self.lower(true, self.file(), spawner).await;
        let disk = self.upper(&found, spawner).await;
        self.verify(&disk, spawner).await;
        disk.close(spawner).await.expect("it closes");
    }

    /// The top over what is open as `base`, and what copies it there.
    async fn mirror(&self, base: &Image, spawner: &Spawner) -> (Image, Mirror) {
        if base.info().size < SIZE {
            base.resize(SIZE, spawner).await.expect("it grows");
        }
        let top = self.upper(base, spawner).await;
        let (source, target) = (Arc::new(top.clone()), Arc::new(base.clone()));
        let mirror = Mirror::below(source, target, Arc::new(Above(vec![top.clone()])));
        (top, mirror.expect("it can be"))
    }

    /// Commits under load, and goes on in the one below if that comes to its end.
    async fn commit(&mut self, round: u64, spawner: &Spawner) {
        self.look(spawner).await;
        let base = self.lower(false, self.file(), spawner).await;
        let (_, mirror) = self.mirror(&base, spawner).await;
        self.supply.cut_after(self.draw(5 ^ round << 8, 700));
        let device = self.oracle.watch(Arc::new(mirror.clone()));
        let load = self.load(round);
        let follow = async {
            loop {
                match mirror.step(24 << 10, spawner).await {
                    Ok(false) => {}
                    ended => return ended.is_ok(),
                }
            }
        };
        let (used, caught_up) = futures_util::join!(load.run(&*device, spawner), follow);
        if used.is_err() || !caught_up || mirror.settle(spawner).await.is_err() {
            return;
        }
        self.turned = true;
        let device = self.oracle.watch(Arc::new(base));
        // The power may be gone by now.
        let _ = self.load(round ^ 77).run(&*device, spawner).await;
    }

    /// Uses the disk until something ends that.
    fn round(&mut self, round: u64) {
        let executor = Executor::new(self.seed ^ round << 32);
        executor.block_on(async {
            let spawner = executor.spawner();
            if round == 0 {
                self.make(&spawner).await;
            }
            if !self.turned {
                return self.commit(round, &spawner).await;
            }
            let base = self.lower(false, self.file(), &spawner).await;
            self.verify(&base, &spawner).await;
        });
        drop(executor);
        if self.draw(6 ^ round << 8, 2) == 0 {
            self.oracle.process_killed();
            self.supply.restart();
        } else {
            self.oracle.power_cut();
            self.supply.power_on();
            // They were those of this boot.
            self.memories = [memory(), memory()];
        }
        self.oracle.assert_honest();
    }
}

async fn open(file: Arc<dyn BlockDevice>, options: OpenOptions, spawner: &Spawner) -> Image {
    let image = Image::open(file, options, spawner).await;
    let image = image.expect("it opens");
    let report = image.check(Repair::Nothing, spawner).await;
    let report = report.expect("it is checked");
    assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
    image
}

#[test]
fn a_commit_that_is_cut_short_costs_nothing() {
    let (mut seeds, mut turned) = (0, 0);
    for_each_seed(60, |seed| {
        seeds += 1;
        let mut host = Host::new(seed);
        for round in 0..4 {
            host.round(round);
        }
        turned += u64::from(host.turned);
    });
    // Some came to their end, and others were cut short again and again.
    assert!(seeds < 60 || (5..60).contains(&turned), "{turned}");
}

#[test]
fn a_lower_image_that_fails_ends_the_commit_and_no_request() {
    for_each_seed(30, |seed| {
        let host = Host::new(seed);
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            host.make(&spawner).await;
            let faulty = Arc::new(Faulty::new(Arc::new(host.base.clone()), seed));
            let faults = faulty.faults();
            let base = host.lower(false, faulty, &spawner).await;
            let (top, mirror) = host.mirror(&base, &spawner).await;
            let device = host.oracle.watch(Arc::new(mirror.clone()));
            let load = host.load(0);
            let follow = async {
                for _ in 0..seed % 9 {
                    let stepped = mirror.step(24 << 10, &spawner).await;
                    stepped.expect("it is copied");
                }
                faults.fail_writes(0..u64::MAX);
            };
            let (used, ()) = futures_util::join!(load.run(&*device, &spawner), follow);
            assert_eq!(used.expect("queues open").failed, 0);
            // What was hidden by the top has no place below.
            let mut stepped = Ok(false);
            while let Ok(false) = stepped {
                stepped = mirror.step(SIZE, &spawner).await;
            }
            let ended = stepped.is_err() || mirror.settle(&spawner).await.is_err();
            assert!(ended, "nothing can be written");
            assert!(base.close(&spawner).await.is_err());
            top.close(&spawner).await.expect("it closes");
            drop((device, mirror, top, base));
            host.look(&spawner).await;
        });
        host.oracle.assert_honest();
    });
}
