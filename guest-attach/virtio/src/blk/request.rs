//! A chain turned into a block request, and a completion into a used element.

use std::rc::Rc;

use virtio_bindings::virtio_blk as bind;
use weft_block::{Error, ErrorKind, IoVec, Op, Request, Result, SECTOR, Segment};

use super::config::{ID_LEN, MAX_DISCARD_SECTORS};
use super::{BlkModel, config};
use crate::GuestMemory;
use crate::queue::{Chain, QueueError};
use crate::segments::{copy_in, copy_out, part};

/// `struct virtio_blk_outhdr`: type, reserved, sector.
const HEADER: u64 = 16;
/// `struct virtio_blk_discard_write_zeroes`: sector, sectors, flags.
const RANGE: u64 = 16;
/// The status byte ends the writable part.
const STATUS: u64 = 1;

/// What a chain asks for.
#[derive(Debug)]
pub enum Step {
    /// Submit this to the device, and finish the reply with its result.
    Submit(Request, Reply),
    /// The answer is given already: push it.
    Answered(Used),
}

/// A chain to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Its head.
    pub head: u16,
    /// Bytes written to it.
    pub written: u32,
}

/// The answer that a chain waits for. It keeps the guest's memory.
#[derive(Debug)]
#[must_use = "a chain without its answer is never given back"]
pub struct Reply {
    head: u16,
    /// What the device writes if all goes well, with the status.
    written: u32,
    status: Segment,
    _memory: Rc<GuestMemory>,
}

impl Reply {
    /// Writes the status of `result`. The data of a read must be in place.
    pub fn finish(self, result: &Result<()>) -> Used {
        let status = match result {
            Ok(()) => bind::VIRTIO_BLK_S_OK,
            Err(error) if error.kind() == ErrorKind::Unsupported => bind::VIRTIO_BLK_S_UNSUPP,
            Err(_) => bind::VIRTIO_BLK_S_IOERR,
        };
        copy_in([self.status], &[status as u8]);
        Used {
            head: self.head,
            written: self.written,
        }
    }
}

impl BlkModel {
    /// Reads what `chain` asks for. The header may be split over segments in any way, and data may share a segment
    /// with it or with the status.
    ///
    /// # Errors
    /// If the chain has no header or no status byte: there is nowhere to put an answer, so the queue ends.
    pub fn parse(&self, chain: &Chain, memory: &Rc<GuestMemory>) -> Result<Step, QueueError> {
        let head = chain.head();
        let mut header = [0; HEADER as usize];
        if copy_out(part(chain.readable(), 0, HEADER), &mut header) < header.len() {
            let what = "a request header";
            return Err(QueueError::Incomplete { head, what });
        }
        let Some(last) = chain.writable().last() else {
            let what = "a status byte";
            return Err(QueueError::Incomplete { head, what });
        };
        let status = Segment {
            // SAFETY: a chain's segments are not empty, so its last byte lies in it.
            start: unsafe { last.start.add(last.len - 1) },
            len: 1,
        };
        let reply = Reply {
            head,
            written: chain.writable_len() as u32,
            status,
            _memory: memory.clone(),
        };
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let sector = header.last_chunk().copied().map_or(0, u64::from_le_bytes);
        Ok(match self.request(kind, sector, chain, memory) {
            // Nothing to move is done; devices are spared the special case.
            Ok(Some(request)) if request.len == 0 && request.op != Op::Flush => {
                Step::Answered(reply.finish(&Ok(())))
            }
            Ok(Some(request)) => Step::Submit(request, reply),
            Ok(None) => Step::Answered(reply.finish(&Ok(()))),
            Err(error) => Step::Answered(reply.finish(&Err(error))),
        })
    }

    /// The request of a chain, or nothing if it is answered without the device.
    fn request(
        &self,
        kind: u32,
        sector: u64,
        chain: &Chain,
        memory: &Rc<GuestMemory>,
    ) -> Result<Option<Request>> {
        // A chain without its status byte was refused before.
        let writable = chain.writable_len() - STATUS;
        let request = match kind {
            bind::VIRTIO_BLK_T_IN => {
                let data = part(chain.writable(), 0, writable);
                // SAFETY: a chain's segments are mapped while `memory` lives, and nobody makes references to guest memory.
                let data = unsafe { IoVec::from_segments(data, memory.clone()) };
                Request::read(bytes(sector)?, data)
            }
            bind::VIRTIO_BLK_T_OUT => {
                self.check_writable()?;
                let data = part(chain.readable(), HEADER, u64::MAX);
                // SAFETY: as above.
                let data = unsafe { IoVec::from_segments(data, memory.clone()) };
                let mut request = Request::write(bytes(sector)?, data);
                request.op = Op::Write {
                    fua: self.writes_through(),
                };
                request
            }
            bind::VIRTIO_BLK_T_FLUSH => Request::flush(),
            bind::VIRTIO_BLK_T_GET_ID => {
                let id: [u8; ID_LEN] = self.id();
                copy_in(part(chain.writable(), 0, writable), &id);
                return Ok(None);
            }
            bind::VIRTIO_BLK_T_DISCARD if self.features() & config::F_DISCARD != 0 => {
                let (offset, len, flags) = range(chain)?;
                if flags != 0 {
                    return Err(unsupported("a discard has no flags"));
                }
                Request::discard(offset, len)
            }
            bind::VIRTIO_BLK_T_WRITE_ZEROES if self.features() & config::F_WRITE_ZEROES != 0 => {
                let (offset, len, flags) = range(chain)?;
                let unmap = flags & bind::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
                if flags & !bind::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
                    return Err(unsupported("an unknown flag of write-zeroes"));
                }
                let mut request = Request::write_zeroes(offset, len, unmap);
                request.op = Op::WriteZeroes {
                    unmap,
                    fua: self.writes_through(),
                };
                request
            }
            _ => return Err(unsupported("an unknown request")),
        };
        Ok(Some(request))
    }

    fn check_writable(&self) -> Result<()> {
        if self.is_read_only() {
            return Err(Error::new(ErrorKind::ReadOnly, "the device is read-only"));
        }
        Ok(())
    }
}

/// The one range of a discard or write-zeroes: bytes from, bytes long, flags.
fn range(chain: &Chain) -> Result<(u64, u64, u32)> {
    let mut range = [0; RANGE as usize];
    let payload = part(chain.readable(), HEADER, RANGE);
    if copy_out(payload, &mut range) < range.len() || chain.readable_len() > HEADER + RANGE {
        return Err(Error::new(
            ErrorKind::Invalid,
            "a request takes exactly one range",
        ));
    }
    let [
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
        n0,
        n1,
        n2,
        n3,
        f0,
        f1,
        f2,
        f3,
    ] = range;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    if sectors > MAX_DISCARD_SECTORS {
        return Err(Error::new(
            ErrorKind::Invalid,
            "a range is longer than the limit",
        ));
    }
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    Ok((bytes(sector)?, u64::from(sectors) * SECTOR, flags))
}

/// The byte at which a sector starts.
fn bytes(sector: u64) -> Result<u64> {
    sector.checked_mul(SECTOR).ok_or_else(|| {
        Error::new(
            ErrorKind::OutOfRange,
            format!("sector {sector} is on no device"),
        )
    })
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}
