//! From packets to datagrams: cut, sealed and sent.

use weft_netio::udp::{LARGEST_SEND, MOST_SEGMENTS};
use weft_vpn::{
    DATA_HEADER, IpPacket, Lane, Now, OVERHEAD, Output, PeerId, Tally, Tunnel, padded_length,
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
        }
    }

    /// Seals a packet, or all segments of a large one, to the peer that has its destination. Returns whether there is
    /// a way for it.
    pub(crate) fn push(
        &mut self,
        header: &VnetHeader,
        packet: &mut [u8],
        batch: &mut Batch<'_>,
    ) -> bool {
        let peer = IpPacket::parse(packet).and_then(|ip| batch.machine.route(ip.destination));
        let Some(peer) = peer else { return false };
        if header.cut.is_some() {
            let Ok(segments) = Segments::new(packet, header) else {
                return false;
            };
            for number in 0..segments.count() {
                let length = segments.length(number);
                self.put(peer, length, |to| segments.write(number, to), batch);
            }
            return true;
        }
        if let Some(missing) = header.missing
            && missing.fill_in(packet).is_err()
        {
            return false;
        }
        let length = packet.len();
        self.put(peer, length, |to| to.copy_from_slice(packet), batch);
        true
    }

    /// Seals one packet of `length` bytes that `write` writes.
    fn put(
        &mut self,
        peer: PeerId,
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
            if sealed > LARGEST_SEND || !self.begin(peer, sealed, batch) {
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

    fn begin(&mut self, peer: PeerId, segment: usize, batch: &Batch<'_>) -> bool {
        self.run = batch.machine.lane(peer, batch.now).map(|lane| Run {
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
    pub(crate) fn flush(&mut self, batch: &mut Batch<'_>) {
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
        batch
            .machine
            .departed(&run.lane.session, tally, batch.now, batch.outputs);
    }
}
