//! Bytes of any length of which only the written pages take memory.

use std::collections::BTreeMap;

use weft_block::{Extent, ExtentKind, IoVec};

const PAGE: u64 = 4096;

/// A sparse image; what was never written reads as zeroes. Ranges are the caller's to keep inside the device.
#[derive(Debug, Clone, Default)]
pub struct SparseImage {
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl SparseImage {
    /// Copies the bytes from `offset` on into `into`.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        for (page, inside, part) in pieces(offset, into.len()) {
            let target = &mut into[part.clone()];
            match self.pages.get(&page) {
                Some(bytes) => target.copy_from_slice(&bytes[inside..inside + part.len()]),
                None => target.fill(0),
            }
        }
    }

    /// Puts `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, inside, part) in pieces(offset, bytes.len()) {
            let len = part.len();
            self.page(page)[inside..inside + len].copy_from_slice(&bytes[part]);
        }
    }

    /// Fills a buffer that `offset` on belongs in.
    pub fn read_vector(&self, offset: u64, into: &mut IoVec) {
        for (page, inside, part) in pieces(offset, into.len()) {
            match self.pages.get(&page) {
                Some(bytes) => into.copy_in(part.start, &bytes[inside..inside + part.len()]),
                None => into.fill(part.start, part.len(), 0),
            }
        }
    }

    /// Puts a buffer at `offset`.
    pub fn write_vector(&mut self, offset: u64, from: &IoVec) {
        for (page, inside, part) in pieces(offset, from.len()) {
            let len = part.len();
            from.copy_out(part.start, &mut self.page(page)[inside..inside + len]);
        }
    }

    /// Makes the range read as zeroes; with `unmap` its whole pages become holes.
    pub fn zero(&mut self, offset: u64, len: u64, unmap: bool) {
        let end = offset + len;
        let (first_whole, end_whole) = (offset.div_ceil(PAGE), end / PAGE);
        if first_whole >= end_whole {
            self.write_zeroes(offset, end);
            return;
        }
        self.write_zeroes(offset, first_whole * PAGE);
        self.write_zeroes(end_whole * PAGE, end);
        let whole: Vec<u64> = self
            .pages
            .range(first_whole..end_whole)
            .map(|(&page, _)| page)
            .collect();
        for page in whole {
            self.pages.remove(&page);
        }
        if !unmap {
            self.write_zeroes(first_whole * PAGE, end_whole * PAGE);
        }
    }

    /// Forgets everything from `size` on.
    pub fn truncate(&mut self, size: u64) {
        self.zero(size, size.next_multiple_of(PAGE) - size, false);
        self.pages.split_off(&size.div_ceil(PAGE));
    }

    /// How the range is backed: holes and data, in order, at most `limit` of them.
    pub fn extents(&self, offset: u64, len: u64, limit: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let end = offset + len;
        let mut at = offset;
        while at < end && extents.len() <= limit {
            let page = at / PAGE;
            let (kind, until) = match self.pages.range(page..).next() {
                Some((&found, _)) if found == page => (ExtentKind::Data, (page + 1) * PAGE),
                Some((&found, _)) => (ExtentKind::Hole, found * PAGE),
                None => (ExtentKind::Hole, end),
            };
            let len = until.min(end) - at;
            match extents.last_mut() {
                Some(last) if last.kind == kind => last.len += len,
                _ => extents.push(Extent {
                    offset: at,
                    len,
                    kind,
                }),
            }
            at += len;
        }
        extents.truncate(limit);
        extents
    }

    fn write_zeroes(&mut self, offset: u64, end: u64) {
        const ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];
        let mut at = offset;
        while at < end {
            let len = (PAGE - at % PAGE).min(end - at);
            self.write(at, &ZEROES[..len as usize]);
            at += len;
        }
    }

    fn page(&mut self, page: u64) -> &mut [u8] {
        self.pages
            .entry(page)
            .or_insert_with(|| vec![0; PAGE as usize].into())
    }
}

/// The range page by page: page number, first byte in the page, place in the caller's bytes.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let inside = (at % PAGE) as usize;
        let take = (PAGE as usize - inside).min(len - done);
        let part = done..done + take;
        done += take;
        Some((at / PAGE, inside, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_cross_pages_and_zeroing_makes_holes() {
        let mut image = SparseImage::default();
        image.write(4000, &[7; 9000]);
        image.zero(4100, 8192, true);
        let mut bytes = [1; 9000];
        image.read(4000, &mut bytes);
        assert!(bytes[..100].iter().all(|&byte| byte == 7));
        assert!(bytes[100..8292].iter().all(|&byte| byte == 0));
        assert!(bytes[8292..].iter().all(|&byte| byte == 7));
        let kinds: Vec<_> = image
            .extents(0, 65536, 16)
            .iter()
            .map(|extent| (extent.offset, extent.len, extent.kind))
            .collect();
        assert_eq!(
            kinds,
            [
                (0, 8192, ExtentKind::Data),
                (8192, 4096, ExtentKind::Hole),
                (12288, 4096, ExtentKind::Data),
                (16384, 49152, ExtentKind::Hole)
            ]
        );
    }
}
