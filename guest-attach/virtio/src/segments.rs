//! Copies between scattered guest memory and our own.

use weft_block::Segment;

/// Copies the first bytes of `segments` out; how many there were.
///
/// The segments come from a [`Chain`](crate::queue::Chain) whose memory the caller keeps.
pub(crate) fn copy_out(segments: impl IntoIterator<Item = Segment>, into: &mut [u8]) -> usize {
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
pub(crate) fn copy_in(segments: impl IntoIterator<Item = Segment>, bytes: &[u8]) -> usize {
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

/// `len` bytes of the segments, or as many as there are, without their first `skip`; none is empty.
pub(crate) fn part(segments: &[Segment], mut skip: u64, len: u64) -> impl Iterator<Item = Segment> {
    let mut left = len;
    segments.iter().filter_map(move |segment| {
        let len = segment.len as u64;
        if left == 0 || skip >= len {
            skip = skip.saturating_sub(len);
            return None;
        }
        let take = left.min(len - skip);
        // SAFETY: `skip` lies inside the segment.
        let start = unsafe { segment.start.add(skip as usize) };
        (skip, left) = (0, left - take);
        Some(Segment {
            start,
            len: take as usize,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    #[test]
    fn takes_parts_and_copies_across_segments() {
        let mut parts = [*b"abcd", *b"efgh", *b"ijkl"];
        let segments: Vec<Segment> = parts
            .iter_mut()
            .map(|part| Segment {
                start: NonNull::from(&mut *part).cast(),
                len: 4,
            })
            .collect();
        let mut bytes = [0; 6];
        assert_eq!(copy_out(part(&segments, 3, 6), &mut bytes), 6);
        assert_eq!(&bytes, b"defghi");
        assert_eq!(copy_in(part(&segments, 5, u64::MAX), b"0123456789"), 7);
        assert_eq!(part(&segments, 12, 5).count(), 0);
        assert_eq!(part(&segments, 8, 0).count(), 0);
        assert_eq!(parts, [*b"abcd", *b"e012", *b"3456"]);
    }
}
