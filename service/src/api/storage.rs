//! Disks, arrays, volume groups, volumes and exports.

use serde::{Deserialize, Serialize};

use super::{MemberSize, VolumeSize};

/// A file or device, or anything that serves as a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// How it is addressed.
    pub path: String,
    /// Bytes; zero when it cannot be opened.
    pub size_bytes: u64,
    /// What its first and last bytes say it holds, or nothing.
    pub signatures: Vec<String>,
    /// Which of weft's objects it serves.
    pub used_by: Option<DiskUse>,
    /// Why it cannot be read, if it cannot.
    pub trouble: Option<String>,
}

/// The object that a disk serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// `raid`, `vg`, `export` or `vm`.
    pub noun: String,
    /// Its name.
    pub name: String,
}

/// Make a disk file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskCreate {
    /// Where.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// Several disks, for a look or a wipe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskList {
    /// DISKs.
    pub disks: Vec<String>,
}

/// What `clean`, `active`, `degraded` and `failed` mean: nothing written since the last flush of metadata; written;
/// a member is missing; too many are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArrayState {
    /// All members in sync, nothing in flight.
    Clean,
    /// All members in sync, writes under way or parity being made.
    Active,
    /// Serving data with less redundancy than it was made with.
    Degraded,
    /// Not serving data.
    Failed,
}

/// What a member is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberRole {
    /// Holds data.
    Active,
    /// Waits.
    Spare,
    /// Holds the journal.
    Journal,
}

/// How a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// Holds what it should.
    InSync,
    /// Is being filled.
    Rebuilding,
    /// Was failed.
    Faulty,
    /// Is not there.
    Missing,
}

/// A member of an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The DISK; nothing when it is missing and was never seen.
    pub path: Option<String>,
    /// Its place among the raid disks.
    pub slot: Option<u32>,
    /// What it is for.
    pub role: MemberRole,
    /// How it is.
    pub state: MemberState,
    /// Whether reads go to it only where no other has the copy.
    pub write_mostly: bool,
}

/// What an array does in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncAction {
    /// Nothing.
    Idle,
    /// Making mirrors or parity agree after an unclean stop.
    Resync,
    /// Filling a member.
    Recover,
    /// Comparing the members.
    Check,
    /// Comparing the members and rewriting those that are wrong.
    Repair,
    /// Rewriting the rows in another shape.
    Reshape,
    /// Copying what an image has from below into it.
    Stream,
    /// Copying an image as it was at one instant.
    Backup,
    /// Copying an image to a disk that takes its place.
    Mirror,
    /// Copying what an image has into one below, which takes its place.
    Commit,
}

/// What a check or repair has found. Blocks are of the members' logical block size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// `check` or `repair`.
    pub action: SyncAction,
    /// Whether it went to the end.
    pub complete: bool,
    /// Blocks that do not agree.
    pub mismatches: u64,
    /// Those of them for which it is known which member is wrong.
    pub located: u64,
    /// Those of them that agree now.
    pub repaired: u64,
    /// Blocks that cannot be read and not be made.
    pub unreadable: u64,
    /// The first places, at most 64.
    pub places: Vec<Mismatch>,
}

/// Blocks of one place that do not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// First byte in the members' data.
    pub offset_bytes: u64,
    /// Bytes.
    pub length_bytes: u64,
    /// The DISKs that are wrong; none if it cannot be known.
    pub wrong: Vec<String>,
    /// Whether the members agree there now.
    pub repaired: bool,
}

/// Repair an array.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaidRepair {
    /// Where it cannot be known which member is wrong, take the data, or a mirror's first leg, for true.
    #[serde(default)]
    pub from_data: bool,
}

/// How far a background action has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sync {
    /// What is being done.
    pub action: SyncAction,
    /// Bytes of each member that are done.
    pub done_bytes: u64,
    /// Bytes of each member in all.
    pub total_bytes: u64,
    /// Bytes per second of late; nothing before the first measure.
    pub rate_bytes: Option<u64>,
    /// Seconds left at that rate.
    pub seconds_left: Option<u64>,
    /// Whether it was paused.
    pub paused: bool,
    /// Bytes of each member per second that foreground I/O does not push it below.
    pub floor_bytes: u64,
    /// Bytes of each member per second at most; nothing for as fast as the disks can.
    pub ceiling_bytes: Option<u64>,
}

/// A RAID array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Array {
    /// Its name.
    pub name: String,
    /// md's set UUID, in the 8-4-4-4-12 form.
    pub uuid: String,
    /// 0, 1, 4, 5, 6 or 10.
    pub level: u32,
    /// md's name of the layout, such as `left-symmetric`; nothing where a level has none.
    pub layout: Option<String>,
    /// Bytes of a chunk; zero for RAID-1.
    pub chunk_bytes: u64,
    /// Bytes that it serves.
    pub size_bytes: u64,
    /// Bytes that it will serve when the change of shape that is under way is done. Layout, chunk and members are told as
    /// they will be then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_afterwards_bytes: Option<u64>,
    /// How it is.
    pub state: ArrayState,
    /// What makes the members agree after a crash: `journal`, `ppl`, `bitmap`, `resync` or `none`.
    pub consistency: String,
    /// Its members, by slot, then spares and the journal.
    pub members: Vec<Member>,
    /// Remote disks that were members and are taken back when they answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub away: Vec<String>,
    /// What it does in the background.
    pub sync: Sync,
    /// What the last check or repair has found since the array was started.
    pub scrub: Option<Scrub>,
}

/// What a disk's md superblock says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// The DISK.
    pub path: String,
    /// The array's name as written, often `host:name`.
    pub name: String,
    /// md's set UUID.
    pub uuid: String,
    /// This member's UUID.
    pub device_uuid: String,
    /// The level.
    pub level: i32,
    /// md's name of the layout.
    pub layout: Option<String>,
    /// How many members the array has.
    pub raid_disks: u32,
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
    /// Bytes of data on each member.
    pub member_bytes: u64,
    /// Bytes before the data.
    pub data_offset_bytes: u64,
    /// md's event counter.
    pub events: u64,
    /// This member's slot, or `spare`, `journal` or `faulty`.
    pub role: String,
    /// Whether the array was stopped cleanly.
    pub clean: bool,
}

/// Make an array.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RaidCreate {
    /// Its name.
    pub name: String,
    /// The level.
    pub level: u32,
    /// The members, by slot.
    pub disks: Vec<String>,
    /// Spares.
    #[serde(default)]
    pub spares: Vec<String>,
    /// Bytes of a chunk; the default is 512 KiB, as mdadm's.
    pub chunk_bytes: Option<u64>,
    /// md's name of the layout.
    pub layout: Option<String>,
    /// `ppl`, `bitmap`, `journal` or `resync`; the default is `journal` with a journal, otherwise `ppl` for RAID-5 and
    /// `bitmap` for the others.
    pub consistency: Option<String>,
    /// The disk for the journal.
    #[serde(default)]
    pub journal: Option<String>,
    /// The members are known to agree: make no parity.
    #[serde(default)]
    pub assume_clean: bool,
    /// Overwrite what carries a signature.
    #[serde(default)]
    pub force: bool,
}

/// Start an array from its members.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RaidAssemble {
    /// The name it gets here.
    pub name: String,
    /// Its members, in any order.
    pub disks: Vec<String>,
    /// Start even if it is degraded and was not stopped cleanly.
    #[serde(default)]
    pub force: bool,
}

/// A disk, for fail, remove and add.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RaidMember {
    /// The DISK.
    pub disk: String,
    /// When added, it becomes the journal of an array that has lost its own.
    #[serde(default)]
    pub journal: bool,
    /// Overwrite what carries a signature.
    #[serde(default)]
    pub force: bool,
}

/// A member and the disk that is to take its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RaidReplace {
    /// The member.
    pub old: String,
    /// The DISK.
    pub disk: String,
    /// Overwrite what carries a signature.
    #[serde(default)]
    pub force: bool,
}

/// What an array is to become; what is not said stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RaidGrow {
    /// DISKs that join it before, or after where it cannot have them before.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Members; the disks that join on top of those that it has where nothing is said.
    pub members: Option<u32>,
    /// The RAID level.
    pub level: Option<u32>,
    /// md's name of the layout.
    pub layout: Option<String>,
    /// Bytes of a chunk.
    pub chunk_bytes: Option<u64>,
    /// How much of each member is used: `max`, or bytes.
    pub size: Option<MemberSize>,
    /// `ppl`, `bitmap` or `resync`.
    pub consistency: Option<String>,
    /// Overwrite what the disks carry.
    #[serde(default)]
    pub force: bool,
}

/// Whether a member of a mirror is write-mostly.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RaidWriteMostly {
    /// The member.
    pub disk: String,
    /// Whether it is.
    pub write_mostly: bool,
}

/// How the background work of an array is to go; what is not said stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaidSync {
    /// Pause it, or let it go on.
    pub paused: Option<bool>,
    /// Bytes of each member per second at least.
    pub floor_bytes: Option<u64>,
    /// Bytes of each member per second at most; zero for as fast as the disks can.
    pub ceiling_bytes: Option<u64>,
}

/// A physical volume of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhysicalVolume {
    /// The DISK; nothing when it is missing.
    pub path: Option<String>,
    /// LVM2's UUID.
    pub uuid: String,
    /// Bytes in extents.
    pub size_bytes: u64,
    /// Bytes in extents that no volume uses.
    pub free_bytes: u64,
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// LVM2's UUID.
    pub uuid: String,
    /// LVM2's sequence number of the metadata.
    pub seqno: u64,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Bytes in all.
    pub size_bytes: u64,
    /// Bytes that no volume uses.
    pub free_bytes: u64,
    /// Its physical volumes.
    pub pvs: Vec<PhysicalVolume>,
    /// Its volumes' names.
    pub volumes: Vec<String>,
    /// What is wrong with its metadata copies, a sentence each.
    pub problems: Vec<String>,
}

/// Make a volume group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VgCreate {
    /// Its name.
    pub name: String,
    /// Its physical volumes.
    pub disks: Vec<String>,
    /// Bytes of an extent; the default is 4 MiB, as LVM2's.
    pub extent_bytes: Option<u64>,
    /// Bytes of each metadata area.
    pub metadata_bytes: Option<u64>,
    /// On how many physical volumes the metadata is kept.
    pub metadata_copies: Option<u32>,
    /// Overwrite what carries a signature.
    #[serde(default)]
    pub force: bool,
}

/// Take in an existing group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VgImport {
    /// Its physical volumes.
    pub disks: Vec<String>,
}

/// A new name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rename {
    /// The name it gets.
    pub to: String,
}

/// What kind a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// One disk after the other.
    Linear,
    /// Spread over several disks in turn.
    Striped,
    /// Of a kind that weft does not serve.
    Other,
}

/// One stripe of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stripe {
    /// The physical volume's DISK, or where it was last seen.
    pub disk: String,
    /// Its first byte there.
    pub offset_bytes: u64,
}

/// A run of bytes of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its first byte in the volume.
    pub offset_bytes: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// `linear`, `striped`, or LVM2's name of a type that weft does not serve.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes of a chunk; zero for one stripe.
    pub stripe_bytes: u64,
    /// Where it lies.
    pub stripes: Vec<Stripe>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its group.
    pub vg: String,
    /// Its name.
    pub name: String,
    /// LVM2's UUID.
    pub uuid: String,
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: VolumeKind,
    /// Bytes.
    pub size_bytes: u64,
    /// `active` or `inactive`.
    pub state: String,
    /// Where it lies.
    pub segments: Vec<Segment>,
}

/// Make a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LvCreate {
    /// How large.
    pub size: VolumeSize,
    /// What kind.
    pub kind: VolumeKind,
    /// Over how many disks, when striped.
    pub stripes: Option<u32>,
    /// Bytes of a stripe; the default is 64 KiB, as LVM2's.
    pub stripe_bytes: Option<u64>,
}

/// A new size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resize {
    /// How large, or how much more.
    pub size: VolumeSize,
}

/// A disk that is offered to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// The DISK.
    pub disk: String,
    /// `nbd` or `vhost-user-blk`.
    pub protocol: String,
    /// `unix:PATH` or `HOST:PORT`.
    pub address: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How a client names it.
    pub url: String,
}

/// Offer a disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExportAdd {
    /// The DISK.
    pub disk: String,
    /// Its name; by default made from the DISK.
    pub name: Option<String>,
    /// Serve NBD here: `unix:PATH` or `HOST:PORT`.
    pub nbd: Option<String>,
    /// Serve vhost-user-blk on this socket.
    pub vhost: Option<String>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
}
