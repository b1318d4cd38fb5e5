//! Our side: arrays over files, and what they are to hold.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use weft_block::{BlockDevice, IoVec, Request, Spawner};
use weft_raid::level::Level;
use weft_raid::superblock::Timestamp;
use weft_raid::{
    Array, ArrayState, AssembleOptions, CreateOptions, MemberDevice, SyncAction, assemble, create,
};
use weft_tests::data::{Sequence, bytes};
use weft_uring::{FileDevice, OpenOptions};

pub(crate) const MIB: usize = 1 << 20;

/// Bytes of every array that carry the test's data, from its start on.
pub(crate) const DATA: usize = 24 * MIB;

pub(crate) fn told(error: weft_block::Error) -> anyhow::Error {
    anyhow!(error.sentence())
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::new(since.map_or(0, |since| since.as_secs()), 0)
}

fn random() -> [u8; 16] {
    let seed = std::collections::hash_map::RandomState::new();
    let drawn = bytes(std::hash::BuildHasher::hash_one(&seed, 0), 16);
    drawn.try_into().expect("sixteen bytes were drawn")
}

pub(crate) fn member(path: &Path) -> Result<MemberDevice> {
    let device = FileDevice::open(path, &OpenOptions::default()).map_err(told)?;
    Ok(MemberDevice {
        path: path.display().to_string(),
        device: Arc::new(device),
    })
}

fn members(paths: &[PathBuf]) -> Result<Vec<MemberDevice>> {
    paths.iter().map(|path| member(path)).collect()
}

/// Makes an array of the files, does `action` with it, and stops it.
pub(crate) fn with_new(
    level: Level,
    paths: &[PathBuf],
    action: impl AsyncFnOnce(&Array, &Spawner) -> Result<()>,
) -> Result<()> {
    let options = CreateOptions::new(level, "weft:judged", paths.len(), now(), random);
    weft_uring::block_on(async {
        let spawner = weft_uring::spawner();
        let array = create(&options, members(paths)?, &spawner).await;
        let array = array.map_err(told)?;
        action(&array, &spawner).await?;
        array.stop(&spawner).await.map_err(told)
    })
}

/// Assembles the files, does `action` with the array, and stops it.
pub(crate) fn with_old(
    paths: &[PathBuf],
    action: impl AsyncFnOnce(&Array, &Spawner) -> Result<()>,
) -> Result<()> {
    weft_uring::block_on(async {
        let spawner = weft_uring::spawner();
        let options = AssembleOptions {
            now: now(),
            ..AssembleOptions::default()
        };
        let array = assemble(members(paths)?, &options, &spawner).await;
        let array = array.map_err(told)?;
        action(&array, &spawner).await?;
        array.stop(&spawner).await.map_err(told)
    })
}

/// Drives resync and rebuild until nothing is left to do.
pub(crate) async fn make_whole(array: &Array, spawner: &Spawner) -> Result<()> {
    let syncer = array.syncer(spawner).map_err(told)?;
    while syncer.step(4 << 20).await.map_err(told)?.action != SyncAction::Idle {}
    Ok(())
}

pub(crate) fn state_is(array: &Array, state: ArrayState) -> Result<()> {
    let status = array.status();
    ensure!(
        status.state == state,
        "the array is not {}: {status:?}",
        state.name()
    );
    Ok(())
}

/// Fails a member by its file, as the file of a dead disk is: gone from the array, its contents stale.
pub(crate) async fn fail(array: &Array, path: &Path, spawner: &Spawner) -> Result<()> {
    let path = path.display().to_string();
    array.fail(&path, spawner).await.map_err(told)
}

/// What an array must hold.
pub(crate) struct Image(pub(crate) Vec<u8>);

impl Image {
    /// Random bytes.
    pub(crate) fn new(seed: u64) -> Self {
        Self(bytes(seed, DATA))
    }

    /// Writes all of it.
    pub(crate) async fn write(&self, array: &Array, spawner: &Spawner) -> Result<()> {
        let queue = array.open(spawner).map_err(told)?;
        for (number, piece) in self.0.chunks(300 << 10).enumerate() {
            let at = (number * (300 << 10)) as u64;
            let done = queue
                .submit(Request::write(at, IoVec::copy_of(piece)))
                .await;
            done.result.map_err(told)?;
        }
        queue.submit(Request::flush()).await.result.map_err(told)
    }

    /// Changes it in `count` places of a few sectors, on the array and here.
    pub(crate) async fn change(
        &mut self,
        seed: u64,
        count: u64,
        array: &Array,
        spawner: &Spawner,
    ) -> Result<()> {
        let queue = array.open(spawner).map_err(told)?;
        let mut sequence = Sequence::new(seed);
        for _ in 0..count {
            let sectors = 1 + sequence.below(40);
            let at = sequence.below((DATA as u64 >> 9) - sectors) << 9;
            let new = bytes(sequence.draw(), (sectors << 9) as usize);
            self.0[at as usize..][..new.len()].copy_from_slice(&new);
            let done = queue.submit(Request::write(at, IoVec::copy_of(&new))).await;
            done.result.map_err(told)?;
        }
        queue.submit(Request::flush()).await.result.map_err(told)
    }

    /// Reads all of it back.
    pub(crate) async fn compare(&self, array: &Array, spawner: &Spawner) -> Result<()> {
        let queue = array.open(spawner).map_err(told)?;
        for (number, piece) in self.0.chunks(1 << 20).enumerate() {
            let at = number << 20;
            let done = queue
                .submit(Request::read(at as u64, IoVec::zeroed(piece.len())))
                .await;
            done.result.map_err(told)?;
            let read = done.buffer.to_buffer();
            let differs = read
                .iter()
                .zip(piece)
                .position(|(own, wanted)| own != wanted);
            ensure!(
                differs.is_none(),
                "byte {} differs",
                at + differs.unwrap_or(0)
            );
        }
        Ok(())
    }

    /// The image as a file, to be written or compared by others.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        std::fs::write(path, &self.0).with_context(|| format!("writing {}", path.display()))
    }
}
