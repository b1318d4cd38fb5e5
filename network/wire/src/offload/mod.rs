//! Large packets that stand for many: what TCP and UDP segmentation offload leave to whoever comes last.
//!
//! A kernel hands out packets of up to 64 KiB with a [`VnetHeader`] that says how they are to be cut and which checksum
//! is missing. [`Segments`] cuts one, writing each part straight to where it is needed; [`Bundle`] does the opposite and
//! takes packets that follow each other together, leaving their bytes where they lie. Both work on IP packets of
//! either version, without an Ethernet header.
//!
//! Facts: virtio 1.3, 5.1.6; Linux `include/uapi/linux/virtio_net.h`, `Documentation/networking/segmentation-offloads.rst`.

mod bundle;
mod header;
mod layers;
mod segments;

pub use bundle::Bundle;
pub use header::{Cut, CutKind, Missing, VNET_HEADER, VnetHeader};
pub use segments::Segments;
