//! A machine while its daemon dies.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_tests::{can, repository, require, skip};

use crate::program::{Weft, wait_until_ended};

/// The first lab of the examples, smaller, with its files in a folder of the test's.
struct FirstLab {
    weft: Weft,
    /// What `weft up` told.
    told: String,
}

impl FirstLab {
    fn up(weft: Weft) -> Self {
        Self::up_changed(weft, str::to_owned)
    }

    /// The same machine, whose disk is an image.
    fn up_on_image(weft: Weft) -> Self {
        std::fs::create_dir(weft.path("demo")).unwrap();
        weft.ok(&["image", "create", "demo/base.qcow2", "--size", "320M"]);
        weft.ok(&[
            "image",
            "create",
            "demo/top.qcow2",
            "--backing",
            "base.qcow2",
        ]);
        Self::up_changed(weft, |text| {
            let (stack, rest) = (text.find("[disk.d1]"), text.find("[net.lan]"));
            let mut text = text.to_owned();
            text.replace_range(stack.unwrap()..rest.unwrap(), "");
            text.replace("data/root", "qcow2:./demo/top.qcow2")
        })
    }

    fn up_changed(weft: Weft, change: impl Fn(&str) -> String) -> Self {
        let made = Command::new(repository().join("scripts/demo-guest"))
            .arg(weft.path("demo"))
            .status()
            .unwrap();
        assert!(made.success(), "the guest cannot be made");
        // The kernel is a link into the cache of whoever runs the tests.
        let kernel = std::fs::read(weft.path("demo/vmlinuz")).unwrap();
        std::fs::remove_file(weft.path("demo/vmlinuz")).unwrap();
        std::fs::write(weft.path("demo/vmlinuz"), kernel).unwrap();
        weft.give("demo");
        let example = std::fs::read_to_string(repository().join("examples/first-vm.toml")).unwrap();
        let text = example
            .replace("../target/demo", "demo")
            .replace("\"512M\"\n\n[", "\"224M\"\n\n[")
            .replace("600M", "320M")
            .replace("memory = \"512M\"", "memory = \"256M\"");
        std::fs::write(weft.path("lab.toml"), change(&text)).unwrap();
        let up = weft.run(&["up", "lab.toml"]);
        let told = String::from_utf8_lossy(&up.stderr).into_owned();
        let lab = Self { weft, told };
        assert!(up.status.success(), "{}", lab.told);
        lab
    }

    /// What the guest has said so far.
    fn heard(&self) -> String {
        self.weft.ok(&["vm", "console", "first", "--log"])
    }

    /// Waits until the guest has said `text`.
    #[track_caller]
    fn hear(&self, text: &str) {
        self.wait_for(|said| said.contains(text).then_some(()));
    }

    /// Waits until what the guest has said holds what is looked for.
    #[track_caller]
    fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        // Far longer than the slowest machine needs: it only ends a test that hangs.
        let deadline = Instant::now() + Duration::from_secs(240);
        loop {
            let said = self.heard();
            let last: Vec<&str> = said.lines().rev().take(20).collect();
            assert!(!said.contains("guest: FAILED"), "{last:#?}");
            if let Some(found) = find(&said) {
                return found;
            }
            assert!(Instant::now() < deadline, "the last lines: {last:#?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// How many files the guest has written.
    #[track_caller]
    fn files(&self) -> u32 {
        let before = file_counts(&self.heard()).len();
        self.tell("count");
        self.wait_for(|said| file_counts(said).get(before).copied())
    }

    /// Waits until its disk is another image, while the guest writes on.
    #[track_caller]
    fn moves_to(&self, image: &str) {
        let disk = format!("qcow2:{}", self.weft.at(image));
        while self.weft.json(&["vm", "show", "first"])["disks"][0] != disk {
            self.files();
        }
    }

    fn tell(&self, order: &str) {
        let mut console = self
            .weft
            .command(&["vm", "console", "first"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut typed = console.stdin.take().unwrap();
        writeln!(typed, "{order}").unwrap();
        drop(typed);
        assert!(console.wait().unwrap().success());
    }
}

/// The guest's answers to `count`.
fn file_counts(said: &str) -> Vec<u32> {
    let answers = said
        .lines()
        .filter_map(|line| line.trim_end().strip_suffix(" files so far"));
    answers
        .filter_map(|answer| answer.rsplit(' ').next()?.parse().ok())
        .collect()
}

impl Drop for FirstLab {
    fn drop(&mut self) {
        let _ = self.weft.run(&["vm", "kill", "first"]);
        let _ = self.weft.run(&["down", "lab.toml"]);
    }
}

/// Whether QEMU's own control answers.
fn qemu_answers(weft: &Weft) -> bool {
    let control = weft.path("state/run/vm/first/control.sock");
    let mut stream = UnixStream::connect(control).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut greeting = [0; 16];
    stream.read_exact(&mut greeting).is_ok() && greeting.starts_with(b"{\"QMP\"")
}

#[test]
fn a_guest_that_writes_does_not_notice_the_death_of_its_daemon() {
    require!("qemu-system-x86_64", "busybox", "ip", "nft");
    if !can::be_root() {
        skip!("needs root for a network namespace of its own");
    }
    let lab = FirstLab::up(Weft::in_namespace());
    let weft = &lab.weft;
    lab.hear("ready, and writing on");
    weft.ok(&["raid", "fail", "tank", "demo/d2.img"]);
    weft.disks(&["demo/d4.img"], "224M");
    weft.ok(&["raid", "add", "tank", "demo/d4.img"]);

    let machine = weft.json(&["vm", "show", "first"])["pid"].clone();
    for _ in 0..3 {
        let daemon = weft.daemon_pid();
        kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
        wait_until_ended(daemon);
        let plan = weft.json(&["up", "lab.toml"]);
        for change in plan["changes"].as_array().unwrap() {
            assert_eq!(change["action"], "keep", "{plan}");
        }
        assert_eq!(weft.json(&["vm", "show", "first"])["pid"], machine);
        assert_ne!(weft.daemon_pid(), daemon);
        assert!(qemu_answers(weft), "QEMU's main loop hangs");
        let files = lab.files();
        let writes_on = (0..60).any(|_| lab.files() > files);
        assert!(writes_on, "{files} files and no more");
    }
    let array = weft.json(&["raid", "wait", "tank"]);
    assert!(
        matches!(array["state"].as_str(), Some("clean" | "active")),
        "{array}"
    );

    lab.tell("verify");
    lab.hear("guest: verified");
    let said = lab.heard();
    assert!(!said.contains("I/O error"), "{said}");
    lab.tell("poweroff");
    lab.hear("guest: powering off");
    weft.ok(&["down", "lab.toml"]);
}

#[test]
fn a_guest_lives_on_an_image() {
    require!("qemu-system-x86_64", "qemu-img", "busybox", "ip", "nft");
    if !can::be_root() {
        skip!("needs root for a network namespace of its own");
    }
    let lab = FirstLab::up_on_image(Weft::in_namespace());
    let weft = &lab.weft;
    lab.hear("ready, and writing on");
    let image = &weft.json(&["image", "list"])[0];
    assert_eq!(image["used_by"][0]["noun"], "vm", "{image}");
    let word = image["disk"].as_str().unwrap();
    let (kind, message) = weft.fails(&["disk", "wipe", "./demo/top.qcow2"]);
    assert_eq!(kind, "in-use", "{message}");
    weft.ok(&["image", "snapshot", "create", "demo/top.qcow2", "early"]);
    weft.ok(&["image", "overlay", word, "demo/next.qcow2"]);
    assert_eq!(
        weft.json(&["vm", "show", "first"])["disks"][0],
        format!("qcow2:{}", weft.at("demo/next.qcow2"))
    );
    // Back into the one below, and on with another one on top, which takes that over.
    weft.ok(&["image", "commit", "demo/next.qcow2"]);
    lab.moves_to("demo/top.qcow2");
    weft.ok(&["image", "overlay", word, "demo/last.qcow2"]);
    weft.ok(&["image", "stream", "qcow2:./demo/last.qcow2"]);
    weft.ok(&["image", "wait", "qcow2:./demo/last.qcow2"]);
    // To another image, past the death of a daemon.
    weft.ok(&["image", "create", "demo/moved.qcow2", "--size", "320M"]);
    let (last, moved) = ("qcow2:./demo/last.qcow2", "qcow2:./demo/moved.qcow2");
    weft.ok(&["image", "mirror", last, moved, "--ceiling", "64K"]);
    let daemon = weft.daemon_pid();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    wait_until_ended(daemon);
    weft.ok(&["image", "sync", last, "--ceiling", "0"]);
    lab.moves_to("demo/moved.qcow2");
    // Another daemon, in order: what was written is in the image, and the guest waits for it.
    weft.ok(&["daemon", "--stop"]);
    let files = lab.files();
    assert!(
        (0..60).any(|_| lab.files() > files),
        "{files} files and no more"
    );
    lab.tell("verify");
    lab.hear("guest: verified");
    lab.tell("poweroff");
    lab.hear("guest: powering off");
    weft.ok(&["down", "lab.toml"]);
    for image in ["top", "next", "last", "moved"] {
        let image = format!("demo/{image}.qcow2");
        let image = weft.at(&image);
        weft_tests::run("qemu-img", ["check", "-q", "-f", "qcow2", &image]).unwrap();
    }
}

#[test]
fn an_ordinary_user_gets_the_same_lab_in_a_namespace_of_its_own() {
    require!("qemu-system-x86_64", "busybox", "ip", "nft", "setpriv");
    if !can::be_root() {
        skip!("needs root to become a user without rights");
    }
    let weft = Weft::as_ordinary_user();
    let before = weft.traces();
    let lab = FirstLab::up(weft);
    let weft = &lab.weft;
    assert!(
        lab.told
            .contains("without root the networks live in a namespace of their own")
    );
    lab.hear("the gateway answers a ping");
    lab.hear("ready, and writing on");
    assert_eq!(
        weft.traces(),
        before,
        "its links and rules are not the host's"
    );
    lab.tell("verify");
    lab.hear("guest: verified");
    lab.tell("poweroff");
    lab.hear("guest: powering off");
    weft.ok(&["down", "lab.toml"]);
}
