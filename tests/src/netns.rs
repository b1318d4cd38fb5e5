//! Network namespaces.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use crate::process::{Process, succeeded};
use crate::run;

/// A network namespace with its loopback up, removed with all its links when dropped. Needs root.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A namespace whose name no other test has.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weft-test-{}-{number}", std::process::id());
        run("ip", ["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.run("ip", ["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, for `ip netns exec NAME` and `ip link set LINK netns NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs in the namespace and does not outlive its thread.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Process::command("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `program` in the namespace to its end and gives its standard output.
    ///
    /// # Errors
    /// If it does not start or fails.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .with_context(|| format!("{program} does not start"))?;
        succeeded(&format!("{program} in {}", self.name), &output)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = run("ip", ["netns", "del", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}
