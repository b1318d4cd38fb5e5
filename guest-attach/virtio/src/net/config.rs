//! What a virtio-net device says of itself.

use virtio_bindings::virtio_net as bind;

use super::{HEADER, LEGACY_HEADER, Offloads, PortSetup};
use crate::{F_EVENT_IDX, F_INDIRECT, F_VERSION_1};

/// Bytes of the configuration space, up to and with the MTU.
pub const CONFIG_LEN: usize = 12;

const F_CSUM: u64 = 1 << bind::VIRTIO_NET_F_CSUM;
const F_GUEST_CSUM: u64 = 1 << bind::VIRTIO_NET_F_GUEST_CSUM;
const F_MTU: u64 = 1 << bind::VIRTIO_NET_F_MTU;
const F_MAC: u64 = 1 << bind::VIRTIO_NET_F_MAC;
const F_MRG_RXBUF: u64 = 1 << bind::VIRTIO_NET_F_MRG_RXBUF;
const F_STATUS: u64 = 1 << bind::VIRTIO_NET_F_STATUS;
const F_CTRL_VQ: u64 = 1 << bind::VIRTIO_NET_F_CTRL_VQ;
const F_CTRL_RX: u64 = 1 << bind::VIRTIO_NET_F_CTRL_RX;
const F_MQ: u64 = 1 << bind::VIRTIO_NET_F_MQ;

/// An offload, the feature by which the driver takes such frames, and the one by which it may send them.
const OFFLOADS: [(Offloads, u64, u64); 7] = [
    (Offloads::CHECKSUM, F_GUEST_CSUM, F_CSUM),
    (
        Offloads::TSO4,
        1 << bind::VIRTIO_NET_F_GUEST_TSO4,
        1 << bind::VIRTIO_NET_F_HOST_TSO4,
    ),
    (
        Offloads::TSO6,
        1 << bind::VIRTIO_NET_F_GUEST_TSO6,
        1 << bind::VIRTIO_NET_F_HOST_TSO6,
    ),
    (
        Offloads::TSO_ECN,
        1 << bind::VIRTIO_NET_F_GUEST_ECN,
        1 << bind::VIRTIO_NET_F_HOST_ECN,
    ),
    (
        Offloads::UFO,
        1 << bind::VIRTIO_NET_F_GUEST_UFO,
        1 << bind::VIRTIO_NET_F_HOST_UFO,
    ),
    (
        Offloads::USO4,
        1 << bind::VIRTIO_NET_F_GUEST_USO4,
        1 << bind::VIRTIO_NET_F_HOST_USO,
    ),
    (
        Offloads::USO6,
        1 << bind::VIRTIO_NET_F_GUEST_USO6,
        1 << bind::VIRTIO_NET_F_HOST_USO,
    ),
];

/// What the device's owner chooses.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// The guest's hardware address; a VMM may have its own idea.
    pub mac: [u8; 6],
    /// Bytes of the longest IP packet; none leaves it to the guest.
    pub mtu: Option<u16>,
    /// Queue pairs, at least one.
    pub pairs: u16,
    /// What the port can do.
    pub offloads: Offloads,
}

/// The driver's view of a network device.
#[derive(Debug, Clone)]
pub struct NetModel {
    options: NetOptions,
    features: u64,
    link_up: bool,
}

impl NetModel {
    /// A device with its link up.
    pub fn new(options: NetOptions) -> Self {
        Self {
            options,
            features: 0,
            link_up: true,
        }
    }

    /// The features on offer.
    pub fn features(&self) -> u64 {
        let mut features = F_VERSION_1 | F_INDIRECT | F_EVENT_IDX;
        features |= F_MAC | F_STATUS | F_MRG_RXBUF | F_CTRL_VQ | F_CTRL_RX;
        if self.options.mtu.is_some() {
            features |= F_MTU;
        }
        if self.options.pairs > 1 {
            features |= F_MQ;
        }
        for (offload, takes, sends) in OFFLOADS {
            if self.options.offloads.contains(offload) {
                features |= takes | sends;
            }
        }
        features
    }

    /// The driver took `features`.
    pub fn acknowledge(&mut self, features: u64) {
        self.features = features;
    }

    /// What the driver took.
    pub fn acknowledged(&self) -> u64 {
        self.features
    }

    /// Queue pairs.
    pub fn pairs(&self) -> u16 {
        self.options.pairs
    }

    /// Bytes of the header that the driver uses.
    pub fn header(&self) -> usize {
        if self.features & (F_VERSION_1 | F_MRG_RXBUF) != 0 {
            HEADER
        } else {
            LEGACY_HEADER
        }
    }

    /// Whether a frame may be spread over several receive buffers.
    pub fn mergeable(&self) -> bool {
        self.features & F_MRG_RXBUF != 0
    }

    /// What the port's frames are to look like for this driver.
    pub fn port_setup(&self) -> PortSetup {
        let offloads = OFFLOADS
            .iter()
            .filter(|(_, takes, _)| self.features & takes != 0)
            .fold(Offloads::NONE, |all, &(offload, ..)| all.union(offload));
        // Nothing may be left to a receiver that does not even complete a checksum.
        let offloads = match offloads.contains(Offloads::CHECKSUM) {
            true => offloads,
            false => Offloads::NONE,
        };
        PortSetup {
            header: self.header(),
            offloads,
            features: self.features,
        }
    }

    /// The link goes up or down; whether the driver is to be told that its configuration changed.
    pub fn set_link(&mut self, up: bool) -> bool {
        std::mem::replace(&mut self.link_up, up) != up
    }

    /// `struct virtio_net_config`.
    pub fn config(&self) -> [u8; CONFIG_LEN] {
        let mut space = [0; CONFIG_LEN];
        space[..6].copy_from_slice(&self.options.mac);
        let status = u16::from(self.link_up) * bind::VIRTIO_NET_S_LINK_UP as u16;
        space[6..8].copy_from_slice(&status.to_le_bytes());
        space[8..10].copy_from_slice(&self.options.pairs.to_le_bytes());
        space[10..].copy_from_slice(&self.options.mtu.unwrap_or(0).to_le_bytes());
        space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(pairs: u16, offloads: Offloads) -> NetModel {
        NetModel::new(NetOptions {
            mac: [2, 0, 0, 1, 2, 3],
            mtu: Some(1500),
            pairs,
            offloads,
        })
    }

    #[test]
    fn the_configuration_says_what_the_device_is() {
        let mut model = model(4, Offloads::TCP);
        assert_eq!(model.config(), [2, 0, 0, 1, 2, 3, 1, 0, 4, 0, 0xdc, 0x05]);
        assert!(model.set_link(false));
        assert!(!model.set_link(false));
        assert_eq!(model.config()[6], 0);
    }

    #[test]
    fn the_port_gives_what_the_driver_takes() {
        let mut model = model(1, Offloads::TCP);
        assert_eq!(model.features() & F_MQ, 0);
        model.acknowledge(model.features());
        assert_eq!(model.port_setup().offloads, Offloads::TCP);
        assert_eq!(model.port_setup().header, HEADER);
        model.acknowledge(model.features() & !F_GUEST_CSUM);
        assert_eq!(model.port_setup().offloads, Offloads::NONE);
        model.acknowledge(0);
        assert_eq!(model.port_setup().header, LEGACY_HEADER);
    }
}
