//! Reads give what writes put.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{IoVec, Request};

use super::{Subject, pattern};

/// Reads after which a write whose future was dropped must have been seen.
const PATIENCE: usize = 100_000;

/// Random writes over all queues, each read back over another, against a twin in memory.
pub(super) async fn reads_see_writes(subject: &Subject) {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let size = subject.size.min(1 << 20);
    let mut twin = pattern(20, size as usize);
    subject.write(0, &twin).await;
    for turn in 0..200 {
        let blocks = size / subject.block;
        let start = random.random_range(0..blocks);
        let len = random.random_range(1..=(blocks - start).min(40));
        let (offset, len) = (start * subject.block, (len * subject.block) as usize);
        let place = offset as usize..offset as usize + len;
        if random.random() {
            let bytes = pattern(1000 + turn as u64, len);
            twin[place.clone()].copy_from_slice(&bytes);
            let buffer = IoVec::copy_of(&bytes);
            let request = match random.random() {
                true => Request::write(offset, buffer),
                false => Request::write_fua(offset, buffer),
            };
            subject.expect_on(turn, request).await;
        }
        let buffer = IoVec::zeroed(len);
        let read = subject
            .expect_on(turn + 1, Request::read(offset, buffer))
            .await;
        assert!(
            *read.to_buffer() == twin[place],
            "{len} bytes at {offset} are those of the twin in turn {turn}"
        );
    }
    let whole = subject.read(0, size as usize).await;
    assert!(whole == twin, "the whole region is the twin's");
}

/// Memory that starts anywhere and comes in odd pieces.
pub(super) async fn any_memory_will_do(subject: &Subject) {
    let len = 4 * subject.block as usize;
    let bytes = pattern(30, len);
    for (lead, cut) in [(1, 1), (3, 513), (512, 512), (0, len - 1), (7, 1025)] {
        let mut buffer = odd(lead, cut, len);
        buffer.copy_in(0, &bytes);
        let offset = subject.block;
        subject.expect(Request::write(offset, buffer)).await;
        let read = subject
            .expect(Request::read(offset, odd(cut, len - cut, len)))
            .await;
        assert!(
            *read.to_buffer() == bytes[..],
            "memory in pieces of {cut} from {lead} on is used right"
        );
        subject.write(offset, &vec![0; len]).await;
    }
}

/// Two pieces of memory that start `lead` bytes into their buffers, the first of `cut` bytes.
fn odd(lead: usize, cut: usize, len: usize) -> IoVec {
    let first = IoVec::zeroed(lead + cut).slice(lead, cut);
    let second = IoVec::zeroed(lead + len - cut).slice(lead, len - cut);
    IoVec::join([first, second])
}

pub(super) async fn large_requests_work(subject: &Subject) {
    let len = subject.size as usize;
    let bytes = pattern(40, len);
    subject.write(0, &bytes).await;
    let read = subject.read(0, len).await;
    assert!(read == bytes, "{len} bytes in one request hold");
}

/// Requests of several queues in flight together, each on blocks of its own.
pub(super) async fn many_in_flight(subject: &Subject) {
    let block = subject.block;
    let count = (subject.size / block).min(64);
    let bytes = |number: u64| pattern(5000 + number, block as usize);
    let writes = (0..count).map(|number| {
        let request = Request::write(number * block, IoVec::copy_of(&bytes(number)));
        subject.expect_on(number as usize, request)
    });
    futures_util::future::join_all(writes).await;
    let reads = (0..count).map(|number| {
        let request = Request::read(number * block, IoVec::zeroed(block as usize));
        subject.expect_on(number as usize + 1, request)
    });
    let read = futures_util::future::join_all(reads).await;
    for (number, buffer) in read.into_iter().enumerate() {
        assert!(
            *buffer.to_buffer() == bytes(number as u64),
            "block {number} of many in flight holds its own bytes"
        );
    }
}

/// Whoever drops the future of a write has not cancelled it.
pub(super) async fn dropped_writes_are_done(subject: &Subject) {
    let block = subject.block as usize;
    let bytes = pattern(60, block);
    subject.write(0, &vec![0; block]).await;
    drop(
        subject
            .queue(0)
            .submit(Request::write(0, IoVec::copy_of(&bytes))),
    );
    for _ in 0..PATIENCE {
        if subject.read(0, block).await == bytes {
            return;
        }
        crate::yield_now().await;
    }
    panic!("a write whose future was dropped is never done");
}
