//! TAP and TUN devices.
//!
//! A [`Tap`] is one queue of a device: a file whose every read gives one frame and whose every write sends one. With a
//! virtio-net header in front of each frame (`IFF_VNET_HDR`, which must be asked for when the queue is opened) the
//! kernel and the guest leave checksums and segmentation to each other: frames of up to 64 KiB cross in one call.
//!
//! [`Tap::set_offloads`] tells the kernel what the *reader* of the device may be given, so it follows the features
//! that the guest negotiated (`VIRTIO_NET_F_GUEST_*`); until then the kernel gives plain, checksummed frames only.
//!
//! Facts: Linux `Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`; virtio 1.3, 5.1.3.

mod offloads;
#[allow(unsafe_code)] // A room of unsafe: the ioctls of /dev/net/tun.
mod sys;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::{Error, ErrorKind, InterfaceName, Result};

pub use offloads::Offloads;

/// Bytes of the virtio-net header of virtio 1.0 and later, and of mergeable buffers.
pub const VNET_HEADER: usize = 12;
/// Bytes of the virtio-net header of a legacy driver without mergeable buffers.
pub const VNET_HEADER_LEGACY: usize = 10;

/// What kind of device, and how its queue is opened.
#[derive(Debug, Clone)]
pub struct TapOptions {
    /// Ethernet frames (TAP) or IP packets (TUN).
    pub layer: Layer,
    /// The bytes of virtio-net header in front of each frame, little-endian; none for bare frames.
    pub vnet_header: Option<usize>,
    /// Whether the device may have several queues. All opens of one device must agree.
    pub multi_queue: bool,
    /// Fail with [`ErrorKind::Busy`] if the device exists already.
    pub exclusive: bool,
}

/// What the frames of a device are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet frames.
    Ethernet,
    /// IP packets.
    Ip,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self {
            layer: Layer::Ethernet,
            vnet_header: Some(VNET_HEADER),
            multi_queue: false,
            exclusive: false,
        }
    }
}

/// One queue of a TAP or TUN device. Non-blocking; dropping the last queue removes the device unless it is persistent.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: InterfaceName,
    /// Changed through a shared reference, for the device behind it is shared as well.
    vnet_header: AtomicUsize,
}

impl Tap {
    /// Opens a queue of the device `name` in the calling thread's network namespace, making the device if it does not
    /// exist.
    ///
    /// [`ErrorKind::Denied`] without CAP_NET_ADMIN (or ownership of a persistent device), [`ErrorKind::Busy`] if
    /// another process holds the only queue, [`ErrorKind::Invalid`] if the device exists with other options.
    pub fn open(name: &InterfaceName, options: &TapOptions) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|e| Error::system("opening /dev/net/tun, the kernel's TAP driver", e))?;
        let mut flags = libc::IFF_NO_PI;
        flags |= match options.layer {
            Layer::Ethernet => libc::IFF_TAP,
            Layer::Ip => libc::IFF_TUN,
        };
        for (wanted, flag) in [
            (options.vnet_header.is_some(), libc::IFF_VNET_HDR),
            (options.multi_queue, libc::IFF_MULTI_QUEUE),
            (options.exclusive, libc::IFF_TUN_EXCL),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        sys::set_iff(&file, name.as_str(), flags).map_err(|e| open_error(name, e))?;
        let tap = Self {
            file,
            name: name.clone(),
            vnet_header: options.vnet_header.unwrap_or(0).into(),
        };
        tap.set_vnet_header(tap.vnet_header())?;
        Ok(tap)
    }

    /// Takes over a queue that another process opened and handed on. The virtio-net header's size is read back from
    /// the kernel; the file is made non-blocking.
    pub fn adopt(fd: OwnedFd) -> Result<Self> {
        let file = File::from(fd);
        let (name, flags) = sys::iff(&file)
            .map_err(|e| Error::system("the adopted descriptor is no TAP device", e))?;
        let name = InterfaceName::new(name)?;
        let failed = |e| Error::system(format!("adopting TAP device {name}"), e);
        let vnet_header = if flags & libc::IFF_VNET_HDR != 0 {
            sys::vnet_header_size(&file).map_err(failed)?
        } else {
            0
        };
        sys::set_nonblocking(&file).map_err(failed)?;
        Ok(Self {
            file,
            name,
            vnet_header: vnet_header.into(),
        })
    }

    /// The device's name.
    pub fn name(&self) -> &InterfaceName {
        &self.name
    }

    /// Bytes of virtio-net header in front of each frame, 0 for bare frames.
    pub fn vnet_header(&self) -> usize {
        self.vnet_header.load(Ordering::Relaxed)
    }

    /// Sets the bytes of virtio-net header, [`VNET_HEADER`] or [`VNET_HEADER_LEGACY`] as the guest's driver has it, and
    /// their byte order, little-endian. Holds for the whole device.
    ///
    /// [`ErrorKind::Invalid`] if the queue was opened without header and one is asked for, or the other way around.
    pub fn set_vnet_header(&self, size: usize) -> Result<()> {
        if (size == 0) != (self.vnet_header() == 0) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "TAP device {} was opened with a header of another kind",
                    self.name
                ),
            ));
        }
        if size == 0 {
            return Ok(());
        }
        sys::set_vnet_header_size(&self.file, size)
            .and_then(|()| sys::set_vnet_little_endian(&self.file))
            .map_err(|e| {
                Error::system(
                    format!(
                        "setting the virtio-net header of {} to {size} bytes",
                        self.name
                    ),
                    e,
                )
            })?;
        self.vnet_header.store(size, Ordering::Relaxed);
        Ok(())
    }

    /// Tells the kernel what the reader of this device takes besides plain frames, and returns what was set.
    ///
    /// Holds for the whole device, not for one queue. A kernel that does not know UDP segmentation (before 6.2) is
    /// asked again without it. Without a virtio-net header nothing can be set.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<Offloads> {
        if self.vnet_header() == 0 {
            return Ok(Offloads::NONE);
        }
        let wanted = offloads.normalized();
        for candidate in [
            wanted,
            wanted.without_uso(),
            wanted.without_uso().without_ufo(),
        ] {
            match sys::set_offload(&self.file, candidate.bits()) {
                Ok(()) => return Ok(candidate),
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                Err(e) => return Err(self.error("setting offloads", e)),
            }
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} takes none of the offloads {wanted:?}", self.name),
        ))
    }

    /// Whether this queue takes part (multi-queue devices): the kernel spreads frames over the enabled queues only.
    pub fn set_queue_enabled(&self, enabled: bool) -> Result<()> {
        let flag = if enabled {
            libc::IFF_ATTACH_QUEUE
        } else {
            libc::IFF_DETACH_QUEUE
        };
        sys::set_queue(&self.file, flag).map_err(|e| self.error("switching a queue", e))
    }

    /// Bounds the bytes that may be under way from this queue into the host's network, so that a fast guest waits
    /// instead of growing a queue.
    pub fn set_send_buffer(&self, bytes: u32) -> Result<()> {
        sys::set_send_buffer(&self.file, bytes)
            .map_err(|e| self.error("setting the send buffer", e))
    }

    /// Whether the device outlives its last queue.
    pub fn set_persistent(&self, persistent: bool) -> Result<()> {
        sys::set_persist(&self.file, persistent).map_err(|e| self.error("setting persistence", e))
    }

    /// Lets the user `uid` open queues of the device without CAP_NET_ADMIN.
    pub fn set_owner(&self, uid: u32) -> Result<()> {
        sys::set_owner(&self.file, uid).map_err(|e| self.error("setting the owner", e))
    }

    /// Reads one frame, virtio-net header first, scattered over `buffers`; returns its length. A frame longer than
    /// the buffers is cut. [`io::ErrorKind::WouldBlock`] when none is waiting.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&self.file).read_vectored(buffers)
    }

    /// Sends one frame gathered from `buffers`, virtio-net header first. [`io::ErrorKind::WouldBlock`] when the send
    /// buffer is full.
    pub fn send(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(buffers)
    }

    fn error(&self, doing: &str, error: io::Error) -> Error {
        Error::system(format!("{doing} of TAP device {}", self.name), error)
    }
}

/// Looks at devices of the namespace in which it was made, from wherever the thread is later.
#[derive(Debug)]
pub struct Probe(OwnedFd);

impl Probe {
    /// A probe for the calling thread's namespace.
    pub fn new() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Inet, SockType::Datagram, flags, None)
            .map(Self)
            .map_err(|e| Error::system("opening a socket to ask for links", e))
    }

    /// The MTU that a device has now; none if it is gone or was renamed.
    pub fn mtu(&self, name: &InterfaceName) -> Option<usize> {
        sys::mtu(&self.0, name.as_str()).ok()
    }
}

fn open_error(name: &InterfaceName, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) => Error::new(
            ErrorKind::Invalid,
            format!(
                "{name} exists and is no TAP device that can be opened this way (another kind of device, or \
                 single-queue against multi-queue)"
            ),
        ),
        Some(libc::EBUSY) => Error::new(
            ErrorKind::Busy,
            format!("TAP device {name} is in use by another process"),
        ),
        _ => Error::system(format!("opening TAP device {name}"), error),
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.file.into()
    }
}
