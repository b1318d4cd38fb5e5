//! Front ends that break the protocol lose their connection, and nobody else notices.

#![allow(clippy::unwrap_used)] // The lint's exception for tests does not reach their helpers.
#![allow(unreachable_pub, missing_docs, dead_code)] // The support module is shared by several tests.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use support::{BLOCK, Backend, driver, finish};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;
use weft_sim::MemoryDevice;
use weft_vhost_client::{ConnectionOptions, Waiting};

fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [code, flags, body.len() as u32] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(body);
    bytes
}

/// The backend serves a proper front end.
fn works(backend: &Backend) {
    let mut connection = backend.connect(ConnectionOptions::default());
    let mut driver = driver(&mut connection, 0, 1);
    driver.read(0, 0, BLOCK).unwrap();
    driver.publish().unwrap();
    assert_eq!(finish(&mut driver, Waiting::Interrupt).status, 0);
}

#[test]
fn noise_is_hung_up_on() {
    let backend = Backend::new(Arc::new(MemoryDevice::new(1 << 20)), 2);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for round in 0..200 {
        let mut stream = UnixStream::connect(backend.socket()).unwrap();
        for _ in 0..next() % 12 {
            let code = (next() % 48) as u32;
            // Mostly well-formed, so that the noise gets past the header.
            let flags = if next() % 16 == 0 {
                next() as u32
            } else {
                1 | 8
            };
            let len = [0, 8, 8, 12, 20, 24, 40, 40, 72][(next() % 9) as usize];
            let body: Vec<u8> = (0..len)
                .map(|_| match next() % 4 {
                    0 => next() as u8,
                    1 => 0xff,
                    _ => (next() % 3) as u8,
                })
                .collect();
            if stream.write_all(&message(code, flags, &body)).is_err() {
                break;
            }
        }
        if round % 3 == 0 {
            let _ = stream.write_all(&[1, 2, 3]);
        }
        drop(stream);
    }
    works(&backend);
}

#[test]
fn a_message_that_is_too_long_ends_the_connection() {
    let backend = Backend::new(Arc::new(MemoryDevice::new(1 << 20)), 1);
    let mut stream = UnixStream::connect(backend.socket()).unwrap();
    let mut bytes = message(2, 1, &[]);
    bytes[8..].copy_from_slice(&u32::MAX.to_ne_bytes());
    stream.write_all(&bytes).unwrap();
    assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0);
    works(&backend);
}

#[test]
fn a_front_end_that_says_nothing_does_not_outlive_itself() {
    let backend = Backend::new(Arc::new(MemoryDevice::new(1 << 20)), 1);
    let silent = UnixStream::connect(backend.socket()).unwrap();
    // Half a header.
    (&silent).write_all(&[1, 0, 0, 0, 1]).unwrap();
    drop(silent);
    works(&backend);
}

#[test]
fn more_than_there_is_is_refused() {
    let backend = Backend::new(Arc::new(MemoryDevice::new(1 << 20)), 2);
    let mut connection = backend.connect(ConnectionOptions::default());
    let wanted = VhostUserInflight::new(0, 0, u16::MAX, u16::MAX);
    assert!(connection.front().get_inflight_fd(&wanted).is_err());
    works_after(backend, connection);
}

fn works_after(backend: Backend, connection: weft_vhost_client::Connection) {
    drop(connection);
    works(&backend);
}
