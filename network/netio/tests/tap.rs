//! TAP devices in a namespace of the test's own. Without the right to make one there is nothing to test.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};

use weft_netio::tap::{Layer, VNET_HEADER, VNET_HEADER_LEGACY};
use weft_netio::{ErrorKind, InterfaceName, Namespace, Offloads, Tap, TapOptions};

fn in_namespace(test: impl FnOnce() + Send) {
    match Namespace::create() {
        Ok(namespace) => namespace.run(test).expect("the thread enters"),
        Err(e) if e.kind() == ErrorKind::Denied => eprintln!("skipped: {}", e.sentence()),
        Err(e) => panic!("{}", e.sentence()),
    }
}

fn name(name: &str) -> InterfaceName {
    InterfaceName::new(name).expect("a good name")
}

fn exists(name: &str) -> bool {
    std::fs::read_to_string("/proc/thread-self/net/dev")
        .expect("proc is mounted")
        .contains(&format!("{name}:"))
}

#[test]
fn a_device_lives_as_long_as_its_queue() {
    in_namespace(|| {
        let tap = Tap::open(&name("t0"), &TapOptions::default()).unwrap();
        assert!(exists("t0"));
        assert_eq!(tap.vnet_header(), VNET_HEADER);
        assert_eq!(tap.name().as_str(), "t0");
        let mut frame = [0; 100];
        let empty = tap.receive(&mut [IoSliceMut::new(&mut frame)]);
        assert_eq!(empty.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(tap);
        assert!(!exists("t0"));
    });
}

#[test]
fn a_persistent_device_stays_until_told() {
    in_namespace(|| {
        let tap = Tap::open(&name("t0"), &TapOptions::default()).unwrap();
        tap.set_persistent(true).unwrap();
        tap.set_owner(0).unwrap();
        drop(tap);
        assert!(exists("t0"));
        let tap = Tap::open(&name("t0"), &TapOptions::default()).unwrap();
        tap.set_persistent(false).unwrap();
        drop(tap);
        assert!(!exists("t0"));
    });
}

#[test]
fn offloads_are_set_as_asked() {
    in_namespace(|| {
        let tap = Tap::open(&name("t0"), &TapOptions::default()).unwrap();
        for wanted in [Offloads::NONE, Offloads::CHECKSUM, Offloads::TCP] {
            assert_eq!(tap.set_offloads(wanted).unwrap(), wanted);
        }
        assert!(
            tap.set_offloads(Offloads::TCP_UDP)
                .unwrap()
                .contains(Offloads::TCP)
        );
        tap.set_send_buffer(1 << 20).unwrap();
        let bare = TapOptions {
            vnet_header: None,
            ..TapOptions::default()
        };
        let bare = Tap::open(&name("t1"), &bare).unwrap();
        assert_eq!(bare.vnet_header(), 0);
        assert!(bare.set_vnet_header(VNET_HEADER).is_err());
        tap.set_vnet_header(VNET_HEADER_LEGACY).unwrap();
        assert_eq!(tap.vnet_header(), VNET_HEADER_LEGACY);
        assert_eq!(bare.set_offloads(Offloads::TCP).unwrap(), Offloads::NONE);
    });
}

#[test]
fn a_queue_is_adopted_with_its_header() {
    in_namespace(|| {
        let options = TapOptions {
            vnet_header: Some(VNET_HEADER_LEGACY),
            ..TapOptions::default()
        };
        let tap = Tap::open(&name("t0"), &options).unwrap();
        let fd = tap.as_raw_fd();
        let adopted = Tap::adopt(OwnedFd::from(tap)).unwrap();
        assert_eq!(adopted.as_raw_fd(), fd);
        assert_eq!(adopted.vnet_header(), VNET_HEADER_LEGACY);
        assert_eq!(adopted.name().as_str(), "t0");
        let file = std::fs::File::open("/dev/null").unwrap();
        let wrong = Tap::adopt(file.into()).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Unsupported, "{}", wrong.sentence());
    });
}

#[test]
fn queues_of_one_device_are_switched() {
    in_namespace(|| {
        let options = TapOptions {
            multi_queue: true,
            ..TapOptions::default()
        };
        let first = Tap::open(&name("t0"), &options).unwrap();
        let second = Tap::open(&name("t0"), &options).unwrap();
        second.set_queue_enabled(false).unwrap();
        second.set_queue_enabled(true).unwrap();
        assert_eq!(first.name(), second.name());
        let single = Tap::open(&name("t0"), &TapOptions::default()).unwrap_err();
        assert_eq!(single.kind(), ErrorKind::Invalid, "{}", single.sentence());
    });
}

#[test]
fn a_busy_or_foreign_name_is_refused() {
    in_namespace(|| {
        let _tap = Tap::open(&name("t0"), &TapOptions::default()).unwrap();
        let busy = Tap::open(&name("t0"), &TapOptions::default()).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy, "{}", busy.sentence());
        let exclusive = TapOptions {
            exclusive: true,
            ..TapOptions::default()
        };
        let busy = Tap::open(&name("t0"), &exclusive).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy, "{}", busy.sentence());
        let foreign = Tap::open(&name("lo"), &TapOptions::default()).unwrap_err();
        assert_eq!(foreign.kind(), ErrorKind::Invalid, "{}", foreign.sentence());
    });
}

#[test]
fn a_downed_device_takes_no_frame() {
    in_namespace(|| {
        let options = TapOptions {
            layer: Layer::Ip,
            vnet_header: None,
            ..TapOptions::default()
        };
        let tun = Tap::open(&name("tun0"), &options).unwrap();
        let sent = tun.send(&[IoSlice::new(&[0x45; 20])]);
        assert_eq!(sent.unwrap_err().raw_os_error(), Some(libc::EIO));
    });
}
