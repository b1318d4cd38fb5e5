//! The program under test, with a daemon and a state folder of its own.

use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use weft_tests::Netns;

/// A place to work in. The daemon ends with it.
pub(crate) struct Weft {
    folder: tempfile::TempDir,
    user: User,
}

/// Who runs the program, and where.
enum User {
    Caller,
    /// In a network namespace of its own.
    InNamespace(Netns),
    /// A user without any right, in a network namespace of its own, with a copy of the program that it can read.
    Ordinary(Netns),
}

/// Debian's `nobody`.
const NOBODY: u32 = 65_534;

impl Weft {
    pub(crate) fn new() -> Self {
        // A short path: Unix sockets take 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("weft-")
            .tempdir_in("/tmp")
            .unwrap();
        Self {
            folder,
            user: User::Caller,
        }
    }

    /// The same in a network namespace of its own. Needs root.
    pub(crate) fn in_namespace() -> Self {
        let mut weft = Self::new();
        weft.user = User::InNamespace(Netns::new().unwrap());
        weft
    }

    /// The same as an ordinary user. Needs root to become one.
    pub(crate) fn as_ordinary_user() -> Self {
        let mut weft = Self::new();
        std::fs::copy(env!("CARGO_BIN_EXE_weft"), weft.path("weft")).unwrap();
        chown(weft.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        weft.user = User::Ordinary(Netns::new().unwrap());
        weft
    }

    /// Its namespace.
    pub(crate) fn netns(&self) -> &Netns {
        match &self.user {
            User::InNamespace(netns) | User::Ordinary(netns) => netns,
            User::Caller => panic!("it has no namespace of its own"),
        }
    }

    /// What the namespace shows of links, addresses, routes and rules.
    pub(crate) fn traces(&self) -> String {
        let netns = self.netns();
        let links = netns.run("ip", ["-br", "address"]).unwrap();
        let routes = netns.run("ip", ["route"]).unwrap();
        let rules = netns.run("nft", ["list", "ruleset"]).unwrap();
        [links, routes, rules].join("--\n")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a file or folder here one of the program's user.
    pub(crate) fn give(&self, name: &str) {
        if let User::Ordinary(_) = self.user {
            chown(self.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    /// The path of a file here, as text for a command line.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_weft");
        let mut command = match &self.user {
            User::Caller => Command::new(program),
            User::InNamespace(netns) => netns.command(program),
            User::Ordinary(netns) => {
                let mut command = netns.command("setpriv");
                command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")]);
                command.args(["--clear-groups", &self.at("weft")]);
                command
            }
        };
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("WEFT_STATE", self.folder.path().join("state"))
            .env_remove("WEFT_SOCKET");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; its standard output.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = [&output.stderr[..], &output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            output.status.success(),
            "weft {}: {said}",
            arguments.join(" ")
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must succeed; its JSON document.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        serde_json::from_str(&self.ok(&with_json)).unwrap()
    }

    /// Runs a command that must fail with status 1; its kind and its one sentence.
    #[track_caller]
    pub(crate) fn fails(&self, arguments: &[&str]) -> (String, String) {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let output = self.run(&with_json);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            output.status.code(),
            Some(1),
            "weft {}: {out}",
            arguments.join(" ")
        );
        let body: Value = serde_json::from_str(&out).unwrap();
        let text = |name: &str| body["error"][name].as_str().unwrap().to_owned();
        let message = text("message");
        assert!(
            !message.is_empty() && !message.contains('\n'),
            "one sentence: {message}"
        );
        (text("kind"), message)
    }

    /// Runs a script of `examples/`, which must succeed; what it printed. Its daemon is its own.
    #[track_caller]
    pub(crate) fn example(&self, name: &str, arguments: &[&str]) -> String {
        let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_weft"));
        let folder = program.parent().unwrap().display();
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new(examples.join(name))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("PATH", format!("{folder}:{path}"))
            .env("TMPDIR", self.folder.path())
            .env_remove("WEFT_SOCKET")
            .output()
            .unwrap();
        let said = [&output.stderr[..], &output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{name}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes disk files of the given size.
    pub(crate) fn disks(&self, names: &[&str], size: &str) {
        for name in names {
            self.ok(&["disk", "create", name, "--size", size]);
        }
    }

    /// The daemon's pid.
    pub(crate) fn daemon_pid(&self) -> i32 {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let lock = std::fs::metadata(self.path("state/daemon.lock")).unwrap();
        let inode = format!(":{} ", std::os::unix::fs::MetadataExt::ino(&lock));
        let line = locks
            .lines()
            .find(|line| line.contains(&inode))
            .expect("a daemon runs");
        line.split_ascii_whitespace()
            .nth(4)
            .unwrap()
            .parse()
            .unwrap()
    }
}

/// Waits until the process of that pid has ended.
pub(crate) fn wait_until_ended(pid: i32) {
    let stat = format!("/proc/{pid}/stat");
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

impl Drop for Weft {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("state/daemon.log"));
            eprintln!("the daemon's log:\n{}", log.unwrap_or_default());
        }
        let _ = self.run(&["daemon", "--stop"]);
    }
}
