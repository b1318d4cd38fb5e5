//! What the tests of groups share: simulated disks, a host, and short ways to open things.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, Spawner};
use weft_lvm::{Disk, Found, Group, GroupOptions, Host, Scan, scan};
use weft_sim::{Executor, MemoryDevice};

pub(crate) const MIB: u64 = 1 << 20;

/// A host whose clock counts and whose randomness follows from a seed.
pub(crate) struct TestHost {
    time: AtomicU64,
    random: Mutex<ChaCha8Rng>,
}

pub(crate) fn host(seed: u64) -> Arc<dyn Host> {
    Arc::new(TestHost {
        time: AtomicU64::new(1_700_000_000),
        random: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
    })
}

impl Host for TestHost {
    fn name(&self) -> String {
        "testhost".into()
    }

    fn unix_time(&self) -> u64 {
        self.time.fetch_add(1, Ordering::Relaxed)
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut random = self.random.lock().expect("no test panics while it draws");
        random.fill_bytes(bytes);
    }
}

pub(crate) fn disk(name: &str, device: impl BlockDevice + 'static) -> Disk {
    Disk {
        name: name.into(),
        device: Arc::new(device),
    }
}

/// Disks in memory of so many MiB each, named disk0, disk1, …
pub(crate) struct Rig {
    pub(crate) executor: Executor,
    pub(crate) memory: Vec<MemoryDevice>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) host: Arc<dyn Host>,
}

impl Rig {
    pub(crate) fn new(sizes: &[u64]) -> Self {
        let memory: Vec<MemoryDevice> = sizes
            .iter()
            .map(|size| MemoryDevice::new(size * MIB))
            .collect();
        let disks = memory
            .iter()
            .enumerate()
            .map(|(number, memory)| disk(&format!("disk{number}"), memory.clone()))
            .collect();
        Self {
            executor: Executor::new(1),
            memory,
            disks,
            host: host(1),
        }
    }

    pub(crate) fn spawner(&self) -> Spawner {
        self.executor.spawner()
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.executor.block_on(future)
    }

    /// A group of all disks with 1 MiB extents.
    pub(crate) fn create(&self) -> Group {
        let host = Arc::clone(&self.host);
        let spawner = self.spawner();
        let options = options();
        let group = Group::create("tank", &self.disks, &options, host, &spawner);
        self.run(group).expect("the group is made")
    }

    pub(crate) fn scan(&self) -> Scan {
        self.run(scan(&self.disks, &self.spawner()))
    }

    pub(crate) fn found(&self) -> Found {
        self.scan().take("tank").expect("the group is found")
    }

    pub(crate) fn open(&self) -> Group {
        let host = Arc::clone(&self.host);
        self.run(Group::open(self.found(), host, &self.spawner()))
            .expect("the group opens")
    }
}

pub(crate) fn options() -> GroupOptions {
    GroupOptions {
        extent_size: MIB,
        ..GroupOptions::default()
    }
}
