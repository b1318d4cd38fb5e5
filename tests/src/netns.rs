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

/// Makes a pair of links between two namespaces. Each end, of a namespace, a name and addresses with their prefixes, is
/// up then; IPv6 addresses are usable at once. It goes with either namespace.
///
/// # Errors
/// If a namespace has a link of the name, or an address is none.
pub fn link_pair(ends: [(&Netns, &str, &[&str]); 2]) -> Result<()> {
    let [(one, one_name, _), (other, other_name, _)] = ends;
    let words = [
        "link",
        "add",
        one_name,
        "netns",
        &one.name,
        "type",
        "veth",
        "peer",
        "name",
        other_name,
        "netns",
        &other.name,
    ];
    run("ip", words).context("a pair of links")?;
    for (netns, name, addresses) in ends {
        for address in addresses {
            let without_wait = address.contains(':').then_some("nodad");
            let words = ["address", "add", address, "dev", name];
            netns.run("ip", words.into_iter().chain(without_wait))?;
        }
        netns.run("ip", ["link", "set", name, "up"])?;
    }
    Ok(())
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = run("ip", ["netns", "del", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}
