//! The Linux guest: a stock Debian kernel as judge.
//!
//! A [`LinuxGuest`] boots the unpacked distribution kernel under QEMU's TCG, mounts the host's root over 9p under a
//! layer that forgets, and runs a shell script in it: every program of the host is there, with real md, dm, NBD,
//! virtio and KVM below it, and nothing of the host can be changed but the files given as disks and the shared folder.
//! A whole script takes a few seconds and works as an ordinary user too.
//!
//! ```no_run
//! use weft_tests::guest::LinuxGuest;
//!
//! let folder = weft_tests::temp_dir();
//! let disk = weft_tests::sparse_file(folder.path(), "disk", 64 << 20);
//! let output = LinuxGuest::new("mkfs")
//!     .disk(&disk)
//!     .run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && df /mnt")
//!     .expect("the guest runs")
//!     .success();
//! assert!(output.contains("/dev/vda"));
//! ```
//!
//! The script runs under `sh -e`, as root, in the chroot; disks are `/dev/vda`, `/dev/vdb`, … in the order given;
//! the shared folder is `/weft/share` there and [`Guest::share`] here. `modprobe` works.

mod initramfs;
mod kernel;
mod machine;
mod root_image;
mod running;
mod slot;

pub use initramfs::Initramfs;
pub use kernel::Kernel;
pub use machine::LinuxGuest;
pub use root_image::root_image;
pub use running::{Guest, GuestRun};
pub use slot::{GuestSlot, guest_slot};
