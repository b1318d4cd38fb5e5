//! Frames from a guest to its port.

use weft_block::IoVec;

use super::{Counts, FRAMES_PER_TURN, LONGEST_FRAME, NetPort, Progress};
use crate::queue::{Chain, QueueError, SplitQueue};

/// The shortest frame: an Ethernet header.
const SHORTEST_FRAME: u64 = 14;

/// The device's side of a transmit queue.
#[derive(Debug)]
pub struct Transmit {
    header: u64,
    /// A frame that the port had no room for.
    waiting: Option<Chain>,
    counts: Counts,
}

impl Transmit {
    /// For frames with `header` bytes of virtio-net header.
    pub fn new(header: usize) -> Self {
        Self {
            header: header as u64,
            waiting: None,
            counts: Counts::default(),
        }
    }

    /// What went through.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Sends what the driver made available, in its order, and gives the chains back; the second answer is whether
    /// the driver wants an interrupt.
    ///
    /// # Errors
    /// What the guest did wrong; the queue must not be used any more.
    pub fn turn(
        &mut self,
        queue: &mut SplitQueue,
        port: &dyn NetPort,
    ) -> Result<(Progress, bool), QueueError> {
        let mut progress = Progress::More;
        for _ in 0..FRAMES_PER_TURN {
            let chain = match self.waiting.take() {
                Some(chain) => chain,
                None => match queue.pop()? {
                    Some(chain) => chain,
                    None => {
                        progress = Progress::QueueEmpty;
                        break;
                    }
                },
            };
            if !self.send(&chain, queue, port) {
                self.waiting = Some(chain);
                progress = Progress::PortBlocked;
                break;
            }
            queue.push(chain.head(), 0);
        }
        Ok((progress, queue.publish()))
    }

    /// Gives back to the queue what is held but not sent: a successor will send it.
    pub fn stop(&mut self, queue: &mut SplitQueue) {
        if self.waiting.take().is_some() {
            queue.unpop(1);
        }
    }

    /// Whether the frame is done with: sent or dropped.
    fn send(&mut self, chain: &Chain, queue: &SplitQueue, port: &dyn NetPort) -> bool {
        let len = chain.readable_len().saturating_sub(self.header);
        if !(SHORTEST_FRAME..=LONGEST_FRAME as u64).contains(&len) {
            self.counts.dropped += 1;
            return true;
        }
        // SAFETY: a chain's segments are mapped while the queue's memory lives.
        let frame = unsafe {
            IoVec::from_segments(chain.readable().iter().copied(), queue.memory().clone())
        };
        match port.send(&frame) {
            Ok(true) => {
                self.counts.frames += 1;
                self.counts.bytes += len;
                true
            }
            Ok(false) => false,
            Err(_) => {
                self.counts.dropped += 1;
                true
            }
        }
    }
}
