//! LVM2's own programs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{Loop, run};

/// LVM2 with a configuration of its own, so that it looks at nothing but what a test names.
pub(crate) struct Lvm2 {
    system_dir: String,
}

/// Warnings of what a test asked for.
const HARMLESS: [&str; 3] = ["Activation disabled", "not zeroed", "NOT backed up"];

impl Lvm2 {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let system_dir = folder.join("lvm");
        std::fs::create_dir_all(&system_dir)?;
        let configuration = "backup { backup = 0\n archive = 0 }\n\
                             global { locking_dir = \"LOCKS\" }\n\
                             activation { udev_sync = 0\n udev_rules = 0 }\n";
        let locks = folder.join("locks").display().to_string();
        std::fs::write(
            system_dir.join("lvm.conf"),
            configuration.replace("LOCKS", &locks),
        )?;
        Ok(Self {
            system_dir: format!("LVM_SYSTEM_DIR={}", system_dir.display()),
        })
    }

    /// `pvck` finds every header and text of the files right, and the text is that version of that group.
    pub(crate) fn check_files(&self, paths: &[PathBuf], seqno: u64, name: &str) -> Result<()> {
        for path in paths {
            let headers = self.pvck("headers", path)?;
            let expected = format!("# vgname {name} seqno {seqno}");
            ensure!(headers.contains(&expected), "{expected}: {headers}");
            ensure!(headers.contains("pv_header_extension.flags 1"), "{headers}");
            let text = self.pvck("metadata", path)?;
            ensure!(text.contains(&format!("seqno = {seqno}\n")), "{text}");
        }
        Ok(())
    }

    /// The file is a physical volume without a group.
    pub(crate) fn check_empty_file(&self, path: &Path) -> Result<()> {
        let headers = self.pvck("headers", path)?;
        ensure!(headers.contains("raw_locn[0].offset 0\n"), "{headers}");
        ensure!(headers.contains("pv_header_extension.flags 0"), "{headers}");
        Ok(())
    }

    fn pvck(&self, what: &str, path: &Path) -> Result<String> {
        let path = path.to_str().context("the path is text")?;
        let words = [
            &self.system_dir,
            "LVM_SUPPRESS_FD_WARNINGS=1",
            "pvck",
            "--dump",
            what,
            path,
        ];
        let printed = run("env", words)?;
        ensure!(!printed.contains("CHECK:"), "{printed}");
        Ok(printed)
    }

    /// Runs an LVM2 command that sees the loop devices alone; a warning of damage is an error.
    pub(crate) fn lvm(&self, loops: &[Loop], words: &str) -> Result<String> {
        let devices: Vec<String> = loops
            .iter()
            .map(|one| one.path().display().to_string())
            .collect();
        let script = format!(
            "exec 2>&1; export LVM_SUPPRESS_FD_WARNINGS=1; {words} --driverloaded n --devices {}",
            devices.join(",")
        );
        let printed = run("env", [&self.system_dir, "sh", "-c", &script])?;
        let (harmless, odd): (Vec<&str>, Vec<&str>) = printed.lines().partition(|line| {
            HARMLESS.iter().any(|words| line.contains(words)) || !line.contains("WARNING")
        });
        ensure!(odd.is_empty(), "{words}: {printed}");
        let quiet = harmless
            .into_iter()
            .filter(|line| !line.contains("WARNING"));
        Ok(quiet.map(|line| format!("{line}\n")).collect())
    }
}
