//! A background action while it is waited for.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use weft_service::api::{Size, Sync, SyncAction};

use super::Output;

/// Without a terminal a line is written whenever this many percent more are done.
const PLAIN_STEP_PERCENT: u64 = 10;

/// The progress of an array's resync or rebuild: a bar on a terminal, otherwise a line now and then.
pub(crate) struct SyncProgress {
    name: String,
    bar: ProgressBar,
    told: Option<u64>,
}

impl SyncProgress {
    pub(crate) fn new(name: &str) -> Self {
        let bar = ProgressBar::new(0);
        let template = "{prefix} [{bar:30}] {percent:>3} %  {msg}";
        let style = ProgressStyle::with_template(template).expect("the template is right");
        bar.set_style(style.progress_chars("=> "));
        Self {
            name: name.to_owned(),
            bar,
            told: None,
        }
    }

    pub(crate) fn update(&mut self, sync: &Sync) {
        let word = word(sync.action);
        let speed = speed(sync);
        if self.bar.is_hidden() {
            let percent = percent(sync);
            let step = percent / PLAIN_STEP_PERCENT;
            if self.told != Some(step) {
                self.told = Some(step);
                eprintln!("{word} {}: {percent} %{speed}", self.name);
            }
            return;
        }
        self.bar.set_prefix(format!("{word} {}", self.name));
        self.bar.set_length(sync.total_bytes);
        self.bar.set_position(sync.done_bytes);
        self.bar.set_message(speed);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The progress of a copy, on a terminal.
pub(crate) struct CopyProgress {
    bar: ProgressBar,
}

impl CopyProgress {
    pub(crate) fn new(what: &'static str, output: &Output) -> Self {
        if !output.is_watched() {
            let bar = ProgressBar::hidden();
            return Self { bar };
        }
        let bar = ProgressBar::new(0);
        let template =
            "{prefix} [{bar:30}] {percent:>3} %  {bytes} of {total_bytes}, {binary_bytes_per_sec}";
        let style = ProgressStyle::with_template(template).expect("the template is right");
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(what);
        Self { bar }
    }

    pub(crate) fn tell(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for CopyProgress {
    /// An error is told on a line of its own.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The word for people.
pub(super) fn word(action: SyncAction) -> &'static str {
    match action {
        SyncAction::Idle => "idle",
        SyncAction::Resync => "resync",
        SyncAction::Recover => "rebuild",
        SyncAction::Check => "check",
        SyncAction::Repair => "repair",
        SyncAction::Reshape => "reshape",
        SyncAction::Stream => "stream",
        SyncAction::Backup => "backup",
        SyncAction::Mirror => "mirror",
        SyncAction::Commit => "commit",
    }
}

/// Whole percent done.
pub(super) fn percent(sync: &Sync) -> u64 {
    match sync.total_bytes {
        0 => 0,
        total => {
            u64::try_from(u128::from(sync.done_bytes) * 100 / u128::from(total)).unwrap_or(100)
        }
    }
}

/// `, 120 MiB/s, 4 s left` as far as it is known, or that it was paused.
pub(super) fn speed(sync: &Sync) -> String {
    if sync.paused {
        return ", paused".to_owned();
    }
    let mut text = String::new();
    if let Some(rate) = sync.rate_bytes {
        text.push_str(&format!(", {}/s", Size(rate)));
    }
    if let Some(seconds) = sync.seconds_left {
        let left = indicatif::HumanDuration(Duration::from_secs(seconds));
        text.push_str(&format!(", {left:#} left"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_tells_rate_and_time_left() {
        let sync = Sync {
            action: SyncAction::Recover,
            done_bytes: 1 << 20,
            total_bytes: 4 << 20,
            rate_bytes: Some(1 << 20),
            seconds_left: Some(3),
            paused: false,
            floor_bytes: 0,
            ceiling_bytes: None,
        };
        assert_eq!(percent(&sync), 25);
        assert_eq!(speed(&sync), ", 1 MiB/s, 3s left");
    }
}
