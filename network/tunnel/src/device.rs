//! A tunnel that runs.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ring::rand::{SecureRandom, SystemRandom};
use weft_netio::udp::{Beside, LARGEST_RECEIVE, UdpPort};
use weft_netio::wait::{Bell, readable, since_boot};
use weft_netio::{Error, Namespace, Result};
use weft_vpn::{Entropy, Message, Now, Output, Tunnel};

use crate::inbound::{Arrived, Inbound};
use crate::outbound::{Batch, Departing, Outbound};
use crate::packets::Packets;
use crate::ports::Ports;

/// How many calls each side has before the other one has its turn.
const TURN: usize = 16;
/// Bytes after which no more is taken in before what there is has been worked on: some packets of several peers, and never
/// more of a bulk transfer than the nearest cache holds.
const TOGETHER: usize = 8 << 10;

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
    /// Where the ports are, wherever the thread is that wants others.
    outside: Namespace,
    machine: Mutex<Tunnel>,
    ports: Mutex<Arc<Ports>>,
    bell: Bell,
    gone: Mutex<bool>,
    went: Condvar,
    stop: AtomicBool,
    mark: AtomicU32,
    refused: AtomicU64,
    unroutable: AtomicU64,
}

impl Device {
    /// Starts a tunnel on UDP port `port` (0 for any free one) of the calling thread's network namespace.
    pub fn start(machine: Tunnel, packets: Box<dyn Packets>, port: u16) -> Result<Self> {
        let shared = Arc::new(Shared {
            outside: Namespace::current()?,
            machine: Mutex::new(machine),
            ports: Mutex::new(Arc::new(Ports::open(port)?)),
            bell: Bell::new()?,
            gone: Mutex::new(false),
            went: Condvar::new(),
            stop: AtomicBool::new(false),
            mark: AtomicU32::new(0),
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

    /// Looks at the machine, and wakes nobody.
    pub fn see<T>(&self, look: impl FnOnce(&Tunnel) -> T) -> T {
        look(&self.shared.machine())
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.shared.ports().number()
    }

    /// Moves to another UDP port of the namespace that the tunnel was started in, 0 for any free one. If that cannot be
    /// had, nothing has changed.
    pub fn set_port(&self, port: u16) -> Result<()> {
        if port != 0 && port == self.port() {
            return Ok(());
        }
        let opened = self.shared.outside.run(|| Ports::open(port))?;
        let ports = Arc::new(opened?);
        let mark = self.mark();
        if mark != 0 {
            ports.set_mark(mark)?;
        }
        *self.lock_ports() = ports;
        self.shared.bell.ring();
        Ok(())
    }

    /// Marks what is sent, for the host's routing; 0 for no mark.
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        if mark == self.mark() {
            return Ok(());
        }
        self.shared.ports().set_mark(mark)?;
        self.shared.mark.store(mark, Ordering::Relaxed);
        Ok(())
    }

    /// The mark of what is sent, 0 for none.
    pub fn mark(&self) -> u32 {
        self.shared.mark.load(Ordering::Relaxed)
    }

    /// What was dropped.
    pub fn counters(&self) -> Counters {
        Counters {
            refused: self.shared.refused.load(Ordering::Relaxed),
            unroutable: self.shared.unroutable.load(Ordering::Relaxed),
        }
    }

    /// Waits until the thread does not move packets any more: its device was taken away.
    pub fn wait_until_gone(&self) {
        let mut gone = self
            .shared
            .gone
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while !*gone {
            let woken = self.shared.went.wait(gone);
            gone = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the thread has ended because its device was taken away.
    pub fn is_gone(&self) -> bool {
        let gone = &self.shared.gone;
        *gone.lock().unwrap_or_else(PoisonError::into_inner)
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
                let answer = Message::parse(&bytes).is_some_and(|message| message.is_answer());
                let sent = match answer {
                    true => ports.answer(&bytes, &to),
                    false => ports.send(&bytes, bytes.len(), &to),
                };
                if let Err(e) = sent {
                    tracing::debug!(to = %to.remote, "a datagram is lost: {e}");
                }
            }
            Output::Event(event) => tracing::debug!(?event, "tunnel"),
        }
    }
}

/// Tells that the thread has ended, however it did.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        *self.0.gone.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.went.notify_all();
    }
}

/// What the thread has for itself.
struct Mover {
    shared: Arc<Shared>,
    packets: Box<dyn Packets>,
    inbound: Inbound,
    outbound: Outbound,
    arrived: Vec<Arrived>,
    departing: Vec<Departing>,
    /// Room for [`TOGETHER`] bytes and whatever comes in one call.
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
            arrived: Vec::with_capacity(TURN),
            departing: Vec::with_capacity(TURN),
            buffer: vec![0; TOGETHER + LARGEST_RECEIVE + 1],
            beside: Beside::new(),
            outputs: Vec::new(),
        }
    }

    fn run(mut self) {
        let _gone = Gone(self.shared.clone());
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
        let [bell, packets, v4, v6, ways] = self.wait(ports, left)?;
        if bell {
            self.shared.bell.heard();
        }
        // Before anything is sent.
        if let (Some(known), true) = (&ports.ways, ways) {
            known.look();
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

    /// An administrator may have changed the MTU; then padding has another bound.
    fn follow_mtu(&self, machine: &mut Tunnel) {
        if let Some(mtu) = self.packets.mtu() {
            machine.set_mtu(mtu);
        }
    }

    fn wait(&self, ports: &Ports, left: Option<Duration>) -> io::Result<[bool; 5]> {
        // What is not there is stood for by the bell once more.
        let bell = self.shared.bell.as_fd();
        let v4 = ports.v4.as_ref().map_or(bell, AsFd::as_fd);
        let v6 = ports.v6.as_ref().map_or(bell, AsFd::as_fd);
        let ways = ports.ways.as_ref().map_or(bell, AsFd::as_fd);
        readable([bell, self.packets.readable(), v4, v6, ways], left)
    }

    fn receive_from(&mut self, port: &UdpPort, ports: &Ports) {
        let (mut calls, mut more) = (0, true);
        while more && calls < TURN {
            more = self.gather_datagrams(port, &mut calls);
            let mut machine = self.shared.machine();
            let mut batch = Batch {
                machine: &mut machine,
                ports,
                outputs: &mut self.outputs,
                now: now(),
            };
            let (packets, buffer) = (&mut *self.packets, &mut self.buffer);
            self.inbound
                .take(&self.arrived, buffer, packets, &mut batch);
            self.arrived.clear();
            drop(machine);
            send_all(ports, &mut self.outputs);
        }
        let refused = self.inbound.refused;
        self.shared.refused.store(refused, Ordering::Relaxed);
    }

    /// Takes in what is there, but no more than can be worked on well. Counts the calls, and tells whether there may be
    /// more.
    fn gather_datagrams(&mut self, port: &UdpPort, calls: &mut usize) -> bool {
        let mut start = 0;
        while *calls < TURN && start <= TOGETHER {
            match port.receive(&mut self.buffer[start..], &mut self.beside) {
                Ok(arrival) => {
                    self.arrived.push(Arrived { arrival, start });
                    start += arrival.length;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // Of an earlier datagram.
                Err(_) => {}
            }
            *calls += 1;
        }
        true
    }

    fn send_packets(&mut self, ports: &Ports) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut machine = shared.machine();
        // One look for all that is sent now: a few tenths of a microsecond.
        self.follow_mtu(&mut machine);
        let (mut calls, mut more) = (0, true);
        while more && calls < TURN {
            more = self.gather_packets(&mut machine, &mut calls)?;
            let mut batch = Batch {
                machine: &mut machine,
                ports,
                outputs: &mut self.outputs,
                now: now(),
            };
            let unroutable = self
                .outbound
                .take(&self.departing, &mut self.buffer, &mut batch);
            self.departing.clear();
            shared.unroutable.fetch_add(unroutable, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The same for packets of the device.
    fn gather_packets(&mut self, machine: &mut Tunnel, calls: &mut usize) -> io::Result<bool> {
        let mut start = 0;
        while *calls < TURN && start <= TOGETHER {
            let room = &mut self.buffer[start..];
            let Some((header, length)) = self.packets.receive(room)? else {
                return Ok(false);
            };
            let longest = header.cut.map_or(length, |_| 0);
            if longest > machine.mtu() {
                self.follow_mtu(machine);
            }
            let packet = start..start + length;
            self.departing.push(Departing { header, packet });
            start += length;
            *calls += 1;
        }
        Ok(true)
    }
}
