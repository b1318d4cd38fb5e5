//! Bugs that the simulation has found, each by the seed that found it: without its fix it fails.
//!
//! A seed replays a run only as long as nothing draws another random number.

use super::*;
use crate::level::{CopiesLayout, ParityLayout};

/// A rebuilt member held an old block below a mark that said it was lost; the mark was cleared by a write that a power
/// cut then took back.
#[test]
fn a_cut_after_a_lost_block_was_written_shows_nothing_old() {
    survives_as(82, shape(Level::Raid1, 3));
}

/// A leg that was bad in part of a window was not compared in the rest of it, where it answered readers.
#[test]
fn a_copy_that_is_bad_in_part_is_resynced_in_the_rest() {
    let three_near = Shape {
        copies: CopiesLayout::from_name("n3"),
        ..shape(Level::Raid10, 5)
    };
    survives_as(44, three_near);
}

/// A block that could be read from no copy was marked lost on the rebuilt member alone; when that member's log was torn,
/// nothing told that what lay below the mark was old.
#[test]
fn a_torn_log_does_not_forget_what_no_copy_had() {
    let three_near = Shape {
        copies: CopiesLayout::from_name("n3"),
        ..shape(Level::Raid10, 5)
    };
    survives_as(148, three_near);
}

/// Two reads in a row each mended the other copy from what they had read; the power went before either was durable.
#[test]
fn a_mended_copy_is_durable_before_it_is_mended_from() {
    let two_offset = Shape {
        copies: CopiesLayout::from_name("o2"),
        ..shape(Level::Raid10, 3)
    };
    survives_as(69, two_offset);
}

/// The others knew already that a disk was to replace a member, itself it had not heard of it.
#[test]
fn a_replacement_that_has_not_heard_of_it_is_one() {
    let layout = ParityLayout::of(Level::Raid6).nth(6);
    let members = 4;
    survives_as(
        513,
        Shape {
            layout,
            ..shape(Level::Raid6, members)
        },
    );
}

/// A replaced member was out in memory, but not yet in the superblocks, when what it had missed was acknowledged.
#[test]
fn nothing_is_written_while_a_replaced_member_still_counts() {
    survives_as(7725, shape(Level::Raid1, 3));
}

/// The resync had rewritten a copy, and a write that came before it was durable tore the one that it was made of.
#[test]
fn what_the_resync_has_rewritten_is_durable_before_something_is_written_there() {
    let two_far = Shape {
        copies: CopiesLayout::from_name("f2"),
        ..shape(Level::Raid10, 3)
    };
    survives_twice_as(8511, two_far);
}

/// A change of which one block was marked as lost was not put right from the log at all.
#[test]
fn a_change_beside_a_lost_block_is_put_right_from_the_log() {
    World::treacherous(4922, shape(Level::Raid5, 2)).survive();
}

/// What the array is told its users once, so nobody flushed a disk with a cache that joined it later.
#[test]
fn a_disk_with_a_cache_joins_an_array_that_has_none() {
    let mut world = World::new(1, shape(Level::Raid1, 2)).without_caches();
    (world.extra, world.is_calm) = (None, true);
    world.disks.truncate(2);
    world.has_caches = true;
    world.new_disk();
    world.create();
    let life = world.life();
    let array = world.start(&life).expect("it starts");
    sync(&life.executor, &array).expect("synced");
    assert!(!array.info().volatile_cache);
    let spawner = life.executor.spawner();
    let joins = async {
        array.fail("disk0", &spawner).await?;
        array.add(life.members[2].clone(), [3; 16], &spawner).await
    };
    life.executor.block_on(joins).expect("it joins");
    sync(&life.executor, &array).expect("synced");
    let data = IoVec::copy_of(&[7; 64 << 10]);
    let queue = array.open(&spawner).expect("a queue");
    let written = life
        .executor
        .block_on(queue.submit(Request::write(0, data)));
    written.result.expect("written");
    let base = {
        let state = array.core.state();
        let mut members = state.members.iter();
        let member = members.find(|member| member.path == "disk2");
        member.expect("a member").base()
    };
    world.supply.set_tearing(false);
    world.supply.cut();
    world.supply.power_on();
    assert!(world.disks[2].peek(base, 64 << 10) == [7; 64 << 10]);
}
