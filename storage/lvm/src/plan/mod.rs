//! Changes to a volume group as pure functions on its model: they either do the whole change or return an error and
//! leave nothing half done that a caller would keep, since callers work on a clone.

mod allocate;
mod members;
mod volumes;

pub use allocate::{Piece, allocate, capacity};
pub use members::{
    NewGroup, add_physical_volume, new_group, remove_missing, remove_physical_volume, rename_group,
    resize_physical_volume,
};
pub use volumes::{
    Amount, NewVolume, Stamp, create_volume, remove_volume, rename_volume, resize_volume,
};

use weft_block::{Error, ErrorKind};

fn invalid(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, problem)
}
