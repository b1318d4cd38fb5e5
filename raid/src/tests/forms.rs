//! Arrays that get another level, policy, number of legs or size while they are used.

use weft_block::ErrorKind;

use super::harness::*;
use crate::level::{Level, ParityLayout};
use crate::{Array, ArrayState, Consistency, Growth, MemberSize, SyncAction};

const NOTHING: Growth = Growth {
    level: None,
    members: None,
    chunk: None,
    layout: None,
    size: None,
    consistency: None,
};

fn level(level: Level) -> Growth {
    Growth {
        level: Some(level),
        ..NOTHING
    }
}

fn members(count: u32) -> Growth {
    Growth {
        members: Some(count),
        ..NOTHING
    }
}

fn layout(layout: ParityLayout) -> Growth {
    Growth {
        layout: Some(layout),
        ..NOTHING
    }
}

fn policy(consistency: Consistency) -> Growth {
    Growth {
        consistency: Some(consistency),
        ..NOTHING
    }
}

/// An array and what it holds.
struct Held {
    rig: Rig,
    array: Array,
    data: Vec<u8>,
    members: Vec<usize>,
}

impl Held {
    /// Of the first `count` of `disks` disks.
    fn new(level: Level, count: usize, disks: usize, consistency: Consistency) -> Self {
        let mut rig = Rig::new(7, 0);
        (0..disks).for_each(|_| rig.add_disk(3 * MIB));
        let mut options = options(shape(level, count), 7);
        options.consistency = consistency;
        let members: Vec<usize> = (0..count).collect();
        let array = rig.create(&options);
        rig.sync(&array).expect("synced");
        let data = pattern(array.geometry().size() as usize, 7);
        rig.write(&array, 0, &data).expect("written");
        Self {
            rig,
            array,
            data,
            members,
        }
    }

    fn add(&mut self, disk: usize) {
        let spawner = self.rig.executor.spawner();
        let member = self.rig.members[disk].clone();
        let added = self.array.add(member, [disk as u8 + 50; 16], &spawner);
        self.rig.run(added).expect("added");
        self.members.push(disk);
    }

    fn grow(&self, growth: &Growth) -> weft_block::Result<()> {
        let spawner = self.rig.executor.spawner();
        self.rig.run(self.array.grow(growth, &spawner))
    }

    /// It becomes that, stays what it was as data, and starts again so, whole.
    fn becomes(&mut self, growth: &Growth, level: Level, count: u32) {
        self.grow(growth).expect("it can be");
        self.holds("at once");
        self.rig.sync(&self.array).expect("synced");
        self.is_whole(level, count);
        self.rig.stop(&self.array);
        self.array = self.rig.assemble(&self.members).expect("it starts");
        assert_eq!(self.array.status().state, ArrayState::Clean);
        self.is_whole(level, count);
    }

    fn is_whole(&mut self, level: Level, count: u32) {
        let geometry = self.array.geometry();
        assert_eq!((geometry.level(), geometry.members()), (level, count));
        assert_eq!(self.array.progress().action, SyncAction::Idle);
        self.data.resize(geometry.size() as usize, 0);
        self.holds("when it is whole");
        let part = pattern(8192, u64::from(count));
        self.rig.write(&self.array, 69_632, &part).expect("written");
        self.data[69_632..69_632 + part.len()].copy_from_slice(&part);
        self.holds("after a write");
        assert!(self.rig.is_consistent(&self.array, &self.members));
    }

    fn holds(&self, when: &str) {
        let held = self.rig.read(&self.array, 0, self.data.len());
        assert!(held.expect("read") == self.data, "{when}");
    }

    fn loses(&self, disk: usize) {
        self.rig.faults[disk].set_offline(true);
        self.holds("without a member");
    }

    fn refuses(&self, growth: &Growth, why: &str) {
        let before = self.array.status();
        let error = self.grow(growth).expect_err("it is refused");
        assert!(error.sentence().contains(why), "{}", error.sentence());
        assert_eq!(format!("{:?}", self.array.status()), format!("{before:?}"));
        self.holds("as it was");
    }
}

#[test]
fn a_pair_becomes_rows_and_a_pair_again() {
    let mut held = Held::new(Level::Raid1, 2, 3, Consistency::Bitmap);
    held.becomes(&level(Level::Raid5), Level::Raid5, 2);
    assert_eq!(held.array.status().consistency, "bitmap");
    held.becomes(&level(Level::Raid1), Level::Raid1, 2);
    held.add(2);
    let wider = Growth {
        members: Some(3),
        chunk: Some(16 << 10),
        ..level(Level::Raid5)
    };
    held.grow(&wider).expect("it begins");
    assert_eq!(held.array.progress().action, SyncAction::Reshape);
    held.rig.sync(&held.array).expect("synced");
    held.is_whole(Level::Raid5, 3);
    held.loses(1);
}

#[test]
fn one_parity_becomes_two_and_one_again() {
    let mut held = Held::new(Level::Raid5, 4, 6, Consistency::Ppl);
    held.refuses(&level(Level::Raid6), "1 more members need as many spares");
    held.add(4);
    held.becomes(&level(Level::Raid6), Level::Raid6, 5);
    assert_eq!(held.array.status().consistency, "bitmap");
    held.becomes(&layout(ParityLayout::LeftSymmetric), Level::Raid6, 5);
    held.refuses(&level(Level::Raid5), "give it a layout that ends in -6");
    held.becomes(&layout(ParityLayout::RightAsymmetric6), Level::Raid6, 5);
    held.becomes(&level(Level::Raid5), Level::Raid5, 4);
    assert_eq!(held.array.status().consistency, "ppl");
    held.becomes(&level(Level::Raid6), Level::Raid6, 5);
    held.loses(0);
    held.loses(3);
}

#[test]
fn stripes_get_a_parity_and_lose_it_again() {
    for (to, consistency) in [(Level::Raid5, "ppl"), (Level::Raid4, "bitmap")] {
        let mut held = Held::new(Level::Raid0, 3, 4, Consistency::Resync);
        held.grow(&level(to)).expect("it can be");
        held.holds("at once");
        assert_eq!(held.array.status().state, ArrayState::Degraded);
        // Without its parity it lacks nothing that stripes have.
        held.grow(&level(Level::Raid0)).expect("it can be");
        held.is_whole(Level::Raid0, 3);
        held.grow(&level(to)).expect("it can be");
        held.add(3);
        held.rig.sync(&held.array).expect("rebuilt");
        held.is_whole(to, 4);
        assert_eq!(held.array.status().consistency, consistency);
        if to == Level::Raid5 {
            held.becomes(&layout(ParityLayout::LeftSymmetric), to, 4);
            held.refuses(&level(Level::Raid0), "give it the layout parity-last");
            held.becomes(&layout(ParityLayout::ParityLast), to, 4);
            held.becomes(&level(Level::Raid4), Level::Raid4, 4);
            held.becomes(&level(Level::Raid5), Level::Raid5, 4);
        }
        held.grow(&level(Level::Raid0)).expect("it can be");
        held.members.pop();
        held.is_whole(Level::Raid0, 3);
        held.rig.stop(&held.array);
        held.array = held.rig.assemble(&held.members).expect("it starts");
        held.is_whole(Level::Raid0, 3);
    }
}

#[test]
fn a_mirror_gets_legs_and_loses_them() {
    let mut held = Held::new(Level::Raid1, 2, 3, Consistency::Bitmap);
    held.refuses(&members(3), "1 more members need as many spares");
    held.add(2);
    held.becomes(&members(3), Level::Raid1, 3);
    held.refuses(&level(Level::Raid5), "a mirror of 3 is no RAID-5");
    let spawner = held.rig.executor.spawner();
    held.rig
        .run(held.array.fail("disk0", &spawner))
        .expect("failed");
    held.rig
        .run(held.array.remove("disk0", &spawner))
        .expect("removed");
    held.members.remove(0);
    held.becomes(&members(2), Level::Raid1, 2);
    held.loses(1);
}

#[test]
fn more_of_the_members_is_used() {
    for (level, count) in [
        (Level::Raid1, 2),
        (Level::Raid5, 3),
        (Level::Raid6, 4),
        (Level::Raid10, 3),
    ] {
        for consistency in [Consistency::Bitmap, Consistency::Resync] {
            let mut held = Held::new(level, count, count, consistency);
            let small = held.array.geometry().member_size();
            held.refuses(&size(MemberSize::Max), "cannot use fewer");
            for disk in 0..count {
                held.rig.disks[disk].resize(5 * MIB);
            }
            held.rig.stop(&held.array);
            held.array = held.rig.assemble(&held.members).expect("it starts");
            held.refuses(&size(MemberSize::Bytes(small)), "cannot use fewer");
            held.refuses(&size(MemberSize::Bytes(1 << 40)), "has room for");
            held.grow(&size(MemberSize::Max)).expect("it can be");
            assert_eq!(held.array.progress().action, SyncAction::Resync);
            assert!(held.array.geometry().member_size() > small + MIB);
            let old = held.data.len() as u64;
            let part = pattern(200_000, 3);
            let (old, part) = (old + 131_072, &part[..196_608]);
            held.rig.write(&held.array, old, part).expect("written");
            held.rig.sync(&held.array).expect("synced");
            let all = held.array.geometry().size() as usize;
            let tail = held
                .rig
                .read(&held.array, held.data.len() as u64, all - held.data.len());
            held.data.extend(tail.expect("read"));
            assert!(held.data[old as usize..].starts_with(part));
            held.is_whole(level, count as u32);
            held.rig.stop(&held.array);
            held.array = held.rig.assemble(&held.members).expect("it starts");
            held.is_whole(level, count as u32);
            assert_eq!(held.array.status().consistency, consistency.name());
            held.loses(1);
        }
    }
}

fn size(size: MemberSize) -> Growth {
    Growth {
        size: Some(size),
        ..NOTHING
    }
}

#[test]
fn the_policy_changes() {
    let mut held = Held::new(Level::Raid5, 3, 3, Consistency::Ppl);
    held.refuses(&policy(Consistency::Ppl), "is ppl already");
    held.refuses(&policy(Consistency::Journal), "when it is made");
    for consistency in [
        Consistency::Bitmap,
        Consistency::Resync,
        Consistency::Ppl,
        Consistency::Resync,
        Consistency::Bitmap,
        Consistency::Ppl,
    ] {
        held.becomes(&policy(consistency), Level::Raid5, 3);
        assert_eq!(held.array.status().consistency, consistency.name());
    }
    let mirror = Held::new(Level::Raid1, 2, 2, Consistency::Bitmap);
    mirror.refuses(&policy(Consistency::Ppl), "only RAID-5 has");
}

#[test]
fn what_an_array_cannot_become_is_refused() {
    let mut held = Held::new(Level::Raid5, 3, 4, Consistency::Bitmap);
    held.refuses(&level(Level::Raid10), "RAID-5 does not become RAID-10");
    held.refuses(&level(Level::Raid1), "only one of two is");
    held.refuses(&level(Level::Raid4), "give it the layout parity-last");
    let both = Growth {
        size: Some(MemberSize::Max),
        ..members(4)
    };
    held.refuses(&both, "one after the other");
    held.add(3);
    let both = Growth {
        chunk: Some(64 << 10),
        ..level(Level::Raid6)
    };
    held.refuses(&both, "its level changes first");
    let striped = Held::new(Level::Raid10, 4, 4, Consistency::Bitmap);
    striped.refuses(&members(5), "RAID-10 cannot be changed like this");
    let spawner = held.rig.executor.spawner();
    held.rig
        .run(held.array.fail("disk1", &spawner))
        .expect("failed");
    let error = held.grow(&level(Level::Raid6)).expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::Degraded, "{}", error.sentence());
}
