//! A file that grows: what a power cut leaves of its size.

use std::collections::BTreeSet;

use weft_block::{BlockDevice, Info, IoVec, Request};
use weft_sim::{Executor, PowerCut, PowerSupply, for_each_seed};

const SIZE: u64 = 4096;

/// Grows a disk, writes behind its old end, flushes if told so, cuts the power; the size and the byte after that.
fn grown_and_cut(seed: u64, flush: bool) -> (u64, Option<u8>) {
    let executor = Executor::new(seed);
    let supply = PowerSupply::new(seed);
    supply.set_tearing(false);
    let disk = PowerCut::new(&supply, Info::new(SIZE, 512));
    executor.block_on(async {
        let queue = disk.open(&executor.spawner()).expect("the disk runs");
        disk.set_len(2 * SIZE).expect("the disk runs");
        let write = Request::write(SIZE, IoVec::copy_of(&[7; 512]));
        queue.submit(write).await.result.expect("the disk runs");
        if flush {
            queue
                .submit(Request::flush())
                .await
                .result
                .expect("the disk runs");
        }
    });
    supply.power_on();
    let size = disk.info().size;
    (size, (size > SIZE).then(|| disk.peek(SIZE, 1)[0]))
}

#[test]
fn growth_is_durable_after_a_flush_and_by_chance_before() {
    let mut seen = BTreeSet::new();
    for_each_seed(64, |seed| {
        seen.insert(grown_and_cut(seed, false));
        assert_eq!(grown_and_cut(seed, true), (2 * SIZE, Some(7)));
    });
    let all = [(SIZE, None), (2 * SIZE, Some(0)), (2 * SIZE, Some(7))];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn what_was_cut_off_reads_as_zeroes_when_it_is_back() {
    let executor = Executor::new(1);
    let disk = PowerCut::new(&PowerSupply::new(1), Info::new(SIZE, 512));
    executor.block_on(async {
        let queue = disk.open(&executor.spawner()).unwrap();
        let write = Request::write(SIZE - 512, IoVec::copy_of(&[7; 512]));
        queue.submit(write).await.result.unwrap();
        disk.set_len(SIZE / 2).unwrap();
        disk.set_len(SIZE).unwrap();
        let read = Request::read(SIZE - 512, IoVec::zeroed(512));
        let answer = queue.submit(read).await;
        assert_eq!(answer.buffer.to_buffer()[..], [0; 512]);
        assert!(disk.set_len(SIZE + 1).is_err());
    });
}
