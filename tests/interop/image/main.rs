//! Images, judged by QEMU's programs.

#![allow(clippy::unwrap_used)] // A test panics where it fails, in its helpers too.

mod bitmaps;
mod compress;
mod layout;
mod locks;
mod luks;
mod machine;
mod random;
