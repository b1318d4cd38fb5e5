use super::*;
use crate::memory;
use crate::sync::lock;
use crate::virtio::testing::Noted;

struct Events(Vec<Arc<EventFd>>);

impl Vectors for Events {
    fn event(&self, vector: u16) -> Option<Arc<EventFd>> {
        self.0.get(usize::from(vector)).cloned()
    }
    fn count(&self) -> u16 {
        self.0.len() as u16
    }
}

struct Driver {
    transport: Transport,
    device: Arc<Noted>,
    events: Events,
}

impl Driver {
    fn new() -> Self {
        let device = Arc::new(Noted::default());
        let ram = memory::allocate(64 << 20).unwrap();
        let event = || Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        Self {
            transport: Transport::new(device.clone(), ram).unwrap(),
            device,
            events: Events(vec![event(), event(), event()]),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.transport.write(offset, data, &self.events);
    }

    fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.transport.read(offset, &mut data);
        data
    }

    fn status(&mut self) -> u8 {
        self.read::<1>(at::STATUS)[0]
    }

    fn take_features(&mut self, features: u64) {
        for (select, half) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
            self.write(at::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            self.write(at::DRIVER_FEATURE, &half.to_le_bytes());
        }
        self.write(at::STATUS, &[1 | 2 | 8]);
    }

    fn set_queue(&mut self, index: u16, base: u64) {
        self.write(at::QUEUE_SELECT, &index.to_le_bytes());
        self.write(at::QUEUE_SIZE, &128_u16.to_le_bytes());
        self.write(at::QUEUE_VECTOR, &(index + 1).to_le_bytes());
        self.write(at::QUEUE_DESC, &(base as u32).to_le_bytes());
        self.write(at::QUEUE_DESC + 4, &((base >> 32) as u32).to_le_bytes());
        self.write(at::QUEUE_DRIVER, &base.wrapping_add(0x1000).to_le_bytes());
        self.write(at::QUEUE_DEVICE, &base.wrapping_add(0x2000).to_le_bytes());
        self.write(at::QUEUE_ENABLE, &1_u16.to_le_bytes());
    }

    fn start(&mut self) {
        self.take_features(F_VERSION_1 | 1 << 9);
        self.set_queue(0, 0x10_0000);
        self.set_queue(1, 0x20_0000);
        self.write(at::STATUS, &[1 | 2 | 8 | 4]);
    }
}

#[test]
fn a_driver_starts_the_device() {
    let mut driver = Driver::new();
    driver.start();
    assert_eq!(driver.status(), 15);
    let activation = lock(&driver.device.activation).clone().unwrap();
    assert_eq!(activation.features, F_VERSION_1 | 1 << 9);
    let rings: Vec<_> = activation
        .queues
        .iter()
        .map(|queue| (queue.index, queue.ring))
        .collect();
    let ring = |base| Ring {
        size: 128,
        descriptors: base,
        available: base + 0x1000,
        used: base + 0x2000,
    };
    assert_eq!(rings, [(0, ring(0x10_0000)), (1, ring(0x20_0000))]);
    activation.queues[1].call.write(1).unwrap();
    assert_eq!(
        driver.events.0[2].read().unwrap(),
        1,
        "queue 1 interrupts by vector 2"
    );
}

#[test]
fn registers_read_back() {
    let mut driver = Driver::new();
    assert_eq!(u16::from_le_bytes(driver.read(at::NUM_QUEUES)), 2);
    assert_eq!(u16::from_le_bytes(driver.read(at::QUEUE_SIZE)), MAX_RING);
    assert_eq!(driver.read::<1>(at::CONFIG_GENERATION), [3]);
    driver.write(at::DEVICE_FEATURE_SELECT, &1_u32.to_le_bytes());
    assert_eq!(u32::from_le_bytes(driver.read(at::DEVICE_FEATURE)), 1);
    driver.write(at::CONFIG_VECTOR, &2_u16.to_le_bytes());
    assert_eq!(u16::from_le_bytes(driver.read(at::CONFIG_VECTOR)), 2);
    driver.write(at::CONFIG_VECTOR, &3_u16.to_le_bytes());
    assert_eq!(
        u16::from_le_bytes(driver.read(at::CONFIG_VECTOR)),
        NO_VECTOR
    );
    driver.write(at::QUEUE_SELECT, &7_u16.to_le_bytes());
    assert_eq!(
        u16::from_le_bytes(driver.read(at::QUEUE_SIZE)),
        0,
        "no such queue"
    );
    assert_eq!(
        driver.read::<8>(COMMON_BYTES - 4)[4..],
        [0; 4],
        "beyond the end"
    );
}

#[test]
fn features_that_were_not_offered_are_refused() {
    for features in [F_VERSION_1 | 1 << 5, 1 << 9] {
        let mut driver = Driver::new();
        driver.take_features(features);
        assert_eq!(driver.status(), 3, "FEATURES_OK does not stick");
    }
}

#[test]
fn broken_rings_need_a_reset_and_start_nothing() {
    for base in [0xc000_0000, 0x10_0008, u64::MAX - 0xfff, (64 << 20) - 16] {
        let mut driver = Driver::new();
        driver.take_features(F_VERSION_1);
        driver.write(at::CONFIG_VECTOR, &0_u16.to_le_bytes());
        driver.set_queue(0, base);
        driver.write(at::STATUS, &[1 | 2 | 8 | 4]);
        assert_eq!(
            driver.status() & STATUS_NEEDS_RESET,
            STATUS_NEEDS_RESET,
            "{base:#x}"
        );
        assert!(lock(&driver.device.activation).is_none());
        assert_eq!(driver.events.0[0].read().unwrap(), 1, "the driver is told");
    }
}

#[test]
fn a_reset_shows_when_the_queues_have_stopped() {
    let mut driver = Driver::new();
    driver.start();
    driver.write(at::STATUS, &[0]);
    assert!(lock(&driver.device.activation).is_none());
    assert_ne!(driver.status(), 0, "the back end still uses the rings");
    driver.write(at::STATUS, &[1]);
    *lock(&driver.device.idle) = true;
    assert_eq!(driver.status(), 0);
    driver.start();
    assert_eq!(driver.status(), 15);
}

#[test]
fn queues_do_not_change_while_they_run() {
    let mut driver = Driver::new();
    driver.start();
    driver.set_queue(1, 0x30_0000);
    assert_eq!(u64::from_le_bytes(driver.read(at::QUEUE_DESC)), 0x20_0000);
}

#[test]
fn hostile_accesses_never_panic() {
    let mut driver = Driver::new();
    for offset in (0..80).chain([u64::MAX - 8, u64::MAX / 2]) {
        for length in 0..9 {
            for value in [0, 1, 0x55, 0xff] {
                if offset < u64::MAX - 8 {
                    driver.write(offset, &vec![value; length]);
                }
                let mut data = vec![0; length];
                driver.transport.read(offset.min(1 << 40), &mut data);
            }
        }
    }
}
