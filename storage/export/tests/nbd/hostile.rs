//! What the server does about clients that misbehave: they harm themselves alone.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use weft_export::nbd::proto::{CommandCode, OptionCode, OptionHeader};
use weft_sim::MemoryDevice;

use crate::peer::{Reply, Site, pattern, uninterrupted};

const SIZE: u64 = 64 << 20;

fn site() -> (Site, MemoryDevice) {
    let device = MemoryDevice::new(SIZE);
    (Site::with("disk", device.clone()), device)
}

fn still_serves(site: &Site) {
    let mut peer = site.join();
    assert_eq!(peer.write(1 << 20, &pattern(4096, 9)), Reply::Done);
    assert!(peer.read(1 << 20, 4096) == Reply::Data(pattern(4096, 9)));
}

#[test]
fn garbage_for_a_handshake_is_hung_up_on() {
    let (site, _) = site();
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        &[0xff; 4096],
        b"\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\0\0\0\x03NBDMAGICIHAVEOPT",
    ];
    for bytes in garbage {
        let mut peer = site.connect();
        peer.socket.write_all(bytes).unwrap();
        assert!(peer.is_hung_up_on());
    }
    still_serves(&site);
}

#[test]
fn an_endless_option_is_not_kept() {
    let (site, _) = site();
    let mut peer = site.connect();
    let mut bytes = 3u32.to_be_bytes().to_vec();
    OptionHeader::put(&mut bytes, OptionCode::Go, b"");
    let len = bytes.len();
    bytes[len - 4..].copy_from_slice(&u32::MAX.to_be_bytes());
    peer.socket.write_all(&bytes).unwrap();
    for _ in 0..64 {
        peer.socket.write_all(&vec![0; 1 << 20]).unwrap();
    }
    still_serves(&site);
}

#[test]
fn half_a_request_and_a_hang_up_harm_nobody() {
    let (site, _) = site();
    for len in [0, 1, 27] {
        let mut peer = site.join();
        peer.socket.write_all(&[0x25; 28][..len]).unwrap();
        drop(peer);
    }
    let mut peer = site.join();
    peer.socket.write_all(&[0; 28]).unwrap();
    assert!(peer.is_hung_up_on());
    still_serves(&site);
}

#[test]
fn a_write_whose_payload_breaks_off_writes_nothing() {
    let (site, device) = site();
    let old = pattern(1 << 20, 1);
    device.poke(0, &old);
    for sent in [0, 1, 4096, (1 << 20) - 1] {
        let mut peer = site.join();
        peer.send(1, CommandCode::Write, 0, 0, 1 << 20);
        peer.socket.write_all(&vec![0xee; sent]).unwrap();
        peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(peer.is_hung_up_on());
        assert!(device.peek(0, 1 << 20) == old, "{sent} bytes had come");
    }
    still_serves(&site);
}

#[test]
fn a_client_that_reads_no_replies_is_stopped_and_others_are_not() {
    let (site, _) = site();
    let mut peer = site.join();
    let timeout = Some(Duration::from_millis(300));
    peer.socket.set_write_timeout(timeout).unwrap();
    let request = weft_export::nbd::proto::Request {
        flags: 0,
        code: CommandCode::Read as u16,
        cookie: 1,
        offset: 0,
        len: 32 << 10,
    };
    // Far more than socket buffers hold; the server stops to take requests.
    let many = request.encode().repeat(1000);
    let mut taken = 0;
    let stopped = loop {
        match uninterrupted(|| peer.socket.write(&many)) {
            Ok(len) => taken += len,
            Err(error) => break error,
        }
        assert!(taken < 64 << 20, "the server takes requests without end");
    };
    assert_eq!(stopped.kind(), ErrorKind::WouldBlock);
    still_serves(&site);

    // What was taken is answered once it is asked for.
    let mut buffer = vec![0; 1 << 20];
    let mut got = 0;
    while got < 16 << 20 {
        got += uninterrupted(|| peer.socket.read(&mut buffer)).unwrap();
    }
}

#[test]
fn acknowledgements_that_nobody_reads_are_bounded_too() {
    let (site, _) = site();
    let mut peer = site.join();
    let timeout = Some(Duration::from_millis(300));
    peer.socket.set_write_timeout(timeout).unwrap();
    let request = weft_export::nbd::proto::Request {
        flags: 0,
        code: 4711,
        cookie: 1,
        offset: 0,
        len: 0,
    };
    let many = request.encode().repeat(1000);
    let mut taken = 0;
    while let Ok(len) = uninterrupted(|| peer.socket.write(&many)) {
        taken += len;
        assert!(taken < 64 << 20, "the server takes requests without end");
    }
    still_serves(&site);
}

#[test]
fn idlers_in_the_handshake_keep_nobody_out() {
    let (site, _) = site();
    let mut idlers: Vec<_> = (0..200).map(|_| site.connect()).collect();
    still_serves(&site);
    // The first of them had to make room.
    assert!(idlers[0].is_hung_up_on());
    let mut last = idlers.pop().unwrap();
    assert!(last.join("disk").is_ok());
}
