//! Many seeds, and the way back to one of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `test` with the seeds `0..count`; prints the command that replays the first that panics, and panics with it.
///
/// `WEFT_SEED=N` in the environment runs seed N alone; `WEFT_SEEDS=N` runs N seeds instead of `count`.
///
/// # Panics
/// As `test` does, or if a variable is set to what is not a number.
pub fn for_each_seed(count: u64, mut test: impl FnMut(u64)) {
    let seeds = match (variable("WEFT_SEED"), variable("WEFT_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..count,
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("seed {seed} fails; replay it with: {}", replay(seed));
            resume_unwind(panic);
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{name}={text} is not a number"),
    }
}

fn replay(seed: u64) -> String {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "PACKAGE".into());
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("");
    format!("WEFT_SEED={seed} cargo test -p {package} -- --exact {test}")
}
