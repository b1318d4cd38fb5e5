//! Arrays of simulated disks.

use std::sync::Arc;

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, Info, IoVec, Request, Result, SECTOR};
use weft_sim::{Executor, Faults, Faulty, MemoryDevice};

use crate::level::{CopiesLayout, Level, ParityLayout};
use crate::parity::{field, scalar};
use crate::superblock::{SUPER_BYTE, SUPER_BYTES, Superblock, Timestamp};
use crate::{
    Array, AssembleOptions, Consistency, CreateOptions, MemberDevice, MemberState, Status,
    assemble, create, geometry,
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const CHUNK: u64 = 16 << 10;

/// What is to be tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) level: Level,
    pub(crate) layout: Option<ParityLayout>,
    pub(crate) copies: Option<CopiesLayout>,
    pub(crate) members: usize,
}

pub(crate) fn shape(level: Level, members: usize) -> Shape {
    Shape {
        level,
        layout: None,
        copies: None,
        members,
    }
}

/// One of each level, with every layout and several widths.
pub(crate) fn shapes() -> Vec<Shape> {
    let mut shapes = vec![
        shape(Level::Raid0, 3),
        shape(Level::Raid1, 1),
        shape(Level::Raid1, 2),
        shape(Level::Raid1, 3),
        shape(Level::Raid4, 3),
        shape(Level::Raid5, 2),
    ];
    for (level, least) in [(Level::Raid5, 3), (Level::Raid6, 4)] {
        let layouts = ParityLayout::of(level).enumerate();
        shapes.extend(layouts.map(|(number, layout)| Shape {
            level,
            layout: Some(layout),
            copies: None,
            members: least + number % 6,
        }));
    }
    let copies = [
        ("n2", 4),
        ("n2", 3),
        ("n3", 5),
        ("f2", 4),
        ("f2", 3),
        ("o2", 3),
        ("o3", 5),
    ];
    shapes.extend(copies.map(|(name, members)| Shape {
        level: Level::Raid10,
        layout: None,
        copies: CopiesLayout::from_name(name),
        members,
    }));
    shapes
}

pub(crate) fn now(seconds: u64) -> Timestamp {
    Timestamp::new(1_700_000_000 + seconds, 0)
}

pub(crate) fn options(shape: Shape, seed: u64) -> CreateOptions {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut options = CreateOptions::new(shape.level, "host:tank", shape.members, now(0), || {
        random.random()
    });
    options.layout = shape.layout;
    options.copies = shape.copies;
    options.chunk = CHUNK;
    options.consistency = Consistency::Bitmap;
    options.bitmap_chunk = Some(64 << 10);
    options
}

/// Disks that can be made to fail, and the array over them.
pub(crate) struct Rig {
    pub(crate) executor: Executor,
    pub(crate) disks: Vec<Arc<MemoryDevice>>,
    pub(crate) faults: Vec<Faults>,
    pub(crate) members: Vec<MemberDevice>,
}

impl Rig {
    pub(crate) fn new(seed: u64, disks: usize) -> Self {
        let mut rig = Self {
            executor: Executor::new(seed),
            disks: Vec::new(),
            faults: Vec::new(),
            members: Vec::new(),
        };
        for _ in 0..disks {
            rig.add_disk(2 * MIB);
        }
        rig
    }

    pub(crate) fn add_disk(&mut self, size: u64) {
        let disk = Arc::new(MemoryDevice::with_info(Info::new(size, 512)));
        let number = self.disks.len();
        let faulty = Faulty::new(disk.clone() as Arc<dyn BlockDevice>, number as u64);
        self.faults.push(faulty.faults());
        self.disks.push(disk);
        self.members.push(MemberDevice {
            path: format!("disk{number}"),
            device: Arc::new(faulty),
        });
    }

    pub(crate) fn create(&self, options: &CreateOptions) -> Array {
        let members = self.members[..options.member_uuids.len()].to_vec();
        self.run(create(options, members, &self.executor.spawner()))
            .expect("the array is made")
    }

    pub(crate) fn assemble(&self, members: &[usize]) -> Result<Array> {
        self.assemble_with(members, false)
    }

    pub(crate) fn assemble_with(&self, members: &[usize], force: bool) -> Result<Array> {
        let chosen = members
            .iter()
            .map(|&index| self.members[index].clone())
            .collect();
        let options = AssembleOptions {
            name: None,
            force,
            now: now(100),
        };
        self.run(assemble(chosen, &options, &self.executor.spawner()))
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.executor.block_on(future)
    }

    pub(crate) fn stop(&self, array: &Array) {
        self.run(array.stop(&self.executor.spawner()))
            .expect("it stops");
    }

    pub(crate) fn tick(&self, array: &Array) {
        self.run(array.tick(now(200), &self.executor.spawner()))
            .expect("it ticks");
    }

    /// Makes the array whole.
    pub(crate) fn sync(&self, array: &Array) -> Result<u32> {
        sync(&self.executor, array)
    }

    pub(crate) fn write(&self, array: &Array, offset: u64, data: &[u8]) -> Result<()> {
        let queue = array.open(&self.executor.spawner())?;
        let request = Request::write(offset, IoVec::copy_of(data));
        self.run(queue.submit(request)).result
    }

    pub(crate) fn read(&self, array: &Array, offset: u64, len: usize) -> Result<Vec<u8>> {
        let queue = array.open(&self.executor.spawner())?;
        let completion = self.run(queue.submit(Request::read(offset, IoVec::zeroed(len))));
        completion.result?;
        Ok(completion.buffer.into_buffer().to_vec())
    }

    /// What disk `index` says.
    pub(crate) fn superblock(&self, index: usize) -> Superblock {
        let bytes = self.disks[index].peek(SUPER_BYTE, SUPER_BYTES);
        Superblock::parse(&bytes, self.disks[index].info().size / SECTOR).expect("a superblock")
    }

    /// The bytes at the start of the data of member `index`.
    pub(crate) fn member_data(&self, index: usize, offset: u64, len: usize) -> Vec<u8> {
        let start = crate::fields::le64(&self.disks[index].peek(4096, 512), 128) * SECTOR;
        self.disks[index].peek(start + offset, len)
    }

    /// Changes bytes of member `index` behind the array's back.
    pub(crate) fn poke(&self, index: usize, offset: u64, bytes: &[u8]) {
        let start = crate::fields::le64(&self.disks[index].peek(4096, 512), 128) * SECTOR;
        self.disks[index].poke(start + offset, bytes);
    }

    /// Whether every row's parities are those of its data, or all legs are equal.
    pub(crate) fn is_consistent(&self, array: &Array, members: &[usize]) -> bool {
        let size = array.geometry().member_size() as usize;
        let data: Vec<Vec<u8>> = members
            .iter()
            .map(|&index| self.member_data(index, 0, size))
            .collect();
        match array.geometry().level() {
            Level::Raid0 => true,
            Level::Raid1 | Level::Raid10 => copies_agree(array, &data),
            _ => parity_agrees(array, &data),
        }
    }
}

/// Whether every byte of the array is the same wherever it is; `members` is what each slot holds.
pub(crate) fn copies_agree(array: &Array, members: &[Vec<u8>]) -> bool {
    let geometry = array.geometry();
    (0..geometry.size()).step_by(512).all(|at| {
        let sector =
            |place: &geometry::Place| &members[place.slot as usize][place.offset as usize..][..512];
        let places = geometry.places(at);
        places
            .iter()
            .all(|place| sector(place) == sector(&places[0]))
    })
}

/// Whether every row's parities are those of its data; `members` is what each slot holds.
pub(crate) fn parity_agrees(array: &Array, members: &[Vec<u8>]) -> bool {
    let geometry = array.geometry();
    let geometry::Shape::Parity(rows) = geometry.shape() else {
        panic!("a level with parity")
    };
    (0..rows.rows()).all(|row| {
        let start = (row * rows.chunk()) as usize;
        let place = start..start + rows.chunk() as usize;
        let block = |slot: u32| &members[slot as usize][place.clone()];
        let is_sum = |parity: u32, factor: &dyn Fn(u32) -> u8| {
            let data = (0..rows.data()).map(|index| rows.data_slot(row, index));
            let terms: Vec<(u8, &[u8])> = data.map(|slot| (factor(slot), block(slot))).collect();
            let mut sum = vec![0; place.len()];
            scalar::sum(&mut sum, &terms);
            sum == block(parity)
        };
        let power = |slot: u32| field::power(rows.power(row, slot));
        is_sum(rows.parity_slot(row), &|_| 1) && rows.q_slot(row).is_none_or(|q| is_sum(q, &power))
    })
}

/// Makes the array whole; how many steps it took.
pub(crate) fn sync(executor: &Executor, array: &Array) -> Result<u32> {
    let syncer = array.syncer(&executor.spawner())?;
    executor.block_on(async {
        let mut steps = 0;
        loop {
            if syncer.step(128 << 10).await?.is_idle() {
                return Ok(steps);
            }
            steps += 1;
            assert!(steps < 3000, "the sync never ends");
        }
    })
}

pub(crate) fn states(status: &Status) -> Vec<(Option<&str>, MemberState)> {
    let members = status.members.iter();
    members
        .map(|member| (member.path.as_deref(), member.state))
        .collect()
}

/// Bytes that tell where they are from.
pub(crate) fn pattern(len: usize, salt: u64) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(salt);
    let mut bytes = vec![0; len];
    random.fill_bytes(&mut bytes);
    bytes
}
