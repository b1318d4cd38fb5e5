//! The partial parity log of running arrays.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weft_block::{BlockDevice, Info, IoVec, Request};
use weft_sim::{Delays, MemoryDevice, Slow};

use super::harness::*;
use crate::level::{Level, ParityLayout};
use crate::ppl::{HEADER_BYTES, Header, signature};
use crate::{ArrayState, Consistency, CreateOptions, MemberDevice, SyncAction};

fn logged(members: usize) -> CreateOptions {
    let mut options = options(shape(Level::Raid5, members), 1);
    options.consistency = Consistency::Ppl;
    options.layout = Some(ParityLayout::LeftSymmetric);
    options.assume_clean = true;
    options
}

fn rig(members: usize) -> Rig {
    let mut rig = Rig::new(1, 0);
    (0..members).for_each(|_| rig.add_disk(3 * MIB));
    rig
}

/// The header of a member's log; none if it is off.
fn header(rig: &Rig, member: usize) -> Option<Header> {
    let superblock = rig.disks[member].peek(4096, 512);
    let signature = signature(&crate::fields::array(&superblock, 16));
    let mut bytes = [0; HEADER_BYTES];
    bytes.copy_from_slice(&rig.disks[member].peek(8192, HEADER_BYTES));
    Header::parse(&bytes, signature).ok()
}

#[test]
fn a_change_is_named_on_the_member_that_holds_its_parity() {
    let rig = rig(4);
    let array = rig.create(&logged(4));
    assert_eq!(array.status().consistency, "ppl");
    // Chunk 1 of row 0, whose parity is on slot 3; then all of row 1, whose parity is on slot 2.
    rig.write(&array, CHUNK, &pattern(1024, 1))
        .expect("written");
    rig.write(&array, 3 * CHUNK, &pattern(3 * CHUNK as usize, 2))
        .expect("written");
    let entries: Vec<_> = (0..4)
        .map(|member| header(&rig, member).expect("the log is on").entries)
        .collect();
    assert!(entries[0].is_empty() && entries[1].is_empty());
    let (whole, part) = (entries[2][0], entries[3][0]);
    assert_eq!(
        (whole.sector, whole.partial, whole.data),
        (96, 0, 3 * CHUNK as u32)
    );
    assert_eq!((part.sector, part.partial, part.data), (32, 1024, 1024));
    // Behind the log lies nothing that could pass for a header.
    assert_eq!(rig.disks[3].peek(8192 + 4096 + 1024, 4096), vec![0; 4096]);
    (0..3).for_each(|_| rig.tick(&array));
    assert!((0..4).all(|member| header(&rig, member).expect("on").entries.is_empty()));
}

#[test]
fn the_log_is_off_until_parity_is_worth_something() {
    let mut options = logged(3);
    options.assume_clean = false;
    let rig = rig(3);
    let array = rig.create(&options);
    rig.write(&array, 0, &pattern(512, 1)).expect("written");
    assert!((0..3).all(|member| header(&rig, member).is_none()));
    // A crash now resyncs all, log or not.
    let array = rig.assemble(&[0, 1, 2]).expect("it starts");
    assert_eq!(array.progress().action, SyncAction::Resync);
    rig.sync(&array).expect("synced");
    assert!((0..3).all(|member| header(&rig, member).is_some()));
    assert!(rig.is_consistent(&array, &[0, 1, 2]));
}

#[test]
fn a_crash_needs_no_resync() {
    let rig = rig(4);
    let array = rig.create(&logged(4));
    let data = pattern(4096, 3);
    rig.write(&array, 0, &data).expect("written");
    // The parity has not got there.
    rig.poke(3, 0, &[0x55; 4096]);
    let array = rig.assemble(&[0, 1, 2, 3]).expect("it starts");
    assert!(array.progress().is_idle(), "{:?}", array.status());
    assert!(rig.is_consistent(&array, &[0, 1, 2, 3]));
    assert_eq!(rig.read(&array, 0, 4096).expect("read"), data);
}

#[test]
fn a_crash_while_a_member_is_away_costs_nothing() {
    let rig = rig(4);
    let array = rig.create(&logged(4));
    let old = pattern(3 * CHUNK as usize, 4);
    rig.write(&array, 0, &old).expect("written");
    (0..3).for_each(|_| rig.tick(&array));
    rig.run(array.fail("disk0", &rig.executor.spawner()))
        .expect("it can do without");
    rig.write(&array, CHUNK, &[7; 512]).expect("written");
    // The data got there, the parity did not: what slot 0 held would be made of the two.
    rig.poke(3, 0, &[0x55; 512]);
    let array = rig
        .assemble(&[1, 2, 3])
        .expect("it starts without being told to");
    assert_eq!(array.status().state, ArrayState::Degraded);
    let mut expected = old;
    expected[CHUNK as usize..][..512].fill(7);
    assert_eq!(
        rig.read(&array, 0, 3 * CHUNK as usize).expect("read"),
        expected
    );
}

#[test]
fn a_write_across_a_lost_member_is_told_of() {
    let rig = rig(4);
    let array = rig.create(&logged(4));
    rig.write(&array, 0, &[9; 2 * CHUNK as usize])
        .expect("written");
    drop(array);
    let refused = rig.assemble(&[1, 2, 3]).err().expect("it may be wrong");
    let told = "may be wrong; bring the missing member back, or assemble it by force";
    assert!(refused.sentence().ends_with(told), "{}", refused.sentence());
    rig.assemble_with(&[1, 2, 3], true).expect("it was told to");
}

#[test]
fn a_new_member_gets_a_log_and_all_of_its_data() {
    let mut rig = rig(4);
    let array = rig.create(&logged(4));
    rig.write(&array, 0, &pattern(9 * CHUNK as usize, 5))
        .expect("written");
    let spawner = rig.executor.spawner();
    rig.run(array.fail("disk1", &spawner)).expect("failed");
    rig.add_disk(3 * MIB);
    let added = array.add(rig.members[4].clone(), [4; 16], &spawner);
    let by_bitmap = rig.run(added).expect("added");
    assert!(!by_bitmap, "there is none");
    rig.sync(&array).expect("synced");
    assert!(header(&rig, 4).is_some());
    assert!(rig.is_consistent(&array, &[0, 4, 2, 3]));
    rig.write(&array, 0, &[1; 512]).expect("written");
    rig.stop(&array);
    let array = rig.assemble(&[0, 4, 2, 3]).expect("it starts");
    assert_eq!(array.status().state, ArrayState::Clean);
}

#[test]
fn only_raid_5_takes_a_log() {
    let rig = rig(4);
    let mut options = logged(4);
    (options.level, options.layout) = (Level::Raid6, None);
    let members = rig.members.clone();
    let refused = rig.run(crate::create(&options, members, &rig.executor.spawner()));
    let sentence = refused.err().expect("it cannot be").sentence();
    assert!(
        sentence.contains("only RAID-5 has a partial parity log"),
        "{sentence}"
    );
}

/// The parity's member had failed, but the others had not been told when the power went: what was written without it was
/// in no log, and the array started with it.
#[test]
fn nothing_is_written_without_a_member_that_still_counts() {
    let rig = rig(3);
    let array = rig.create(&logged(3));
    rig.write(&array, 0, &[1; 512]).expect("written");
    // Chunk 0 of row 0 is on slot 0, its parity on slot 2.
    let parity = array.core.state().members[2].id;
    array.shared().fail_aside(parity, "it is gone");
    rig.faults[0].fail_writes(4096..8192);
    rig.faults[1].fail_writes(4096..8192);
    rig.write(&array, 0, &[2; 512])
        .expect_err("nobody can be told");
    assert_eq!(rig.member_data(0, 0, 512), [1; 512], "nothing was sent");
}

/// A change of which one block was marked as lost was not put right at all: its member did not count as there.
#[test]
fn a_change_beside_a_block_that_is_lost_is_put_right() {
    for requests in 0..40 {
        let rig = rig(4);
        let spawner = rig.executor.spawner();
        let array = rig.create(&logged(3));
        rig.write(&array, 0, &pattern(2 * CHUNK as usize, 1))
            .expect("written");
        rig.run(array.fail("disk0", &spawner)).expect("failed");
        rig.run(array.add(rig.members[3].clone(), [4; 16], &spawner))
            .expect("added");
        // Row 0 has its parity on slot 2, so a block of slot 0 cannot be made.
        let data = rig.superblock(1).data_offset * 512;
        rig.faults[1].bad_sectors(data + 512..data + 1024);
        rig.sync(&array).expect("synced");
        rig.faults[1].clear();
        // It goes in the middle of a write.
        rig.faults
            .iter()
            .for_each(|faults| faults.set_offline_after(requests));
        let done = rig.write(&array, 0, &pattern(4096, 2)).is_ok();
        drop(array);
        rig.faults
            .iter()
            .for_each(|faults| faults.set_offline(false));
        let array = rig.assemble(&[3, 1, 2]).expect("it starts");
        let seen = rig.read(&array, 1024, 3072).expect("it reads");
        rig.run(array.fail("disk3", &spawner)).expect("failed");
        let made = rig.read(&array, 1024, 3072).expect("it reads");
        assert!(made == seen, "{requests} requests, {done}");
    }
}

/// Members that have no volatile cache, the last of which takes its time for writes once it is told to.
fn kept_rig(seed: u64, members: usize) -> (Rig, Arc<Slow>) {
    let mut rig = Rig::new(seed, 0);
    let mut info = Info::new(3 * MIB, 512);
    info.volatile_cache = false;
    for number in 0..members {
        let disk = Arc::new(MemoryDevice::with_info(info.clone()));
        rig.disks.push(Arc::clone(&disk));
        rig.members.push(MemberDevice {
            path: format!("disk{number}"),
            device: disk,
        });
    }
    let last = rig.members.last_mut().expect("there are some");
    let slow = Slow::new(
        Arc::clone(&last.device),
        &rig.executor.clock(),
        1,
        Delays::up_to(Duration::ZERO),
    );
    let slow = Arc::new(slow);
    last.device = slow.clone();
    (rig, slow)
}

/// Nobody wrote to another member's log before a header that was under way was there.
#[test]
fn logs_without_caches_do_not_wait_for_each_other() {
    let (rig, slow) = kept_rig(1, 5);
    let array = rig.create(&logged(5));
    rig.write(&array, 0, &[1; 512]).expect("written");
    let second = Duration::from_secs(1);
    slow.set_delays(Delays {
        write: second..second * 2,
        ..Delays::up_to(Duration::ZERO)
    });
    let spawner = rig.executor.spawner();
    let queue = array.open(&spawner).expect("opened");
    // Row 0 has its parity on slot 4, which is slow; row 1 on slot 3, and its chunk 1 on slot 0.
    let held = queue.submit(Request::write(0, IoVec::zeroed(512)));
    let held = rig.executor.spawn(async move { held.await.result });
    rig.run(rig.executor.sleep(second / 2));
    let begun = spawner.now();
    let beside = queue.submit(Request::write(5 * CHUNK, IoVec::zeroed(512)));
    rig.run(beside).result.expect("written");
    assert_eq!(spawner.now(), begun, "it waited for the other's header");
    assert_eq!(header(&rig, 4).expect("on").entries.len(), 1);
    rig.run(held).expect("written");
}

/// Two that led the logs of different members, and found that parity proves nothing any more, waited for each other.
#[test]
fn a_log_is_turned_off_by_one_of_several() {
    for seed in 0..20 {
        let (rig, _) = kept_rig(seed, 5);
        let array = rig.create(&logged(5));
        rig.write(&array, 0, &[1; 512]).expect("written");
        array.core.resyncing.store(true, Ordering::Release);
        let queue = array.open(&rig.executor.spawner()).expect("opened");
        // Each has its parity on another slot.
        let writes: Vec<_> = (0..5)
            .map(|row| {
                let write = Request::write(row * 4 * CHUNK, IoVec::zeroed(512));
                let sent = queue.submit(write);
                rig.executor.spawn(async move { sent.await.result })
            })
            .collect();
        for write in writes {
            rig.run(write).expect("written");
        }
        assert!((0..5).all(|member| header(&rig, member).is_none()));
    }
}
