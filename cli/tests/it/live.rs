//! Images that change under those who use them: a client writes all the time and finds what it wrote.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use weft_block::{BlockDevice, BlockQueue, IoVec, Request};
use weft_export::nbd::client::{NbdDevice, Url};
use weft_tests::{data, require};
use weft_uring::{block_on, spawner};

use crate::image_disks::{export, io, judge, overlay, url};
use crate::program::Weft;
use crate::restart::kill_daemon;

/// Blocks that are written, of a disk of 64 MiB: across clusters and within them.
const BLOCK: u64 = 20 << 10;
const BLOCKS: u64 = (64 << 20) / BLOCK;

/// What the client has written: the seed of each block, zero for zeroes.
pub(crate) type Written = BTreeMap<u64, u64>;

/// A client that writes until it is told to stop.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Written>,
}

impl Writer {
    pub(crate) fn start(weft: &Weft, name: &str, seed: u64) -> Self {
        let url = url(weft, name);
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = thread::spawn(move || {
            block_on(async {
                let device = connect(&url).await;
                let queue = device.open(&spawner()).unwrap();
                let mut random = data::Sequence::new(seed);
                let mut written = Written::new();
                while !stopped.load(Ordering::Relaxed) {
                    let (place, value) = (random.below(BLOCKS), random.draw() | 1);
                    let value = if random.below(8) == 0 { 0 } else { value };
                    write(&*queue, place, value).await;
                    written.insert(place, value);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                queue.submit(Request::flush()).await.result.unwrap();
                written
            })
        });
        let writer = Self { stop, done, thread };
        writer.goes_on();
        writer
    }

    /// Waits until more has been written.
    pub(crate) fn goes_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        while self.done.load(Ordering::Relaxed) < before + 20 {
            assert!(!self.thread.is_finished(), "the client has failed");
            thread::yield_now();
        }
    }

    /// Goes on until it is so, and until the daemon is done with what made it so.
    pub(crate) fn until(&self, is_so: impl Fn() -> bool, weft: &Weft) {
        while !is_so() {
            self.goes_on();
        }
        weft.ok(&["image", "list"]);
        self.goes_on();
    }

    pub(crate) fn end(self) -> Written {
        self.goes_on();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn connect(url: &str) -> NbdDevice {
    let url: Url = format!("{url}&reconnect-delay=0").parse().unwrap();
    NbdDevice::connect(&url).await.unwrap()
}

async fn write(queue: &dyn BlockQueue, place: u64, value: u64) {
    let offset = place * BLOCK;
    let request = match value {
        0 => Request::write_zeroes(offset, BLOCK, true),
        seed => Request::write(offset, IoVec::copy_of(&data::bytes(seed, BLOCK as usize))),
    };
    queue.submit(request).await.result.unwrap();
}

/// All that was written is there.
#[track_caller]
pub(crate) fn holds(weft: &Weft, name: &str, written: &Written) {
    block_on(async {
        let device = connect(&url(weft, name)).await;
        let queue = device.open(&spawner()).unwrap();
        for (place, value) in written {
            let read = Request::read(place * BLOCK, IoVec::zeroed(BLOCK as usize));
            let completion = queue.submit(read).await;
            completion.result.unwrap();
            let expected = match value {
                0 => vec![0; BLOCK as usize],
                seed => data::bytes(*seed, BLOCK as usize),
            };
            assert!(
                *completion.buffer.to_buffer() == *expected,
                "block {place} of {value}"
            );
        }
    });
}

#[test]
fn snapshots_of_an_image_in_use_are_the_daemons() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    export(&weft, "qcow2:./top.qcow2", "top");
    io(&weft, "top", &["write -P 2 0 1M"]);
    let writer = Writer::start(&weft, "top", 1);
    // By the file's name, as when nobody used it, or by the disk's word.
    weft.ok(&["image", "snapshot", "create", "top.qcow2", "monday"]);
    let made = weft.json(&[
        "image",
        "snapshot",
        "create",
        "qcow2:./top.qcow2",
        "tuesday",
    ]);
    assert_eq!(made["name"], "tuesday");
    let (kind, message) = weft.fails(&["image", "snapshot", "create", "top.qcow2", "monday"]);
    assert_eq!(kind, "exists", "{message}");
    let (kind, message) = weft.fails(&["image", "snapshot", "apply", "top.qcow2", "monday"]);
    assert_eq!(kind, "in-use", "{message}");
    assert!(message.contains("while export top uses it"), "{message}");
    weft.ok(&["image", "snapshot", "delete", "top.qcow2", "monday"]);
    let (kind, message) = weft.fails(&["image", "snapshot", "delete", "top.qcow2", "friday"]);
    assert_eq!(kind, "invalid", "{message}");
    let written = writer.end();
    holds(&weft, "top", &written);
    let all = weft.json(&["image", "snapshot", "list", "top.qcow2"]);
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    weft.ok(&["export", "remove", "top"]);
    judge(&weft, &["qemu-img", "check", "-q", "top.qcow2"]);
    // Nobody uses it any more: the file is ours, and the daemon is not asked.
    weft.ok(&["image", "snapshot", "apply", "top.qcow2", "tuesday"]);
    let (kind, message) = weft.fails(&["image", "snapshot", "list", "qcow2:./top.qcow2"]);
    assert_eq!(kind, "not-found", "{message}");
}

#[test]
fn a_new_image_becomes_the_top_under_a_client_that_writes() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    std::fs::create_dir(weft.path("far")).unwrap();
    export(&weft, "qcow2:./top.qcow2", "top");
    // An export that nobody is connected to follows too.
    export(&weft, "qcow2:./top.qcow2", "idle");
    io(&weft, "top", &["write -P 2 0 64M"]);
    let writer = Writer::start(&weft, "top", 2);
    let mut kept = Vec::new();
    for (from, to) in [("top", "next"), ("next", "far/last")] {
        let (from, to) = (format!("{from}.qcow2"), format!("{to}.qcow2"));
        // The name that the disk has now tells what it rests on.
        let disk = weft.json(&["export", "list"])[1]["disk"].clone();
        let disk = disk.as_str().unwrap();
        let shown = weft.json(&["image", "overlay", disk, &to]);
        assert_eq!(shown["chain"][0]["disk"], weft.at(&to).as_str(), "{shown}");
        assert_eq!(shown["used_by"].as_array().unwrap().len(), 2, "{shown}");
        let sum = weft_tests::data::sha256(&weft.path(&from)).unwrap();
        kept.push((from, sum));
        writer.goes_on();
    }
    let written = writer.end();
    holds(&weft, "idle", &written);
    for (file, sum) in &kept {
        let now = weft_tests::data::sha256(&weft.path(file)).unwrap();
        assert_eq!(now, *sum, "{file} was written to");
        judge(&weft, &["qemu-img", "check", "-q", file]);
    }
    let last = format!(
        "qcow2:{},allow={},allow={},allow={}",
        weft.at("far/last.qcow2"),
        weft.at("next.qcow2"),
        weft.at("top.qcow2"),
        weft.at("base.qcow2")
    );
    kill_daemon(&weft);
    for export in weft.json(&["export", "list"]).as_array().unwrap() {
        assert_eq!(export["disk"], last.as_str(), "{export}");
    }
    holds(&weft, "top", &written);
    for name in ["top", "idle"] {
        weft.ok(&["export", "remove", name]);
    }
    judge(&weft, &["qemu-img", "check", "-q", "far/last.qcow2"]);
}

#[test]
fn what_cannot_be_exchanged_is_refused_and_goes_on() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    weft.ok(&["image", "create", "leg.qcow2", "--size", "64M"]);
    let (kind, message) = weft.fails(&["image", "overlay", "qcow2:./top.qcow2", "new.qcow2"]);
    assert_eq!(kind, "not-found", "{message}");
    weft.ok(&["vg", "create", "data", "qcow2:./leg.qcow2"]);
    export(&weft, "qcow2:./top.qcow2", "top");
    let address = format!("unix:{}", weft.at("nbd.sock"));
    let base = "qcow2:./base.qcow2";
    weft.ok(&[
        "export",
        "add",
        base,
        "--nbd",
        &address,
        "--name",
        "base",
        "--read-only",
    ]);
    let writer = Writer::start(&weft, "top", 3);
    let fails = |words: &[&str], kind: &str| {
        let (found, message) = weft.fails(&[&["image", "overlay"], words].concat());
        assert_eq!(found, kind, "{words:?}: {message}");
    };
    fails(&["qcow2:./leg.qcow2", "new.qcow2"], "in-use");
    fails(&[base, "new.qcow2"], "in-use");
    fails(&["./top.qcow2", "new.qcow2"], "invalid");
    fails(&["qcow2:./top.qcow2", "base.qcow2"], "exists");
    fails(&["qcow2:./top.qcow2", "nowhere/new.qcow2"], "not-found");
    for option in ["cluster_size=3K", "perhaps=on", "data_file=x"] {
        let kind = if option.starts_with("data") {
            "unsupported"
        } else {
            "invalid"
        };
        fails(&["qcow2:./top.qcow2", "new.qcow2", "-o", option], kind);
        assert!(!weft.path("new.qcow2").exists(), "{option}");
    }
    let written = writer.end();
    holds(&weft, "top", &written);
}

#[test]
fn an_image_takes_over_what_it_rests_on_under_a_client_that_writes() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    judge(
        &weft,
        &["qemu-io", "-c", "write -P 3 32M 16M", "base.qcow2"],
    );
    export(&weft, "qcow2:./top.qcow2", "top");
    let base = weft.at("base.qcow2");
    let writer = Writer::start(&weft, "top", 4);
    let begun = weft.json(&["image", "stream", "qcow2:./top.qcow2", "--pause"]);
    assert_eq!(begun["job"]["action"], "stream", "{begun}");
    assert_eq!(begun["job"]["paused"], true, "{begun}");
    for refused in [
        &["image", "snapshot", "create", "top.qcow2", "now"][..],
        &["image", "overlay", "qcow2:./top.qcow2", "new.qcow2"],
        &["image", "stream", "qcow2:./top.qcow2"],
    ] {
        let (kind, message) = weft.fails(refused);
        assert_eq!(kind, "busy", "{message}");
    }
    // Given up, begun again, and killed: nothing of it is lost, and it goes on.
    weft.ok(&["image", "cancel", "qcow2:./top.qcow2"]);
    let (kind, message) = weft.fails(&["image", "cancel", "qcow2:./top.qcow2"]);
    assert_eq!(kind, "not-found", "{message}");
    // So slow that it cannot be done before the kill: 17 MiB are to be copied.
    let slow = ["--ceiling", "64K"];
    weft.ok(&[&["image", "stream", "qcow2:./top.qcow2"][..], &slow].concat());
    let written = writer.end();
    kill_daemon(&weft);
    let job = weft.json(&["image", "show", "qcow2:./top.qcow2"])["job"].clone();
    assert_eq!(job["ceiling_bytes"], 64 << 10, "{job}");
    holds(&weft, "top", &written);
    let writer = Writer::start(&weft, "top", 5);
    weft.ok(&["image", "sync", "qcow2:./top.qcow2", "--ceiling", "0"]);
    let alone = weft.json(&["image", "wait", "qcow2:./top.qcow2"]);
    assert_eq!(alone["chain"].as_array().unwrap().len(), 1, "{alone}");
    let (kind, message) = weft.fails(&["image", "stream", "qcow2:./top.qcow2"]);
    assert_eq!(kind, "invalid", "{message}");
    let mut all = written;
    all.extend(writer.end());
    // The base is anybody's again, and may go.
    export(&weft, &base, "base");
    weft.ok(&["export", "remove", "base"]);
    std::fs::remove_file(base).unwrap();
    holds(&weft, "top", &all);
    weft.ok(&["export", "remove", "top"]);
    judge(&weft, &["qemu-img", "check", "-q", "top.qcow2"]);
    let info = judge(&weft, &["qemu-img", "info", "top.qcow2"]);
    assert!(!info.contains("backing"), "{info}");
}

/// An image with a bitmap that records, exported.
fn recorded(weft: &Weft) {
    weft.ok(&["image", "create", "disk.qcow2", "--size", "64M"]);
    judge(
        weft,
        &["qemu-img", "bitmap", "--add", "disk.qcow2", "since"],
    );
    export(weft, "qcow2:./disk.qcow2", "disk");
    for target in ["./full", "./later"] {
        weft.ok(&["disk", "create", target, "--size", "64M"]);
    }
}

#[test]
fn a_backup_is_the_image_when_it_was_asked_for() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    recorded(&weft);
    io(&weft, "disk", &["write -P 1 0 8M", "write -P 2 32M 4M"]);
    let writer = Writer::start(&weft, "disk", 6);
    let before = writer.end();
    let backup = ["image", "backup", "qcow2:./disk.qcow2"];
    let begun = weft.json(&[&backup[..], &["./full", "--pause"]].concat());
    assert_eq!(begun["job"]["action"], "backup", "{begun}");
    assert_eq!(begun["job"]["total_bytes"], 64 << 20, "{begun}");
    for (refused, expected) in [
        (
            &["image", "backup", "qcow2:./disk.qcow2", "./later"][..],
            "busy",
        ),
        (
            &["export", "add", "./full", "--nbd", "unix:./x.sock"],
            "in-use",
        ),
    ] {
        let (kind, message) = weft.fails(refused);
        assert_eq!(kind, expected, "{message}");
    }
    // All of it is overwritten before anything has been copied by itself.
    io(&weft, "disk", &["write -P 9 0 64M"]);
    let writer = Writer::start(&weft, "disk", 7);
    weft.ok(&["image", "sync", "qcow2:./disk.qcow2", "--resume"]);
    let done = weft.json(&["image", "wait", "qcow2:./disk.qcow2"]);
    assert_eq!(done["trouble"], serde_json::Value::Null, "{done}");
    let after = writer.end();
    holds(&weft, "disk", &after);
    export(&weft, "./full", "full");
    holds(&weft, "full", &before);
}

#[test]
fn a_bitmap_tells_what_the_next_backup_copies() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    recorded(&weft);
    io(&weft, "disk", &["write -P 1 0 1M", "write -P 2 32M 1M"]);
    let backup = ["image", "backup", "qcow2:./disk.qcow2", "./later"];
    let since = [&backup[..], &["--bitmap", "since"]].concat();
    // Given up, the bitmap has what it had told.
    let begun = weft.json(&[&since[..], &["--pause"]].concat());
    assert_eq!(begun["job"]["total_bytes"], 2 << 20, "{begun}");
    io(&weft, "disk", &["write -P 3 48M 1M"]);
    weft.ok(&["image", "cancel", "qcow2:./disk.qcow2"]);
    let begun = weft.json(&[&since[..], &["--pause"]].concat());
    assert_eq!(begun["job"]["total_bytes"], 3 << 20, "{begun}");
    weft.ok(&["image", "sync", "qcow2:./disk.qcow2", "--resume"]);
    weft.ok(&["image", "wait", "qcow2:./disk.qcow2"]);
    export(&weft, "./later", "later");
    let copied = ["read -P 1 0 1M", "read -P 2 32M 1M", "read -P 3 48M 1M"];
    io(&weft, "later", &copied);
    weft.ok(&["export", "remove", "later"]);
    // What was copied once is not copied again.
    io(&weft, "disk", &["write -P 4 16M 64K"]);
    let begun = weft.json(&since);
    assert_eq!(begun["job"]["total_bytes"], 64 << 10, "{begun}");
    weft.ok(&["image", "wait", "qcow2:./disk.qcow2"]);
    for (arguments, expected) in [
        (&["./later", "--bitmap", "none"][..], "invalid"),
        (&["./nowhere"], "not-found"),
        (&["qcow2:./disk.qcow2"], "in-use"),
    ] {
        let asked = [&["image", "backup", "qcow2:./disk.qcow2"][..], arguments].concat();
        let (kind, message) = weft.fails(&asked);
        assert_eq!(kind, expected, "{message}");
    }
    weft.ok(&["disk", "create", "./small", "--size", "1M"]);
    let (kind, message) = weft.fails(&["image", "backup", "qcow2:./disk.qcow2", "./small"]);
    assert_eq!(kind, "invalid", "{message}");
    io(&weft, "disk", &["read -P 3 48M 1M", "read -P 4 16M 64K"]);
    // A backup that goes down with its image gives the bitmap back what it told.
    weft.ok(&[&since[..], &["--pause"]].concat());
    io(&weft, "disk", &["write -P 5 8M 64K"]);
    weft.ok(&["export", "remove", "disk"]);
    judge(&weft, &["qemu-img", "check", "-q", "disk.qcow2"]);
    assert_eq!(weft.json(&["disk", "list"]), serde_json::json!([]));
}

/// The disk of an export, as the daemon knows it.
pub(crate) fn disk_of(weft: &Weft, export: &str) -> String {
    let all = weft.json(&["export", "list"]);
    let found = all.as_array().unwrap().iter();
    let mut named = found.filter(|one| one["name"] == export);
    named.next().unwrap()["disk"].as_str().unwrap().to_owned()
}

#[test]
fn a_copy_takes_the_place_of_an_image_under_a_client_that_writes() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    export(&weft, "qcow2:./top.qcow2", "top");
    weft.ok(&["image", "create", "new.qcow2", "--size", "64M"]);
    weft.ok(&["disk", "create", "./plain", "--size", "64M"]);
    let writer = Writer::start(&weft, "top", 8);
    let mirror = ["image", "mirror", "qcow2:./top.qcow2"];
    // Given up, the image is what it was.
    let begun = weft.json(&[&mirror[..], &["./plain", "--pause"]].concat());
    assert_eq!(begun["job"]["action"], "mirror", "{begun}");
    assert_eq!(begun["moves_to"], weft.at("plain").as_str(), "{begun}");
    writer.goes_on();
    let (kind, message) = weft.fails(&[&mirror[..], &["qcow2:./new.qcow2"]].concat());
    assert_eq!(kind, "busy", "{message}");
    weft.ok(&["image", "cancel", "qcow2:./top.qcow2"]);
    writer.goes_on();
    assert!(disk_of(&weft, "top").ends_with("/top.qcow2"));
    // To another image, and from there to a plain file.
    weft.ok(&[&mirror[..], &["qcow2:./new.qcow2"]].concat());
    let lies_in = |name: &str| disk_of(&weft, "top").ends_with(name);
    writer.until(|| lies_in("/new.qcow2"), &weft);
    // The old one is nobody's, and whole. What is done to the new one is done under its users.
    judge(&weft, &["qemu-img", "check", "-q", "top.qcow2"]);
    std::fs::remove_file(weft.path("top.qcow2")).unwrap();
    weft.ok(&["image", "overlay", "qcow2:./new.qcow2", "newer.qcow2"]);
    writer.goes_on();
    let sum = weft_tests::data::sha256(&weft.path("new.qcow2")).unwrap();
    weft.ok(&["image", "mirror", "qcow2:./newer.qcow2", "./plain"]);
    writer.until(|| lies_in("/plain"), &weft);
    let mut written = writer.end();
    let now = weft_tests::data::sha256(&weft.path("new.qcow2")).unwrap();
    assert_eq!(now, sum, "what is below an overlay was written");
    for image in ["new.qcow2", "newer.qcow2"] {
        judge(&weft, &["qemu-img", "check", "-q", image]);
    }
    std::fs::remove_file(weft.path("newer.qcow2")).unwrap();
    holds(&weft, "top", &written);
    // The next daemon knows the new place.
    kill_daemon(&weft);
    weft.ok(&["status"]);
    holds(&weft, "top", &written);
    written.extend(Writer::start(&weft, "top", 9).end());
    holds(&weft, "top", &written);
    weft.ok(&["export", "remove", "top"]);
    assert_eq!(weft.json(&["disk", "list"]), serde_json::json!([]));
}

#[test]
fn a_mirror_begins_anew_after_a_crash_and_is_waited_for() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    judge(
        &weft,
        &["qemu-io", "-c", "write -P 3 32M 16M", "base.qcow2"],
    );
    export(&weft, "qcow2:./top.qcow2", "top");
    weft.ok(&["image", "create", "new.qcow2", "--size", "64M"]);
    let mirror = ["image", "mirror", "qcow2:./top.qcow2", "qcow2:./new.qcow2"];
    // So slow that it cannot be done before the kill.
    weft.ok(&[&mirror[..], &["--ceiling", "64K"]].concat());
    let mut written = Writer::start(&weft, "top", 10).end();
    kill_daemon(&weft);
    let shown = weft.json(&["image", "show", "qcow2:./top.qcow2"]);
    assert_eq!(shown["job"]["action"], "mirror", "{shown}");
    holds(&weft, "top", &written);
    let writer = Writer::start(&weft, "top", 11);
    weft.ok(&["image", "sync", "qcow2:./top.qcow2", "--ceiling", "0"]);
    let moved = weft.json(&["image", "wait", "qcow2:./top.qcow2"]);
    let new = format!("qcow2:{}", weft.at("new.qcow2"));
    assert_eq!(moved["disk"], new.as_str(), "{moved}");
    assert_eq!(moved["used_by"][0]["name"], "top", "{moved}");
    written.extend(writer.end());
    // In order this time: nothing is begun again.
    weft.ok(&["daemon", "--stop"]);
    for image in ["top.qcow2", "new.qcow2"] {
        judge(&weft, &["qemu-img", "check", "-q", image]);
    }
    weft.ok(&["status"]);
    holds(&weft, "top", &written);
    let shown = weft.json(&["image", "show", &new]);
    assert_eq!(shown["job"], serde_json::Value::Null, "{shown}");
    assert_eq!(shown["trouble"], serde_json::Value::Null, "{shown}");
}

#[test]
fn a_copy_that_cannot_take_the_place_leaves_the_image_as_it_was() {
    require!("qemu-img", "qemu-io");
    let weft = Weft::new();
    overlay(&weft);
    export(&weft, "qcow2:./top.qcow2", "top");
    weft.ok(&["disk", "create", "./small", "--size", "1M"]);
    for (target, expected) in [
        ("./small", "invalid"),
        ("./nowhere", "not-found"),
        ("qcow2:./top.qcow2", "in-use"),
        ("./base.qcow2", "in-use"),
        ("./top.qcow2", "in-use"),
    ] {
        let asked = ["image", "mirror", "qcow2:./top.qcow2", target];
        let (kind, message) = weft.fails(&asked);
        assert_eq!(kind, expected, "{target}: {message}");
    }
    io(&weft, "top", &["write -P 5 0 1M", "read -P 5 0 1M"]);
    let shown = weft.json(&["image", "show", "qcow2:./top.qcow2"]);
    assert_eq!(shown["job"], serde_json::Value::Null, "{shown}");
    // What holds something is overwritten if that is meant.
    weft.ok(&["image", "create", "inner.qcow2", "--size", "64M"]);
    std::fs::copy(weft.path("inner.qcow2"), weft.path("holds")).unwrap();
    std::fs::File::options()
        .write(true)
        .open(weft.path("holds"))
        .and_then(|file| file.set_len(64 << 20))
        .unwrap();
    let asked = ["image", "mirror", "qcow2:./top.qcow2", "./holds"];
    let (kind, message) = weft.fails(&asked);
    assert_eq!(kind, "foreign", "{message}");
    weft.ok(&[&asked[..], &["--force"]].concat());
    while !disk_of(&weft, "top").ends_with("/holds") {
        io(&weft, "top", &["read -P 5 0 1M"]);
    }
    io(&weft, "top", &["read -P 5 0 1M", "read -P 0 32M 1M"]);
}

#[test]
fn a_target_that_goes_away_ends_the_mirror_and_no_request() {
    require!("qemu-img", "qemu-io", "qemu-nbd");
    let weft = Weft::new();
    overlay(&weft);
    export(&weft, "qcow2:./top.qcow2", "top");
    weft.disks(&["far"], "64M");
    let socket = weft.at("far.sock");
    let mut server = std::process::Command::new("qemu-nbd")
        .args(["-t", "-f", "raw", "-x", "far", "-k", &socket, "far"])
        .current_dir(weft.path(""))
        .spawn()
        .unwrap();
    while !weft.path("far.sock").exists() {
        assert!(server.try_wait().unwrap().is_none(), "it has no server");
        thread::yield_now();
    }
    let target = format!("nbd+unix:///far?socket={socket}&reconnect-delay=0");
    let writer = Writer::start(&weft, "top", 12);
    let mirror = ["image", "mirror", "qcow2:./top.qcow2", &target];
    weft.ok(&[&mirror[..], &["--ceiling", "64K"]].concat());
    writer.goes_on();
    server.kill().unwrap();
    server.wait().unwrap();
    let (kind, message) = weft.fails(&["image", "wait", "qcow2:./top.qcow2"]);
    assert_eq!(kind, "io", "{message}");
    writer.goes_on();
    let shown = weft.json(&["image", "show", "qcow2:./top.qcow2"]);
    assert_eq!(shown["trouble"], message.as_str(), "{shown}");
    let written = writer.end();
    holds(&weft, "top", &written);
    // It is over, and not begun again.
    kill_daemon(&weft);
    let shown = weft.json(&["image", "show", "qcow2:./top.qcow2"]);
    assert_eq!(shown["job"], serde_json::Value::Null, "{shown}");
    holds(&weft, "top", &written);
    weft.ok(&["export", "remove", "top"]);
    judge(&weft, &["qemu-img", "check", "-q", "top.qcow2"]);
}
