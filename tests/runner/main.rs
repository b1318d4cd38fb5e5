//! `make test`: builds once, runs every check and every test binary, and ends with one line of counts.
//!
//! What it prints is a diary: a line for each step when it ends, with the time since the start; whole output only of
//! what failed. The logs of all stay in `target/test-logs`.

mod binaries;
mod checks;
mod lanes;
mod report;

use std::process::ExitCode;
use std::time::Instant;

use report::{Diary, Outcome};

/// Test binaries that run at the same time. More do not help two cores, and an emulated machine fills one.
const LANES: usize = 2;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let checks_only = words.iter().any(|word| word == "--checks");
    let mut diary = Diary::new(Instant::now());

    for check in checks::all() {
        let outcome = check.run();
        diary.note(&outcome);
    }
    if !checks_only {
        run_tests(&mut diary);
    }
    diary.finish()
}

fn run_tests(diary: &mut Diary) {
    diary.say("building every test (one profile, one folder for all)");
    match binaries::build() {
        Ok(found) => {
            diary.say(&format!("{} test binaries, {LANES} at a time", found.len()));
            lanes::run(found, LANES, &mut |outcome| diary.note(outcome));
        }
        Err(error) => diary.note(&Outcome::failed_check("the build of the tests", error)),
    }
    diary.note(&binaries::doc_tests().run());
}
