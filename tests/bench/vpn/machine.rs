//! The machine alone: a storm of handshakes, and what a packet costs with one peer and with a thousand.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_tests::bench::cpu_of_this_thread;
use weft_tunnel::{entropy, now};
use weft_vpn::{
    DATA_HEADER, Data, Endpoint, IpPacket, OVERHEAD, Output, PeerId, Prefix, PrivateKey, Tally,
    Tunnel,
};

const PEERS: u32 = 1000;
const PACKETS: u32 = 50_000;
const PACKET: usize = 1420;

fn key(number: u32) -> PrivateKey {
    let mut bytes = [3; 32];
    bytes[1..5].copy_from_slice(&number.to_le_bytes());
    PrivateKey::new(bytes)
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + number)
}

fn endpoint() -> Endpoint {
    Endpoint::new(([192, 0, 2, 1], 51820).into())
}

fn datagrams(outputs: &mut Vec<Output>) -> Vec<Vec<u8>> {
    let all = outputs.drain(..).filter_map(|output| match output {
        Output::Send { bytes, .. } => Some(bytes.to_vec()),
        Output::Event(_) => None,
    });
    all.collect()
}

struct Client {
    tunnel: Tunnel,
    server: PeerId,
}

/// A server that knows `count` peers, and those.
fn world(count: u32) -> Result<(Tunnel, Vec<Client>)> {
    let mut server = Tunnel::new(entropy());
    server.set_private_key(Some(key(0)));
    let public = key(0).public();
    let mut clients = Vec::new();
    for number in 1..=count {
        let peer = server
            .add_peer(key(number).public())
            .context("another key")?;
        server.allow(peer, Prefix::host(address(number).into()));
        let mut tunnel = Tunnel::new(entropy());
        tunnel.set_private_key(Some(key(number)));
        let server = tunnel.add_peer(public).context("another key")?;
        tunnel.set_endpoint(server, endpoint(), now(), &mut Vec::new());
        clients.push(Client { tunnel, server });
    }
    Ok((server, clients))
}

/// Lets all clients have a session. Returns the CPU time that the server took.
fn shake_hands(server: &mut Tunnel, clients: &mut [Client]) -> Result<Duration> {
    let mut outputs = Vec::new();
    let mut initiations = Vec::new();
    for client in &mut *clients {
        client
            .tunnel
            .stage(client.server, &[0x45; 20], now(), &mut outputs)?;
        initiations.append(&mut datagrams(&mut outputs));
    }
    let start = cpu_of_this_thread()?;
    for initiation in &mut initiations {
        server.receive(initiation, endpoint(), now(), &mut outputs)?;
    }
    let answered = cpu_of_this_thread()?.saturating_sub(start);
    let mut first = Vec::new();
    for (client, response) in clients.iter_mut().zip(&mut datagrams(&mut outputs)) {
        client
            .tunnel
            .receive(response, endpoint(), now(), &mut outputs)?;
        first.append(&mut datagrams(&mut outputs));
    }
    let start = cpu_of_this_thread()?;
    for data in &mut first {
        // It carries no whole packet, but it is genuine.
        server.receive(data, endpoint(), now(), &mut outputs).ok();
    }
    Ok(answered + cpu_of_this_thread()?.saturating_sub(start))
}

/// How long a server takes when all its peers come at once.
pub(crate) fn storm() -> Result<()> {
    let (mut server, mut clients) = world(PEERS)?;
    let taken = shake_hands(&mut server, &mut clients)?;
    println!(
        "{PEERS} peers open a session at once: {:.0} ms of CPU on their server (mark: 2000)\n",
        taken.as_secs_f64() * 1e3
    );
    Ok(())
}

/// How many packets the datapath takes together, of this length.
const TOGETHER: usize = 6;

/// Packets in no order that a cache could follow.
fn order(peers: u32) -> impl Iterator<Item = u32> {
    (0..PACKETS).map(move |number| number.wrapping_mul(2_654_435_761) % peers + 1)
}

/// The middle of what `work` takes for each packet, in nanoseconds: turns in which others had the processor do not count.
fn median_of_turns(mut turns: Vec<f64>) -> f64 {
    turns.sort_by(f64::total_cmp);
    turns.get(turns.len() / 2).copied().unwrap_or_default()
}

fn packet_of(from: Ipv4Addr, to: Ipv4Addr) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    packet[..4].copy_from_slice(&[0x45, 0, (PACKET >> 8) as u8, PACKET as u8]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet
}

/// What it costs to find the peers of packets and to seal them.
fn sealing(peers: u32) -> Result<f64> {
    let (mut server, mut clients) = world(peers)?;
    shake_hands(&mut server, &mut clients)?;
    let mut buffer = vec![0; OVERHEAD + PACKET];
    let (mut outputs, mut turns, mut lanes) = (Vec::new(), Vec::new(), Vec::new());
    let (now, mut order) = (now(), order(peers));
    loop {
        let to = order.by_ref().take(TOGETHER).map(address);
        let packets: Vec<_> = to.map(|to| packet_of(address(0), to)).collect();
        if packets.is_empty() {
            return Ok(median_of_turns(turns));
        }
        let start = Instant::now();
        for packet in &packets {
            let parsed = IpPacket::parse(packet).context("a packet")?;
            let peer = server.route(parsed.destination).context("a peer")?;
            lanes.push(server.lane(peer, now).context("a session")?);
        }
        for (packet, lane) in packets.iter().zip(&lanes) {
            buffer[DATA_HEADER..][..PACKET].copy_from_slice(packet);
            lane.session.seal(&mut buffer)?;
        }
        for lane in lanes.drain(..) {
            let tally = Tally {
                bytes: buffer.len() as u64,
                data: true,
            };
            server.departed(&lane.session, tally, now, &mut outputs);
        }
        turns.push(start.elapsed().as_nanos() as f64 / packets.len() as f64);
    }
}

/// What it costs to find the sessions of messages, and to open and admit them.
fn opening(peers: u32) -> Result<f64> {
    let (mut server, mut clients) = world(peers)?;
    shake_hands(&mut server, &mut clients)?;
    let lanes: Option<Vec<_>> = clients
        .iter()
        .map(|client| client.tunnel.lane(client.server, now()))
        .collect();
    let lanes = lanes.context("a session with each")?;
    let (mut outputs, mut turns, mut sessions) = (Vec::new(), Vec::new(), Vec::new());
    let (now, mut order) = (now(), order(peers));
    loop {
        let mut messages = Vec::new();
        for peer in order.by_ref().take(TOGETHER) {
            let mut message = vec![0; OVERHEAD + PACKET];
            message[DATA_HEADER..][..PACKET].copy_from_slice(&packet_of(address(peer), address(0)));
            lanes[peer as usize - 1].session.seal(&mut message)?;
            messages.push(message);
        }
        if messages.is_empty() {
            return Ok(median_of_turns(turns));
        }
        let start = Instant::now();
        for message in &messages {
            let receiver = Data::parse(message).context("a message")?.receiver();
            sessions.push(server.incoming(receiver, now)?);
        }
        for (message, session) in messages.iter_mut().zip(&sessions) {
            let packet = session.open(message)?;
            let parsed = IpPacket::parse(&message[packet]).context("a packet")?;
            ensure!(server.permits(session.peer(), parsed.source));
        }
        for session in sessions.drain(..) {
            let tally = Tally {
                bytes: (OVERHEAD + PACKET) as u64,
                data: true,
            };
            server.arrived(&session, tally, endpoint(), now, &mut outputs);
        }
        turns.push(start.elapsed().as_nanos() as f64 / messages.len() as f64);
    }
}

/// Interleaved, for the machine may have other things to do.
pub(crate) fn many_peers() -> Result<()> {
    for (what, cost) in [
        ("sealed", sealing as fn(u32) -> Result<f64>),
        ("opened", opening),
    ] {
        let (mut one, mut many) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            one.push(cost(1)?);
            many.push(cost(PEERS)?);
        }
        let (one, many) = (median_of_turns(one), median_of_turns(many));
        println!(
            "a packet of {PACKET} bytes, found and {what}: {one:.0} ns with one peer, {many:.0} ns with {PEERS} \
             ({:+.1} %, mark: 10)\n",
            (many / one - 1.0) * 100.0
        );
    }
    Ok(())
}
