//! What is on a set of disks.

use std::sync::Arc;

use weft_block::{Error, ErrorKind, Result, SECTOR, Spawner};

use super::Disk;
use super::areas::{Copy, Known, Member, examine, meets};
use crate::format::{Area, Id, LABEL_SCAN_BYTES};
use crate::model::{PhysicalVolume, VolumeGroup};

/// What was found on a set of disks.
#[derive(Default)]
pub struct Scan {
    /// Volume groups, by name.
    pub groups: Vec<Found>,
    /// Physical volumes that belong to no group that was found.
    pub unused: Vec<UnusedVolume>,
    /// Disks without a label.
    pub blank: Vec<Disk>,
    /// What could not be read, in sentences.
    pub problems: Vec<String>,
}

/// A volume group and the disks it was found on. [`Group::open`](super::Group::open) takes it into use.
pub struct Found {
    pub(super) model: Arc<VolumeGroup>,
    pub(super) text: Arc<[u8]>,
    pub(super) members: Vec<Member>,
    /// Disks that hold an old version of the group and belong to it no more.
    pub(super) outdated: Vec<Member>,
    pub(super) conflict: Option<String>,
    pub(super) problems: Vec<String>,
}

/// A physical volume without a group.
pub struct UnusedVolume {
    /// Its disk.
    pub disk: Disk,
    /// Its identifier.
    pub id: Id,
    /// Whether its label says that it belongs to a group all the same: one that is not among the disks.
    pub marked_used: bool,
}

impl Found {
    /// What the newest metadata says.
    pub fn model(&self) -> &VolumeGroup {
        &self.model
    }

    /// The physical volumes that are not among the disks, or were marked as missing.
    pub fn missing(&self) -> impl Iterator<Item = &PhysicalVolume> {
        let here = |id| self.members.iter().any(|member| member.label.id == id);
        self.model
            .physical_volumes
            .iter()
            .filter(move |pv| pv.is_marked_missing() || !here(pv.id))
    }

    /// The names of the disks that are here, in the order of the metadata.
    pub fn disks(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.disk.name.as_str())
    }

    /// What is wrong, in sentences: missing disks, copies that are stale or damaged.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl Scan {
    /// Takes out the group of that name, or with that identifier.
    ///
    /// # Errors
    /// `Invalid` if there is none, or several of that name.
    pub fn take(&mut self, name: &str) -> Result<Found> {
        let is_it = |found: &Found| {
            let model = &found.model;
            model.name == name || model.id.to_string() == name
        };
        let mut matching = (0..self.groups.len()).filter(|&index| is_it(&self.groups[index]));
        let problem = match (matching.next(), matching.next()) {
            (Some(index), None) => return Ok(self.groups.remove(index)),
            (Some(first), Some(second)) => format!(
                "two volume groups are called {name}: name one by its identifier, {} or {}",
                self.groups[first].model.id, self.groups[second].model.id
            ),
            (None, _) => match self.problems.first() {
                Some(first) => format!("volume group {name} was not found; {first}"),
                None => format!("volume group {name} was not found"),
            },
        };
        Err(Error::new(ErrorKind::Invalid, problem))
    }
}

/// Reads the labels and metadata of `disks`. A disk that cannot be read is a problem of the scan, not an error.
pub async fn scan(disks: &[Disk], spawner: &Spawner) -> Scan {
    let mut scan = Scan::default();
    let mut known = Known::default();
    let mut members: Vec<Member> = Vec::new();
    for disk in disks {
        match examine(disk, &mut known, spawner).await {
            Ok(Some(member)) => match members.iter().find(|one| one.label.id == member.label.id) {
                Some(twin) => scan.problems.push(format!(
                    "{} is left out: it holds the same physical volume {} as {}",
                    disk.name, member.label.id, twin.disk.name
                )),
                None => members.push(member),
            },
            Ok(None) => scan.blank.push(disk.clone()),
            Err(error) => scan.problems.push(error.sentence()),
        }
    }
    let winners = newest(&members);
    for copy in &winners {
        scan.groups.push(collect(copy, &mut members));
    }
    scan.groups
        .sort_by(|one, other| one.model.name.cmp(&other.model.name));
    for member in members {
        scan.problems.extend(area_problems(&member));
        scan.unused.push(UnusedVolume {
            marked_used: member.is_marked_used(),
            id: member.label.id,
            disk: member.disk,
        });
    }
    scan
}

fn copies(member: &Member) -> impl Iterator<Item = &Copy> {
    member.areas.iter().filter_map(|area| area.copy.as_ref())
}

/// For each group the copy with the highest sequence number.
fn newest(members: &[Member]) -> Vec<Copy> {
    let mut newest: Vec<Copy> = Vec::new();
    for copy in members.iter().flat_map(copies) {
        match newest.iter_mut().find(|one| one.model.id == copy.model.id) {
            Some(one) if one.model.seqno < copy.model.seqno => *one = copy.clone(),
            Some(_) => {}
            None => newest.push(copy.clone()),
        }
    }
    newest
}

/// Takes the members of a group out of `members`.
fn collect(winner: &Copy, members: &mut Vec<Member>) -> Found {
    let model = Arc::clone(&winner.model);
    let mut found = Found {
        text: Arc::clone(&winner.bytes),
        members: Vec::new(),
        outdated: Vec::new(),
        conflict: None,
        problems: Vec::new(),
        model,
    };
    for pv in &found.model.physical_volumes {
        let position = members.iter().position(|one| one.label.id == pv.id);
        found
            .members
            .extend(position.map(|index| members.remove(index)));
    }
    let (outdated, others) = std::mem::take(members)
        .into_iter()
        .partition(|member| copies(member).any(|copy| copy.model.id == found.model.id));
    *members = others;
    found.outdated = outdated;
    found.note_problems(winner);
    found
}

impl Found {
    /// Metadata that lies where volumes' data does would be overwritten, by us or by them.
    fn note_overlaps(&mut self) {
        for member in &self.members {
            let pvs = self.model.physical_volumes.iter();
            for pv in pvs.filter(|pv| pv.id == member.label.id) {
                let extents = Area {
                    offset: pv.extent_start * SECTOR,
                    size: pv.extent_count * self.model.extent_bytes(),
                };
                let label = Area {
                    offset: 0,
                    size: LABEL_SCAN_BYTES as u64,
                };
                let mut areas = member.areas.iter().map(|area| area.place).chain([label]);
                if areas.any(|area| meets(area, extents)) {
                    let (disk, name) = (&member.disk.name, &self.model.name);
                    self.conflict = Some(format!(
                        "the extents of {disk} in volume group {name} overlap its metadata"
                    ));
                }
            }
        }
        self.problems.extend(self.conflict.clone());
    }

    fn note_problems(&mut self, winner: &Copy) {
        let (name, seqno) = (&self.model.name, self.model.seqno);
        let mut problems = Vec::new();
        for member in &self.members {
            let disk = &member.disk.name;
            problems.extend(area_problems(member));
            for copy in copies(member) {
                let (id, old) = (copy.model.id, copy.model.seqno);
                if id == self.model.id && old < seqno {
                    problems.push(format!(
                        "{disk} holds version {old} of the metadata of volume group {name}, version {seqno} counts"
                    ));
                } else if id == self.model.id && *copy.bytes != *winner.bytes {
                    let conflict = format!(
                        "{disk} and another disk hold different metadata of volume group {name} with the same version {seqno}: leave one of them out"
                    );
                    self.conflict = Some(conflict);
                }
            }
        }
        for member in &self.outdated {
            problems.push(format!(
                "{} holds an old version of volume group {name} and belongs to it no more",
                member.disk.name
            ));
        }
        for pv in self.missing() {
            problems.push(match pv.is_marked_missing() {
                true => format!(
                    "physical volume {} of volume group {name} was missing while the group was changed",
                    pv.id
                ),
                false => format!(
                    "physical volume {} of volume group {name} (last seen as {}) is missing",
                    pv.id, pv.device
                ),
            });
        }
        self.problems = problems;
        self.note_overlaps();
    }
}

fn area_problems(member: &Member) -> Vec<String> {
    let disk = &member.disk.name;
    let problems = member.areas.iter().filter_map(|area| {
        let problem = area.problem.as_ref()?;
        let at = area.place.offset;
        Some(format!(
            "the metadata area of {disk} at byte {at} is damaged: {problem}"
        ))
    });
    problems.collect()
}
