//! The virtio-net model between a simulated driver and a port made of two lists of frames.

#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use weft_block::{IoVec, LocalBoxFuture};
use weft_vhost_client::{DriverRing, Part};
use weft_virtio::net::{
    Answer, HEADER, NetModel, NetOptions, NetPort, Offloads, PortSetup, Progress, Receive,
    Transmit, control,
};
use weft_virtio::queue::{Layout, QueueError, QueueOptions, SplitQueue};
use weft_virtio::{F_VERSION_1, GuestMemory};

const SIZE: u16 = 64;
const DATA: u64 = 0x10000;

struct Guest {
    memory: GuestMemoryMmap,
    driver: DriverRing,
    next: u64,
}

impl Guest {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x100_0000)]).unwrap();
        let driver = DriverRing::new(&memory, 0x1000, SIZE, false);
        Self {
            memory,
            driver,
            next: DATA,
        }
    }

    fn queue(&self) -> SplitQueue {
        let at = self.driver.addresses();
        let layout = Layout {
            size: at.size,
            desc: at.desc,
            avail: at.avail,
            used: at.used,
        };
        let memory = Rc::new(GuestMemory::new(self.memory.clone()));
        SplitQueue::new(memory, &layout, QueueOptions::default(), 0, None).unwrap()
    }

    fn place(&mut self, len: usize) -> u64 {
        let at = self.next;
        self.next += len as u64 + 16;
        at
    }

    /// Sends `bytes` as a chain cut at the given lengths.
    fn send(&mut self, bytes: &[u8], cuts: &[usize]) {
        let mut parts = Vec::new();
        let mut rest = bytes;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            let (part, tail) = rest.split_at(cut.clamp(1, rest.len().max(1)).min(rest.len()));
            rest = tail;
            if part.is_empty() {
                break;
            }
            let address = self.place(part.len());
            self.memory
                .write_slice(part, GuestAddress(address))
                .unwrap();
            parts.push(Part {
                address,
                len: part.len() as u32,
                writable: false,
            });
        }
        self.driver.add(&parts).unwrap();
        self.driver.publish();
    }

    /// Gives a receive buffer of `len` bytes; its head and place.
    fn offer(&mut self, len: u32) -> Option<(u16, u64)> {
        let address = self.place(len as usize);
        let head = self.driver.add(&[Part {
            address,
            len,
            writable: true,
        }])?;
        self.driver.publish();
        Some((head, address))
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }
}

#[derive(Default)]
struct Lists {
    sent: RefCell<Vec<Vec<u8>>>,
    room: Cell<usize>,
    waiting: RefCell<VecDeque<Vec<u8>>>,
}

impl NetPort for Lists {
    fn configure(&self, _: &PortSetup) -> io::Result<()> {
        Ok(())
    }

    fn send(&self, frame: &IoVec) -> io::Result<bool> {
        let Some(room) = self.room.get().checked_sub(1) else {
            return Ok(false);
        };
        self.room.set(room);
        self.sent.borrow_mut().push(frame.to_buffer().to_vec());
        Ok(true)
    }

    fn receive(&self, into: &mut IoVec) -> io::Result<Option<usize>> {
        let Some(frame) = self.waiting.borrow_mut().pop_front() else {
            return Ok(None);
        };
        let len = frame.len().min(into.len());
        into.copy_in(0, &frame[..len]);
        Ok(Some(len))
    }

    fn readable(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn writable(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    let header = [0; HEADER];
    let body = (0..len).map(|at| seed.wrapping_add((at % 251) as u8));
    header.into_iter().chain(body).collect()
}

#[test]
fn frames_leave_in_order_and_wait_for_room() {
    let mut guest = Guest::new();
    let mut queue = guest.queue();
    let port = Lists::default();
    let frames = [frame(60, 1), frame(1514, 2), frame(65_549, 3)];
    guest.send(&frames[0], &[]);
    guest.send(&frames[1], &[5, 7, 100]);
    guest.send(&frames[2], &[12, 30_000]);
    let mut transmit = Transmit::new(HEADER);
    port.room.set(2);
    let (progress, _) = transmit.turn(&mut queue, &port).unwrap();
    assert_eq!(progress, Progress::PortBlocked);
    port.room.set(9);
    let (progress, _) = transmit.turn(&mut queue, &port).unwrap();
    assert_eq!(progress, Progress::QueueEmpty);
    assert_eq!(*port.sent.borrow(), frames);
    assert_eq!(transmit.counts().frames, 3);
    assert_eq!(std::iter::from_fn(|| guest.driver.take()).count(), 3);
}

#[test]
fn a_frame_that_waits_is_given_back_on_a_stop() {
    let mut guest = Guest::new();
    let mut queue = guest.queue();
    let port = Lists::default();
    guest.send(&frame(60, 1), &[]);
    let mut transmit = Transmit::new(HEADER);
    transmit.turn(&mut queue, &port).unwrap();
    transmit.stop(&mut queue);
    assert_eq!((queue.base(), queue.outstanding()), (0, 0));
}

#[test]
fn frames_of_no_sensible_length_are_dropped() {
    let mut guest = Guest::new();
    let mut queue = guest.queue();
    let port = Lists::default();
    port.room.set(9);
    for bytes in [3, HEADER, HEADER + 13, HEADER + 65_560] {
        guest.send(&vec![0; bytes], &[]);
    }
    let mut transmit = Transmit::new(HEADER);
    transmit.turn(&mut queue, &port).unwrap();
    assert_eq!(transmit.counts().dropped, 4);
    assert!(port.sent.borrow().is_empty());
    assert_eq!(std::iter::from_fn(|| guest.driver.take()).count(), 4);
}

#[test]
fn without_mergeable_buffers_a_frame_fits_one_or_is_dropped() {
    let mut guest = Guest::new();
    let mut queue = guest.queue();
    let port = Lists::default();
    let (_, at) = guest.offer(200).unwrap();
    port.waiting
        .borrow_mut()
        .extend([frame(300, 1), frame(100, 2)]);
    let mut receive = Receive::new(HEADER, false, 1514);
    receive.turn(&mut queue, &port).unwrap();
    assert_eq!(receive.counts().dropped, 1);
    let (_, len) = guest.driver.take().unwrap();
    assert_eq!(len as usize, HEADER + 100);
    let got = guest.read(at, len as usize);
    assert_eq!(got[10..12], [1, 0]);
    assert_eq!(got[HEADER..], frame(100, 2)[HEADER..]);
}

#[test]
fn a_long_frame_waits_for_the_buffers_that_it_needs() {
    let mut guest = Guest::new();
    let mut queue = guest.queue();
    let port = Lists::default();
    let long = frame(5000, 9);
    port.waiting.borrow_mut().push_back(long.clone());
    let mut receive = Receive::new(HEADER, true, 65_549);
    let mut places = vec![guest.offer(2048).unwrap()];
    let (progress, _) = receive.turn(&mut queue, &port).unwrap();
    assert_eq!(progress, Progress::QueueEmpty);
    assert!(guest.driver.take().is_none());
    places.push(guest.offer(2048).unwrap());
    places.push(guest.offer(2048).unwrap());
    receive.turn(&mut queue, &port).unwrap();
    let mut got = Vec::new();
    for (head, at) in places {
        let (used, len) = guest.driver.take().unwrap();
        assert_eq!(used, head);
        got.extend(guest.read(at, len as usize));
    }
    assert_eq!(got[10..12], [3, 0]);
    assert_eq!(got[HEADER..], long[HEADER..]);
}

#[test]
fn a_buffer_without_room_for_a_header_ends_the_queue() {
    let mut guest = Guest::new();
    let mut queue = guest.queue();
    guest.offer(11).unwrap();
    let error = Receive::new(HEADER, true, 1514).turn(&mut queue, &Lists::default());
    assert!(matches!(error, Err(QueueError::Incomplete { .. })));
}

#[test]
fn control_commands_are_answered() {
    let mut guest = Guest::new();
    let mut queue = guest.queue();
    let model = NetModel::new(NetOptions {
        mac: [2; 6],
        mtu: None,
        pairs: 4,
        offloads: Offloads::NONE,
    });
    assert_ne!(model.features() & F_VERSION_1, 0);
    let mut ask = |command: &[u8]| {
        let at = guest.place(16);
        let ack = guest.place(1);
        guest.memory.write_slice(command, GuestAddress(at)).unwrap();
        let part = |address, len, writable| Part {
            address,
            len,
            writable,
        };
        let parts = [part(at, command.len() as u32, false), part(ack, 1, true)];
        guest.driver.add(&parts).unwrap();
        guest.driver.publish();
        let chain = queue.pop().unwrap().unwrap();
        let answer = control(&model, &mut queue, &chain).unwrap();
        queue.publish();
        guest.driver.take().unwrap();
        (answer, guest.read(ack, 1)[0])
    };
    assert_eq!(ask(&[4, 0, 3, 0]), (Answer::Pairs(3), 0));
    assert_eq!(ask(&[4, 0, 5, 0]), (Answer::Done, 1));
    assert_eq!(ask(&[4, 0, 0, 0]), (Answer::Done, 1));
    assert_eq!(ask(&[0, 0, 1]), (Answer::Done, 0));
    assert_eq!(ask(&[9, 9, 9]), (Answer::Done, 1));
    assert_eq!(ask(&[4]), (Answer::Done, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever buffers the driver gives and whenever, the frames arrive whole and in order.
    #[test]
    fn received_frames_arrive_whole(
        lengths in vec(14_usize..9000, 1..12),
        buffers in vec(12_u32..4000, 1..60),
        turns in vec(1_usize..8, 1..10),
    ) {
        let mut guest = Guest::new();
        let mut queue = guest.queue();
        let port = Lists::default();
        let frames: Vec<_> = lengths.iter().enumerate().map(|(at, &len)| frame(len, at as u8)).collect();
        port.waiting.borrow_mut().extend(frames.iter().cloned());
        let mut receive = Receive::new(HEADER, true, 9000);
        let mut places = std::collections::HashMap::new();
        let mut got: Vec<Vec<u8>> = Vec::new();
        let mut buffers = buffers.into_iter().cycle();
        let mut turns = turns.into_iter().cycle();
        for _ in 0..2000 {
            for _ in 0..turns.next().unwrap() {
                if let Some((head, at)) = guest.offer(buffers.next().unwrap()) {
                    places.insert(head, at);
                }
            }
            if guest.next > 0xf0_0000 { guest.next = DATA; }
            receive.turn(&mut queue, &port).unwrap();
            while let Some((head, len)) = guest.driver.take() {
                let first = guest.read(places[&head], len as usize);
                let count = u16::from_le_bytes([first[10], first[11]]);
                let mut whole = first;
                for _ in 1..count {
                    let (head, len) = guest.driver.take().expect("the buffers of a frame come together");
                    whole.extend(guest.read(places[&head], len as usize));
                }
                got.push(whole[HEADER..].to_vec());
            }
            if got.len() as u64 + receive.counts().dropped == frames.len() as u64 { break; }
        }
        // A frame may need more buffers than the ring has; only such are dropped.
        let mut expected = frames.iter().map(|frame| frame[HEADER..].to_vec());
        for frame in &got {
            prop_assert!(expected.any(|other| other == *frame));
        }
        prop_assert_eq!(got.len() as u64 + receive.counts().dropped, frames.len() as u64);
    }
}
