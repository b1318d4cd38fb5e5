//! The device's thread against a back end that only notes.

mod peer;
mod teller;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use self::peer::{Notes, Peer, VhostUserProtocolFeatures2};
use super::*;
use crate::error::{ErrorKind, Result};
use crate::memory::{self, GuestRam};
use crate::sync::lock;
use crate::timeline::Timeline;
use crate::virtio::{Activation, Device, F_VERSION_1, Queue, Ring};

/// A bound for what happens at once; nothing is measured by it.
const SOON: Duration = Duration::from_secs(20);

struct Front {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    attachment: Arc<Attachment>,
    thread: JoinHandle<Result<()>>,
    ram: Arc<GuestRam>,
    kick: Arc<EventFd>,
    call: Arc<EventFd>,
}

fn event() -> Arc<EventFd> {
    Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())
}

impl Front {
    fn new(kind: Kind, queues: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let attachment = Arc::new(Attachment::new("d", kind, socket.clone(), queues).unwrap());
        let timeline = Arc::new(Timeline::new());
        let thread = start(attachment.clone(), timeline, || Ok(())).unwrap();
        Self {
            _folder: folder,
            socket,
            attachment,
            thread,
            ram: memory::allocate(64 << 20).unwrap(),
            kick: event(),
            call: event(),
        }
    }

    fn activate(&self, features: u64) {
        let ring = Ring {
            size: 64,
            descriptors: 0x10_0000,
            available: 0x10_1000,
            used: 0x10_2000,
        };
        self.attachment.activate(Activation {
            ram: self.ram.clone(),
            features,
            queues: vec![Queue {
                index: 0,
                ring,
                kick: self.kick.clone(),
                call: self.call.clone(),
            }],
        });
        assert!(self.attachment.wait_done(SOON));
    }

    fn end(self) {
        self.attachment.end();
        self.thread.join().unwrap().unwrap();
    }
}

const DISCARD: u64 = 1 << 13;

fn notes() -> Notes {
    Notes {
        features: DISCARD | 1 << 34,
        capacity: 2048,
        ..Notes::default()
    }
}

#[test]
fn rings_are_started_and_stopped_as_the_protocol_says() {
    let front = Front::new(Kind::Disk, 4);
    let peer = Peer::listen(&front.socket, notes());
    front.attachment.wait_ready(SOON).unwrap();
    assert_eq!(front.attachment.queue_count(), 2, "as many as both have");
    assert_eq!(
        front.attachment.features(),
        F_VERSION_1 | DISCARD,
        "no packed rings"
    );
    let mut capacity = [0; 8];
    front.attachment.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 2048);
    assert!(front.attachment.is_idle() || front.attachment.wait_done(SOON));
    front.activate(F_VERSION_1);
    assert!(!front.attachment.is_idle());
    front.attachment.write_config(32, &[1]);
    peer.wait_for("config");
    front.attachment.reset();
    assert!(front.attachment.wait_done(SOON));
    assert!(front.attachment.is_idle());
    front.end();
    let expected = [
        "owner",
        "protocol",
        "features 0x140000000",
        "memory [67108864] in 1 files",
        "inflight get 2 x 256",
        "inflight set",
        "ring 0 size 64",
        "ring 0 base 0",
        "ring 0 at +0 +0x1000 +0x2000",
        "ring 0 call",
        "ring 0 kick",
        "ring 0 enable true",
        "config 32 [1]",
        "ring 0 enable false",
        "ring 0 stop",
    ];
    assert_eq!(peer.die(), expected);
}

#[test]
fn a_back_end_that_comes_back_goes_on_where_its_predecessor_died() {
    let front = Front::new(Kind::Disk, 1);
    let first = Peer::listen(&front.socket, notes());
    front.attachment.wait_ready(SOON).unwrap();
    front.activate(F_VERSION_1 | DISCARD);
    let region = lock(&first.notes).inflight;
    // It has answered 5 requests, and dies.
    front.ram.write_obj(5_u16, GuestAddress(0x10_2002)).unwrap();
    first.die();
    let second = Peer::listen(&front.socket, notes());
    second.wait_for("ring 0 enable true");
    assert_eq!(
        lock(&second.notes).inflight,
        region,
        "the same in-flight region"
    );
    let status = front.attachment.status();
    assert_eq!((status.reconnects, status.in_use), (1, true));
    while front.call.read().is_err() {
        std::thread::yield_now();
    }
    assert_eq!(
        front.kick.read().unwrap(),
        1,
        "a lost notification is made up for"
    );
    front.end();
    let calls = second.die();
    assert!(calls.contains(&"ring 0 base 5".into()), "{calls:?}");
    assert!(
        !calls.iter().any(|call| call.starts_with("inflight get")),
        "{calls:?}"
    );
}

#[test]
fn a_guest_that_resets_while_the_back_end_is_gone_starts_afresh() {
    let front = Front::new(Kind::Disk, 1);
    let first = Peer::listen(&front.socket, notes());
    front.attachment.wait_ready(SOON).unwrap();
    front.activate(F_VERSION_1);
    front.ram.write_obj(5_u16, GuestAddress(0x10_2002)).unwrap();
    first.die();
    front.attachment.reset();
    assert!(
        front.attachment.wait_done(SOON),
        "no back end is needed to stop"
    );
    let second = Peer::listen(&front.socket, notes());
    front.activate(F_VERSION_1);
    front.end();
    let calls = second.die();
    assert!(calls.contains(&"ring 0 base 0".into()), "{calls:?}");
    assert!(calls.contains(&"inflight get 1 x 256".into()), "{calls:?}");
}

#[test]
fn a_back_end_that_lost_a_feature_is_not_used() {
    let front = Front::new(Kind::Disk, 1);
    let first = Peer::listen(&front.socket, notes());
    front.attachment.wait_ready(SOON).unwrap();
    front.activate(F_VERSION_1 | DISCARD);
    first.die();
    let poor = Peer::listen(
        &front.socket,
        Notes {
            features: 0,
            ..notes()
        },
    );
    while !front
        .attachment
        .status()
        .problem
        .is_some_and(|text| text.contains("without the features"))
    {
        std::thread::yield_now();
    }
    assert!(!poor.die().iter().any(|call| call.starts_with("ring")));
    let good = Peer::listen(&front.socket, notes());
    good.wait_for("ring 0 enable true");
    front.end();
    good.die();
}

#[test]
fn a_changed_configuration_reaches_the_guest() {
    let front = Front::new(Kind::Disk, 1);
    let told = Arc::new(AtomicU32::new(0));
    let count = told.clone();
    front.attachment.set_listener(Some(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    })));
    let before = front.attachment.config_generation();
    let teller = teller::serve(&front.socket);
    while told.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert_ne!(front.attachment.config_generation(), before);
    let mut capacity = [0; 8];
    front.attachment.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 4096);
    front.end();
    teller.join().unwrap();
}

#[test]
fn a_nic_works_with_a_back_end_that_has_no_configuration() {
    let mac = [2, 0, 0, 0, 0, 7];
    let front = Front::new(Kind::Nic { mac: Some(mac) }, 2);
    let protocol = VhostUserProtocolFeatures2(Protocol::REPLY_ACK);
    let peer = Peer::listen(
        &front.socket,
        Notes {
            features: 1 << 15,
            protocol,
            ..notes()
        },
    );
    front.attachment.wait_ready(SOON).unwrap();
    assert_eq!(front.attachment.features(), F_VERSION_1 | 1 << 15 | 1 << 5);
    let mut address = [0; 6];
    front.attachment.read_config(0, &mut address);
    assert_eq!(address, mac);
    front.activate(F_VERSION_1 | 1 << 5);
    front.end();
    let calls = peer.die();
    assert!(
        calls.contains(&"features 0x140000000".into()),
        "its own features only: {calls:?}"
    );
}

#[test]
fn nobody_there_is_one_sentence() {
    let front = Front::new(Kind::Disk, 1);
    let error = front
        .attachment
        .wait_ready(Duration::from_millis(20))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(
        error.to_string().contains("disk d has no back end at"),
        "{error}"
    );
    front.end();
}

#[test]
fn an_end_ends_the_waiting_for_a_back_end() {
    let front = Front::new(Kind::Disk, 1);
    let waiting = front.attachment.clone();
    let waiter = std::thread::spawn(move || waiting.wait_ready(Duration::from_secs(3600)));
    front.end();
    waiter.join().unwrap().unwrap();
}

#[test]
fn a_disk_without_a_configuration_is_refused() {
    let front = Front::new(Kind::Disk, 1);
    let protocol = VhostUserProtocolFeatures2(Protocol::REPLY_ACK);
    let peer = Peer::listen(
        &front.socket,
        Notes {
            protocol,
            ..notes()
        },
    );
    while !front
        .attachment
        .status()
        .problem
        .is_some_and(|text| text.contains("no CONFIG"))
    {
        std::thread::yield_now();
    }
    front.end();
    peer.die();
}
