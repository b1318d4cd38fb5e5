//! What goes wrong beside failing members: answers that are lost or late, and bytes that change on the medium; and loads
//! that merge. All of it is drawn apart from the rest, so that a seed without it stays what it was.

use weft_sim::{Answers, Rates};

use super::*;

impl World {
    /// A world in which answers are lost or late, and media change.
    pub(super) fn treacherous(seed: u64, shape: Shape) -> Self {
        Self::new(seed, shape).with_treachery()
    }

    pub(super) fn with_treachery(mut self) -> Self {
        self.treachery = Some(ChaCha8Rng::seed_from_u64(self.seed ^ 0x7e_ac4e));
        self
    }

    /// Whether something happens that has this chance; never, in a world without treachery.
    pub(super) fn drawn(&mut self, chance: f64) -> bool {
        let random = self.treachery.as_mut();
        random.is_some_and(|random| random.random_bool(chance))
    }

    /// A number of the treachery's own.
    pub(super) fn draw(&mut self) -> u64 {
        self.treachery.as_mut().map_or(0, |random| random.random())
    }

    /// Perhaps the load is of many small requests, side by side.
    pub(super) fn queue_neighbours(&mut self, load: &mut Workload) {
        if self.drawn(0.5) {
            (load.depth, load.sequential) = (24, 0.8);
            load.max_blocks = load.max_blocks.min(12);
        }
    }

    /// Perhaps some disks answer late from now on. The array must live with that.
    pub(super) fn delay_answers(&mut self, faults: &[Faults]) {
        if self.is_calm || !self.drawn(0.4) {
            return;
        }
        for faults in faults {
            if self.drawn(0.5) {
                faults.set_answers(late());
            }
        }
    }

    /// Perhaps an answer never comes: whatever waits for it does so until the power goes. Whether it may be so.
    pub(super) fn swallow_answers(&mut self, faults: &[Faults]) -> bool {
        if !self.drawn(0.2) {
            return false;
        }
        let mut answers = late();
        answers.never = 0.01;
        let disk = self.draw() as usize % faults.len();
        faults[disk].set_answers(answers);
        true
    }

    /// Perhaps a member that is to fail does what it is asked, and its answers are lost: those of reads only once the
    /// parity is there to make them of.
    pub(super) fn lose_answers(&mut self, faults: &Faults, in_sync: bool) -> bool {
        if !self.drawn(0.4) {
            return false;
        }
        let rate = if self.drawn(0.5) { 0.05 } else { 0.5 };
        let lost = Rates {
            read: if in_sync { rate } else { 0.0 },
            write: rate,
            flush: rate,
        };
        faults.set_answers(Answers { lost, ..late() });
        true
    }
}

/// A tenth of the answers come late, up to a few seconds.
fn late() -> Answers {
    Answers {
        late: 0.1,
        delay: Duration::from_millis(50)..Duration::from_secs(3),
        ..Answers::default()
    }
}
