//! A network's port as a guest's NIC sees it: the TAP device, driven by the vhost-user back end.

use std::io;

use weft_netio::{Offloads, Tap};
use weft_uring::ShardHandle;
use weft_vhost_user::{FrameFile, NetOptions, Ports, Setting};
use weft_wire::MacAddress;

/// A port that is open, and the shard that moves its frames.
pub struct OpenPort {
    /// The device.
    pub tap: Tap,
    /// The hardware address that the guest is told unless its VMM tells another.
    pub mac: MacAddress,
    /// The largest packet that the guest is told of.
    pub mtu: Option<u16>,
    /// Where its frames are moved.
    pub home: ShardHandle,
}

impl OpenPort {
    /// What the guest is offered.
    pub fn options(&self) -> NetOptions {
        NetOptions {
            mac: self.mac.octets(),
            mtu: self.mtu,
            pairs: 1,
            offloads: weft_vhost_user::Offloads::TCP,
        }
    }

    /// The device as the virtio-net model drives it: what the guest takes of offloads, the TAP is told to leave to it.
    pub fn into_ports(self) -> Ports {
        vec![Box::new(FrameFile::new(self.tap, set))]
    }
}

fn set(tap: &Tap, setting: Setting) -> io::Result<()> {
    let failed = |error: weft_netio::Error| io::Error::other(error.sentence());
    match setting {
        Setting::Setup(setup) => {
            tap.set_vnet_header(setup.header).map_err(failed)?;
            tap.set_offloads(Offloads::of_virtio_net(setup.features))
                .map(drop)
                .map_err(failed)
        }
        Setting::Enabled(enabled) => tap.set_queue_enabled(enabled).map_err(failed),
    }
}
