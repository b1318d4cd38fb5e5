//! The edges of the device and of requests.

use weft_block::{ErrorKind, IoVec, Request};

use super::{Subject, pattern};

pub(super) async fn bad_ranges_are_refused(subject: &Subject) {
    let (block, end) = (subject.block, subject.device.info().size);
    let before = pattern(1, block as usize);
    subject.write(end - block, &before).await;
    let beyond = [
        (end, block),
        (end - block, 2 * block),
        (u64::MAX - block + 1, block),
        (u64::MAX - block + 1, 2 * block),
    ];
    for (offset, len) in beyond {
        refused(subject, offset, len, ErrorKind::OutOfRange).await;
    }
    for (offset, len) in [(1, block), (0, block - 1), (block / 2, block), (0, 1)] {
        refused(subject, offset, len, ErrorKind::Misaligned).await;
    }
    let after = subject.read(end - block, block as usize).await;
    assert!(after == before, "a refused request touches nothing");
}

async fn refused(subject: &Subject, offset: u64, len: u64, kind: ErrorKind) {
    let memory = || IoVec::zeroed(len as usize);
    for request in [
        Request::read(offset, memory()),
        Request::write(offset, memory()),
        Request::write_fua(offset, memory()),
        Request::discard(offset, len),
        Request::write_zeroes(offset, len, true),
    ] {
        subject.expect_error(request, kind).await;
    }
}

pub(super) async fn empty_ranges_succeed(subject: &Subject) {
    for offset in [0, subject.block, subject.device.info().size] {
        for request in [
            Request::read(offset, IoVec::empty()),
            Request::write(offset, IoVec::empty()),
            Request::write_fua(offset, IoVec::empty()),
            Request::discard(offset, 0),
            Request::write_zeroes(offset, 0, false),
        ] {
            subject.expect(request).await;
        }
    }
}

pub(super) async fn first_and_last_block_hold_data(subject: &Subject) {
    let (block, end) = (subject.block, subject.device.info().size);
    for (salt, offset) in [
        (10, 0),
        (11, block),
        (12, end - block),
        (13, end - 2 * block),
    ] {
        let bytes = pattern(salt, block as usize);
        subject.write(offset, &bytes).await;
        let read = subject.read(offset, block as usize).await;
        assert!(
            read == bytes,
            "the block at {offset} holds what was written"
        );
    }
}
