//! `disk`, `raid`, `vg`, `lv` and `export`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use weft_service::api::{MemberSize, Size, VolumeSize};

use super::PaceArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Make a disk file; its space is taken as it is written
    Create {
        /// Where
        path: PathBuf,
        /// How large
        #[arg(long)]
        size: Size,
    },
    /// List the disks in use
    List,
    /// Tell what disks hold, and who uses them
    Inspect {
        /// DISKs
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Take all signatures off a disk that nobody uses
    Wipe {
        /// The DISK
        path: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RaidCommand {
    /// Make an array
    Create(RaidCreateArgs),
    /// Start an array from its members
    Assemble {
        /// The name it gets
        name: String,
        /// Its members, in any order
        #[arg(required = true)]
        disks: Vec<String>,
        /// Start even if it is degraded and was not stopped cleanly
        #[arg(long)]
        force: bool,
    },
    /// Stop an array; its data stays on the members
    Stop {
        /// The array
        name: String,
    },
    /// List the arrays
    List,
    /// Show an array
    Show {
        /// The array
        name: String,
    },
    /// Show what a disk's superblock says
    Examine {
        /// The DISK
        disk: String,
    },
    /// Fail a member
    Fail {
        /// The array
        name: String,
        /// The member
        disk: String,
    },
    /// Take a failed member or a spare out
    Remove {
        /// The array
        name: String,
        /// The member
        disk: String,
    },
    /// Give an array a disk: it takes a missing member's place, or becomes a spare
    Add {
        /// The array
        name: String,
        /// The DISK
        disk: String,
        /// Make it the journal of an array that has lost its own
        #[arg(long)]
        journal: bool,
        /// Overwrite what it holds
        #[arg(long)]
        force: bool,
    },
    /// Copy a member onto another disk, which takes its place when it is whole
    Replace {
        /// The array
        name: String,
        /// The member
        old: String,
        /// The DISK, or a spare of the array
        new: String,
        /// Overwrite what it holds
        #[arg(long)]
        force: bool,
    },
    /// Make an array larger or something else, in use: more members, another level, layout or chunk
    Grow(RaidGrowArgs),
    /// Read from a member of a mirror only where no other has the copy: one that is slow or far away
    WriteMostly {
        /// The array
        name: String,
        /// The member
        disk: String,
        /// Read from it as from the others again
        #[arg(long)]
        off: bool,
    },
    /// Compare an array's members, in the background; `show` tells what was found
    Check {
        /// The array
        name: String,
    },
    /// Compare an array's members and rewrite those that are known to be wrong
    Repair {
        /// The array
        name: String,
        /// Where it cannot be known which member is wrong, take the data, or a mirror's first leg, for true
        #[arg(long)]
        from_data: bool,
    },
    /// Pause or resume what an array does in the background, or say how fast it may go
    Sync(RaidSyncArgs),
    /// Wait until an array has nothing to do in the background
    Wait {
        /// The array
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RaidGrowArgs {
    /// The array
    pub(crate) name: String,
    /// DISKs that join it
    pub(crate) disks: Vec<String>,
    /// How many members it is to have, or a mirror legs [default: the disks on top of what it has]
    #[arg(long)]
    pub(crate) members: Option<u32>,
    /// The RAID level: 1 becomes 5, 5 becomes 6, 0 becomes 4 or 5, 4 becomes 5, and back
    #[arg(long)]
    pub(crate) level: Option<u32>,
    /// The layout of RAID-5 or 6, by md's name
    #[arg(long)]
    pub(crate) layout: Option<String>,
    /// The chunk size
    #[arg(long)]
    pub(crate) chunk: Option<Size>,
    /// How much of each member is used: max, or a size
    #[arg(long)]
    pub(crate) size: Option<MemberSize>,
    /// What makes members agree after a crash: ppl, bitmap or resync
    #[arg(long)]
    pub(crate) consistency: Option<String>,
    /// Overwrite what the disks hold
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RaidSyncArgs {
    /// The array
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RaidCreateArgs {
    /// Its name
    pub(crate) name: String,
    /// The RAID level: 0, 1, 4, 5, 6 or 10
    #[arg(long)]
    pub(crate) level: u32,
    /// Its members
    #[arg(required = true)]
    pub(crate) disks: Vec<String>,
    /// A disk that takes a failed member's place
    #[arg(long = "spare")]
    pub(crate) spares: Vec<String>,
    /// The chunk size [default: 512K]
    #[arg(long)]
    pub(crate) chunk: Option<Size>,
    /// The layout, by md's name: of RAID-5 and 6 such as left-symmetric, of RAID-10 n2, f2 or o2
    #[arg(long)]
    pub(crate) layout: Option<String>,
    /// What makes members agree after a crash: ppl, bitmap, journal or resync [default: journal with --journal, otherwise ppl for RAID-5 and bitmap]
    #[arg(long)]
    pub(crate) consistency: Option<String>,
    /// A DISK for the journal of RAID-4, 5 or 6: what changes goes there first, which closes the write hole
    #[arg(long, value_name = "DISK")]
    pub(crate) journal: Option<String>,
    /// The members are known to agree: make no parity
    #[arg(long)]
    pub(crate) assume_clean: bool,
    /// Overwrite what the disks hold
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VgCommand {
    /// Make a volume group
    Create(VgCreateArgs),
    /// Give a group more disks
    Extend {
        /// The group
        name: String,
        /// DISKs
        #[arg(required = true)]
        disks: Vec<String>,
    },
    /// Take in what a group's disks have grown by, such as an array that got a member
    Grow {
        /// The group
        name: String,
        /// DISKs of it [default: all]
        disks: Vec<String>,
    },
    /// Take unused disks out of a group
    Reduce {
        /// The group
        name: String,
        /// DISKs
        #[arg(required = true)]
        disks: Vec<String>,
    },
    /// Rename a group
    Rename {
        /// The group
        name: String,
        /// Its new name
        to: String,
    },
    /// Remove a group without volumes
    Remove {
        /// The group
        name: String,
    },
    /// List the groups
    List,
    /// Show a group
    Show {
        /// The group
        name: String,
    },
    /// Check a group's metadata copies and mend stale ones
    Check {
        /// The group
        name: String,
    },
    /// Stop serving a group; its volumes stay on the disks
    Deactivate {
        /// The group
        name: String,
    },
    /// Serve the group that disks hold
    Import {
        /// DISKs
        #[arg(required = true)]
        disks: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct VgCreateArgs {
    /// Its name
    pub(crate) name: String,
    /// Its physical volumes
    #[arg(required = true)]
    pub(crate) disks: Vec<String>,
    /// The extent size [default: 4M]
    #[arg(long)]
    pub(crate) extent_size: Option<Size>,
    /// The size of each metadata area [default: 1020K]
    #[arg(long)]
    pub(crate) metadata_size: Option<Size>,
    /// On how many physical volumes the metadata is kept [default: all]
    #[arg(long)]
    pub(crate) metadata_copies: Option<u32>,
    /// Overwrite what the disks hold
    #[arg(long)]
    pub(crate) force: bool,
}

/// What kind of volume is made.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LvType {
    /// One disk after the other
    Linear,
    /// Spread over several disks in turn
    Striped,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LvCommand {
    /// Make a volume
    Create {
        /// VG/LV
        volume: String,
        /// How large: 1G, or 100%FREE
        #[arg(long)]
        size: VolumeSize,
        /// What kind
        #[arg(long = "type", value_enum, default_value = "linear")]
        kind: LvType,
        /// Over how many disks a striped volume is spread
        #[arg(long)]
        stripes: Option<u32>,
        /// The stripe size [default: 64K]
        #[arg(long)]
        stripe_size: Option<Size>,
    },
    /// List the volumes
    List,
    /// Show a volume
    Show {
        /// VG/LV
        volume: String,
    },
    /// Change a volume's size
    Resize {
        /// VG/LV
        volume: String,
        /// How large, or how much more: 2G, +1G, 50%FREE
        #[arg(long)]
        size: VolumeSize,
    },
    /// Rename a volume
    Rename {
        /// VG/LV
        volume: String,
        /// Its new name, without the group
        to: String,
    },
    /// Remove a volume and its data
    Remove {
        /// VG/LV
        volume: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// Offer a disk over NBD, or to a VMM as vhost-user-blk
    Add(ExportAddArgs),
    /// List the exports
    List,
    /// Close an export
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ExportAddArgs {
    /// The DISK
    pub(crate) disk: String,
    /// Serve NBD on unix:PATH or HOST:PORT
    #[arg(long, required_unless_present = "vhost", conflicts_with = "vhost")]
    pub(crate) nbd: Option<String>,
    /// Serve vhost-user-blk on this socket
    #[arg(long)]
    pub(crate) vhost: Option<PathBuf>,
    /// Its name [default: made from the DISK]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Refuse writes
    #[arg(long)]
    pub(crate) read_only: bool,
}
