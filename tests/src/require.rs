//! Tests that need something the machine may not have.

use std::io::Write;
use std::path::Path;

/// Ends the calling test as skipped unless every named program is installed; in CI it fails instead.
///
/// The test may return `()` or a `Result<(), E>`.
#[macro_export]
macro_rules! require {
    ($($program:expr),+ $(,)?) => {
        let missing = $crate::missing_programs(&[$($program),+]);
        if !missing.is_empty() {
            $crate::skip!("needs {} (scripts/install-deps installs it)", missing.join(", "));
        }
    };
}

/// Ends the calling test as skipped, for the given reason; in CI it fails instead.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        $crate::note_skip(&format!($($reason)+));
        return $crate::Skip::skipped();
    }};
}

/// What a skipped test returns.
pub trait Skip {
    /// The value of a test that did nothing and did not fail.
    fn skipped() -> Self;
}

impl Skip for () {
    fn skipped() -> Self {}
}

impl<E> Skip for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// Where programs are: system programs also for users whose PATH leaves the sbin folders out, and those that
/// `scripts/install-deps` has built.
pub(crate) fn program_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let built = crate::cache_dir().join("judges/bin");
    format!(
        "{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin:{}",
        built.display()
    )
}

/// Those of `programs` that are not installed.
pub fn missing_programs(programs: &[&str]) -> Vec<String> {
    let path = program_path();
    let installed = |program: &str| {
        if program.contains('/') {
            return Path::new(program).exists();
        }
        path.split(':')
            .any(|folder| !folder.is_empty() && Path::new(folder).join(program).is_file())
    };
    programs
        .iter()
        .filter(|program| !installed(program))
        .map(ToString::to_string)
        .collect()
}

/// Something that not every machine has, asked for by [`can`].
pub mod can {
    use std::path::Path;

    /// Whether the test may do what needs the administrator.
    pub fn be_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    /// Whether the device file opens for reading and writing.
    pub fn open(device: &str) -> bool {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(Path::new(device))
            .is_ok()
    }
}

/// Says that the calling test is skipped, past libtest's capture, in the line that `scripts/test` counts.
///
/// # Panics
/// When `CI` is set: there everything is installed, and a skip hides a failure.
pub fn note_skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(
        std::env::var_os("CI").is_none_or(|value| value.is_empty()),
        "{test} would be skipped, which CI does not accept: {reason}"
    );
    let line = format!("weft-skip: {test}: {reason}\n");
    // The handle, unlike `eprintln!`, is not captured. Nothing is lost if the line cannot be written.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_installed() {
        assert!(missing_programs(&["sh", "ls", "/bin/sh"]).is_empty());
        assert_eq!(
            missing_programs(&["sh", "no-such-judge"]),
            ["no-such-judge"]
        );
    }
}
