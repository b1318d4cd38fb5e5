//! Frames from a port into a guest's buffers.

use std::collections::VecDeque;
use std::rc::Rc;

use weft_block::{IoVec, Segment};

use super::{Counts, FRAMES_PER_TURN, HEADER, LONGEST_FRAME, NetPort, Progress};
use crate::queue::{Chain, QueueError, SplitQueue};
use crate::segments::{copy_in, part};

/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: u64 = 10;
/// Segments that a frame is read into at most, well below what one system call takes.
const SEGMENTS: usize = 256;

/// The device's side of a receive queue.
///
/// A port is read straight into the guest's buffers. How long a frame is shows only after it was read, so buffers for
/// the longest one are held ready, with memory of our own behind them for when the guest has not given that many; what
/// lands there waits until it has.
#[derive(Debug)]
pub struct Receive {
    header: usize,
    mergeable: bool,
    /// Bytes of buffers to hold ready.
    wanted: u64,
    /// Buffers taken from the queue and not filled yet, in order.
    held: VecDeque<Chain>,
    /// Their bytes.
    held_len: u64,
    /// Their segments.
    held_segments: usize,
    /// Memory behind the held buffers.
    spill: IoVec,
    /// A frame of this length was read into all held buffers of that many bytes, and the rest lies in `spill`.
    pending: Option<(u64, u64)>,
    counts: Counts,
}

impl Receive {
    /// For frames with `header` bytes of virtio-net header and at most `longest` bytes of frame.
    pub fn new(header: usize, mergeable: bool, longest: usize) -> Self {
        let longest = longest.min(LONGEST_FRAME) + header;
        Self {
            header,
            mergeable,
            wanted: if mergeable { longest as u64 } else { 1 },
            held: VecDeque::new(),
            held_len: 0,
            held_segments: 0,
            spill: IoVec::zeroed(LONGEST_FRAME + header),
            pending: None,
            counts: Counts::default(),
        }
    }

    /// What went through.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Moves the frames that wait at the port into the driver's buffers; the second answer is whether the driver
    /// wants an interrupt.
    ///
    /// # Errors
    /// What the guest did wrong; the queue must not be used any more. Errors of the port count as no frame.
    pub fn turn(
        &mut self,
        queue: &mut SplitQueue,
        port: &dyn NetPort,
    ) -> Result<(Progress, bool), QueueError> {
        let mut progress = Progress::More;
        for _ in 0..FRAMES_PER_TURN {
            self.hold(queue)?;
            if let Some((len, _)) = self.pending
                && len > self.held_len
                && self.held_segments < SEGMENTS
                && self.held.len() < usize::from(queue.size())
            {
                progress = Progress::QueueEmpty;
                break;
            }
            if self.held.is_empty() {
                progress = Progress::QueueEmpty;
                break;
            }
            if self.pending.is_none() && !self.read(queue, port) {
                progress = Progress::PortBlocked;
                break;
            }
            self.deliver(queue);
        }
        Ok((progress, queue.publish()))
    }

    /// Gives back to the queue the buffers that are held; a successor will fill them.
    pub fn stop(&mut self, queue: &mut SplitQueue) {
        queue.unpop(self.held.len() as u16);
        self.held.clear();
        (self.held_len, self.held_segments, self.pending) = (0, 0, None);
    }

    /// Takes buffers until the longest frame fits, as far as the driver has given some.
    fn hold(&mut self, queue: &mut SplitQueue) -> Result<(), QueueError> {
        let wanted = self.pending.map_or(self.wanted, |(len, _)| len);
        while self.held_len < wanted && self.held_segments < SEGMENTS {
            let Some(chain) = queue.pop()? else {
                break;
            };
            if chain.writable_len() < self.header as u64 {
                return Err(QueueError::Incomplete {
                    head: chain.head(),
                    what: "room for a frame's header",
                });
            }
            self.held_len += chain.writable_len();
            self.held_segments += chain.writable().len();
            self.held.push_back(chain);
        }
        Ok(())
    }

    /// Reads a frame into the held buffers and what is behind them; whether there was one.
    fn read(&mut self, queue: &SplitQueue, port: &dyn NetPort) -> bool {
        let segments = self
            .held
            .iter()
            .flat_map(|chain| chain.writable().iter().copied())
            .chain(self.spill.segments().iter().copied());
        let owner = (queue.memory().clone(), self.spill.clone());
        // SAFETY: the chains' segments are mapped while the queue's memory lives, the spill's while its vector does.
        let mut into = unsafe { IoVec::from_segments(segments, Rc::new(owner)) };
        match port.receive(&mut into) {
            Ok(Some(len)) if len >= self.header => {
                let len = (len as u64).min(into.len() as u64);
                self.pending = Some((len, self.held_len));
                true
            }
            Ok(Some(_)) => {
                self.counts.dropped += 1;
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// Gives the pending frame to the driver if the held buffers take it, otherwise keeps or drops it.
    fn deliver(&mut self, queue: &mut SplitQueue) {
        let Some((len, direct)) = self.pending else {
            return;
        };
        if !self.mergeable || self.held_segments >= SEGMENTS {
            let room = match self.mergeable {
                true => self.held_len,
                false => self.held[0].writable_len(),
            };
            if len > room {
                // One buffer is all that a frame may have, or all that we hold.
                self.pending = None;
                self.counts.dropped += 1;
                return;
            }
        }
        if len > self.held_len {
            if self.held.len() >= usize::from(queue.size()) {
                self.pending = None;
                self.counts.dropped += 1;
            }
            return;
        }
        if len > direct {
            self.unspill(len, direct);
        }
        self.pending = None;
        self.counts.frames += 1;
        self.counts.bytes += len - self.header as u64;
        self.give(queue, len);
    }

    /// Copies what lay behind the `direct` bytes of buffers into those that were held later.
    fn unspill(&self, len: u64, direct: u64) {
        let mut rest = vec![0; (len - direct) as usize];
        self.spill.copy_out(0, &mut rest);
        let segments: Vec<Segment> = self
            .held
            .iter()
            .flat_map(|chain| chain.writable().iter().copied())
            .collect();
        copy_in(part(&segments, direct, u64::MAX), &rest);
    }

    /// Pushes the buffers that `len` bytes fill.
    fn give(&mut self, queue: &mut SplitQueue, len: u64) {
        let mut filled: Vec<(u16, u32)> = Vec::new();
        let mut left = len;
        let mut first = None;
        while left > 0 {
            let Some(chain) = self.held.pop_front() else {
                break;
            };
            let part = left.min(chain.writable_len());
            filled.push((chain.head(), part as u32));
            left -= part;
            self.held_len -= chain.writable_len();
            self.held_segments -= chain.writable().len();
            first.get_or_insert(chain);
        }
        if let Some(first) = first
            && self.header == HEADER
        {
            let count = (filled.len() as u16).to_le_bytes();
            copy_in(part(first.writable(), NUM_BUFFERS, 2), &count);
        }
        for (head, part) in filled {
            queue.push(head, part);
        }
    }
}
