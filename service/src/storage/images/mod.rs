//! Images in files: opened with all that they rest on, made, described, compared, copied.
//!
//! Everything here runs on a thread with weft's executor and needs no daemon: an image that nobody uses is a file. The
//! files are locked as long as they are open, and QEMU sees the locks.
//!
//! An image may name other files: the one below it, the one that holds its data. These names may come from a stranger, so
//! a [`Policy`] says which of them are opened; the user's own words always are. A format is guessed for files that the
//! user names only, and for others where the policy says so: a guest can write into a raw disk what makes it look like an
//! image that names any file.

mod amend;
mod bitmaps;
mod commit;
mod compare;
mod convert;
mod copy;
mod create;
mod described;
#[cfg(test)]
mod failures;
mod feed;
mod info;
mod keys;
mod map;
mod measure;
mod name;
mod open;
mod options;
mod pack;
mod policy;
mod rebase;
mod source;
mod upkeep;

pub use amend::{Amendments, amend, read_amendments};
pub(in crate::storage) use bitmaps::{apply_bitmap_change, open_bitmaps};
pub use bitmaps::{change_bitmap, list_bitmaps};
pub use commit::{Commit, commit};
pub use compare::compare;
pub use convert::{Bitmaps, Convert, SPARSE, convert};
pub use create::{Create, Formatted, create};
pub use described::{Below, Described, named};
pub use info::info;
pub(super) use info::snapshot;
pub(super) use keys::new_area;
pub use keys::{KeyChange, Keys, Passphrase, USUAL_TIME, change_keys};
pub use map::map;
pub use measure::{Measured, measure, measure_bitmaps};
pub(super) use name::Identity;
pub use name::Name;
pub(super) use open::open_path;
pub use open::{Chain, Format, How, Link, MAX_CHAIN, open};
pub use options::{EncryptOptions, Options, Preallocation, read_options};
pub use policy::{Allow, Policy};
pub use rebase::{Rebase, rebase};
pub use upkeep::{
    Resize, Resized, Sizing, apply_snapshot, check, create_snapshot, delete_snapshot, resize,
    snapshots,
};
pub(super) use upkeep::{check_unique, snapshot_name};

use crate::api::Error;

/// Called with the bytes that are done, of how many.
pub type Progress<'a> = &'a dyn Fn(u64, u64);

/// A failure of the block layers, about the file `name`.
pub(super) fn failed(name: &str) -> impl Fn(weft_block::Error) -> Error {
    move |error| {
        let mut failure = Error::from_block(name, &error);
        if !failure.message.contains(name) {
            failure.message = format!("{name}: {}", failure.message);
        }
        failure
    }
}
