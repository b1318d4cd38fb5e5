//! Checks that are not tests: format, lints, licences. Each counts as one.

use std::process::Command;
use std::time::Instant;

use crate::report::{Counts, Outcome, counts_of};

/// A program whose exit status is the answer.
pub(crate) struct Check {
    name: &'static str,
    command: Command,
    prints_libtest: bool,
}

/// The checks in the order of their cost.
pub(crate) fn all() -> Vec<Check> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    vec![
        Check::cargo("format (cargo fmt --check)", &["fmt", "--all", "--check"]),
        Check::cargo("lints (cargo clippy)", &clippy),
    ]
}

impl Check {
    fn cargo(name: &'static str, words: &[&str]) -> Self {
        let mut command = cargo();
        command.args(words);
        Self {
            name,
            command,
            prints_libtest: false,
        }
    }

    /// A cargo command that runs tests: its counts are read from what it prints.
    pub(crate) fn cargo_tests(name: &'static str, words: &[&str]) -> Self {
        Self {
            prints_libtest: true,
            ..Self::cargo(name, words)
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        let started = Instant::now();
        let output = match self.command.output() {
            Ok(output) => output,
            Err(error) => return Outcome::failed_check(self.name, error),
        };
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let ended = output.status.success();
        let one = if ended {
            Counts {
                passed: 1,
                ..Counts::default()
            }
        } else {
            Counts {
                failed: 1,
                ..Counts::default()
            }
        };
        let read = if self.prints_libtest {
            counts_of(&text)
        } else {
            None
        };
        let mut counts = read.unwrap_or(one);
        if !ended && counts.failed == 0 {
            counts.failed = 1;
        }
        Outcome {
            name: self.name.into(),
            counts,
            took: started.elapsed(),
            output: text,
            log: None,
        }
    }
}

/// Cargo at the root of the repository: the one that started this program, if one did.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(weft_tests::repository());
    command
}
