//! `weft raid grow`.

use serde_json::Value;
use weft_block::{BlockDevice, IoVec, Request};
use weft_export::nbd::client::{NbdDevice, Url};
use weft_tests::data;
use weft_uring::{block_on, spawner};

use crate::program::Weft;
use crate::restart::kill_daemon;

/// Bytes at the start of an array that are known.
const KNOWN: usize = 4 << 20;

/// An array that serves a client.
struct Served(Weft);

impl Served {
    fn new(create: &str) -> Self {
        let weft = Weft::new();
        weft.disks(&["a", "b", "c", "d", "e"], "32M");
        weft.disks(&["small"], "8M");
        let served = Self(weft);
        served.ok(&format!("raid create tank {create}"));
        served.ok("raid wait tank");
        let address = format!("unix:{}", served.0.at("tank.sock"));
        served.ok(&format!("export add tank --nbd {address}"));
        served.writes(0..KNOWN, 1);
        served
    }

    fn ok(&self, line: &str) -> String {
        self.0.ok(&line.split(' ').collect::<Vec<_>>())
    }

    fn json(&self, line: &str) -> Value {
        self.0.json(&line.split(' ').collect::<Vec<_>>())
    }

    fn device(&self) -> NbdDevice {
        let text = format!("nbd+unix:///tank?socket={}", self.0.at("tank.sock"));
        let url: Url = text.parse().unwrap();
        block_on(async { NbdDevice::connect(&url).await.unwrap() })
    }

    fn writes(&self, range: std::ops::Range<usize>, seed: u64) {
        let device = self.device();
        block_on(async {
            let queue = device.open(&spawner()).unwrap();
            let bytes = data::bytes(seed, KNOWN);
            let part = IoVec::copy_of(&bytes[range.clone()]);
            let write = Request::write_fua(range.start as u64, part);
            queue.submit(write).await.result.unwrap();
        });
    }

    #[track_caller]
    fn holds(&self, range: std::ops::Range<usize>, seed: u64) {
        let device = self.device();
        let read = block_on(async {
            let queue = device.open(&spawner()).unwrap();
            let read = Request::read(range.start as u64, IoVec::zeroed(range.len()));
            let completion = queue.submit(read).await;
            completion.result.unwrap();
            completion.buffer.to_buffer().to_vec()
        });
        assert!(read == data::bytes(seed, KNOWN)[range]);
    }

    /// It becomes that, and its members agree.
    #[track_caller]
    fn becomes(&self, growth: &str) -> Value {
        self.ok(&format!("raid grow tank {growth}"));
        self.ok("raid wait tank");
        self.holds(0..KNOWN, 1);
        let array = self.json("raid show tank");
        assert!(
            matches!(array["state"].as_str(), Some("clean" | "active")),
            "{array}"
        );
        if array["level"] != 0 {
            self.ok("raid check tank");
            self.ok("raid wait tank");
            let scrub = &self.json("raid show tank")["scrub"];
            assert_eq!(scrub["mismatches"], 0, "{growth}");
        }
        assert_eq!(self.json("status")["health"], "good", "{growth}");
        array
    }

    /// It is told why not, and nothing has changed.
    #[track_caller]
    fn refuses(&self, growth: &str, kind: &str, why: &str) {
        let before = self.json("raid show tank");
        let line = format!("raid grow tank {growth}");
        let told = self.0.fails(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(told.0, kind, "{}", told.1);
        assert!(told.1.contains(why), "{}", told.1);
        assert_eq!(self.json("raid show tank"), before);
        self.holds(0..KNOWN, 1);
    }
}

fn size(array: &Value) -> u64 {
    array["size_bytes"].as_u64().unwrap()
}

#[test]
fn an_array_gets_a_member_while_it_is_used() {
    let served = Served::new("--level 5 --chunk 64K ./a ./b ./c");
    let small = size(&served.json("raid show tank"));
    served.ok("raid sync tank --ceiling 1M");
    let growing = served.json("raid grow tank ./d");
    assert_eq!(growing["sync"]["action"], "reshape");
    assert_eq!(growing["size_bytes"], small);
    assert_eq!(growing["size_afterwards_bytes"], small / 2 * 3);
    assert_eq!(growing["members"].as_array().unwrap().len(), 4);
    let shown = served.ok("raid show tank");
    assert!(shown.contains("when the reshape is done"), "{shown}");
    assert!(shown.contains("reshape 0 %"), "{shown}");
    served.writes(0..KNOWN / 2, 2);
    served.refuses_while_growing();
    served.holds(0..KNOWN / 2, 2);
    served.holds(KNOWN / 2..KNOWN, 1);
    served.ok("raid sync tank --ceiling 0");
    let grown = served.json("raid wait tank");
    assert_eq!(size(&grown), small / 2 * 3);
    assert_eq!(grown["consistency"], "ppl");
    // Who connects now sees it.
    assert_eq!(served.device().info().size, size(&grown));
    served.holds(0..KNOWN / 2, 2);
    served.holds(KNOWN / 2..KNOWN, 1);
    served.writes(0..KNOWN / 2, 1);
    served.becomes("--chunk 128K --layout right-symmetric");
}

impl Served {
    #[track_caller]
    fn refuses_while_growing(&self) {
        for (line, why) in [
            ("raid grow tank ./e", "its shape is being changed"),
            ("raid add tank ./e", "its shape is being changed"),
        ] {
            let (_, message) = self.0.fails(&line.split(' ').collect::<Vec<_>>());
            assert!(message.contains(why), "{message}");
        }
    }
}

#[test]
fn a_group_takes_in_what_its_array_has_grown_by() {
    let weft = Weft::new();
    weft.disks(&["a", "b", "c", "d"], "64M");
    let ok = |line: &str| weft.ok(&line.split(' ').collect::<Vec<_>>());
    ok("raid create tank --level 5 --chunk 64K ./a ./b ./c");
    ok("raid wait tank");
    ok("vg create data tank");
    ok("lv create data/root --size 100%FREE");
    let (_, message) = weft.fails(&["vg", "grow", "data"]);
    assert!(message.contains("has grown by an extent"), "{message}");
    ok("raid grow tank ./d");
    ok("raid wait tank");
    let before = weft.json(&["vg", "show", "data"]);
    ok("vg grow data");
    let after = weft.json(&["vg", "show", "data"]);
    assert!(size(&after) > size(&before) + (48 << 20), "{after}");
    ok("lv resize data/root --size +48M");
    let address = format!("unix:{}", weft.at("root.sock"));
    weft.ok(&[
        "export",
        "add",
        "data/root",
        "--nbd",
        &address,
        "--name",
        "root",
    ]);
    let text = format!("nbd+unix:///root?socket={}", weft.at("root.sock"));
    let url: Url = text.parse().unwrap();
    block_on(async {
        let device = NbdDevice::connect(&url).await.unwrap();
        let queue = device.open(&spawner()).unwrap();
        let last = device.info().size - 4096;
        let bytes = data::bytes(5, 4096);
        let write = Request::write_fua(last, IoVec::copy_of(&bytes));
        queue.submit(write).await.result.unwrap();
        let read = queue.submit(Request::read(last, IoVec::zeroed(4096))).await;
        assert!(*read.buffer.to_buffer() == *bytes);
    });
}

#[test]
fn a_reshape_goes_on_after_the_daemon_was_killed() {
    let served = Served::new("--level 6 --chunk 64K ./a ./b ./c ./d");
    served.ok("raid sync tank --ceiling 1M");
    served.ok("raid grow tank ./e");
    kill_daemon(&served.0);
    let back = served.json("raid show tank");
    // What was being written is resynced first.
    assert_ne!(back["sync"]["action"], "idle");
    assert!(back["size_afterwards_bytes"].as_u64() > back["size_bytes"].as_u64());
    served.holds(0..KNOWN, 1);
    served.ok("raid sync tank --ceiling 0");
    let grown = served.json("raid wait tank");
    assert_eq!(grown["members"].as_array().unwrap().len(), 5);
    assert_eq!(grown.get("size_afterwards_bytes"), None);
    served.holds(0..KNOWN, 1);
}

#[test]
fn a_pair_becomes_rows_with_one_parity_and_with_two() {
    let served = Served::new("--level 1 ./a ./b");
    let pair = size(&served.json("raid show tank"));
    let wide = served.becomes("./c ./d --level 5 --chunk 64K");
    assert_eq!((&wide["level"], size(&wide)), (&5.into(), 3 * pair));
    let safe = served.becomes("./e --level 6");
    assert_eq!((&safe["level"], size(&safe)), (&6.into(), 3 * pair));
    assert_eq!(safe["layout"], "left-symmetric-6");
    served.becomes("--layout left-symmetric");
    served.becomes("--consistency resync");
    let back = served.becomes("--consistency bitmap");
    assert_eq!(back["consistency"], "bitmap");
}

#[test]
fn stripes_get_a_parity_and_lose_it_again() {
    let served = Served::new("--level 0 --chunk 64K ./a ./b ./c");
    let striped = size(&served.json("raid show tank"));
    served.refuses("./small --level 5", "invalid", "is too small");
    let safe = served.becomes("./d --level 5");
    assert_eq!((&safe["level"], size(&safe)), (&5.into(), striped));
    assert_eq!(safe["layout"], "parity-last");
    served.ok("raid grow tank --level 0");
    served.ok("raid remove tank ./d");
    served.becomes("./d --level 4");
}

#[test]
fn larger_members_are_used() {
    let served = Served::new("--level 1 ./a ./b");
    served.0.disks(&["x", "y", "z"], "64M");
    for (old, new) in [("a", "x"), ("b", "y")] {
        served.ok(&format!("raid replace tank ./{old} ./{new}"));
        served.ok("raid wait tank");
        served.ok(&format!("raid remove tank ./{old}"));
    }
    let small = size(&served.json("raid show tank"));
    let large = served.becomes("--size max");
    assert_eq!(size(&large), small + (32 << 20));
    assert_eq!(served.device().info().size, size(&large));
    let three = served.becomes("--members 3 ./z");
    assert_eq!(three["members"].as_array().unwrap().len(), 3);
}

#[test]
fn what_an_array_cannot_become_is_told_and_changes_nothing() {
    let served = Served::new("--level 5 --chunk 64K ./a ./b ./c");
    for (growth, why) in [
        ("", "say what it is to become"),
        ("--members 3", "it has that shape already"),
        ("--members 2", "cannot have fewer"),
        (
            "--members 5 ./d",
            "2 more members need as many spares, it has 1",
        ),
        ("--chunk 12K", "is not a power of two"),
        ("--layout ddf-N-restart", "has no layout named"),
        ("--level 3", "there is no RAID-3"),
        ("--level 10", "RAID-5 does not become RAID-10"),
        ("--level 6", "as many spares"),
        ("--level 0", "give it the layout parity-last first"),
        ("--size max", "cannot use fewer"),
        ("--size 1T", "has room for"),
        ("--consistency journal", "when it is made"),
        ("--consistency sometimes", "there is no consistency"),
        ("--size max --chunk 128K", "one after the other"),
        ("./small", "is too small"),
        ("./a", "is used by raid tank"),
        ("./nowhere", "No such file"),
    ] {
        let kind = match growth {
            "./a" => "in-use",
            "./nowhere" => "not-found",
            _ => "invalid",
        };
        served.refuses(growth.trim(), kind, why);
    }
}
