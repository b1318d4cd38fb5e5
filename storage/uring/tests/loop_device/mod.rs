//! A block device of the test's own: a loop device over a file, gone with its last descriptor.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, LoopConfig);

const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_config` of the kernel's uapi/linux/loop.h.
#[repr(C)]
pub(crate) struct LoopConfig {
    fd: u32,
    block_size: u32,
    numbers: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names_and_keys: [u8; 160],
    init: [u64; 2],
    reserved: [u64; 8],
}

pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
    /// Keeps the device up between the test's openings.
    _held: File,
}

impl LoopDevice {
    /// Over a new file of `size` bytes in `folder`. Nothing where this process may not make one.
    pub(crate) fn over(folder: &Path, size: u64, block_size: u32) -> Option<Self> {
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control");
        let Ok(control) = control else {
            eprintln!("left out: no loop devices here");
            return None;
        };
        let file = File::create_new(folder.join(format!("loop-{block_size}"))).unwrap();
        file.set_len(size).unwrap();
        let backing = File::options()
            .read(true)
            .write(true)
            .open(folder.join(format!("loop-{block_size}")))
            .unwrap();
        // Others may take the number that was free; the next one is.
        for _ in 0..50 {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument.
            let Ok(number) = (unsafe { loop_ctl_get_free(control.as_raw_fd()) }) else {
                break;
            };
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let Ok(held) = File::options().read(true).write(true).open(&path) else {
                break;
            };
            let config = LoopConfig {
                fd: backing.as_raw_fd() as u32,
                block_size,
                numbers: [0; 5],
                number: 0,
                encryption: [0; 2],
                flags: LO_FLAGS_AUTOCLEAR,
                names_and_keys: [0; 160],
                init: [0; 2],
                reserved: [0; 8],
            };
            // SAFETY: LOOP_CONFIGURE reads one loop_config.
            if unsafe { loop_configure(held.as_raw_fd(), &config) }.is_ok() {
                return Some(Self { path, _held: held });
            }
        }
        eprintln!("left out: this process may not make a loop device");
        None
    }
}
