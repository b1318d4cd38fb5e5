//! Our side.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use weft_block::{BlockDevice, IoVec, Request, Spawner};
use weft_lvm::{Disk, Group, GroupOptions, Host, scan};
use weft_tests::data::{Sequence, bytes};
use weft_uring::{FileDevice, OpenOptions};

pub(crate) const MIB: u64 = 1 << 20;

struct TestHost;

impl Host for TestHost {
    fn name(&self) -> String {
        "weft-test".into()
    }

    fn unix_time(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |since| since.as_secs())
    }

    fn random(&self, bytes: &mut [u8]) {
        let seed = std::collections::hash_map::RandomState::new();
        let mut sequence = Sequence::new(std::hash::BuildHasher::hash_one(&seed, 0));
        bytes.fill_with(|| sequence.draw() as u8);
    }
}

/// Disk files, locked while this lives.
pub(crate) struct Ours {
    disks: Vec<Disk>,
}

fn told(error: weft_block::Error) -> anyhow::Error {
    anyhow!(error.sentence())
}

impl Ours {
    pub(crate) fn new(paths: &[PathBuf]) -> Result<Self> {
        let disk = |(number, path): (usize, &PathBuf)| {
            let device = FileDevice::open(path, &OpenOptions::default()).map_err(told)?;
            Ok(Disk {
                name: format!("disk{number}"),
                device: Arc::new(device),
            })
        };
        let disks = paths.iter().enumerate().map(disk).collect::<Result<_>>()?;
        Ok(Self { disks })
    }

    /// Makes a group of all the disks with extents of 1 MiB.
    pub(crate) fn create(&self, name: &str) -> Result<()> {
        let options = GroupOptions {
            extent_size: MIB,
            ..GroupOptions::default()
        };
        weft_uring::block_on(async {
            let spawner = weft_uring::spawner();
            let host = Arc::new(TestHost);
            Group::create(name, &self.disks, &options, host, &spawner).await
        })
        .map_err(told)?;
        Ok(())
    }

    /// Opens the only group for writing and changes it.
    pub(crate) fn change(
        &self,
        action: impl AsyncFnOnce(&mut Group, &Spawner) -> weft_block::Result<()>,
    ) -> Result<()> {
        weft_uring::block_on(async {
            let spawner = weft_uring::spawner();
            let mut found = scan(&self.disks, &spawner).await;
            let group = found
                .groups
                .pop()
                .ok_or_else(|| anyhow!("{:?}", found.problems))?;
            assert_eq!(group.problems(), Vec::<String>::new());
            let opened = Group::open(group, Arc::new(TestHost), &spawner).await;
            let mut group = opened.map_err(told)?;
            action(&mut group, &spawner).await.map_err(told)
        })
    }

    /// Opens a group for reading and looks at it.
    pub(crate) fn read<T>(&self, name: &str, look: impl FnOnce(&mut Group) -> T) -> Result<T> {
        weft_uring::block_on(async {
            let mut found = scan(&self.disks, &weft_uring::spawner()).await;
            let group = found.take(name).map_err(told)?;
            let opened = Group::open_read_only(group, Arc::new(TestHost));
            Ok(look(&mut opened.map_err(told)?))
        })
    }

    /// How many physical volumes have no group.
    pub(crate) fn unused(&self) -> Result<usize> {
        let scan = weft_uring::block_on(async { scan(&self.disks, &weft_uring::spawner()).await });
        Ok(scan
            .unused
            .iter()
            .filter(|volume| !volume.marked_used)
            .count())
    }

    /// Fills a volume with bytes that can be told from all others, and gives them.
    pub(crate) fn fill(&self, group: &str, volume: &str) -> Result<Vec<u8>> {
        let device = self
            .read(group, |group| group.volume(volume))?
            .map_err(told)?;
        let content = bytes(volume.len() as u64, device.info().size as usize);
        weft_uring::block_on(async {
            let queue = device.open(&weft_uring::spawner())?;
            for (index, part) in content.chunks(MIB as usize).enumerate() {
                let write = Request::write(index as u64 * MIB, IoVec::copy_of(part));
                queue.submit(write).await.result?;
            }
            queue.submit(Request::flush()).await.result
        })
        .map_err(told)?;
        Ok(content)
    }

    /// What a volume holds.
    pub(crate) fn contents(&self, group: &str, volume: &str) -> Result<Vec<u8>> {
        let device = self
            .read(group, |group| group.volume(volume))?
            .map_err(told)?;
        weft_uring::block_on(async {
            let queue = device.open(&weft_uring::spawner())?;
            let len = device.info().size as usize;
            let completion = queue.submit(Request::read(0, IoVec::zeroed(len))).await;
            completion
                .result
                .map(|()| completion.buffer.to_buffer().to_vec())
        })
        .map_err(told)
    }
}
