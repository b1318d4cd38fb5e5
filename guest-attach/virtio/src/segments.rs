//! Copies between scattered guest memory and our own.

use smallvec::SmallVec;
use weft_block::Segment;

/// Copies the first bytes of `segments` out; how many there were.
///
/// The segments come from a [`Chain`](crate::queue::Chain) whose memory the caller keeps.
pub(crate) fn copy_out(segments: &[Segment], into: &mut [u8]) -> usize {
    let mut done = 0;
    for segment in segments {
        let take = segment.len.min(into.len() - done);
        // SAFETY: the segment is mapped guest memory, `into` is ours and long enough.
        unsafe {
            std::ptr::copy_nonoverlapping(segment.start.as_ptr(), into[done..].as_mut_ptr(), take);
        }
        done += take;
        if done == into.len() {
            break;
        }
    }
    done
}

/// Copies `bytes` into the first bytes of `segments`; how many fitted.
pub(crate) fn copy_in(segments: &[Segment], bytes: &[u8]) -> usize {
    let mut done = 0;
    for segment in segments {
        let take = segment.len.min(bytes.len() - done);
        // SAFETY: as in `copy_out`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes[done..].as_ptr(), segment.start.as_ptr(), take);
        }
        done += take;
        if done == bytes.len() {
            break;
        }
    }
    done
}

/// The segments without their first `skip` and last `cut` bytes.
pub(crate) fn trimmed(segments: &[Segment], skip: u64, cut: u64) -> SmallVec<[Segment; 4]> {
    let total: u64 = segments.iter().map(|segment| segment.len as u64).sum();
    let mut left = total.saturating_sub(skip).saturating_sub(cut);
    let mut skip = skip;
    let mut kept = SmallVec::new();
    for segment in segments {
        if left == 0 {
            break;
        }
        let len = segment.len as u64;
        if skip >= len {
            skip -= len;
            continue;
        }
        let take = left.min(len - skip);
        kept.push(Segment {
            // SAFETY: `skip` lies inside the segment.
            start: unsafe { segment.start.add(skip as usize) },
            len: take as usize,
        });
        (skip, left) = (0, left - take);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    #[test]
    fn trims_and_copies_across_segments() {
        let mut parts = [*b"abcd", *b"efgh", *b"ijkl"];
        let segments: Vec<Segment> = parts
            .iter_mut()
            .map(|part| Segment {
                start: NonNull::from(&mut *part).cast(),
                len: 4,
            })
            .collect();
        let mut bytes = [0; 6];
        assert_eq!(copy_out(&trimmed(&segments, 3, 3), &mut bytes), 6);
        assert_eq!(&bytes, b"defghi");
        assert_eq!(copy_in(&trimmed(&segments, 5, 0), b"0123456789"), 7);
        assert!(trimmed(&segments, 12, 0).is_empty());
        assert!(trimmed(&segments, 8, 5).is_empty());
        assert_eq!(parts, [*b"abcd", *b"e012", *b"3456"]);
    }
}
