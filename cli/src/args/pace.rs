//! How background work is to go: the same words for arrays and images.

use clap::Args;
use weft_service::api::{RaidSync, Size};

#[derive(Debug, Clone, Args)]
pub(crate) struct PaceArgs {
    /// Stop where it is; it goes on from there
    #[arg(long, conflicts_with = "resume")]
    pub(crate) pause: bool,
    /// Go on
    #[arg(long)]
    pub(crate) resume: bool,
    /// Bytes a second, of each member of an array, that foreground I/O does not push it below [default: 4M]
    #[arg(long)]
    pub(crate) floor: Option<Size>,
    /// Bytes a second, of each member of an array, at most; 0 for as fast as the disks can [default: 0]
    #[arg(long)]
    pub(crate) ceiling: Option<Size>,
}

impl From<PaceArgs> for RaidSync {
    fn from(args: PaceArgs) -> Self {
        Self {
            paused: (args.pause || args.resume).then_some(args.pause),
            floor_bytes: args.floor.map(|size| size.0),
            ceiling_bytes: args.ceiling.map(|size| size.0),
        }
    }
}
