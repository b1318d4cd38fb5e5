//! The virtio-blk model between a simulated driver and a device in memory.

#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.

use std::rc::Rc;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use weft_block::{BlockDevice, Info};
use weft_sim::{Executor, Faulty, MemoryDevice};
use weft_vhost_client::{DriverRing, Part};
use weft_virtio::blk::{BlkModel, BlkOptions, Step};
use weft_virtio::queue::{Layout, QueueError, QueueOptions, SplitQueue};
use weft_virtio::{F_VERSION_1, GuestMemory};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const DATA: u64 = 0x10000;
const STATUS: u64 = 0xf000;
const F_FLUSH: u64 = 1 << 9;

struct Machine {
    guest: GuestMemoryMmap,
    driver: DriverRing,
    queue: SplitQueue,
    model: BlkModel,
    device: Arc<dyn BlockDevice>,
    executor: Executor,
}

impl Machine {
    fn new(device: impl BlockDevice + 'static, options: BlkOptions) -> Self {
        let guest = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let driver = DriverRing::new(&guest, 0x1000, 64, false);
        let at = driver.addresses();
        let layout = Layout {
            size: at.size,
            desc: at.desc,
            avail: at.avail,
            used: at.used,
        };
        let memory = Rc::new(GuestMemory::new(guest.clone()));
        let queue = SplitQueue::new(memory, &layout, QueueOptions::default(), 0, None).unwrap();
        let mut model = BlkModel::new(device.info(), options);
        model.acknowledge(F_VERSION_1 | F_FLUSH);
        Self {
            guest,
            driver,
            queue,
            model,
            device: Arc::new(device),
            executor: Executor::new(1),
        }
    }

    /// Serves one chain to its end; the bytes that the device says it wrote.
    fn serve(&mut self, parts: &[Part]) -> Result<u32, QueueError> {
        self.driver.add(parts).unwrap();
        self.driver.publish();
        let chain = self.queue.pop()?.unwrap();
        let memory = self.queue.memory().clone();
        let used = match self.model.parse(&chain, &memory)? {
            Step::Answered(used) => used,
            Step::Submit(request, reply) => {
                let device = self.device.open(&self.executor.spawner()).unwrap();
                let completion = self.executor.block_on(device.submit(request));
                reply.finish(&completion.result)
            }
        };
        self.queue.push(used.head, used.written);
        self.queue.publish();
        let (head, written) = self.driver.take().unwrap();
        assert_eq!(head, chain.head());
        Ok(written)
    }

    /// A request of `kind` at `sector` with `payload` to read and `room` bytes to write; its status.
    fn request(&mut self, kind: u32, sector: u64, payload: &[u8], room: u32) -> u8 {
        self.guest
            .write_slice(payload, GuestAddress(DATA + 16))
            .unwrap();
        self.header(kind, sector);
        let readable = part(DATA, 16 + payload.len() as u32, false);
        let writable = [part(DATA + 0x8_0000, room, true), part(STATUS, 1, true)];
        let parts: Vec<Part> = std::iter::once(readable)
            .chain(writable)
            .filter(|part| part.len > 0)
            .collect();
        self.guest.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
        assert_eq!(self.serve(&parts).unwrap(), room + 1);
        self.guest.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn header(&self, kind: u32, sector: u64) {
        let header = [kind.to_le_bytes(), [0; 4]].concat();
        self.guest.write_slice(&header, GuestAddress(DATA)).unwrap();
        self.guest
            .write_slice(&sector.to_le_bytes(), GuestAddress(DATA + 8))
            .unwrap();
    }

    fn answer(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.guest
            .read_slice(&mut bytes, GuestAddress(DATA + 0x8_0000))
            .unwrap();
        bytes
    }
}

fn part(address: u64, len: u32, writable: bool) -> Part {
    Part {
        address,
        len,
        writable,
    }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut range = sector.to_le_bytes().to_vec();
    range.extend(sectors.to_le_bytes());
    range.extend(flags.to_le_bytes());
    range
}

#[test]
fn writes_are_read_back() {
    let disk = MemoryDevice::new(1 << 20);
    let mut machine = Machine::new(disk.clone(), BlkOptions::default());
    let data: Vec<u8> = (0..4096).map(|at| (at % 253) as u8).collect();
    assert_eq!(machine.request(1, 3, &data, 0), OK);
    assert_eq!(disk.peek(3 * 512, 4096), data);
    assert_eq!(machine.request(0, 3, &[], 4096), OK);
    assert_eq!(machine.answer(4096), data);
    assert_eq!(machine.request(4, 0, &[], 0), OK);
}

#[test]
fn what_is_not_possible_is_an_error_status() {
    let mut machine = Machine::new(MemoryDevice::new(1 << 20), BlkOptions::default());
    assert_eq!(machine.request(0, 2048, &[], 512), IOERR);
    assert_eq!(machine.request(0, u64::MAX, &[], 512), IOERR);
    assert_eq!(machine.request(0, u64::MAX / 512, &[], 512), IOERR);
    assert_eq!(machine.request(1, 0, &[0; 100], 0), IOERR);
    assert_eq!(machine.request(7, 0, &[], 0), UNSUPP);
    assert_eq!(machine.request(u32::MAX, 0, &[], 0), UNSUPP);
    // Nothing to move is done.
    assert_eq!(machine.request(0, 0, &[], 0), OK);
}

#[test]
fn a_broken_medium_is_an_error_status() {
    let disk = Faulty::new(Arc::new(MemoryDevice::new(1 << 20)), 7);
    disk.faults().fail_reads(0..4096);
    let mut machine = Machine::new(disk, BlkOptions::default());
    assert_eq!(machine.request(0, 0, &[], 512), IOERR);
    assert_eq!(machine.request(0, 8, &[], 512), OK);
}

#[test]
fn a_read_only_device_refuses_all_that_writes() {
    let options = BlkOptions {
        read_only: true,
        ..BlkOptions::default()
    };
    let disk = MemoryDevice::new(1 << 20);
    let mut machine = Machine::new(disk.clone(), options);
    assert_eq!(machine.request(1, 0, &[7; 512], 0), IOERR);
    assert_eq!(machine.request(13, 0, &range(0, 8, 0), 0), UNSUPP);
    assert_eq!(disk.peek(0, 512), [0; 512]);
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let disk = MemoryDevice::new(1 << 20);
    disk.poke(0, &[7; 8192]);
    let mut machine = Machine::new(disk.clone(), BlkOptions::default());
    assert_eq!(machine.request(13, 0, &range(1, 2, 1), 0), OK);
    assert_eq!(disk.peek(512, 1024), [0; 1024]);
    assert_eq!(disk.peek(1536, 512), [7; 512]);
    assert_eq!(machine.request(11, 0, &range(8, 1, 0), 0), OK);
    assert_eq!(machine.request(11, 0, &range(8, 1, 1), 0), UNSUPP);
    assert_eq!(machine.request(13, 0, &range(8, 1, 2), 0), UNSUPP);
    assert_eq!(machine.request(11, 0, &range(2047, 2, 0), 0), IOERR);
    assert_eq!(machine.request(11, 0, &range(0, 1 << 22, 0), 0), IOERR);
    let two = [range(0, 1, 0), range(4, 1, 0)].concat();
    assert_eq!(machine.request(11, 0, &two, 0), IOERR);
    assert_eq!(machine.request(11, 0, &range(0, 1, 0)[..8], 0), IOERR);
}

#[test]
fn the_identity_is_padded() {
    let options = BlkOptions {
        serial: "tank/root".into(),
        ..BlkOptions::default()
    };
    let mut machine = Machine::new(MemoryDevice::new(4096), options);
    assert_eq!(machine.request(8, 0, &[], 20), OK);
    assert_eq!(&machine.answer(20)[..10], b"tank/root\0");
}

#[test]
fn without_a_flush_feature_writes_are_durable() {
    let mut info = Info::new(1 << 20, 512);
    info.volatile_cache = true;
    let mut machine = Machine::new(MemoryDevice::with_info(info), BlkOptions::default());
    machine.model.acknowledge(F_VERSION_1);
    machine.header(1, 0);
    let parts = [part(DATA, 16 + 512, false), part(STATUS, 1, true)];
    machine.driver.add(&parts).unwrap();
    machine.driver.publish();
    let chain = machine.queue.pop().unwrap().unwrap();
    let memory = machine.queue.memory().clone();
    let Step::Submit(request, _) = machine.model.parse(&chain, &memory).unwrap() else {
        panic!("a write goes to the device");
    };
    assert_eq!(request.op, weft_block::Op::Write { fua: true });
}

#[test]
fn a_chain_that_cannot_be_answered_ends_the_queue() {
    for parts in [
        vec![part(DATA, 15, false), part(STATUS, 1, true)],
        vec![part(DATA, 16, false)],
        vec![part(STATUS, 1, true)],
    ] {
        let mut machine = Machine::new(MemoryDevice::new(4096), BlkOptions::default());
        let error = machine.serve(&parts).unwrap_err();
        assert!(matches!(error, QueueError::Incomplete { .. }));
    }
}

/// Cuts `len` bytes at `address` into parts.
fn cut(address: u64, len: u32, cuts: &[u32], writable: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut at, end) = (address, address + u64::from(len));
    for &step in cuts.iter().chain([&u32::MAX]) {
        let take = u64::from(step.max(1)).min(end - at);
        if take > 0 {
            parts.push(part(at, take as u32, writable));
            at += take;
        }
    }
    parts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Header, data and status are found however they are cut.
    #[test]
    fn any_layout_will_do(
        readable in vec(1_u32..1500, 0..12),
        writable in vec(1_u32..1500, 0..12),
        seed in any::<u8>(),
    ) {
        let disk = MemoryDevice::new(1 << 20);
        let mut machine = Machine::new(disk.clone(), BlkOptions::default());
        let data: Vec<u8> = (0..4096_u32).map(|at| seed.wrapping_add((at % 249) as u8)).collect();
        machine.guest.write_slice(&data, GuestAddress(DATA + 16)).unwrap();
        machine.header(1, 8);
        let mut parts = cut(DATA, 16 + 4096, &readable, false);
        parts.push(part(STATUS, 1, true));
        machine.serve(&parts).unwrap();
        prop_assert_eq!(disk.peek(4096, 4096), data.clone());
        // Data and status share segments.
        machine.header(0, 8);
        let mut parts = cut(DATA, 16, &readable, false);
        parts.extend(cut(DATA + 0x8_0000, 4097, &writable, true));
        prop_assert_eq!(machine.serve(&parts).unwrap(), 4097);
        let answer = machine.answer(4097);
        prop_assert_eq!(&answer[..4096], &data[..]);
        prop_assert_eq!(answer[4096], OK);
    }

    /// Whatever a header says, the answer is a status.
    #[test]
    fn any_header_is_answered(kind in 0_u32..20, sector in any::<u64>(), payload in vec(any::<u8>(), 0..600), room in 0_u32..600) {
        let mut machine = Machine::new(MemoryDevice::new(1 << 20), BlkOptions::default());
        prop_assert!(machine.request(kind, sector, &payload, room) <= UNSUPP);
        prop_assert!(machine.request(kind, sector % 4096, &payload, room) <= UNSUPP);
    }
}
