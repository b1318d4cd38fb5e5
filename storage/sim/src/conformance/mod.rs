//! What any block device must pass.
//!
//! The suite is plain async code: run [`check`] under the executor that the device needs, on a writable device of at
//! least [`MIN_SIZE`] bytes whose contents nobody misses. A device that breaks the contract makes it panic with a
//! sentence that says where.

mod data;
mod edges;
mod hints;

use std::sync::Arc;

use weft_block::{
    BUFFER_ALIGNMENT, BlockDevice, BlockQueue, Completion, ErrorKind, IoVec, Request, Spawner,
};

/// Bytes that a device under test must have.
pub const MIN_SIZE: u64 = 256 * 1024;

/// A device under test, with as many queues as the suite uses.
struct Subject {
    device: Arc<dyn BlockDevice>,
    queues: Vec<Box<dyn BlockQueue>>,
    /// Bytes of the device that the suite writes.
    size: u64,
    block: u64,
}

/// Puts `device` through the whole suite.
///
/// # Panics
/// Where the device breaks the contract.
pub async fn check(device: Arc<dyn BlockDevice>, spawner: &Spawner) {
    info_is_sane(&*device);
    let subject = Subject::new(device, spawner);
    edges::bad_ranges_are_refused(&subject).await;
    edges::empty_ranges_succeed(&subject).await;
    edges::first_and_last_block_hold_data(&subject).await;
    data::reads_see_writes(&subject).await;
    data::any_memory_will_do(&subject).await;
    data::large_requests_work(&subject).await;
    data::many_in_flight(&subject).await;
    data::dropped_writes_are_done(&subject).await;
    hints::zeroes_read_as_zeroes(&subject).await;
    hints::discards_keep_the_neighbours(&subject).await;
    hints::extents_are_in_order(&subject).await;
    hints::flushes_succeed(&subject).await;
}

/// Puts a device that refuses writes through the part of the suite that fits.
///
/// # Panics
/// Where the device breaks the contract.
pub async fn check_read_only(device: Arc<dyn BlockDevice>, spawner: &Spawner) {
    info_is_sane(&*device);
    assert!(device.info().read_only, "the device is read-only");
    let subject = Subject::new(device, spawner);
    let block = subject.block;
    let buffer = IoVec::zeroed(block as usize);
    for request in [
        Request::write(0, buffer.clone()),
        Request::write_fua(0, buffer.clone()),
        Request::discard(0, block),
        Request::write_zeroes(0, block, true),
    ] {
        subject.expect_error(request, ErrorKind::ReadOnly).await;
    }
    subject.expect(Request::read(0, buffer)).await;
    subject.expect(Request::flush()).await;
}

fn info_is_sane(device: &dyn BlockDevice) {
    let info = device.info();
    assert!(
        info.logical_block.is_power_of_two() && info.logical_block >= 512,
        "the logical block is a power of two of at least 512: {info:?}"
    );
    assert!(
        info.size.is_multiple_of(u64::from(info.logical_block)),
        "the size is whole blocks: {info:?}"
    );
    assert!(info.physical_block >= info.logical_block, "{info:?}");
    assert!(
        info.memory_alignment.is_power_of_two()
            && info.memory_alignment as usize <= BUFFER_ALIGNMENT,
        "the memory alignment is one that a Buffer has: {info:?}"
    );
    assert!(info.size >= MIN_SIZE, "the suite needs {MIN_SIZE} bytes");
    assert!(device.max_queues() >= 1, "one queue can be opened");
}

impl Subject {
    fn new(device: Arc<dyn BlockDevice>, spawner: &Spawner) -> Self {
        let info = device.info();
        let queues = (0..device.max_queues().min(3))
            .map(|_| device.open(spawner).expect("a queue opens"))
            .collect();
        Self {
            device,
            queues,
            size: info.size.min(8 << 20),
            block: u64::from(info.logical_block),
        }
    }

    /// The queues in turn.
    fn queue(&self, number: usize) -> &dyn BlockQueue {
        &*self.queues[number % self.queues.len()]
    }

    /// Submits a request that must succeed.
    async fn expect(&self, request: Request) -> IoVec {
        self.expect_on(0, request).await
    }

    async fn expect_on(&self, number: usize, request: Request) -> IoVec {
        let (what, len) = (describe(&request), request.buffer.len());
        let completion = self.queue(number).submit(request).await;
        if let Err(error) = completion.result {
            panic!("{what} failed: {}", error.sentence());
        }
        assert_eq!(completion.buffer.len(), len, "{what} keeps its buffer");
        completion.buffer
    }

    /// Submits a request that must fail.
    async fn expect_error(&self, request: Request, kind: ErrorKind) {
        let (what, len) = (describe(&request), request.buffer.len());
        let Completion { result, buffer } = self.queue(0).submit(request).await;
        match result {
            Ok(()) => panic!("{what} succeeded where {} was due", kind.name()),
            Err(error) => assert_eq!(error.kind(), kind, "{what}: {}", error.sentence()),
        }
        assert_eq!(buffer.len(), len, "{what} gives its buffer back");
    }

    async fn write(&self, offset: u64, bytes: &[u8]) {
        self.expect(Request::write(offset, IoVec::copy_of(bytes)))
            .await;
    }

    async fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let buffer = IoVec::copy_of(&vec![0xa5; len]);
        let buffer = self.expect(Request::read(offset, buffer)).await;
        buffer.to_buffer().to_vec()
    }
}

fn describe(request: &Request) -> String {
    format!(
        "{:?} of {} bytes at {}",
        request.op, request.len, request.offset
    )
}

/// Bytes that differ from place to place and from one `salt` to the next.
fn pattern(salt: u64, len: usize) -> Vec<u8> {
    let mut word = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    });
    words.flatten().take(len).collect()
}
