//! Snapshots: what they keep, and what a power cut at any write of theirs leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, ErrorKind, Info, IoVec, Request, Result, Spawner};
use weft_qcow2::{Image, OpenOptions, Repair, SnapshotName};
use weft_sim::{Executor, MemoryDevice, PowerCut, PowerSupply, for_each_seed};

use super::kit::{Form, SIZE, assert_clean};

/// Sectors of the disk.
const SECTORS: u64 = SIZE / 512;

/// A disk, sector by sector: zero for zeroes, otherwise the number of the write.
type Disk = Vec<u64>;

/// What must be in an image, and what may be.
#[derive(Clone, Default)]
struct Model {
    now: Disk,
    /// What each sector may hold after a cut, beside what it holds now.
    older: Vec<Vec<u64>>,
    /// By id.
    snapshots: BTreeMap<String, Disk>,
    writes: u64,
}

/// What was under way when the power went.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doing {
    Nothing,
    /// The disk may be this too.
    Apply(Disk),
    Create(Disk),
    Delete(String),
}

impl Model {
    fn new(disk: Disk) -> Self {
        Self {
            older: vec![Vec::new(); disk.len()],
            now: disk,
            ..Self::default()
        }
    }

    fn change(&mut self, range: std::ops::Range<u64>, value: u64) {
        for sector in range {
            let old = std::mem::replace(&mut self.now[sector as usize], value);
            self.older[sector as usize].push(old);
        }
    }

    /// All that was done is durable.
    fn durable(&mut self) {
        self.older.iter_mut().for_each(Vec::clear);
    }
}

struct Run {
    random: ChaCha8Rng,
    model: Model,
    doing: Doing,
}

impl Run {
    /// Does one thing, at random.
    async fn act(&mut self, image: &Image, spawner: &Spawner) -> Result<()> {
        let queue = image.open(spawner)?;
        let start = self.random.random_range(0..SECTORS);
        let len = self.random.random_range(1..=(SECTORS - start).min(300));
        let range = start..start + len;
        match self.random.random_range(0..20) {
            0..9 => {
                self.model.writes += 1;
                let value = self.model.writes;
                self.model.change(range.clone(), value);
                let data = bytes(&vec![value; len as usize]);
                queue
                    .submit(Request::write(start * 512, IoVec::copy_of(&data)))
                    .await
                    .result
            }
            9..12 => {
                self.model.change(range, 0);
                let zeroes = Request::write_zeroes(start * 512, len * 512, self.random.random());
                queue.submit(zeroes).await.result
            }
            12..14 => {
                queue.submit(Request::flush()).await.result?;
                self.model.durable();
                Ok(())
            }
            14..17 => self.create(image, spawner).await,
            17 => self.apply(image, spawner).await,
            _ => self.delete(image, spawner).await,
        }
    }

    async fn create(&mut self, image: &Image, spawner: &Spawner) -> Result<()> {
        self.doing = Doing::Create(self.model.now.clone());
        let name = SnapshotName {
            name: "kept".into(),
            seconds: 1,
            nanoseconds: 2,
        };
        match image.create_snapshot(name, spawner).await {
            // Refcounts of one bit count one user.
            Err(error) if error.kind() == ErrorKind::Invalid => {}
            Err(error) => return Err(error),
            Ok(entry) => {
                self.model
                    .snapshots
                    .insert(entry.id, self.model.now.clone());
            }
        }
        self.model.durable();
        Ok(())
    }

    async fn apply(&mut self, image: &Image, spawner: &Spawner) -> Result<()> {
        let Some((id, disk)) = self.draw() else {
            return Ok(());
        };
        self.doing = Doing::Apply(disk.clone());
        image.apply_snapshot(&id, spawner).await?;
        self.model.now = disk;
        self.model.durable();
        Ok(())
    }

    async fn delete(&mut self, image: &Image, spawner: &Spawner) -> Result<()> {
        let Some((id, _)) = self.draw() else {
            return Ok(());
        };
        self.doing = Doing::Delete(id.clone());
        image.delete_snapshot(&id, spawner).await?;
        self.model.snapshots.remove(&id);
        self.model.durable();
        Ok(())
    }

    fn draw(&mut self) -> Option<(String, Disk)> {
        let count = self.model.snapshots.len();
        let index = (count > 0).then(|| self.random.random_range(0..count))?;
        let (id, disk) = self.model.snapshots.iter().nth(index)?;
        Some((id.clone(), disk.clone()))
    }

    /// Judges what is in the file, and goes on from that.
    async fn judge(&mut self, file: Arc<dyn BlockDevice>, form: &Form, spawner: &Spawner) -> Image {
        let image = Image::open(file.clone(), form.open_options(), spawner)
            .await
            .expect("it opens");
        let report = image
            .check(Repair::Nothing, spawner)
            .await
            .expect("it is checked");
        assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
        let disk = read(&image, spawner).await;
        for (sector, &value) in disk.iter().enumerate() {
            let model = &self.model;
            let other = match &self.doing {
                Doing::Apply(disk) => Some(disk[sector]),
                _ => None,
            };
            let allowed = model.now[sector] == value
                || model.older[sector].contains(&value)
                || other == Some(value);
            assert!(
                allowed,
                "sector {sector} holds {value}, not {}",
                model.now[sector]
            );
        }
        self.judge_snapshots(&image, file, form, spawner).await;
        self.model.now = disk;
        self.model.durable();
        self.doing = Doing::Nothing;
        image
    }

    async fn judge_snapshots(
        &mut self,
        image: &Image,
        file: Arc<dyn BlockDevice>,
        form: &Form,
        spawner: &Spawner,
    ) {
        let entries = image.snapshots(spawner).await.expect("they are read");
        let mut found = BTreeMap::new();
        for entry in entries {
            let options = OpenOptions {
                snapshot: Some(entry.id.clone()),
                ..form.open_options()
            };
            let snapshot = Image::open(file.clone(), options, spawner)
                .await
                .expect("it opens");
            found.insert(entry.id, read(&snapshot, spawner).await);
        }
        let mut expected = self.model.snapshots.clone();
        match &self.doing {
            Doing::Delete(id) if !found.contains_key(id) => {
                expected.remove(id);
            }
            Doing::Create(disk) if found.len() > expected.len() => {
                let (id, _) = found.last_key_value().expect("there is one");
                let new = found
                    .keys()
                    .find(|id| !expected.contains_key(*id))
                    .unwrap_or(id);
                expected.insert(new.clone(), disk.clone());
            }
            _ => {}
        }
        assert!(found == expected, "the snapshots are what they were");
        self.model.snapshots = found;
    }
}

/// Sectors whose first bytes are the numbers.
fn bytes(disk: &[u64]) -> Vec<u8> {
    let sector = |&value: &u64| {
        let mut sector = [if value == 0 { 0 } else { 0x77 }; 512];
        sector[..8].copy_from_slice(&value.to_le_bytes());
        sector
    };
    disk.iter().flat_map(sector).collect()
}

async fn read(image: &Image, spawner: &Spawner) -> Disk {
    let queue = image.open(spawner).expect("it opens");
    let answer = queue
        .submit(Request::read(0, IoVec::zeroed(SIZE as usize)))
        .await;
    answer.result.expect("it is read");
    let number = |sector: &[u8]| {
        let mut value = [0; 8];
        value.copy_from_slice(&sector[..8]);
        u64::from_le_bytes(value)
    };
    answer.buffer.to_buffer().chunks(512).map(number).collect()
}

fn cut(seed: u64) {
    let form = Form::number(seed);
    let supply = PowerSupply::new(seed);
    supply.set_tearing(false);
    let file: Arc<dyn BlockDevice> = Arc::new(PowerCut::new(&supply, Info::new(0, 512)));
    let mut run = None;
    for round in 0..3 {
        let executor = Executor::new(seed ^ round << 32);
        executor.block_on(async {
            let spawner = executor.spawner();
            let run = match &mut run {
                None => {
                    let image = form.make(file.clone(), &spawner).await;
                    let disk = read(&image, &spawner).await;
                    run.insert(Run {
                        random: ChaCha8Rng::seed_from_u64(seed),
                        model: Model::new(disk),
                        doing: Doing::Nothing,
                    })
                }
                Some(run) => run,
            };
            let image = run.judge(file.clone(), &form, &spawner).await;
            supply.cut_after(run.random.random_range(0..300));
            while run.act(&image, &spawner).await.is_ok() {
                run.doing = Doing::Nothing;
            }
            assert!(!supply.is_on(), "only the cut ends it");
        });
        supply.power_on();
    }
}

#[test]
fn a_cut_at_any_write_leaves_disk_and_snapshots_whole() {
    for_each_seed(60, cut);
}

#[test]
fn a_write_after_a_snapshot_leaves_it_alone() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
        let form = Form::number(3);
        let image = form.make(file.clone(), &spawner).await;
        let queue = image.open(&spawner).expect("opens");
        let write = |value| Request::write(0, IoVec::copy_of(&bytes(&[value; 256])));
        queue.submit(write(1)).await.result.expect("written");
        let name = SnapshotName {
            name: "before".into(),
            seconds: 0,
            nanoseconds: 0,
        };
        image.create_snapshot(name, &spawner).await.expect("made");
        queue.submit(write(2)).await.result.expect("written");
        let options = OpenOptions {
            snapshot: Some("before".into()),
            ..OpenOptions::default()
        };
        image.close(&spawner).await.expect("closes");
        let snapshot = Image::open(file, options, &spawner).await.expect("opens");
        assert_eq!(read(&snapshot, &spawner).await[..256], [1; 256]);
        assert_eq!(read(&image, &spawner).await[..256], [2; 256]);
        image
            .apply_snapshot("before", &spawner)
            .await
            .expect("applied");
        assert_eq!(read(&image, &spawner).await[..256], [1; 256]);
        assert_clean(&image, &spawner).await;
    });
}
