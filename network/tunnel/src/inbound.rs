//! From datagrams to packets: opened where they lie, checked, and given on together.

use std::io::IoSlice;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use weft_netio::udp::Arrival;
use weft_vpn::{Data, Endpoint, IpPacket, Refusal, Session, Tally};
use weft_wire::offload::Bundle;

use crate::outbound::Batch;
use crate::packets::Packets;
use crate::ports::endpoint;

/// Opens datagrams and gives packets on.
pub(crate) struct Inbound {
    bundle: Bundle,
    /// The session of each arrival's first message, as far as it is one.
    found: Vec<Option<Arc<Session>>>,
    /// What the machine is to be told of.
    opened: Vec<(Opening, Endpoint)>,
    /// How many datagrams were refused.
    pub(crate) refused: u64,
}

/// What came in one call, and where it begins in the buffer.
pub(crate) struct Arrived {
    pub(crate) arrival: Arrival,
    pub(crate) start: usize,
}

/// The session that messages are opened with, what was opened so far, and the source that is known to be the peer's.
struct Opening {
    session: Arc<Session>,
    tally: Tally,
    source: Option<IpAddr>,
}

impl Arrived {
    /// Where each datagram lies.
    fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (start, end) = (self.start, self.start + self.arrival.length);
        let size = self.arrival.segment.max(1);
        (start..end)
            .step_by(size)
            .map(move |at| at..end.min(at + size))
    }
}

impl Opening {
    fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            tally: Tally::default(),
            source: None,
        }
    }
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self {
            bundle: Bundle::new(),
            found: Vec::new(),
            opened: Vec::new(),
            refused: 0,
        }
    }

    /// Takes what came in a few calls, in `buffer`.
    ///
    /// All sessions are looked up first and the machine is told at the end: among many peers, nothing of them is in the
    /// cache, and lookups that follow each other wait for memory together. Behind the opening of a packet, each waits alone.
    pub(crate) fn take(
        &mut self,
        arrived: &[Arrived],
        buffer: &mut [u8],
        packets: &mut dyn Packets,
        batch: &mut Batch<'_>,
    ) {
        self.found.extend(arrived.iter().map(|arrived| {
            let first = arrived.datagrams().next()?;
            let receiver = Data::parse(&buffer[first])?.receiver();
            batch.machine.incoming(receiver, batch.now).ok()
        }));
        for (place, arrived) in arrived.iter().enumerate() {
            let from = endpoint(&arrived.arrival);
            let mut opening = self.found[place].take().map(Opening::new);
            for datagram in arrived.datagrams() {
                match self.open(datagram, buffer, from, &mut opening, batch) {
                    Ok(Some(packet)) => self.give(packet, buffer, packets),
                    Ok(None) => {}
                    Err(_) => self.refused += 1,
                }
            }
            self.opened.extend(opening.map(|opening| (opening, from)));
        }
        self.found.clear();
        self.flush(buffer, packets);
        self.tell(batch);
    }

    /// Opens one datagram and tells where its packet is, if it has one.
    fn open(
        &mut self,
        datagram: Range<usize>,
        buffer: &mut [u8],
        from: Endpoint,
        opening: &mut Option<Opening>,
        batch: &mut Batch<'_>,
    ) -> Result<Option<Range<usize>>, Refusal> {
        let bytes = &mut buffer[datagram.clone()];
        let Some(receiver) = Data::parse(bytes).map(|data| data.receiver()) else {
            // A handshake may change what the messages behind it are opened with.
            self.opened
                .extend(opening.take().map(|opening| (opening, from)));
            self.tell(batch);
            let (now, outputs) = (batch.now, &mut *batch.outputs);
            batch.machine.receive(bytes, from, now, outputs)?;
            return Ok(None);
        };
        if opening
            .as_ref()
            .is_none_or(|opening| opening.session.local_index() != receiver)
        {
            self.opened
                .extend(opening.take().map(|opening| (opening, from)));
            *opening = Some(Opening::new(batch.machine.incoming(receiver, batch.now)?));
        }
        let Some(opening) = opening else {
            return Err(Refusal::UnknownSession);
        };
        let packet = opening.session.open(bytes)?;
        opening.tally.bytes += bytes.len() as u64;
        if packet.is_empty() {
            return Ok(None);
        }
        opening.tally.data = true;
        let ip = IpPacket::parse(&bytes[packet.clone()]).ok_or(Refusal::NotIp)?;
        if opening.source != Some(ip.source) {
            if !batch.machine.permits(opening.session.peer(), ip.source) {
                return Err(Refusal::NotAllowed);
            }
            opening.source = Some(ip.source);
        }
        let start = datagram.start + packet.start;
        Ok(Some(start..start + ip.length))
    }

    fn give(&mut self, packet: Range<usize>, buffer: &mut [u8], packets: &mut dyn Packets) {
        if !self.bundle.offer(buffer, packet.clone()) {
            self.flush(buffer, packets);
            self.bundle.offer(buffer, packet);
        }
    }

    fn flush(&mut self, buffer: &mut [u8], packets: &mut dyn Packets) {
        if self.bundle.is_empty() {
            return;
        }
        let header = self.bundle.finish(buffer);
        let parts: Vec<IoSlice<'_>> = self
            .bundle
            .parts()
            .map(|part| IoSlice::new(&buffer[part]))
            .collect();
        if let Err(e) = packets.send(&header, &parts) {
            tracing::debug!("packets are lost: {e}");
        }
        self.bundle.clear();
    }

    /// Tells the machine what was opened.
    fn tell(&mut self, batch: &mut Batch<'_>) {
        for (opening, from) in self.opened.drain(..) {
            let (session, tally) = (&opening.session, opening.tally);
            if tally.bytes > 0 {
                let (now, outputs) = (batch.now, &mut *batch.outputs);
                batch.machine.arrived(session, tally, from, now, outputs);
            }
        }
    }
}
