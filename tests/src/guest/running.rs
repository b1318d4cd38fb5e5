//! A guest while it runs, and what it left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::slot::GuestSlot;
use crate::process::Process;

/// A guest that runs. Dropping it ends it.
pub struct Guest {
    name: String,
    process: Process,
    _slot: GuestSlot,
    folder: Logs,
    started: Instant,
    time_limit: Duration,
}

/// What a script left: its exit status, what it printed, and how long it took.
pub struct GuestRun {
    /// The script's exit status; 97 if a module or the network could not be set up before it.
    pub status: i32,
    /// What the script printed, on both streams.
    pub output: String,
    /// From the start of QEMU to its end.
    pub elapsed: Duration,
    name: String,
    folder: Logs,
}

impl Guest {
    pub(super) fn new(
        name: String,
        process: Process,
        slot: GuestSlot,
        folder: TempDir,
        started: Instant,
        time_limit: Duration,
    ) -> Self {
        Self {
            name,
            process,
            _slot: slot,
            folder: Logs(Some(folder)),
            started,
            time_limit,
        }
    }

    /// The folder that the guest sees, writable, as `/weft/share`.
    pub fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether the guest still runs. Its time limit counts here too: a guest that outlives it is ended.
    pub fn is_running(&mut self) -> bool {
        if self.started.elapsed() > self.time_limit {
            let _ = self.process.child().kill();
        }
        self.process.is_running()
    }

    /// What the script has printed so far.
    pub fn output(&self) -> String {
        self.folder.read("share/output")
    }

    /// Waits until the script has printed `text`.
    ///
    /// # Errors
    /// If the guest ends, or its time limit passes, before that.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        loop {
            let ended = !self.process.is_running();
            if self.output().contains(text) {
                return Ok(());
            }
            if ended {
                return Err(self.failure(&format!("it ended before it printed {text:?}")));
            }
            if self.started.elapsed() > self.time_limit {
                return Err(self.failure(&format!("its time was over before it printed {text:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end of the script.
    ///
    /// # Errors
    /// If the guest dies before its script has ended, or outlives its time limit; its logs are kept and named.
    pub fn wait(mut self) -> Result<GuestRun> {
        let left = self.time_limit.saturating_sub(self.started.elapsed());
        if self.process.wait_for(left)?.is_none() {
            let limit = self.time_limit.as_secs();
            return Err(self.failure(&format!("it was killed after its {limit} s")));
        }
        let elapsed = self.started.elapsed();
        let Ok(status) = self.folder.read("share/status").trim().parse() else {
            return Err(self.failure("it died before its script had ended"));
        };
        Ok(GuestRun {
            status,
            output: self.output(),
            elapsed,
            name: self.name,
            folder: self.folder,
        })
    }

    fn failure(&mut self, what: &str) -> anyhow::Error {
        let _ = self.process.child().kill();
        anyhow::anyhow!("guest {}: {what}\n{}", self.name, self.folder.keep())
    }
}

impl GuestRun {
    /// What the script printed.
    ///
    /// # Panics
    /// If the script failed; the logs are kept and named.
    #[track_caller]
    pub fn success(mut self) -> String {
        if self.status != 0 {
            let (name, status) = (&self.name, self.status);
            panic!(
                "guest {name}: the script ended with {status}\n{}",
                self.folder.keep()
            );
        }
        std::mem::take(&mut self.output)
    }

    /// The contents of a file that the script left in `/weft/share`.
    ///
    /// # Errors
    /// If there is none.
    pub fn shared_file(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.folder.path().join("share").join(name);
        std::fs::read(&path).with_context(|| format!("guest {} left no {name}", self.name))
    }

    /// The kernel's messages.
    pub fn console(&self) -> String {
        self.folder.read("console")
    }
}

/// The guest's folder: removed when dropped, unless something failed.
struct Logs(Option<TempDir>);

impl Logs {
    fn path(&self) -> &Path {
        self.0
            .as_ref()
            .map_or(Path::new("/nonexistent"), TempDir::path)
    }

    fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Keeps the folder and tells the end of each log in it, and where it is.
    fn keep(&mut self) -> String {
        let mut text = String::new();
        for log in ["share/output", "console", "qemu"] {
            let contents = self.read(log);
            if !contents.trim().is_empty() {
                text.push_str(&format!("--- {log} ---\n{}\n", last_lines(&contents, 40)));
            }
        }
        let Some(folder) = self.0.take() else {
            return text;
        };
        let path = folder.keep();
        // The archive is large, and can be made again.
        let _ = std::fs::remove_file(path.join("initramfs"));
        text.push_str(&format!("--- kept in {} ---", path.display()));
        text
    }
}

fn last_lines(text: &str, count: usize) -> &str {
    let start = text.trim_end().rmatch_indices('\n').nth(count - 1);
    text[start.map_or(0, |(index, _)| index + 1)..].trim_end()
}
