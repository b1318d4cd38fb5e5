//! What datagrams and peers cost in memory.
#![allow(unsafe_code)] // A room of unsafe: the allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use weft_vpn::{Endpoint, LoadLimits, Now, Output, Prefix, PrivateKey, PublicKey, Refusal, Tunnel};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; two numbers are counted besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn chance(seed: u64) -> Box<dyn weft_vpn::Entropy> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    Box::new(move |bytes: &mut [u8]| rng.fill_bytes(bytes))
}

fn now(seconds: u64) -> Now {
    Now {
        monotonic: Duration::from_secs(seconds),
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds),
    }
}

fn endpoint() -> Endpoint {
    Endpoint::new(([192, 0, 2, 1], 51820).into())
}

fn client(n: u64, server: PublicKey) -> Tunnel {
    let mut tunnel = Tunnel::new(chance(n));
    tunnel.set_private_key(Some(key(n)));
    let peer = tunnel.add_peer(server).expect("another key");
    tunnel.set_endpoint(peer, endpoint(), now(0), &mut Vec::new());
    tunnel
}

fn key(n: u64) -> PrivateKey {
    let mut bytes = [1; 32];
    bytes[1..9].copy_from_slice(&n.to_le_bytes());
    PrivateKey::new(bytes)
}

fn sent(outputs: &mut Vec<Output>) -> Vec<u8> {
    let first = outputs.drain(..).find_map(|output| match output {
        Output::Send { bytes, .. } => Some(bytes.to_vec()),
        Output::Event(_) => None,
    });
    first.expect("something was sent")
}

/// Both run in one test, for the counters are the program's.
#[test]
fn strangers_cost_no_memory_and_idle_peers_little() {
    idle_peers_cost_little();
    strangers_cost_nothing();
}

fn strangers_cost_nothing() {
    let mut server = Tunnel::new(chance(0));
    server.set_private_key(Some(key(0)));
    server.set_load_limits(LoadLimits {
        burst: 0,
        per_second: 0,
    });
    let public = server.public_key().expect("it was set");
    let mut outputs = Vec::with_capacity(16);
    let mut stranger = client(1, public);
    let peer = stranger.peers().next().expect("one").id;
    let packet = [0x45; 20];
    stranger
        .stage(peer, &packet, now(0), &mut outputs)
        .expect("it waits");
    let initiation = sent(&mut outputs);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut datagram = vec![0; 2000];
    let mut try_all = |count| {
        for round in 0..count {
            let length = [0, 3, 64, 92, 148, 148, 1500][round % 7];
            rng.fill(&mut datagram[..length]);
            if length > 3 {
                datagram[..4].copy_from_slice(&[[1, 2, 3, 4][round % 4], 0, 0, 0]);
            }
            let bytes = &mut datagram[..length];
            let result = server.receive(bytes, endpoint(), now(1), &mut outputs);
            assert!(result.is_err() && outputs.is_empty());
            // One that knows our key is answered with a cookie, and is not remembered either.
            datagram[..148].copy_from_slice(&initiation);
            let bytes = &mut datagram[..148];
            let result = server.receive(bytes, endpoint(), now(1), &mut outputs);
            assert_eq!((result, outputs.len()), (Err(Refusal::CookieSent), 1));
            outputs.clear();
        }
    };
    try_all(10);
    let calls = CALLS.load(Ordering::Relaxed);
    try_all(10_000);
    assert_eq!(
        CALLS.load(Ordering::Relaxed),
        calls,
        "nothing was allocated"
    );
}

fn idle_peers_cost_little() {
    const PEERS: u64 = 1000;
    let mut server = Tunnel::new(chance(0));
    server.set_private_key(Some(key(0)));
    let public = server.public_key().expect("it was set");
    let before = BYTES.load(Ordering::Relaxed);
    let mut outputs = Vec::new();
    for n in 1..=PEERS {
        let peer = server.add_peer(key(n).public()).expect("another key");
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n as u32);
        server.allow(peer, Prefix::host(address.into()));
        let mut client = client(n, public);
        let own = client.peers().next().expect("one").id;
        // Three handshakes, so that there are a previous, a current and a next session.
        for round in 0..3 {
            let now = now(10 * round);
            client
                .stage(own, &[0x45; 20], now, &mut outputs)
                .expect("it is known where");
            if round > 0 {
                let key = client.private_key().cloned();
                client.set_private_key(key);
                outputs.clear();
                client
                    .stage(own, &[0x45; 20], now, &mut outputs)
                    .expect("it is known where");
            }
            let mut initiation = sent(&mut outputs);
            server
                .receive(&mut initiation, endpoint(), now, &mut outputs)
                .expect("an initiation");
            let mut response = sent(&mut outputs);
            client
                .receive(&mut response, endpoint(), now, &mut outputs)
                .expect("a response");
            let mut data = sent(&mut outputs);
            let result = server.receive(&mut data, endpoint(), now, &mut outputs);
            assert_eq!(result, Err(Refusal::NotIp), "genuine, and too short");
            outputs.clear();
        }
    }
    drop(outputs);
    let each = (BYTES.load(Ordering::Relaxed) - before) / PEERS as usize;
    println!("{each} bytes a peer");
    assert!(each < 8_000, "{each} bytes a peer");
}
