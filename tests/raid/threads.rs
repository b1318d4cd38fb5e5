//! One array, several threads: neighbours in one row are written from different shards while a member fails and its
//! replacement is rebuilt.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use weft_block::{BlockDevice, IoVec, Request};
use weft_raid::level::Level;
use weft_raid::superblock::Timestamp;
use weft_raid::{
    Array, ArrayState, AssembleOptions, Consistency, CreateOptions, MemberDevice, assemble, create,
};
use weft_tests::data::{Sequence, bytes};
use weft_tests::{sparse_file, temp_dir};
use weft_uring::{FileDevice, OpenOptions, Shard, block_on, spawner};

const MIB: u64 = 1 << 20;
const SHARDS: u64 = 3;
const BLOCKS: u64 = 1024;
const BLOCK: usize = 4096;

fn told(error: weft_block::Error) -> anyhow::Error {
    anyhow!(error.sentence())
}

fn member(path: &Path) -> Result<MemberDevice> {
    let device = FileDevice::open(path, &OpenOptions::default()).map_err(told)?;
    Ok(MemberDevice {
        path: path.display().to_string(),
        device: Arc::new(device),
    })
}

/// Writes this shard's blocks, four at a time, in an order of its own.
async fn write_every_third(array: Array, shard: u64, round: u64) -> Result<()> {
    let queue = array.open(&spawner()).map_err(told)?;
    let mut order: Vec<u64> = (0..BLOCKS)
        .filter(|block| block % SHARDS == shard)
        .collect();
    let mut sequence = Sequence::new(shard);
    order.sort_by_cached_key(|_| sequence.draw());
    for blocks in order.chunks(4) {
        let writes = blocks.iter().map(|&block| {
            let data = IoVec::copy_of(&bytes(round * BLOCKS + block, BLOCK));
            queue.submit(Request::write(block * BLOCK as u64, data))
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.result.map_err(told)?;
        }
    }
    queue.submit(Request::flush()).await.result.map_err(told)
}

/// Fails the first member, puts the last file in its place, and rebuilds it.
async fn exchange(array: Array, old: PathBuf, new: PathBuf) -> Result<()> {
    let spawner = spawner();
    let old = old.display().to_string();
    array.fail(&old, &spawner).await.map_err(told)?;
    array.remove(&old, &spawner).await.map_err(told)?;
    array
        .add(member(&new)?, [7; 16], &spawner)
        .await
        .map_err(told)?;
    let syncer = array.syncer(&spawner).map_err(told)?;
    while !syncer.step(256 << 10).await.map_err(told)?.is_idle() {}
    array.tick(Timestamp::EPOCH, &spawner).await.map_err(told)
}

async fn holds(array: &Array, round: u64) -> Result<()> {
    let queue = array.open(&spawner()).map_err(told)?;
    let whole = IoVec::zeroed(BLOCKS as usize * BLOCK);
    let completion = queue.submit(Request::read(0, whole)).await;
    completion.result.map_err(told)?;
    let read = completion.buffer.to_buffer();
    for (block, data) in (0..).zip(read.chunks(BLOCK)) {
        let expected = bytes(round * BLOCKS + block, BLOCK);
        ensure!(data == expected, "block {block} of round {round} is wrong");
    }
    Ok(())
}

fn survives(level: Level, policy: Consistency) -> Result<()> {
    let folder = temp_dir();
    let file = |number: u32| sparse_file(folder.path(), &format!("disk{number}"), 10 * MIB);
    let paths: Vec<PathBuf> = (0..5).map(file).collect();
    let journal = (policy == Consistency::Journal).then(|| file(5));
    let given = paths[..4].iter().chain(&journal);
    let members: Result<Vec<MemberDevice>> = given.map(|path| member(path)).collect();
    let members = members?;
    let mut sequence = Sequence::new(1);
    let mut random = || std::array::from_fn(|_| sequence.draw() as u8);
    let mut options = CreateOptions::new(
        level,
        "threads",
        members.len(),
        Timestamp::EPOCH,
        &mut random,
    );
    options.consistency = policy;
    options.chunk = 16 << 10;
    options.bitmap_chunk = Some(64 << 10);
    let array = block_on(async { create(&options, members, &spawner()).await }).map_err(told)?;
    let shards = (0..SHARDS)
        .map(|number| Shard::start(&format!("shard{number}")))
        .collect::<std::io::Result<Vec<Shard>>>()?;
    for round in 1..=2 {
        let mut waits = Vec::new();
        for (number, shard) in (0..).zip(&shards) {
            let array = array.clone();
            let work = move || write_every_third(array, number, round);
            waits.push(shard.handle().run(work));
        }
        if round == 2 {
            let (array, old, new) = (array.clone(), paths[0].clone(), paths[4].clone());
            waits.push(shards[0].handle().run(move || exchange(array, old, new)));
        }
        for wait in waits {
            block_on(wait)??;
        }
        block_on(holds(&array, round))?;
    }
    drop(shards);
    block_on(async { array.stop(&spawner()).await }).map_err(told)?;
    drop(array);
    block_on(async {
        let given = paths[1..].iter().chain(&journal);
        let members: Result<Vec<MemberDevice>> = given.map(|path| member(path)).collect();
        let options = AssembleOptions::default();
        let array = assemble(members?, &options, &spawner())
            .await
            .map_err(told)?;
        let status = array.status();
        ensure!(status.state == ArrayState::Clean, "{status:?}");
        holds(&array, 2).await?;
        // Without another member: parity was kept right all the while.
        let lost = paths[2].display().to_string();
        array.fail(&lost, &spawner()).await.map_err(told)?;
        holds(&array, 2).await
    })
}

#[test]
fn threads_share_a_parity_array() -> Result<()> {
    survives(Level::Raid5, Consistency::Ppl)
}

#[test]
fn threads_share_a_journal() -> Result<()> {
    survives(Level::Raid6, Consistency::Journal)
}

#[test]
fn threads_share_a_mirror() -> Result<()> {
    survives(Level::Raid1, Consistency::Bitmap)
}
