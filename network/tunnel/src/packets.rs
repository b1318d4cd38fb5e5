//! Where packets come from and go to.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};

use weft_netio::tap::Layer;
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
}

/// A TUN device with all offloads that the kernel has.
#[derive(Debug)]
pub struct Tun(Tap);

impl Tun {
    /// Makes the device in the calling thread's network namespace. It is down, and without addresses.
    pub fn create(name: &InterfaceName) -> Result<Self> {
        let options = TapOptions {
            layer: Layer::Ip,
            vnet_header: Some(VNET_HEADER),
            exclusive: true,
            ..TapOptions::default()
        };
        let tap = Tap::open(name, &options)?;
        tap.set_offloads(Offloads::TCP_UDP)?;
        Ok(Self(tap))
    }

    /// The device's name.
    pub fn name(&self) -> &InterfaceName {
        self.0.name()
    }
}

impl Packets for Tun {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>> {
        let mut header = [0; VNET_HEADER];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        match self.0.receive(&mut parts) {
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
        self.0.send(&all).map(drop)
    }

    fn readable(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
