//! Answers that do not say what was done, or say it late.

use std::ops::Range;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::Op;

use super::Rates;

/// What becomes of the answers to requests that were done: 0 never, 1 always.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    /// How often an error comes instead.
    pub lost: Rates,
    /// How often it comes late.
    pub late: f64,
    /// How late that is.
    pub delay: Range<Duration>,
    /// How often it never comes.
    pub never: f64,
}

/// What becomes of one answer.
pub(super) enum Answer {
    Told,
    Late(Duration),
    Lost,
    Never,
}

/// The answers of one device. Their chances are drawn apart from all others, so that a seed without them stays what it
/// was.
#[derive(Debug)]
pub(super) struct Answering {
    random: ChaCha8Rng,
    answers: Answers,
}

impl Answering {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed ^ 0xa5_5e55),
            answers: Answers::default(),
        }
    }

    pub(super) fn set(&mut self, answers: Answers) {
        self.answers = answers;
    }

    /// Decides on the answer to a request that was done.
    pub(super) fn judge(&mut self, op: Op) -> Answer {
        let lost = match op {
            Op::Read => self.answers.lost.read,
            Op::Flush => self.answers.lost.flush,
            Op::Write { .. } | Op::Discard | Op::WriteZeroes { .. } => self.answers.lost.write,
        };
        if self.chance(lost) {
            return Answer::Lost;
        }
        if self.chance(self.answers.never) {
            return Answer::Never;
        }
        if !self.answers.delay.is_empty() && self.chance(self.answers.late) {
            return Answer::Late(self.random.random_range(self.answers.delay.clone()));
        }
        Answer::Told
    }

    fn chance(&mut self, rate: f64) -> bool {
        rate > 0.0 && self.random.random_bool(rate.min(1.0))
    }
}
