//! Where a bench keeps its files, and fio as a load.

use std::ffi::OsStr;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{missing_programs, run};

/// A folder for a bench's files: in `WEFT_BENCH_FOLDER`, or in the system's folder for temporary files.
///
/// # Errors
/// If it cannot be made.
pub fn folder() -> Result<TempDir> {
    Ok(match std::env::var_os("WEFT_BENCH_FOLDER") {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => crate::temp_dir(),
    })
}

/// Runs fio with these arguments, for `WEFT_BENCH_SECONDS` (two, if nothing is said); what it tells of its one job.
///
/// # Errors
/// If fio is not installed or fails.
pub fn fio<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<serde_json::Value> {
    let missing = missing_programs(&["fio"]);
    ensure!(
        missing.is_empty(),
        "fio is not installed (scripts/install-deps bench)"
    );
    let runtime = format!("--runtime={}", seconds());
    let common = [
        "--name=bench",
        "--time_based",
        "--output-format=json",
        &runtime,
    ];
    let common = common.map(|word| OsStr::new(word).to_owned());
    let own = arguments.into_iter().map(|word| word.as_ref().to_owned());
    let printed = run("fio", common.into_iter().chain(own))?;
    // fio prints notes before its document.
    let document = printed.find('{').and_then(|start| printed.get(start..));
    let mut told: serde_json::Value = serde_json::from_str(document.context("fio prints JSON")?)?;
    Ok(told["jobs"][0].take())
}

/// How long a turn takes: `WEFT_BENCH_SECONDS`, or two.
pub fn seconds() -> u64 {
    let told = std::env::var("WEFT_BENCH_SECONDS").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(2)
}
