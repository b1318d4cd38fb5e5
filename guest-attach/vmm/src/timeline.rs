//! When each step of the boot was reached.

use std::sync::Mutex;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::sync::lock;

/// Steps beyond these are not noted: a guest can reboot for ever.
const MAX_STEPS: usize = 64;

/// A step of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was reached.
    pub name: String,
    /// Which start of the machine it belongs to: 1 for the first, 2 after one reboot.
    pub boot: u32,
    /// Microseconds since that start.
    pub at_micros: u64,
}

/// The steps so far.
#[derive(Debug)]
pub(crate) struct Timeline(Mutex<State>);

#[derive(Debug)]
struct State {
    started: Instant,
    boot: u32,
    steps: Vec<Step>,
}

impl Timeline {
    /// A timeline whose first boot begins now.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            started: Instant::now(),
            boot: 1,
            steps: Vec::new(),
        }))
    }

    /// The machine starts again.
    pub(crate) fn reboot(&self) {
        let mut state = lock(&self.0);
        state.boot += 1;
        state.started = Instant::now();
    }

    /// A step is reached now.
    pub(crate) fn mark(&self, name: impl Into<String>) {
        let mut state = lock(&self.0);
        let step = Step {
            name: name.into(),
            boot: state.boot,
            at_micros: state.started.elapsed().as_micros() as u64,
        };
        tracing::debug!(step = step.name, micros = step.at_micros, "boot");
        if state.steps.len() < MAX_STEPS {
            state.steps.push(step);
        }
    }

    /// How often the machine was started.
    pub(crate) fn boots(&self) -> u32 {
        lock(&self.0).boot
    }

    /// The steps so far.
    pub(crate) fn steps(&self) -> Vec<Step> {
        lock(&self.0).steps.clone()
    }
}
