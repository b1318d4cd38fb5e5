//! Discard, write-zeroes, extents and flushes.

use weft_block::{ExtentKind, IoVec, Op, Request};

use super::{Subject, pattern};

pub(super) async fn zeroes_read_as_zeroes(subject: &Subject) {
    for (unmap, fua) in [(false, false), (true, false), (false, true), (true, true)] {
        for (start, blocks) in [(1, 1), (3, 40), (8, 64)] {
            let request = |offset, len| Request {
                op: Op::WriteZeroes { unmap, fua },
                ..Request::discard(offset, len)
            };
            let (before, after) = change(subject, start, blocks, request).await;
            let (offset, end) = inside(subject, start, blocks);
            assert!(
                after[offset..end].iter().all(|&byte| byte == 0),
                "a zeroed range reads as zeroes (unmap {unmap}, fua {fua})"
            );
            assert!(
                after[..offset] == before[..offset] && after[end..] == before[end..],
                "write-zeroes leaves its neighbours alone"
            );
        }
    }
}

pub(super) async fn discards_keep_the_neighbours(subject: &Subject) {
    for (start, blocks) in [(1, 1), (3, 40), (8, 64)] {
        let (before, after) = change(subject, start, blocks, Request::discard).await;
        let (offset, end) = inside(subject, start, blocks);
        assert!(
            after[..offset] == before[..offset] && after[end..] == before[end..],
            "discard leaves its neighbours alone"
        );
        let block = subject.block as usize;
        let mut gone = after[offset..end]
            .chunks(block)
            .zip(before[offset..end].chunks(block));
        assert!(
            gone.all(|(new, old)| new == old || new.iter().all(|&byte| byte == 0)),
            "a discarded block reads as its old value or as zeroes"
        );
    }
    let bytes = pattern(71, subject.block as usize);
    subject.expect(Request::discard(0, subject.block)).await;
    subject.write(0, &bytes).await;
    let read = subject.read(0, bytes.len()).await;
    assert!(read == bytes, "a discarded block takes new data");
}

pub(super) async fn extents_are_in_order(subject: &Subject) {
    let half = (subject.size / 2).next_multiple_of(subject.block);
    subject.write(0, &pattern(80, subject.block as usize)).await;
    subject
        .expect(Request::write_zeroes(half, subject.size - half, true))
        .await;
    let mut at = 0;
    while at < subject.size {
        let asked = subject.size - at;
        let extents = match subject.queue(0).extents(at, asked).await {
            Ok(extents) => extents,
            Err(error) => panic!("extents at {at}: {}", error.sentence()),
        };
        assert!(!extents.is_empty(), "at least one extent at {at}");
        let begin = at;
        for extent in extents {
            assert_eq!(extent.offset, at, "extents have no gap");
            assert!(extent.len > 0, "an extent is not empty");
            at += extent.len;
            if extent.kind != ExtentKind::Data {
                let bytes = subject.read(extent.offset, extent.len as usize).await;
                assert!(
                    bytes.iter().all(|&byte| byte == 0),
                    "{extent:?} reads as zeroes"
                );
            }
        }
        assert!(at <= begin + asked, "extents stay in the range asked for");
    }
    let first = subject.queue(0).extents(0, subject.block).await;
    let first = first.expect("the first block has an extent");
    assert_eq!(first[0].kind, ExtentKind::Data, "a written block is data");
}

pub(super) async fn flushes_succeed(subject: &Subject) {
    subject.expect(Request::flush()).await;
    let block = subject.block as usize;
    let bytes = pattern(90, block);
    let mixed = (0..24_usize).map(|number| {
        let request = match number % 3 {
            0 => Request::flush(),
            1 => Request::write((number * block) as u64, IoVec::copy_of(&bytes)),
            _ => Request::write_fua((number * block) as u64, IoVec::copy_of(&bytes)),
        };
        subject.expect_on(number, request)
    });
    futures_util::future::join_all(mixed).await;
    for number in (0..24_usize).filter(|number| number % 3 != 0) {
        let read = subject.read((number * block) as u64, block).await;
        assert!(read == bytes, "a write beside flushes holds");
    }
}

/// Fills a region, applies a request to `blocks` blocks from `start` on, and gives the region before and after.
async fn change(
    subject: &Subject,
    start: u64,
    blocks: u64,
    request: impl Fn(u64, u64) -> Request,
) -> (Vec<u8>, Vec<u8>) {
    let block = subject.block;
    let blocks = blocks.min(subject.size / block - start - 1);
    let len = ((start + blocks + 1) * block) as usize;
    let before = pattern(start ^ blocks, len);
    subject.write(0, &before).await;
    subject.expect(request(start * block, blocks * block)).await;
    (before, subject.read(0, len).await)
}

/// The bytes of the region that `change` changes.
fn inside(subject: &Subject, start: u64, blocks: u64) -> (usize, usize) {
    let blocks = blocks.min(subject.size / subject.block - start - 1);
    let end = (start + blocks) * subject.block;
    ((start * subject.block) as usize, end as usize)
}
