//! What is known to be data, so that reads of it need not ask again.

use std::collections::BTreeMap;

/// Runs that are remembered. When there are more, all are forgotten and learnt anew.
const MAX_RUNS: usize = 256;

/// Ranges of an export that held data when the device was last asked.
///
/// Being wrong costs nothing but bytes on the wire: a range that has become a hole since is read as data and gives
/// zeroes. Holes are never remembered, for they may have been written to by anybody.
#[derive(Debug, Default)]
pub(super) struct DataRuns {
    /// The end of each run by its start; runs neither touch nor overlap.
    runs: BTreeMap<u64, u64>,
}

impl DataRuns {
    /// Whether all of the range is known to be data.
    pub(super) fn contains(&self, offset: u64, len: u64) -> bool {
        let run = self.runs.range(..=offset).next_back();
        run.is_some_and(|(_, &end)| offset + len <= end)
    }

    /// Remembers a run.
    pub(super) fn learn(&mut self, offset: u64, len: u64) {
        let (mut start, mut end) = (offset, offset + len);
        let touching: Vec<u64> = self
            .runs
            .range(..=end)
            .rev()
            .take_while(|&(_, &run_end)| run_end >= start)
            .map(|(&run_start, _)| run_start)
            .collect();
        for run_start in touching {
            let run_end = self.runs.remove(&run_start).unwrap_or(run_start);
            start = start.min(run_start);
            end = end.max(run_end);
        }
        if self.runs.len() == MAX_RUNS {
            self.runs.clear();
        }
        self.runs.insert(start, end);
    }

    /// Forgets everything, because holes were made.
    pub(super) fn forget(&mut self) {
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_that_touch_become_one() {
        let mut runs = DataRuns::default();
        runs.learn(0, 10);
        runs.learn(20, 10);
        assert!(!runs.contains(5, 10));
        runs.learn(10, 10);
        assert!(runs.contains(0, 30));
        assert!(!runs.contains(0, 31));
        assert_eq!(runs.runs.len(), 1);
        runs.forget();
        assert!(!runs.contains(0, 1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut runs = DataRuns::default();
        for run in 0..10 * MAX_RUNS as u64 {
            runs.learn(run * 10, 5);
            assert!(runs.contains(run * 10, 5));
            assert!(runs.runs.len() <= MAX_RUNS);
        }
    }

    proptest! {
        #[test]
        fn a_run_holds_what_was_learnt_and_no_more(learnt in prop::collection::vec((0u64..60, 1u64..12), 0..20)) {
            let mut runs = DataRuns::default();
            let mut bytes = [false; 80];
            for (offset, len) in learnt {
                runs.learn(offset, len);
                bytes[offset as usize..(offset + len) as usize].fill(true);
            }
            for offset in 0..70 {
                for len in 1..10 {
                    let all = bytes[offset..offset + len].iter().all(|&known| known);
                    prop_assert_eq!(runs.contains(offset as u64, len as u64), all);
                }
            }
        }
    }
}
