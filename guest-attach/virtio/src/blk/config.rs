//! What a virtio-blk device says of itself.

use virtio_bindings::virtio_blk as bind;
use weft_block::{Info, SECTOR};

use crate::{F_EVENT_IDX, F_INDIRECT, F_VERSION_1};

/// Bytes of the configuration space, up to and with the write-zeroes limits.
pub const CONFIG_LEN: usize = 60;
/// Bytes of the identity that `VIRTIO_BLK_T_GET_ID` answers with.
pub const ID_LEN: usize = bind::VIRTIO_BLK_ID_BYTES as usize;
/// Sectors in one discard or write-zeroes request: 1 GiB, so that a layer below can bound its work.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;

/// Offset of `wce`, the one field that a driver may write.
const WCE: usize = 32;

pub(super) const F_SEG_MAX: u64 = 1 << bind::VIRTIO_BLK_F_SEG_MAX;
pub(super) const F_RO: u64 = 1 << bind::VIRTIO_BLK_F_RO;
pub(super) const F_BLK_SIZE: u64 = 1 << bind::VIRTIO_BLK_F_BLK_SIZE;
pub(super) const F_FLUSH: u64 = 1 << bind::VIRTIO_BLK_F_FLUSH;
pub(super) const F_TOPOLOGY: u64 = 1 << bind::VIRTIO_BLK_F_TOPOLOGY;
pub(super) const F_CONFIG_WCE: u64 = 1 << bind::VIRTIO_BLK_F_CONFIG_WCE;
pub(super) const F_MQ: u64 = 1 << bind::VIRTIO_BLK_F_MQ;
pub(super) const F_DISCARD: u64 = 1 << bind::VIRTIO_BLK_F_DISCARD;
pub(super) const F_WRITE_ZEROES: u64 = 1 << bind::VIRTIO_BLK_F_WRITE_ZEROES;

/// What the device's owner chooses.
#[derive(Debug, Clone)]
pub struct BlkOptions {
    /// Request queues.
    pub queues: u16,
    /// The most data segments of a request that the driver may send.
    pub segments: u32,
    /// What `GET_ID` answers: up to [`ID_LEN`] bytes of ASCII.
    pub serial: String,
    /// Refuse writes even if the device takes them.
    pub read_only: bool,
}

impl Default for BlkOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            // What fits a ring of 128 with a header and a status.
            segments: 126,
            serial: String::new(),
            read_only: false,
        }
    }
}

/// The driver's view of a block device: one for all its queues.
#[derive(Debug, Clone)]
pub struct BlkModel {
    info: Info,
    options: BlkOptions,
    /// What the driver took; nothing before it negotiated.
    features: u64,
    /// The write cache: on means that the driver flushes.
    writeback: bool,
}

impl BlkModel {
    /// The view of a device that `info` describes.
    pub fn new(info: Info, options: BlkOptions) -> Self {
        let writeback = info.volatile_cache;
        Self {
            info,
            options,
            features: 0,
            writeback,
        }
    }

    /// The features on offer.
    pub fn features(&self) -> u64 {
        let mut features = F_VERSION_1 | F_INDIRECT | F_EVENT_IDX;
        features |= F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY | F_FLUSH | F_MQ;
        if self.is_read_only() {
            features |= F_RO;
        } else {
            features |= F_WRITE_ZEROES | F_CONFIG_WCE;
            if self.info.discard {
                features |= F_DISCARD;
            }
        }
        features
    }

    /// The driver took `features`, and the device is as new. Without the flush feature the driver cannot flush, so
    /// its writes are made durable one by one.
    pub fn acknowledge(&mut self, features: u64) {
        self.features = features;
        self.writeback = self.info.volatile_cache && features & (F_FLUSH | F_CONFIG_WCE) != 0;
    }

    /// What the driver took.
    pub fn acknowledged(&self) -> u64 {
        self.features
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.info.read_only || self.options.read_only
    }

    /// Request queues.
    pub fn queues(&self) -> u16 {
        self.options.queues
    }

    /// Bytes of the device.
    pub fn size(&self) -> u64 {
        self.info.size
    }

    /// The device was resized; whether the driver is to be told that its configuration changed.
    pub fn resize(&mut self, size: u64) -> bool {
        let changed = size / SECTOR != self.info.size / SECTOR;
        self.info.size = size;
        changed
    }

    /// Whether a write must be durable before it is answered.
    pub(super) fn writes_through(&self) -> bool {
        self.info.volatile_cache && !self.writeback
    }

    /// The identity, padded with zero bytes.
    pub(super) fn id(&self) -> [u8; ID_LEN] {
        let mut id = [0; ID_LEN];
        let serial = self.options.serial.as_bytes();
        let len = serial.len().min(ID_LEN);
        id[..len].copy_from_slice(&serial[..len]);
        id
    }

    /// `struct virtio_blk_config`.
    pub fn config(&self) -> [u8; CONFIG_LEN] {
        let info = &self.info;
        let block = info.logical_block;
        let mut space = [0; CONFIG_LEN];
        let mut put = |offset: usize, bytes: &[u8]| {
            space[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &(info.size / SECTOR).to_le_bytes());
        put(12, &self.options.segments.to_le_bytes());
        put(20, &block.to_le_bytes());
        let physical = (info.physical_block.max(block) / block).max(1).ilog2();
        put(24, &[physical as u8, 0]);
        let minimum = u16::try_from(info.physical_block / block).unwrap_or(u16::MAX);
        put(26, &minimum.max(1).to_le_bytes());
        put(28, &(info.optimal_io / block).to_le_bytes());
        put(WCE, &[u8::from(self.writeback)]);
        put(34, &self.options.queues.to_le_bytes());
        let alignment = (u64::from(info.physical_block.max(block)) / SECTOR) as u32;
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &1_u32.to_le_bytes());
        put(44, &alignment.to_le_bytes());
        put(48, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(52, &1_u32.to_le_bytes());
        put(56, &[1]);
        space
    }

    /// The driver writes `bytes` at `offset` of the configuration space; whether it may. Only the write cache can be
    /// set.
    pub fn write_config(&mut self, offset: u32, bytes: &[u8]) -> bool {
        match (offset as usize, bytes) {
            (WCE, &[value @ (0 | 1)]) if self.features & F_CONFIG_WCE != 0 => {
                self.writeback = value == 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> BlkModel {
        let mut info = Info::new(64 << 20, 512);
        info.physical_block = 4096;
        info.optimal_io = 128 << 10;
        BlkModel::new(info, BlkOptions::default())
    }

    #[test]
    fn the_configuration_says_what_the_device_is() {
        let config = model().config();
        let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
        assert_eq!(config[..8], (64_u64 << 20 >> 9).to_le_bytes());
        assert_eq!((word(12), word(20)), (126, 512));
        assert_eq!(&config[24..28], &[3, 0, 8, 0]);
        assert_eq!(word(28), 256);
        assert_eq!((config[32], config[34]), (1, 1));
        assert_eq!((word(36), word(40), word(44)), (1 << 21, 1, 8));
    }

    #[test]
    fn a_driver_that_cannot_flush_gets_durable_writes() {
        let mut model = model();
        model.acknowledge(F_VERSION_1);
        assert!(model.writes_through());
        assert!(!model.write_config(32, &[1]));
        model.acknowledge(F_VERSION_1 | F_FLUSH | F_CONFIG_WCE);
        assert!(!model.writes_through());
        assert!(model.write_config(32, &[0]));
        assert!(model.writes_through());
        assert!(!model.write_config(0, &[0; 8]));
    }

    #[test]
    fn a_read_only_device_offers_no_writes() {
        let options = BlkOptions {
            read_only: true,
            ..BlkOptions::default()
        };
        let features = BlkModel::new(Info::new(4096, 512), options).features();
        assert_eq!(features & (F_RO | F_WRITE_ZEROES | F_DISCARD), F_RO);
    }

    #[test]
    fn a_resize_is_a_change_of_sectors() {
        let mut model = model();
        assert!(!model.resize(64 << 20));
        assert!(model.resize(65 << 20));
        assert_eq!(model.config()[..8], (65_u64 << 11).to_le_bytes());
    }
}
