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
    /// How many datagrams were refused.
    pub(crate) refused: u64,
}

/// The session that messages are opened with, what was opened so far, and the source that is known to be the peer's.
struct Opening {
    session: Arc<Session>,
    tally: Tally,
    source: Option<IpAddr>,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self {
            bundle: Bundle::new(),
            refused: 0,
        }
    }

    /// Takes what came in one call, in `buffer`.
    pub(crate) fn take(
        &mut self,
        arrival: &Arrival,
        buffer: &mut [u8],
        packets: &mut dyn Packets,
        batch: &mut Batch<'_>,
    ) {
        let from = endpoint(arrival);
        let mut opening = None;
        let mut start = 0;
        while start < arrival.length {
            let end = arrival.length.min(start + arrival.segment.max(1));
            match self.open(start..end, buffer, from, &mut opening, batch) {
                Ok(Some(packet)) => self.give(packet, buffer, packets),
                Ok(None) => {}
                Err(_) => self.refused += 1,
            }
            start = end;
        }
        self.flush(buffer, packets);
        close(opening, from, batch);
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
            close(opening.take(), from, batch);
            let (now, outputs) = (batch.now, &mut *batch.outputs);
            batch.machine.receive(bytes, from, now, outputs)?;
            return Ok(None);
        };
        if opening
            .as_ref()
            .is_none_or(|opening| opening.session.local_index() != receiver)
        {
            close(opening.take(), from, batch);
            *opening = Some(Opening {
                session: batch.machine.incoming(receiver, batch.now)?,
                tally: Tally::default(),
                source: None,
            });
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
}

/// Tells the machine what was opened.
fn close(opening: Option<Opening>, from: Endpoint, batch: &mut Batch<'_>) {
    let Some(opening) = opening else { return };
    if opening.tally.bytes > 0 {
        batch.machine.arrived(
            &opening.session,
            opening.tally,
            from,
            batch.now,
            batch.outputs,
        );
    }
}
