//! Runs test binaries a few at a time, each with a watchdog and a log.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weft_tests::{Process, repository};

use crate::binaries::TestBinary;
use crate::report::{Counts, Outcome, counts_of};

/// A binary that runs longer than this hangs.
const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs all, and gives each outcome to `note` as it comes.
pub(crate) fn run(binaries: Vec<TestBinary>, lanes: usize, note: &mut dyn FnMut(&Outcome)) {
    let waiting = Mutex::new(VecDeque::from(binaries));
    let (sender, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            let (waiting, sender) = (&waiting, sender.clone());
            scope.spawn(move || {
                loop {
                    let next = waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(binary) = next else { return };
                    let outcome = run_one(&binary).unwrap_or_else(|error| {
                        Outcome::failed_check(&binary.name, format!("{error:#}"))
                    });
                    // The receiver lives until the last lane has ended.
                    let _ = sender.send(outcome);
                }
            });
        }
        drop(sender);
        for outcome in outcomes {
            note(&outcome);
        }
    });
}

fn run_one(binary: &TestBinary) -> Result<Outcome> {
    let log = log_path(&binary.name)?;
    let file = File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let mut command = Process::command(&binary.executable);
    command
        .current_dir(&binary.folder)
        .env("CARGO_MANIFEST_DIR", &binary.folder)
        .env("CARGO_PKG_NAME", &binary.package)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let started = Instant::now();
    let mut process = Process::spawn(command)?;
    let ended = process.wait_for(TIME_LIMIT)?;
    let took = started.elapsed();
    drop(process);
    let output = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let (counts, verdict) = judge(ended, &output);
    Ok(Outcome {
        name: binary.name.clone(),
        counts,
        took,
        output: format!("{output}{verdict}"),
        log: Some(log),
    })
}

/// The counts of a binary that ended so and printed that. Whatever did not end as libtest ends is one failure more.
fn judge(ended: Option<std::process::ExitStatus>, output: &str) -> (Counts, String) {
    let failed = Counts {
        failed: 1,
        ..Counts::default()
    };
    let Some(status) = ended else {
        return (
            failed,
            format!("\nkilled after {} minutes\n", TIME_LIMIT.as_secs() / 60),
        );
    };
    match counts_of(output) {
        Some(counts) if status.success() == (counts.failed == 0) => (counts, String::new()),
        Some(mut counts) => {
            counts.add(failed);
            (counts, format!("\nthe test binary ended with {status}\n"))
        }
        None => (
            failed,
            format!("\nthe test binary ended with {status} before its tests had\n"),
        ),
    }
}

fn log_path(name: &str) -> Result<PathBuf> {
    let folder = repository().join("target/test-logs");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    };
    let file: String = name.chars().map(plain).collect();
    Ok(folder.join(format!("{}.log", file.replace("--", "-"))))
}
