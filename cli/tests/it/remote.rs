//! Arrays with a leg on another machine, which dies and comes back.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_block::{BlockDevice, IoVec, Request};
use weft_export::nbd::client::{NbdDevice, Url};
use weft_tests::data;
use weft_uring::{block_on, spawner};

use crate::program::Weft;
use crate::restart::kill_daemon;

/// Longer than anything here takes; a failure to come back ends the test.
const PATIENCE: Duration = Duration::from_secs(90);
const BLOCK: usize = 64 << 10;

/// A machine with a disk for others, and one with an array that has it for a leg.
struct Pair {
    near: Weft,
    far: Weft,
    /// The leg, as the array knows it.
    leg: String,
}

impl Pair {
    /// The leg is waited for some seconds when its server goes away.
    fn new(level: &str, consistency: &str, delay: u32) -> Self {
        let (near, far) = (Weft::new(), Weft::new());
        far.disks(&["far"], "64M");
        let socket = far.at("far.sock");
        let address = format!("unix:{socket}");
        far.ok(&["export", "add", "./far", "--nbd", &address]);
        let leg = format!("nbd+unix:///far?socket={socket}&reconnect-delay={delay}");
        near.disks(&["a", "b"], "64M");
        let mut create = vec!["raid", "create", "tank", "--level", level, "./a", &leg];
        if level == "5" {
            create.push("./b");
        }
        create.extend(["--consistency", consistency]);
        near.ok(&create);
        near.ok(&["raid", "wait", "tank"]);
        let address = format!("unix:{}", near.at("tank.sock"));
        near.ok(&["export", "add", "tank", "--nbd", &address]);
        Self { near, far, leg }
    }

    /// Where the array is served.
    fn served(&self) -> Url {
        let socket = self.near.at("tank.sock");
        let text = format!("nbd+unix:///tank?socket={socket}&reconnect-delay=0");
        text.parse().unwrap()
    }

    /// The far machine's daemon starts, and with it the export.
    fn far_comes_back(&self) {
        self.far.ok(&["status"]);
    }

    fn shown(&self) -> Value {
        self.near.json(&["raid", "show", "tank"])
    }

    fn leg_state(&self) -> Option<String> {
        let shown = self.shown();
        let members = shown["members"].as_array().unwrap();
        let leg = members
            .iter()
            .find(|member| member["path"] == self.leg.as_str())?;
        leg["state"].as_str().map(str::to_owned)
    }

    /// Waits until the leg is a whole member again.
    #[track_caller]
    fn leg_is_back(&self) {
        let until = Instant::now() + PATIENCE;
        while self.leg_state().as_deref() != Some("in-sync") {
            assert!(Instant::now() < until, "{}", self.shown());
            thread::sleep(Duration::from_millis(100));
        }
        self.near.ok(&["raid", "wait", "tank"]);
    }

    #[track_caller]
    fn members_agree(&self) {
        self.near.ok(&["raid", "check", "tank"]);
        self.near.ok(&["raid", "wait", "tank"]);
        let scrub = &self.shown()["scrub"];
        assert_eq!(
            (&scrub["complete"], &scrub["mismatches"]),
            (&true.into(), &0.into())
        );
    }
}

/// Writes blocks that follow from `seed` all over the array, a few at a time.
fn write_all(url: &Url, seed: u64) {
    block_on(async {
        let device = NbdDevice::connect(url).await.unwrap();
        let queue = device.open(&spawner()).unwrap();
        for place in 0..100 {
            let bytes = data::bytes(seed + place, BLOCK);
            let write = Request::write(place * 5 * BLOCK as u64, IoVec::copy_of(&bytes));
            queue.submit(write).await.result.unwrap();
        }
        queue.submit(Request::flush()).await.result.unwrap();
    });
}

fn read_all(url: &Url, seed: u64) {
    block_on(async {
        let device = NbdDevice::connect(url).await.unwrap();
        let queue = device.open(&spawner()).unwrap();
        for place in 0..100 {
            let read = Request::read(place * 5 * BLOCK as u64, IoVec::zeroed(BLOCK));
            let completion = queue.submit(read).await;
            completion.result.unwrap();
            let same = *completion.buffer.to_buffer() == *data::bytes(seed + place, BLOCK);
            assert!(same, "block {place}");
        }
    });
}

#[test]
fn nobody_notices_a_leg_that_comes_back_in_time() {
    for level in ["1", "5"] {
        let pair = Pair::new(level, "bitmap", 60);
        let served = pair.served();
        kill_daemon(&pair.far);
        let writer = thread::spawn(move || write_all(&served, 1));
        pair.far_comes_back();
        writer.join().unwrap();
        read_all(&pair.served(), 1);
        assert_eq!(pair.leg_state().as_deref(), Some("in-sync"));
        assert_eq!(pair.near.json(&["status"])["health"], "good");
        pair.members_agree();
    }
}

#[test]
fn a_leg_that_stays_away_is_failed_and_caught_up_when_it_is_back() {
    for level in ["1", "5"] {
        let pair = Pair::new(level, "bitmap", 1);
        write_all(&pair.served(), 1);
        kill_daemon(&pair.far);
        write_all(&pair.served(), 2);
        assert_eq!(pair.leg_state().as_deref(), Some("faulty"));
        read_all(&pair.served(), 2);
        let status = pair.near.json(&["status"]);
        assert_eq!(status["health"], "degraded");
        let command = status["advice"][0]["command"].as_str().unwrap();
        assert!(command.starts_with("weft raid add tank"), "{status}");
        pair.far_comes_back();
        pair.leg_is_back();
        assert_eq!(pair.shown()["away"], Value::Null);
        read_all(&pair.served(), 2);
        pair.members_agree();
    }
}

#[test]
fn a_leg_is_waited_for_when_its_array_starts_without_it() {
    let pair = Pair::new("1", "bitmap", 1);
    write_all(&pair.served(), 1);
    pair.near.ok(&["daemon", "--stop"]);
    kill_daemon(&pair.far);
    let shown = pair.shown();
    assert_eq!(shown["state"], "degraded");
    assert_eq!(shown["away"][0], pair.leg.as_str());
    let status = pair.near.json(&["status"]);
    let message = status["advice"][0]["message"].as_str().unwrap();
    assert!(message.contains("taken back when it answers"), "{status}");
    pair.far_comes_back();
    pair.leg_is_back();
    read_all(&pair.served(), 1);
}

#[test]
fn a_leg_that_was_failed_by_name_is_added_by_name() {
    let pair = Pair::new("5", "ppl", 1);
    pair.near.ok(&["raid", "fail", "tank", &pair.leg]);
    write_all(&pair.served(), 3);
    pair.near.ok(&["raid", "add", "tank", &pair.leg]);
    pair.near.ok(&["raid", "wait", "tank"]);
    assert_eq!(pair.leg_state().as_deref(), Some("in-sync"));
    pair.members_agree();
    // Gone for good, and without a bitmap that remembers what it has missed.
    kill_daemon(&pair.far);
    write_all(&pair.served(), 4);
    assert_eq!(pair.leg_state().as_deref(), Some("faulty"));
    pair.far_comes_back();
    pair.near.ok(&["raid", "add", "tank", &pair.leg]);
    pair.leg_is_back();
    read_all(&pair.served(), 4);
    pair.members_agree();
}
