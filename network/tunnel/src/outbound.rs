//! From packets to datagrams: cut, sealed and sent.

use std::ops::Range;
use std::sync::Arc;

use weft_netio::udp::{LARGEST_SEND, MOST_SEGMENTS};
use weft_vpn::{
    DATA_HEADER, IpPacket, Lane, Now, OVERHEAD, Output, PeerId, Session, Tally, Tunnel,
    padded_length,
};
use weft_wire::offload::{Segments, VnetHeader};

use crate::ports::Ports;

/// Sealed messages of one size to one peer that are about to be sent together.
struct Run {
    lane: Lane,
    segment: usize,
    count: usize,
    filled: usize,
    /// The last one is shorter, so nothing may follow.
    closed: bool,
    data: bool,
}

/// Seals packets into runs and sends them.
pub(crate) struct Outbound {
    buffer: Vec<u8>,
    run: Option<Run>,
    /// A segment on its own, for packets that wait for a session.
    alone: Vec<u8>,
    /// The peer of each packet, and what it is sealed with where that is another one's than the packet's before.
    ahead: Vec<Option<(PeerId, Option<Lane>)>>,
    /// What the machine is to be told of.
    sent: Vec<(Arc<Session>, Tally)>,
}

/// A packet that is to be sent, and where it lies in the buffer.
pub(crate) struct Departing {
    pub(crate) header: VnetHeader,
    pub(crate) packet: Range<usize>,
}

/// What a batch is worked on with.
pub(crate) struct Batch<'a> {
    pub(crate) machine: &'a mut Tunnel,
    pub(crate) ports: &'a Ports,
    pub(crate) outputs: &'a mut Vec<Output>,
    pub(crate) now: Now,
}

impl Outbound {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; LARGEST_SEND],
            run: None,
            alone: Vec::new(),
            ahead: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Seals packets in `buffer`, each to the peer that has its destination, and sends them. Returns how many there was no
    /// way for.
    ///
    /// What they are sealed with is looked up first, and the machine is told at the end, as for packets that come in.
    pub(crate) fn take(
        &mut self,
        departing: &[Departing],
        buffer: &mut [u8],
        batch: &mut Batch<'_>,
    ) -> u64 {
        let mut before = None;
        self.ahead.extend(departing.iter().map(|departing| {
            let ip = IpPacket::parse(&buffer[departing.packet.clone()])?;
            let peer = batch.machine.route(ip.destination)?;
            let changes = before.replace(peer) != Some(peer);
            let lane = changes.then(|| batch.machine.lane(peer, batch.now));
            Some((peer, lane.flatten()))
        }));
        let mut unroutable = 0;
        for (place, departing) in departing.iter().enumerate() {
            let packet = &mut buffer[departing.packet.clone()];
            let ahead = self.ahead[place].take();
            let way =
                ahead.map(|(peer, lane)| self.push(&departing.header, packet, peer, lane, batch));
            if way != Some(true) {
                unroutable += 1;
            }
        }
        self.ahead.clear();
        self.flush(batch);
        for (session, tally) in self.sent.drain(..) {
            let (now, outputs) = (batch.now, &mut *batch.outputs);
            batch.machine.departed(&session, tally, now, outputs);
        }
        unroutable
    }

    /// Seals a packet, or all segments of a large one. Returns whether it was what its header says.
    fn push(
        &mut self,
        header: &VnetHeader,
        packet: &mut [u8],
        peer: PeerId,
        mut lane: Option<Lane>,
        batch: &mut Batch<'_>,
    ) -> bool {
        if header.cut.is_some() {
            let Ok(segments) = Segments::new(packet, header) else {
                return false;
            };
            for number in 0..segments.count() {
                let length = segments.length(number);
                let write = |to: &mut [u8]| segments.write(number, to);
                self.put(peer, &mut lane, length, write, batch);
            }
            return true;
        }
        if let Some(missing) = header.missing
            && missing.fill_in(packet).is_err()
        {
            return false;
        }
        let length = packet.len();
        let write = |to: &mut [u8]| to.copy_from_slice(packet);
        self.put(peer, &mut lane, length, write, batch);
        true
    }

    /// Seals one packet of `length` bytes that `write` writes.
    fn put(
        &mut self,
        peer: PeerId,
        lane: &mut Option<Lane>,
        length: usize,
        write: impl FnOnce(&mut [u8]),
        batch: &mut Batch<'_>,
    ) {
        let sealed = OVERHEAD + padded_length(length, batch.machine.mtu());
        let goes_on = self.run.as_ref().is_some_and(|run| {
            run.lane.session.peer() == peer
                && !run.closed
                && sealed <= run.segment
                && run.count < MOST_SEGMENTS
                && run.filled + sealed <= LARGEST_SEND
        });
        if !goes_on {
            self.flush(batch);
            if sealed > LARGEST_SEND || !self.begin(peer, lane.take(), sealed, batch) {
                self.alone.resize(length, 0);
                write(&mut self.alone);
                let (now, outputs) = (batch.now, &mut *batch.outputs);
                let _ = batch.machine.stage(peer, &self.alone, now, outputs);
                return;
            }
        }
        let Some(run) = &mut self.run else { return };
        let message = &mut self.buffer[run.filled..run.filled + sealed];
        write(&mut message[DATA_HEADER..DATA_HEADER + length]);
        message[DATA_HEADER + length..].fill(0);
        if run.lane.session.seal(message).is_ok() {
            run.filled += sealed;
            run.count += 1;
            run.closed = sealed < run.segment;
            run.data |= length > 0;
        }
    }

    fn begin(
        &mut self,
        peer: PeerId,
        lane: Option<Lane>,
        segment: usize,
        batch: &Batch<'_>,
    ) -> bool {
        let lane = lane.or_else(|| batch.machine.lane(peer, batch.now));
        self.run = lane.map(|lane| Run {
            lane,
            segment,
            count: 0,
            filled: 0,
            closed: false,
            data: false,
        });
        self.run.is_some()
    }

    /// Sends what was sealed.
    fn flush(&mut self, batch: &mut Batch<'_>) {
        let Some(run) = self.run.take().filter(|run| run.count > 0) else {
            return;
        };
        let bytes = &self.buffer[..run.filled];
        if let Err(e) = batch.ports.send(bytes, run.segment, &run.lane.endpoint) {
            tracing::debug!(to = %run.lane.endpoint.remote, "datagrams are lost: {e}");
        }
        let tally = Tally {
            bytes: run.filled as u64,
            data: run.data,
        };
        self.sent.push((run.lane.session, tally));
    }
}
