//! The test binaries that cargo builds.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::checks::{Check, cargo};

/// A test binary, and the folder of its package, where it must run.
#[derive(Debug)]
pub(crate) struct TestBinary {
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) package: String,
    /// Whether it boots machines: these take longest and start first.
    pub(crate) boots_machines: bool,
}

/// A line of `cargo --message-format=json`, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds all tests and programs, and finds the binaries.
pub(crate) fn build() -> Result<Vec<TestBinary>> {
    let build = [
        "test",
        "--workspace",
        "--no-run",
        "--quiet",
        "--message-format=json-render-diagnostics",
    ];
    let output = cargo()
        .args(build)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not start")?;
    if !output.status.success() {
        bail!(
            "cargo test --no-run: {} (its messages are above)",
            output.status
        );
    }
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Message = serde_json::from_str(line).context("reading cargo's messages")?;
        found.extend(message.into_binary()?);
    }
    found.sort_by_key(|binary: &TestBinary| (!binary.boots_machines, binary.name.clone()));
    Ok(found)
}

/// The examples in the documentation of all libraries.
pub(crate) fn doc_tests() -> Check {
    Check::cargo_tests(
        "examples in the documentation",
        &["test", "--workspace", "--doc", "--no-fail-fast"],
    )
}

impl Message {
    fn into_binary(self) -> Result<Option<TestBinary>> {
        let (Some(executable), Some(target)) = (self.executable, self.target) else {
            return Ok(None);
        };
        if self.reason != "compiler-artifact" || !self.profile.is_some_and(|profile| profile.test) {
            return Ok(None);
        }
        let manifest = self
            .manifest_path
            .context("an artifact names its package")?;
        let folder = manifest.parent().context("a manifest lies in a folder")?;
        let package = package_name(&manifest)?;
        let kind = target.kind.first().map_or("", String::as_str);
        let name = match kind {
            "test" => format!("{package}: {}", target.name),
            "bin" => format!("{package}: unit tests of the program {}", target.name),
            _ => format!("{package}: unit tests"),
        };
        Ok(Some(TestBinary {
            name,
            executable,
            folder: folder.into(),
            boots_machines: boots_machines(&target.src_path),
            package,
        }))
    }
}

fn package_name(manifest: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Manifest {
        package: Package,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
    }
    let text = std::fs::read_to_string(manifest)?;
    let manifest: Manifest = toml::from_str(&text)?;
    Ok(manifest.package.name)
}

/// Whether the test's source uses the Linux guest or an engine of virtual machines.
fn boots_machines(source: &Path) -> bool {
    let text = std::fs::read_to_string(source).unwrap_or_default();
    text.contains("LinuxGuest") || text.contains("guest_slot")
}
