//! Where packets come from and go to.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use weft_netio::tap::{Layer, Probe};
use weft_netio::{InterfaceName, Offloads, Result, Tap, TapOptions};
use weft_wire::offload::{VNET_HEADER, VnetHeader};

/// A source and a sink of IP packets, each with what is left to do with it.
pub trait Packets: Send {
    /// The next packet and its length in `buffer`, which has 64 KiB; none if none is there.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>>;

    /// Takes a packet that lies in `parts`. What it has no room for is lost.
    fn send(&mut self, header: &VnetHeader, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// What can be read when there is a packet.
    fn readable(&self) -> BorrowedFd<'_>;

    /// The longest packet, if it has a bound that can change.
    fn mtu(&self) -> Option<usize>;
}

/// A TUN device with all offloads that the kernel has.
#[derive(Debug)]
pub struct Tun {
    tap: Tap,
    probe: Probe,
}

impl Tun {
    /// Makes the device in the calling thread's network namespace. It is down, and without addresses.
    pub fn create(name: &InterfaceName) -> Result<Self> {
        let options = TapOptions {
            layer: Layer::Ip,
            vnet_header: Some(VNET_HEADER),
            exclusive: true,
            ..TapOptions::default()
        };
        Self::with(Tap::open(name, &options)?)
    }

    /// Takes a device over that another process has made, which must have a virtio-net header, in whose namespace the
    /// calling thread is.
    pub fn adopt(fd: OwnedFd) -> Result<Self> {
        let tap = Tap::adopt(fd)?;
        tap.set_vnet_header(VNET_HEADER)?;
        Self::with(tap)
    }

    fn with(tap: Tap) -> Result<Self> {
        tap.set_offloads(Offloads::TCP_UDP)?;
        Ok(Self {
            tap,
            probe: Probe::new()?,
        })
    }

    /// The device's name.
    pub fn name(&self) -> &InterfaceName {
        self.tap.name()
    }
}

impl Packets for Tun {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>> {
        let mut header = [0; VNET_HEADER];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        match self.tap.receive(&mut parts) {
            Ok(length) => {
                let header = VnetHeader::parse(&header).map_err(io::Error::other)?;
                Ok(Some((header, length.saturating_sub(VNET_HEADER))))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn send(&mut self, header: &VnetHeader, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let header = header.emit();
        let mut all = Vec::with_capacity(parts.len() + 1);
        all.push(IoSlice::new(&header));
        all.extend_from_slice(parts);
        self.tap.send(&all).map(drop)
    }

    fn readable(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    fn mtu(&self) -> Option<usize> {
        self.probe.mtu(self.tap.name())
    }
}
