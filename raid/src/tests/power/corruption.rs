//! Bytes that change on a medium without anybody being told, while the array is at rest or beside a load elsewhere.
//!
//! With RAID-6, or three copies and more, a repair finds and heals them, over a power cut too. Where nothing can tell who
//! lies they are counted, and nothing is made worse: nobody is rewritten, and what is read differs in those bytes alone.

use std::ops::Range;

use super::*;
use crate::Scrub;
use crate::geometry::{Geometry, Shape as Form};

const SECTOR: u64 = 512;
/// Bytes of each place that may be damaged.
const PLACE: u64 = 2048;

/// A change on the medium of one disk.
struct Damage {
    disk: usize,
    /// First byte on the device.
    at: u64,
    was: Vec<u8>,
    now: Vec<u8>,
    /// First byte in the array, unless it is a parity's.
    origin: Option<u64>,
}

/// Where the damage is: no load goes there.
struct Zone {
    /// As resync and scrub count.
    members: Range<u64>,
    array: Range<u64>,
}

impl Zone {
    /// The end of the array, two chunks of each member long.
    fn of(geometry: &Geometry) -> Self {
        let size = geometry.size();
        match geometry.shape() {
            Form::Parity(rows) => {
                let first = rows.rows() - 2;
                Self {
                    members: first * rows.chunk()..rows.rows() * rows.chunk(),
                    array: first * rows.chunk() * u64::from(rows.data())..size,
                }
            }
            _ => {
                let range = (size - (32 << 10)) / (16 << 10) * (16 << 10)..size;
                Self {
                    members: range.clone(),
                    array: range,
                }
            }
        }
    }
}

/// Whether the members themselves tell who lies.
fn can_locate(shape: Shape) -> bool {
    match shape.level {
        Level::Raid1 => shape.members > 2,
        Level::Raid10 => shape.copies.is_some_and(|layout| layout.copies() > 2),
        level => level == Level::Raid6,
    }
}

fn stop(life: &Life, array: &Array) {
    let spawner = life.executor.spawner();
    let stopped = life.executor.block_on(array.stop(&spawner));
    stopped.expect("it stops");
}

impl World {
    /// After a run that left the array whole and at rest: perhaps some bytes change, and are found. Whether it is whole
    /// still.
    pub(super) fn corrupt(&mut self) -> bool {
        let spared = self.shape.level.is_redundant() && self.shape.members > 1;
        if !spared || !self.drawn(0.5) {
            return true;
        }
        let life = self.life();
        let array = self.start(&life).expect("a whole array starts");
        assert!(array.status().state != ArrayState::Degraded && array.progress().is_idle());
        array.scrub(Scrub::Check).expect("it is whole");
        sync(&life.executor, &array).expect("it runs");
        let report = array.scrub_report().expect("a report");
        if report.unreadable > 0 {
            // Torn on every leg of a mirror, and not written since.
            stop(&life, &array);
            return true;
        }
        assert_eq!(report.mismatches, 0, "{report:?}");
        let zone = Zone::of(&array.geometry());
        let mut damages = self.damage(&array, &zone);
        match self.drawn(0.6) {
            true => self.crash_beside(&life, array, &zone),
            false => stop(&life, &array),
        }
        // A block that is made because its disk is late is as wrong as what it is made of.
        self.is_calm = true;
        let life = self.life();
        self.is_calm = false;
        let array = self.start(&life).expect("a whole array starts");
        // Where a resync is due, nothing says that it is not the parity that is old.
        let doubtful = array.core.state().intent.needs_resync(&zone.members);
        if doubtful {
            damages.drain(..).for_each(|damage| self.undo(&damage));
        }
        // A block and its parity, or all its copies, may have been torn.
        let whole = sync(&life.executor, &array).is_ok();
        match can_locate(self.shape) {
            _ if !whole => damages.iter().for_each(|damage| self.undo(damage)),
            true => self.heals(&life, &array, &damages),
            false => self.reports(&life, &array, &damages),
        }
        self.verify(&life, &array);
        let is_lost = |member: &crate::array::Member| !member.bad.is_empty();
        let lost = array.core.state().members.iter().any(is_lost);
        if whole && !lost {
            self.check_rows(&life, &array);
        }
        stop(&life, &array);
        whole && !lost
    }

    /// Changes bytes of the zone, in no more than one of the blocks that belong together.
    fn damage(&mut self, array: &Array, zone: &Zone) -> Vec<Damage> {
        let geometry = array.geometry();
        let mut places: Vec<u64> = zone.members.clone().step_by(PLACE as usize).collect();
        let mut random = ChaCha8Rng::seed_from_u64(self.draw());
        let damages = (0..random.random_range(1..4)).map(|_| {
            let place = places.swap_remove(random.random_range(0..places.len()));
            let (slot, offset, origin) = match geometry.shape() {
                Form::Parity(rows) => {
                    let slot = random.random_range(0..rows.members());
                    let row = place / rows.chunk();
                    let index = rows.data_index(row, slot);
                    let origin = index.map(|index| rows.logical(row, index) + place % rows.chunk());
                    (slot, place, origin)
                }
                _ => {
                    let copies = geometry.places(place);
                    let copy = &copies[random.random_range(0..copies.len())];
                    (copy.slot, copy.offset, Some(place))
                }
            };
            let disk = self.members[slot as usize];
            let base = {
                let state = array.core.state();
                state.holder(slot).expect("it is whole").base()
            };
            let len = random.random_range(1..=PLACE / SECTOR) * SECTOR;
            let was = self.disks[disk].peek(base + offset, len as usize);
            let flipped = |byte: &u8| byte ^ random.random_range(1..=255_u8);
            let now: Vec<u8> = was.iter().map(flipped).collect();
            Damage {
                disk,
                at: base + offset,
                was,
                now,
                origin,
            }
        });
        let damages: Vec<Damage> = damages.collect();
        for damage in &damages {
            self.disks[damage.disk].poke(damage.at, &damage.now);
        }
        damages
    }

    fn undo(&self, damage: &Damage) {
        self.disks[damage.disk].poke(damage.at, &damage.was);
    }

    /// A load elsewhere and a scrub, and a cut in the middle of both.
    fn crash_beside(&mut self, life: &Life, array: Array, zone: &Zone) {
        let scrub = match self.drawn(0.7) {
            true => Scrub::Repair,
            false => Scrub::Check,
        };
        array.scrub(scrub).expect("it is whole");
        let extra = self.extra.take();
        self.region = 0..zone.array.start;
        self.live(life, &array, false);
        self.region = 0..u64::MAX;
        self.extra = extra;
        self.cut(array);
    }

    /// A repair finds what is damaged still, and heals it.
    fn heals(&self, life: &Life, array: &Array, damages: &[Damage]) {
        let is_there = |damage: &&Damage| self.medium(life, damage).as_ref() == Some(&damage.now);
        let left = damages.iter().filter(is_there);
        let left: usize = left.map(|damage| damage.now.len() / 512).sum();
        array.scrub(Scrub::Repair).expect("it is whole");
        sync(&life.executor, array).expect("it runs");
        let report = array.scrub_report().expect("a report");
        assert!(report.complete, "{report:?}");
        assert!(
            report.mismatches as usize >= left,
            "{report:?}, {left} left"
        );
        assert_eq!(report.located, report.mismatches, "{report:?}");
        assert_eq!(report.repaired, report.mismatches, "{report:?}");
        array.scrub(Scrub::Check).expect("it is whole");
        sync(&life.executor, array).expect("it runs");
        assert_eq!(array.scrub_report().expect("a report").mismatches, 0);
        for damage in damages {
            assert!(self.medium(life, damage).as_ref() == Some(&damage.was));
        }
    }

    /// What its disk holds where a damage was done, if it can be read.
    fn medium(&self, life: &Life, damage: &Damage) -> Option<Vec<u8>> {
        let disk = &self.disks[damage.disk];
        let queue = disk.open(&life.executor.spawner()).expect("it is on");
        let read = Request::read(damage.at, IoVec::zeroed(damage.was.len()));
        let read = life.executor.block_on(queue.submit(read));
        read.result.ok().map(|()| read.buffer.to_buffer().to_vec())
    }

    /// A repair counts what is damaged, and rewrites nobody; readers see it, and nothing else that is wrong.
    fn reports(&self, life: &Life, array: &Array, damages: &[Damage]) {
        let before = self.media();
        array.scrub(Scrub::Repair).expect("it is whole");
        sync(&life.executor, array).expect("it runs");
        let report = array.scrub_report().expect("a report");
        let sectors: usize = damages.iter().map(|damage| damage.now.len() / 512).sum();
        assert!(report.complete, "{report:?}");
        assert_eq!(report.mismatches as usize, sectors, "{report:?}");
        assert_eq!((report.located, report.repaired), (0, 0), "{report:?}");
        let seen = self.image(life, array);
        for damage in damages {
            self.undo(damage);
        }
        assert!(before == self.with(damages), "nobody was rewritten");
        let right = self.image(life, array);
        for (at, (seen, right)) in (0..).step_by(SECTOR as usize).zip(seen.iter().zip(&right)) {
            if seen == right {
                continue;
            }
            let place = damages.iter().find_map(|damage| {
                let at = u64::checked_sub(at, damage.origin?)? as usize;
                damage.now.get(at..at + SECTOR as usize)
            });
            assert!(seen.as_deref() == place, "byte {at} reads wrong");
        }
    }

    /// What each member's data is now.
    fn media(&self) -> Vec<Vec<u8>> {
        let data = |&disk: &usize| self.disks[disk].peek(self.data_start(), DATA as usize);
        self.members.iter().map(data).collect()
    }

    /// The same if the damages were there.
    fn with(&self, damages: &[Damage]) -> Vec<Vec<u8>> {
        let mut media = self.media();
        for damage in damages {
            let member = self.members.iter().position(|&disk| disk == damage.disk);
            let from = (damage.at - self.data_start()) as usize;
            let data = &mut media[member.expect("a member")];
            data[from..from + damage.now.len()].copy_from_slice(&damage.now);
        }
        media
    }

    /// All that the array reads as, by sectors; nothing for one that was torn wherever it was.
    fn image(&self, life: &Life, array: &Array) -> Vec<Option<Vec<u8>>> {
        let queue = array.open(&life.executor.spawner()).expect("a queue");
        let read = |at, len| {
            let read = queue.submit(Request::read(at, IoVec::zeroed(len)));
            let read = life.executor.block_on(read);
            read.result.ok().map(|()| read.buffer.to_buffer().to_vec())
        };
        let size = array.info().size;
        if let Some(all) = read(0, size as usize) {
            let sectors = all.chunks(SECTOR as usize);
            return sectors.map(|sector| Some(sector.to_vec())).collect();
        }
        let sectors = (0..size).step_by(SECTOR as usize);
        sectors.map(|at| read(at, SECTOR as usize)).collect()
    }
}
