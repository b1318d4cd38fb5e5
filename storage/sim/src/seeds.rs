//! Many seeds, and the way back to one of them.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `test` with the seeds `0..count`; prints the command that replays the first that panics, and panics with it.
///
/// `WEFT_SEED=N` in the environment runs seed N alone; `WEFT_SEEDS=N` runs N seeds instead of `count`, `WEFT_SEEDS=M..N`
/// those from M up to N.
///
/// # Panics
/// As `test` does, or if a variable is set to what is not a number.
pub fn for_each_seed(count: u64, mut test: impl FnMut(u64)) {
    let seeds = match (variable("WEFT_SEED"), variable("WEFT_SEEDS")) {
        (Some(seed), _) => seed.end..seed.end + 1,
        (None, Some(seeds)) => seeds,
        (None, None) => 0..count,
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("seed {seed} fails; replay it with: {}", replay(seed));
            resume_unwind(panic);
        }
    }
}

/// `N` is all below N.
fn variable(name: &str) -> Option<Range<u64>> {
    let text = std::env::var(name).ok()?;
    let (start, end) = text.split_once("..").unwrap_or(("0", &text));
    match (start.parse(), end.parse()) {
        (Ok(start), Ok(end)) => Some(start..end),
        _ => panic!("{name}={text} is not a number, nor two with .. between them"),
    }
}

fn replay(seed: u64) -> String {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "PACKAGE".into());
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("");
    format!("WEFT_SEED={seed} cargo test -p {package} -- --exact {test}")
}
