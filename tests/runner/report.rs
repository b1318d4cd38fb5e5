//! Outcomes, their counts, and the diary of a run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    fn total(self) -> u32 {
        self.passed + self.failed + self.skipped
    }
}

/// One step that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) counts: Counts,
    pub(crate) took: Duration,
    /// What was printed; shown if something failed.
    pub(crate) output: String,
    pub(crate) log: Option<PathBuf>,
}

impl Outcome {
    /// A step that could not even run.
    pub(crate) fn failed_check(name: &str, error: impl std::fmt::Display) -> Self {
        let failed = Counts {
            failed: 1,
            ..Counts::default()
        };
        Self {
            name: name.into(),
            counts: failed,
            took: Duration::ZERO,
            output: error.to_string(),
            log: None,
        }
    }
}

/// Sums up, and tells a person how far the run is.
#[derive(Debug)]
pub(crate) struct Diary {
    started: Instant,
    sum: Counts,
    failures: Vec<String>,
    skips: Vec<String>,
}

impl Diary {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            sum: Counts::default(),
            failures: Vec::new(),
            skips: Vec::new(),
        }
    }

    pub(crate) fn say(&self, what: &str) {
        println!("[{}] {what}", clock(self.started.elapsed()));
    }

    pub(crate) fn note(&mut self, outcome: &Outcome) {
        let Counts {
            passed,
            failed,
            skipped,
        } = outcome.counts;
        self.sum.add(outcome.counts);
        let mut line = format!("{:<44} {passed:>4} passed", outcome.name);
        if failed > 0 {
            line.push_str(&format!(", {failed} FAILED"));
        }
        if skipped > 0 {
            line.push_str(&format!(", {skipped} skipped"));
        }
        self.say(&format!("{line}  ({:.1} s)", outcome.took.as_secs_f64()));
        if failed > 0 {
            println!("{}", outcome.output.trim_end());
            let log = outcome.log.as_ref();
            let place = log.map_or(String::new(), |path| format!(" ({})", path.display()));
            self.failures.push(format!("{}{place}", outcome.name));
        }
        let skips = outcome
            .output
            .lines()
            .filter(|line| line.contains(SKIP_MARK));
        self.skips.extend(skips.map(str::to_owned));
    }

    /// The summary. Skips fail in CI, where all that tests need is installed; so does a run of no test at all.
    pub(crate) fn finish(mut self) -> ExitCode {
        if self.sum.total() == 0 {
            self.failures.push("no test ran".into());
            self.sum.failed += 1;
        }
        for skip in &self.skips {
            println!("skipped: {}", skip.trim_start_matches(SKIP_MARK).trim());
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        let Counts {
            passed,
            failed,
            skipped,
        } = self.sum;
        self.say("all done");
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        if failed > 0 || (in_ci && skipped > 0) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}

/// How `weft_tests::note_skip` begins its line.
const SKIP_MARK: &str = "weft-skip:";

/// The counts in what libtest printed (several times for doc tests), with the tests that skipped themselves moved from
/// the passed to the skipped. `None` if it printed no result: then the binary crashed or is no test.
pub(crate) fn counts_of(output: &str) -> Option<Counts> {
    let mut sum = Counts::default();
    let mut results = 0;
    let mut announced = 0;
    for line in output.lines() {
        announced += u32::from(announces_tests(line));
        let Some((_, result)) = line.split_once("test result: ") else {
            continue;
        };
        results += 1;
        sum.add(Counts {
            passed: number_before(result, " passed")?,
            failed: number_before(result, " failed")?,
            skipped: number_before(result, " ignored")?,
        });
    }
    let skips = output
        .lines()
        .filter(|line| line.contains(SKIP_MARK))
        .count();
    let skips = u32::try_from(skips).ok()?.min(sum.passed);
    sum.passed -= skips;
    sum.skipped += skips;
    (results > 0 && results >= announced).then_some(sum)
}

/// Whether the line is `running 3 tests`.
fn announces_tests(line: &str) -> bool {
    let number = line.strip_prefix("running ").and_then(|rest| {
        rest.strip_suffix(" tests")
            .or_else(|| rest.strip_suffix(" test"))
    });
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

fn number_before(text: &str, word: &str) -> Option<u32> {
    let end = text.find(word)?;
    text[..end].rsplit(' ').next()?.parse().ok()
}

fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{:>2}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_libtest_says() {
        let output = "\nrunning 3 tests\ntest a ... ok\nweft-skip: b: needs mdadm\ntest b ... ok\n\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let counts = Counts {
            passed: 1,
            failed: 0,
            skipped: 2,
        };
        assert_eq!(counts_of(output), Some(counts));
    }

    #[test]
    fn a_crash_is_no_result() {
        assert_eq!(counts_of("\nrunning 3 tests\ntest a ... ok\n"), None);
        assert_eq!(counts_of(""), None);
        let second_crashed = "running 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n\
            running 2 tests\n";
        assert_eq!(counts_of(second_crashed), None);
    }
}
