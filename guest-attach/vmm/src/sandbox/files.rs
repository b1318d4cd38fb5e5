//! Landlock: which files the process can still open.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};

use crate::config::Config;
use crate::error::{Context, ErrorKind, Result};

/// Kernel and initrd stay readable, because a reboot reads them again; so does /dev/kvm with its ioctls. Everything else
/// (log, sockets, report) is open already, and connecting to a socket is not Landlock's affair.
///
/// Whether the kernel enforces it comes back: kernels before 5.13 have no Landlock.
pub(super) fn restrict(config: &Config) -> Result<bool> {
    let refused = || "cannot restrict the process to its files";
    let kvm = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut rules: Vec<(PathBuf, _)> = vec![(Path::new("/dev/kvm").into(), kvm)];
    for path in [Some(&config.kernel), config.initrd.as_ref()]
        .into_iter()
        .flatten()
    {
        rules.push((path.clone(), AccessFs::ReadFile.into()));
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .context(ErrorKind::Sandbox, refused())?
        .create()
        .context(ErrorKind::Sandbox, refused())?;
    for (path, access) in rules {
        // What is not there cannot be opened later either, and is reported where it is opened.
        if let Ok(fd) = PathFd::new(&path) {
            ruleset = ruleset
                .add_rule(PathBeneath::new(fd, access))
                .context(ErrorKind::Sandbox, refused())?;
        }
    }
    let status = ruleset
        .restrict_self()
        .context(ErrorKind::Sandbox, refused())?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
