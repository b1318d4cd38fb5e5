//! The model of virtio-blk.
//!
//! [`BlkModel`] is what the driver sees of the device: features, configuration space, write cache. [`BlkModel::parse`]
//! turns a chain into a [`Step`]: a request to submit to the block device, with the [`Reply`] that its completion
//! needs, or an answer that is known already. The memory of a request is the guest's own.
//!
//! Source: virtio 1.2, section 5.2.

mod config;
#[allow(unsafe_code)] // A room of unsafe: requests over guest memory begin here.
mod request;

pub use config::{BlkModel, BlkOptions, CONFIG_LEN, ID_LEN, MAX_DISCARD_SECTORS};
pub use request::{Reply, Step, Used};
