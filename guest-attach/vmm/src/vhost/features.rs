//! Which features pass between the guest and a back end.

use vhost::vhost_user::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};

use crate::virtio::F_VERSION_1;

/// What a device is. The numbers are virtio's device types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Disk,
    Nic { mac: Option<[u8; 6]> },
}

const F_INDIRECT: u64 = 1 << 28;
const F_EVENT_INDEX: u64 = 1 << 29;
const RINGS: u64 = F_INDIRECT | F_EVENT_INDEX | F_VERSION_1;

/// virtio-blk: SIZE_MAX, SEG_MAX, GEOMETRY, RO, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES.
const DISK: u64 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 0x1f << 10;
/// virtio-net: CSUM, GUEST_CSUM, MTU, MAC, then GUEST_TSO4 to MRG_RXBUF and STATUS. There is no control queue, so nothing that
/// needs one.
const NIC: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 0x3ff << 7;
pub(super) const NIC_MAC: u64 = 1 << 5;

pub(super) const PROTOCOL: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

impl Kind {
    pub(crate) fn device_type(self) -> u16 {
        match self {
            Self::Nic { .. } => 1,
            Self::Disk => 2,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nic { .. } => "nic",
            Self::Disk => "disk",
        }
    }

    /// The bytes of configuration that the back end is asked for.
    pub(super) fn config_bytes(self) -> u32 {
        match self {
            // Up to the fields of WRITE_ZEROES.
            Self::Disk => 60,
            // Address, status, queue pairs, MTU.
            Self::Nic { .. } => 12,
        }
    }

    /// What the guest is offered of what the back end offers.
    pub(super) fn offered(self, back_end: u64) -> u64 {
        match self {
            Self::Disk => back_end & (DISK | RINGS),
            Self::Nic { mac: None } => back_end & (NIC | RINGS),
            Self::Nic { mac: Some(_) } => back_end & (NIC | RINGS) | NIC_MAC,
        }
    }

    /// What this side adds of its own to the back end's features.
    pub(super) fn own(self) -> u64 {
        match self {
            Self::Nic { mac: Some(_) } => NIC_MAC,
            _ => 0,
        }
    }

    /// Puts what this side decides into the back end's configuration.
    pub(super) fn patch_config(self, config: &mut [u8], queues: u16) {
        match self {
            Self::Disk => {
                if let Some(field) = config.get_mut(34..36) {
                    field.copy_from_slice(&queues.to_le_bytes());
                }
            }
            Self::Nic { mac } => {
                if let (Some(mac), Some(field)) = (mac, config.get_mut(..6)) {
                    field.copy_from_slice(&mac);
                }
            }
        }
    }
}

/// The protocol features that this side knows.
pub(super) fn protocol() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_more_than_this_side_has_is_masked() {
        let all = u64::MAX;
        let disk = Kind::Disk.offered(all);
        assert_eq!(disk & (1 << 34), 0, "packed rings");
        assert_eq!(disk & (1 << 33), 0, "an IOMMU");
        assert_eq!(disk & PROTOCOL, 0);
        assert_ne!(disk & (1 << 13), 0, "discard");
        let nic = Kind::Nic { mac: None }.offered(all);
        assert_eq!(
            nic & (1 << 17 | 1 << 22),
            0,
            "a control queue and what needs one"
        );
        assert_ne!(nic & (1 << 15), 0, "mergeable buffers");
    }

    #[test]
    fn an_address_of_ours_is_offered_even_if_the_back_end_has_none() {
        let nic = Kind::Nic {
            mac: Some([2, 0, 0, 0, 0, 1]),
        };
        assert_eq!(nic.offered(F_VERSION_1), F_VERSION_1 | NIC_MAC);
        let mut config = [0; 12];
        nic.patch_config(&mut config, 2);
        assert_eq!(config[..6], [2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_disk_shows_as_many_queues_as_it_has() {
        let mut config = [0; 60];
        Kind::Disk.patch_config(&mut config, 3);
        assert_eq!(config[34..36], [3, 0]);
    }
}
