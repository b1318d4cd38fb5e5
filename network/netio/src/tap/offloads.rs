//! What the reader of a TAP device takes besides plain frames.

/// A set of `TUN_F_*` flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Offloads(u32);

/// Each flag with its name, and the virtio-net feature bit by which a guest says that it takes such frames
/// (virtio 1.3, 5.1.3.1: `GUEST_CSUM`, `GUEST_TSO4`, `GUEST_TSO6`, `GUEST_ECN`, `GUEST_UFO`, `GUEST_USO4`,
/// `GUEST_USO6`).
const FLAGS: [(u32, &str, u32); 7] = [
    (libc::TUN_F_CSUM, "csum", 1),
    (libc::TUN_F_TSO4, "tso4", 7),
    (libc::TUN_F_TSO6, "tso6", 8),
    (libc::TUN_F_TSO_ECN, "ecn", 9),
    (libc::TUN_F_UFO, "ufo", 10),
    (libc::TUN_F_USO4, "uso4", 54),
    (libc::TUN_F_USO6, "uso6", 55),
];

impl Offloads {
    /// Plain, checksummed frames only.
    pub const NONE: Self = Self(0);
    /// Frames whose checksum is still to be filled in.
    pub const CHECKSUM: Self = Self(libc::TUN_F_CSUM);
    /// Checksums and TCP segments of both IP versions.
    pub const TCP: Self = Self(libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6);
    /// All that [`Offloads::TCP`] has, and UDP segments of both IP versions.
    pub const TCP_UDP: Self = Self(Self::TCP.0 | libc::TUN_F_USO4 | libc::TUN_F_USO6);

    /// What a guest takes, from the virtio-net features that it negotiated.
    pub fn of_virtio_net(features: u64) -> Self {
        let bits = FLAGS
            .iter()
            .filter(|(_, _, feature)| features & (1 << feature) != 0)
            .fold(0, |bits, (flag, _, _)| bits | flag);
        Self(bits).normalized()
    }

    /// The flags of `TUNSETOFFLOAD`.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Without what the kernel refuses: segments need checksums, ECN needs TCP segments, and UDP segments go for both
    /// IP versions or none (`set_offload` in Linux `drivers/net/tun.c`).
    pub(super) fn normalized(self) -> Self {
        let mut bits = self.0;
        if bits & libc::TUN_F_CSUM == 0 {
            return Self::NONE;
        }
        if bits & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) == 0 {
            bits &= !libc::TUN_F_TSO_ECN;
        }
        let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        if bits & uso != uso {
            bits &= !uso;
        }
        Self(bits)
    }

    pub(super) fn without_uso(self) -> Self {
        Self(self.0 & !(libc::TUN_F_USO4 | libc::TUN_F_USO6))
    }

    pub(super) fn without_ufo(self) -> Self {
        Self(self.0 & !libc::TUN_F_UFO)
    }
}

impl std::fmt::Debug for Offloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries(
                FLAGS
                    .iter()
                    .filter(|(flag, _, _)| self.0 & flag != 0)
                    .map(|(_, name, _)| name),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follow_the_guests_features() {
        let bit = |n: u32| 1u64 << n;
        assert_eq!(Offloads::of_virtio_net(0), Offloads::NONE);
        assert_eq!(
            Offloads::of_virtio_net(bit(7) | bit(8)),
            Offloads::NONE,
            "no checksum, no segments"
        );
        assert_eq!(
            Offloads::of_virtio_net(bit(1) | bit(9)),
            Offloads::CHECKSUM,
            "ECN needs TSO"
        );
        assert_eq!(
            Offloads::of_virtio_net(bit(1) | bit(7) | bit(8)),
            Offloads::TCP
        );
        assert_eq!(
            Offloads::of_virtio_net(bit(1) | bit(7) | bit(8) | bit(54)),
            Offloads::TCP,
            "UDP segments for both IP versions or none"
        );
        assert_eq!(
            Offloads::of_virtio_net(bit(1) | bit(7) | bit(8) | bit(54) | bit(55)),
            Offloads::TCP_UDP
        );
        assert!(Offloads::TCP_UDP.contains(Offloads::TCP));
        assert_eq!(format!("{:?}", Offloads::CHECKSUM), "{\"csum\"}");
    }
}
