//! Which counters of a session were seen, as of RFC 6479.

/// How far behind the greatest counter seen a message may come and still be taken.
pub const REPLAY_WINDOW: u64 = 8192;

/// A window of [`REPLAY_WINDOW`] counters touches at most one word more than it fills.
const WORDS: usize = REPLAY_WINDOW as usize / 64 + 1;

/// The counters seen, of which the greatest few matter.
#[derive(Debug)]
pub(crate) struct ReplayWindow {
    /// The greatest counter seen, and one.
    next: u64,
    words: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            words: [0; WORDS],
        }
    }

    /// Whether `counter` is new, and notes that it was seen. `counter` is below 2^64 - 1.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if counter >= self.next {
            self.advance(counter);
        } else if self.next - counter > REPLAY_WINDOW {
            return false;
        }
        let word = &mut self.words[(counter / 64) as usize % WORDS];
        let bit = 1 << (counter % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Forgets what leaves the window.
    fn advance(&mut self, counter: u64) {
        let first = self.next.div_ceil(64);
        let last = counter / 64;
        for word in first..=last.min(first.saturating_add(WORDS as u64 - 1)) {
            self.words[word as usize % WORDS] = 0;
        }
        self.next = counter + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges_of_the_window() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(0) && !window.accept(0));
        assert!(window.accept(8191) && window.accept(1) && !window.accept(1));
        assert!(window.accept(8192));
        assert!(!window.accept(0), "seen");
        assert!(window.accept(8193) && window.accept(2));
        assert!(window.accept(20_000));
        assert!(!window.accept(20_000 - 8192), "too old");
        assert!(window.accept(20_000 - 8191));
        assert!(window.accept(u64::MAX - 1) && !window.accept(u64::MAX - 1));
        assert!(window.accept(u64::MAX - 8192) && !window.accept(20_000));
    }

    proptest! {
        #[test]
        fn is_a_set_with_a_horizon(steps in prop::collection::vec((-9000_i64..9000, 0u8..8), 1..400)) {
            let mut window = ReplayWindow::new();
            let mut seen = HashSet::new();
            let mut greatest = 0;
            for (step, scale) in steps {
                let counter = (greatest as i64 + (step >> scale)).max(0) as u64;
                let in_window = greatest < REPLAY_WINDOW || counter > greatest - REPLAY_WINDOW;
                let expected = in_window && seen.insert(counter);
                prop_assert_eq!(window.accept(counter), expected, "{}", counter);
                greatest = greatest.max(counter);
            }
        }
    }
}
