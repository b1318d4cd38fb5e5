//! Network set-up as a plan.
//!
//! A [`Plan`] is a list of operations on links, addresses and rules that follows from what is wanted and what was
//! observed, without looking at the host again: [`set_up`], [`tear_down`], [`add_port`], [`remove_port`], [`tunnel`] and [`stretch`]
//! compute it, printing it is the dry run, [`Plan::apply`] does it. A plan for what is already so is empty.
//!
//! A set-up either happens or leaves no trace: when an operation fails, those before it are undone, last first. A
//! tear-down goes on past failures and tells them all at the end.
//!
//! What weft made is known by its mark ([`crate::link::Owner`]) and its table of rules, not by memory: a daemon that
//! was killed finds it again by [`Observed::read`].

mod apply;
mod collision;
mod observed;
mod operation;
mod port;
mod set_up;
mod stretch;
mod tear_down;
mod tunnel;

pub use observed::{MadeNetwork, Observed, Rules};
pub use operation::Operation;
pub use port::{add_port, remove_port};
pub use set_up::set_up;
pub use stretch::{StretchSpec, stretch, unstretch};
pub use tear_down::tear_down;
pub use tunnel::{TunnelSpec, reroute, tunnel};

use std::fmt;

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What it is for, as `network lab`.
    pub title: String,
    /// Each step.
    pub operations: Vec<Operation>,
    /// What the plan cannot do anything about, each one sentence.
    pub warnings: Vec<String>,
    /// Whether to undo what was done when a step fails, or to go on with the next.
    pub on_failure: OnFailure,
}

/// What happens when a step of a plan fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The steps before it are undone.
    Undo,
    /// The steps behind it are done all the same.
    GoOn,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

impl fmt::Display for Plan {
    /// The dry run: a line for each step, then the warnings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            writeln!(f, "{}: nothing to do", self.title)?;
        } else {
            writeln!(f, "{}:", self.title)?;
        }
        for operation in &self.operations {
            writeln!(f, "  {operation}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  note: {warning}")?;
        }
        Ok(())
    }
}
