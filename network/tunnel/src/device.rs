//! A tunnel that runs.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ring::rand::{SecureRandom, SystemRandom};
use weft_netio::udp::{Beside, LARGEST_RECEIVE, UdpPort};
use weft_netio::wait::{Bell, readable, since_boot};
use weft_netio::{Error, Result};
use weft_vpn::{Entropy, Now, Output, Tunnel};

use crate::inbound::Inbound;
use crate::outbound::{Batch, Outbound};
use crate::packets::Packets;
use crate::ports::Ports;

/// How many calls each side has before the other one has its turn.
const TURN: usize = 16;

/// What both clocks of the host show.
pub fn now() -> Now {
    Now {
        monotonic: since_boot(),
        wall: SystemTime::now(),
    }
}

/// The host's source of chance.
pub fn entropy() -> Box<dyn Entropy> {
    let random = SystemRandom::new();
    Box::new(move |bytes: &mut [u8]| {
        random
            .fill(bytes)
            .expect("the kernel gives random numbers once it is up");
    })
}

/// What was dropped since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Datagrams that no peer has sent, or too late, or from an address that is not its.
    pub refused: u64,
    /// Packets for which there is no peer.
    pub unroutable: u64,
}

/// A tunnel with a thread of its own that moves its packets. Dropping it ends the thread and closes the ports.
#[derive(Debug)]
pub struct Device {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    machine: Mutex<Tunnel>,
    ports: Mutex<Arc<Ports>>,
    bell: Bell,
    stop: AtomicBool,
    refused: AtomicU64,
    unroutable: AtomicU64,
}

impl Device {
    /// Starts a tunnel on UDP port `port` (0 for any free one) of the calling thread's network namespace.
    pub fn start(machine: Tunnel, packets: Box<dyn Packets>, port: u16) -> Result<Self> {
        let shared = Arc::new(Shared {
            machine: Mutex::new(machine),
            ports: Mutex::new(Arc::new(Ports::open(port)?)),
            bell: Bell::new()?,
            stop: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            unroutable: AtomicU64::new(0),
        });
        let mover = Mover::new(shared.clone(), packets);
        let thread = std::thread::Builder::new()
            .name("weft-tunnel".into())
            .spawn(move || mover.run())
            .map_err(|e| Error::system("starting a thread for a tunnel", e))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Looks at the machine or changes it; what comes of that is sent.
    pub fn with<T>(&self, act: impl FnOnce(&mut Tunnel, Now, &mut Vec<Output>) -> T) -> T {
        let mut outputs = Vec::new();
        let result = act(&mut self.shared.machine(), now(), &mut outputs);
        send_all(&self.shared.ports(), &mut outputs);
        // Its next deadline may be earlier now.
        self.shared.bell.ring();
        result
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.shared.ports().number()
    }

    /// Moves to another UDP port of the calling thread's namespace, 0 for any free one. If that cannot be had, nothing has
    /// changed.
    pub fn set_port(&self, port: u16) -> Result<()> {
        if port != 0 && port == self.port() {
            return Ok(());
        }
        let ports = Arc::new(Ports::open(port)?);
        *self.lock_ports() = ports;
        self.shared.bell.ring();
        Ok(())
    }

    /// Marks what is sent, for the host's routing; 0 for no mark.
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        self.shared.ports().set_mark(mark)
    }

    /// What was dropped.
    pub fn counters(&self) -> Counters {
        Counters {
            refused: self.shared.refused.load(Ordering::Relaxed),
            unroutable: self.shared.unroutable.load(Ordering::Relaxed),
        }
    }

    /// Whether the thread still moves packets; it ends when its device is taken away.
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    fn lock_ports(&self) -> MutexGuard<'_, Arc<Ports>> {
        let ports = &self.shared.ports;
        ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn machine(&self) -> MutexGuard<'_, Tunnel> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> Arc<Ports> {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.clone()
    }
}

/// Sends what the machine wants sent.
fn send_all(ports: &Ports, outputs: &mut Vec<Output>) {
    for output in outputs.drain(..) {
        match output {
            Output::Send { to, bytes } => {
                if let Err(e) = ports.send(&bytes, bytes.len(), &to) {
                    tracing::debug!(to = %to.remote, "a datagram is lost: {e}");
                }
            }
            Output::Event(event) => tracing::debug!(?event, "tunnel"),
        }
    }
}

/// What the thread has for itself.
struct Mover {
    shared: Arc<Shared>,
    packets: Box<dyn Packets>,
    inbound: Inbound,
    outbound: Outbound,
    buffer: Vec<u8>,
    beside: Beside,
    outputs: Vec<Output>,
}

impl Mover {
    fn new(shared: Arc<Shared>, packets: Box<dyn Packets>) -> Self {
        Self {
            shared,
            packets,
            inbound: Inbound::new(),
            outbound: Outbound::new(),
            buffer: vec![0; LARGEST_RECEIVE + 1],
            beside: Beside::new(),
            outputs: Vec::new(),
        }
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let ports = self.shared.ports();
            if let Err(e) = self.turn(&ports) {
                tracing::warn!("a tunnel's device is gone: {e}");
                return;
            }
        }
    }

    /// Waits, and does what there is to do.
    fn turn(&mut self, ports: &Ports) -> io::Result<()> {
        let deadline = self.shared.machine().poll_timeout();
        let left = deadline.map(|at| at.saturating_sub(since_boot()));
        let [bell, packets, v4, v6] = self.wait(ports, left)?;
        if bell {
            self.shared.bell.heard();
        }
        for port in [&ports.v4, &ports.v6].into_iter().zip([v4, v6]) {
            if let (Some(port), true) = port {
                self.receive_from(port, ports);
            }
        }
        if packets {
            self.send_packets(ports)?;
        }
        let now = now();
        if deadline.is_some_and(|at| at <= now.monotonic) {
            let mut machine = self.shared.machine();
            machine.handle_timeout(now, &mut self.outputs);
        }
        send_all(ports, &mut self.outputs);
        Ok(())
    }

    fn wait(&self, ports: &Ports, left: Option<Duration>) -> io::Result<[bool; 4]> {
        // A port that is not there stands for the bell once more.
        let bell = self.shared.bell.as_fd();
        let port = |port: &Option<UdpPort>| port.as_ref().map(|port| port.as_fd()).is_none();
        let (no_v4, no_v6) = (port(&ports.v4), port(&ports.v6));
        let v4 = ports.v4.as_ref().map_or(bell, |port| port.as_fd());
        let v6 = ports.v6.as_ref().map_or(bell, |port| port.as_fd());
        let [bell, packets, v4, v6] = readable([bell, self.packets.readable(), v4, v6], left)?;
        Ok([bell, packets, v4 && !no_v4, v6 && !no_v6])
    }

    fn receive_from(&mut self, port: &UdpPort, ports: &Ports) {
        for _ in 0..TURN {
            let arrival = match port.receive(&mut self.buffer, &mut self.beside) {
                Ok(arrival) => arrival,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => continue,
            };
            let mut machine = self.shared.machine();
            let mut batch = Batch {
                machine: &mut machine,
                ports,
                outputs: &mut self.outputs,
                now: now(),
            };
            let packets = &mut *self.packets;
            self.inbound
                .take(&arrival, &mut self.buffer, packets, &mut batch);
            drop(machine);
            send_all(ports, &mut self.outputs);
        }
        let refused = self.inbound.refused;
        self.shared.refused.store(refused, Ordering::Relaxed);
    }

    fn send_packets(&mut self, ports: &Ports) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut machine = shared.machine();
        let mut batch = Batch {
            machine: &mut machine,
            ports,
            outputs: &mut self.outputs,
            now: now(),
        };
        for _ in 0..TURN {
            let Some((header, length)) = self.packets.receive(&mut self.buffer)? else {
                break;
            };
            let packet = &mut self.buffer[..length];
            if !self.outbound.push(&header, packet, &mut batch) {
                shared.unroutable.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.outbound.flush(&mut batch);
        Ok(())
    }
}
