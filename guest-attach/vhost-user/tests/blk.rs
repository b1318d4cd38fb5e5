//! vhost-user-blk backends, driven by a front end over the `vhost` crate's other role.

#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.
#![allow(unreachable_pub, missing_docs)] // The support module is shared by several tests.

mod support;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use support::{BLOCK, Backend, Stalling, driver, finish, pattern};
use vhost::vhost_user::VhostUserFrontend;
use vm_memory::{Bytes, GuestAddress};
use weft_block::BlockDevice;
use weft_sim::{Faulty, MemoryDevice};
use weft_uring::block_on;
use weft_vhost_client::{ConnectionOptions, Waiting};
use weft_vhost_user::{BlkBackend, BlkServe, Error};

fn write_and_read(options: ConnectionOptions, waiting: Waiting) {
    let disk = MemoryDevice::new(16 << 20);
    let backend = Backend::new(Arc::new(disk.clone()), 1);
    let mut connection = backend.connect(options);
    let mut driver = driver(&mut connection, 0, 8);
    for round in 0..50_usize {
        for slot in 0..8 {
            driver.fill(slot, &pattern(round + slot)).unwrap();
            let sector = (round * 8 + slot) as u64 * 8;
            driver.write(slot, sector, BLOCK).unwrap();
        }
        driver.publish().unwrap();
        for _ in 0..8 {
            assert_eq!(finish(&mut driver, waiting).status, 0);
        }
    }
    for round in 0..50_usize {
        driver.read(0, round as u64 * 64, BLOCK).unwrap();
        driver.publish().unwrap();
        let done = finish(&mut driver, waiting);
        assert_eq!((done.status, done.written), (0, BLOCK + 1));
        assert_eq!(driver.bytes(0, BLOCK as usize).unwrap(), pattern(round));
        assert_eq!(disk.peek(round as u64 * 64 * 512, 4096), pattern(round));
    }
    let statistics = backend.served().statistics();
    assert_eq!((statistics.writes, statistics.reads), (400, 50));
    assert!(statistics.connected);
}

#[test]
fn requests_are_served_with_interrupts() {
    write_and_read(ConnectionOptions::default(), Waiting::Interrupt);
}

#[test]
fn requests_are_served_to_a_driver_that_polls() {
    write_and_read(ConnectionOptions::default(), Waiting::Polled);
}

#[test]
fn requests_are_served_without_an_event_index() {
    let options = ConnectionOptions {
        event_idx: false,
        in_flight: false,
        ..ConnectionOptions::default()
    };
    write_and_read(options, Waiting::Interrupt);
}

#[test]
fn the_configuration_is_that_of_the_device() {
    let backend = Backend::new(Arc::new(MemoryDevice::new(16 << 20)), 4);
    let mut connection = backend.connect(ConnectionOptions::default());
    let config = connection.config(60).unwrap();
    assert_eq!(config[..8], (16_u64 << 20 >> 9).to_le_bytes());
    assert_eq!(config[34], 4);
    assert_eq!(connection.front().get_queue_num().unwrap(), 4);
}

#[test]
fn several_queues_work_at_once() {
    let backend = Backend::new(Arc::new(MemoryDevice::new(16 << 20)), 2);
    let mut connection = backend.connect(ConnectionOptions {
        queues: 2,
        ..ConnectionOptions::default()
    });
    let mut drivers = [driver(&mut connection, 0, 4), driver(&mut connection, 1, 4)];
    for round in 0..20 {
        for (queue, driver) in drivers.iter_mut().enumerate() {
            driver.fill(0, &pattern(round * 2 + queue)).unwrap();
            let sector = (round * 2 + queue) as u64 * 8;
            driver.write(0, sector, BLOCK).unwrap();
            driver.publish().unwrap();
        }
        for driver in &mut drivers {
            assert_eq!(finish(driver, Waiting::Interrupt).status, 0);
        }
    }
    for (queue, driver) in drivers.iter_mut().enumerate() {
        driver.read(1, 8 * (38 + queue as u64), BLOCK).unwrap();
        driver.publish().unwrap();
        finish(driver, Waiting::Interrupt);
        assert_eq!(driver.bytes(1, 4096).unwrap(), pattern(38 + queue));
    }
}

#[test]
fn errors_of_the_device_are_statuses() {
    let disk = Faulty::new(Arc::new(MemoryDevice::new(1 << 20)), 3);
    disk.faults().fail_writes(0..4096);
    let backend = Backend::new(Arc::new(disk), 1);
    let mut connection = backend.connect(ConnectionOptions::default());
    let mut driver = driver(&mut connection, 0, 1);
    driver.write(0, 0, BLOCK).unwrap();
    driver.publish().unwrap();
    assert_eq!(finish(&mut driver, Waiting::Interrupt).status, 1);
    driver.submit(0, 99, 0, 0).unwrap();
    driver.publish().unwrap();
    assert_eq!(finish(&mut driver, Waiting::Interrupt).status, 2);
    assert_eq!(backend.served().statistics().errors, 1);
}

#[test]
fn a_broken_ring_ends_alone() {
    let backend = Backend::new(Arc::new(MemoryDevice::new(1 << 20)), 2);
    let mut connection = backend.connect(ConnectionOptions {
        queues: 2,
        ..ConnectionOptions::default()
    });
    let mut broken = driver(&mut connection, 0, 1);
    let mut whole = driver(&mut connection, 1, 1);
    broken.write(0, 0, BLOCK).unwrap();
    // Descriptors far outside the memory.
    let at = broken.ring().addresses().desc;
    for index in 0..128 {
        let place = GuestAddress(at + 16 * index);
        connection.memory().write_obj(u64::MAX / 2, place).unwrap();
    }
    broken.publish().unwrap();
    broken.kick().unwrap();
    while backend.served().statistics().broken_rings == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(connection.is_broken(0));
    whole.write(0, 0, BLOCK).unwrap();
    whole.publish().unwrap();
    assert_eq!(finish(&mut whole, Waiting::Interrupt).status, 0);
    // The same backend serves the next front end.
    drop((broken, whole));
    drop(connection);
    let mut connection = backend.connect(ConnectionOptions::default());
    let mut again = driver(&mut connection, 0, 1);
    again.read(0, 0, BLOCK).unwrap();
    again.publish().unwrap();
    assert_eq!(finish(&mut again, Waiting::Interrupt).status, 0);
    assert_eq!(backend.served().statistics().connections, 2);
}

#[test]
fn a_ring_stops_between_requests_and_goes_on() {
    let backend = Backend::new(Arc::new(MemoryDevice::new(1 << 20)), 1);
    let mut connection = backend.connect(ConnectionOptions::default());
    let mut driver = driver(&mut connection, 0, 2);
    driver.write(0, 0, BLOCK).unwrap();
    driver.publish().unwrap();
    finish(&mut driver, Waiting::Interrupt);
    let bases = connection.stop().unwrap();
    assert_eq!(bases, [1]);
    driver.write(1, 8, BLOCK).unwrap();
    driver.publish().unwrap();
    let soon = Duration::from_millis(20);
    assert!(!driver.wait(Waiting::Polled, soon).unwrap());
    connection.resume(&bases).unwrap();
    assert_eq!(finish(&mut driver, Waiting::Interrupt).slot, 1);
}

#[test]
fn a_resize_reaches_the_front_end() {
    let disk = MemoryDevice::new(1 << 20);
    let backend = Backend::new(Arc::new(disk.clone()), 1);
    let mut connection = backend.connect(ConnectionOptions::default());
    assert!(!block_on(backend.served().refresh()));
    disk.resize(2 << 20);
    assert!(block_on(backend.served().refresh()));
    let mut message = [0; 12];
    let mut requests = connection.backend_requests();
    requests.read_exact(&mut message).unwrap();
    assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(connection.config(8).unwrap(), 4096_u64.to_le_bytes());
}

#[test]
fn a_stop_finishes_what_is_in_flight_and_a_successor_goes_on() {
    let disk = MemoryDevice::new(1 << 20);
    let slow: Arc<dyn BlockDevice> =
        Arc::new(Stalling::new(disk.clone(), Duration::from_millis(40)));
    let mut backend = Backend::new(slow, 1);
    let socket = backend.socket();
    let mut connection = backend.connect(ConnectionOptions::default());
    let mut driver = driver(&mut connection, 0, 4);
    for slot in 0..4 {
        driver.fill(slot, &pattern(slot)).unwrap();
        driver.write(slot, 8 * slot as u64, BLOCK).unwrap();
    }
    driver.publish().unwrap();
    while backend.served().statistics().writes < 4 {
        std::thread::sleep(Duration::from_millis(1));
    }
    backend.stop();
    assert!(!socket.exists());
    for _ in 0..4 {
        assert_eq!(finish(&mut driver, Waiting::Polled).status, 0);
    }
    assert_eq!(disk.peek(8 * 512 * 3, 4096), pattern(3));
    // What comes while nobody serves is served by the successor, once.
    driver.read(0, 8, BLOCK).unwrap();
    driver.publish().unwrap();
    backend.serve(Arc::new(disk), 1);
    connection.reconnect(&socket).unwrap();
    assert_eq!(finish(&mut driver, Waiting::Interrupt).status, 0);
    assert_eq!(driver.bytes(0, 4096).unwrap(), pattern(1));
    assert_eq!(backend.served().statistics().reads, 1);
}

#[test]
fn two_backends_do_not_share_a_socket() {
    let backend = Backend::new(Arc::new(MemoryDevice::new(1 << 20)), 1);
    let shard = backend.shard.handle();
    let second = BlkBackend::serve(
        &shard,
        backend.socket(),
        Arc::new(MemoryDevice::new(1 << 20)),
        BlkServe::default(),
    );
    assert!(matches!(block_on(second), Err(Error::Busy(_))));
    let mut connection = backend.connect(ConnectionOptions::default());
    let mut driver = driver(&mut connection, 0, 1);
    driver.read(0, 0, BLOCK).unwrap();
    driver.publish().unwrap();
    assert_eq!(finish(&mut driver, Waiting::Interrupt).status, 0);
}
