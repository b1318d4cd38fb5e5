//! Images, judged by QEMU's programs.

#![allow(clippy::unwrap_used)] // A test panics where it fails, in its helpers too.

mod bitmaps;
mod compress;
mod dm_crypt;
mod layout;
mod locks;
mod luks;
mod machine;
mod peers;
mod random;
