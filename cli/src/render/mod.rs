//! Answers as text or JSON. Answers go to standard output; progress goes to standard error.

pub(crate) mod details;
pub(crate) mod images;
mod progress;
pub(crate) mod tables;
pub(crate) mod tree;
pub(crate) mod tunnels;

pub(crate) use progress::{CopyProgress, SyncProgress};

use std::io::{IsTerminal, Write as _};

use serde::Serialize;
use weft_service::api::{Action, Change};

/// What a shell shows of a program that a closed pipe has ended.
const ENDED_BY_PIPE: i32 = 128 + libc::SIGPIPE;

/// Writes an answer to standard output. A reader that has seen enough (`weft status | head`) ends us quietly, as it ends
/// every other program. The signal that does it elsewhere stays ignored: it would end us, and the daemon, for a socket
/// that somebody closes as well.
pub(crate) fn print(answer: &[u8]) {
    let mut out = std::io::stdout().lock();
    match out.write_all(answer).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            std::process::exit(ENDED_BY_PIPE);
        }
        Err(error) => {
            eprintln!("weft: the answer cannot be written: {error}");
            std::process::exit(1);
        }
        Ok(()) => {}
    }
}

/// Where answers go, and in what form.
pub(crate) struct Output {
    json: bool,
    terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Prints the document, or what `text` makes of it.
    pub(crate) fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) {
        if self.json {
            self.json(value);
        } else {
            print(text(value).as_bytes());
        }
    }

    /// Prints the document if JSON was asked for.
    pub(crate) fn json<T: Serialize>(&self, value: &T) {
        if self.json {
            let text = serde_json::to_string_pretty(value).expect("answers are plain data");
            print(format!("{text}\n").as_bytes());
        }
    }

    /// Whether a person looks at standard error.
    pub(crate) fn is_watched(&self) -> bool {
        self.terminal
    }

    /// Says that a command without an answer is done: a sentence, or an empty document.
    pub(crate) fn done(&self, sentence: &str) {
        let text = if self.json { "{}" } else { sentence };
        print(format!("{text}\n").as_bytes());
    }

    /// Tells a person something on the side.
    pub(crate) fn say(&self, sentence: &str) {
        eprintln!("{sentence}");
    }

    /// Shows that a change begins, where it can be overwritten by its end.
    pub(crate) fn begin(&self, change: &Change) {
        if self.terminal && change.action != Action::Keep {
            eprint!(
                "  … {} {} {}\r",
                change.action.word(),
                change.noun,
                change.name
            );
        }
    }

    /// Shows that a change is made.
    pub(crate) fn end(&self, change: &Change, note: &str) {
        let clear = if self.terminal { "\x1b[2K" } else { "" };
        let mark = if change.action == Action::Keep {
            '='
        } else {
            '✓'
        };
        let Change { noun, name, .. } = change;
        eprintln!(
            "{clear}  {mark} {} {noun} {name}: {note}",
            change.action.word()
        );
    }

    /// Clears the screen before a repeated answer.
    pub(crate) fn clear(&self) {
        if !self.json && std::io::stdout().is_terminal() {
            print(b"\x1b[H\x1b[2J");
        }
    }
}
