//! A lab: many objects declared in one file.

use serde::{Deserialize, Serialize};

/// Bring a lab up, take it down, or plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabRequest {
    /// The file's absolute path: relative paths in it start from its folder.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is made.
    Create,
    /// It is there on disk and is started.
    Start,
    /// It grows.
    Resize,
    /// It is as declared.
    Keep,
    /// It is stopped and its data stays.
    Stop,
    /// It is taken away.
    Remove,
}

impl Action {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Resize => "resize",
            Self::Keep => "keep",
            Self::Stop => "stop",
            Self::Remove => "remove",
        }
    }
}

/// One difference between what is declared and what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happens.
    pub action: Action,
    /// `disk`, `raid`, `vg`, `lv`, `net`, `vpn`, `export` or `vm`.
    pub noun: String,
    /// The object's name.
    pub name: String,
    /// What it is, in a few words.
    pub detail: String,
}

/// All differences, in the order in which they are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The lab's name.
    pub lab: String,
    /// The differences.
    pub changes: Vec<Change>,
}

/// What `up` and `down` tell while they work, one JSON document a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A change begins.
    Begin {
        /// Which.
        change: Change,
    },
    /// A change is made.
    Done {
        /// Which.
        change: Change,
        /// What came of it, in a few words.
        note: String,
    },
    /// Something worth knowing that is no change.
    Note {
        /// A sentence.
        text: String,
    },
    /// The work ended well.
    Finished {
        /// What was done.
        plan: Plan,
    },
    /// The work ended with a failure; what was done before it stands.
    Failed {
        /// Why.
        error: super::Error,
    },
}
