//! Reads of striped levels, which are also the writes of a level without redundancy.

use smallvec::SmallVec;

use crate::geometry::Geometry;

/// A part of a request's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First byte in the buffer.
    pub at: usize,
    /// Bytes.
    pub len: usize,
}

/// One request to one member: contiguous there, in parts of the array request's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberIo {
    /// The member's slot.
    pub slot: u32,
    /// First byte in the member's data.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Where they belong in the buffer, in the member's order.
    pub parts: SmallVec<[Part; 2]>,
}

/// Cuts `len` bytes from array offset `offset` on into requests to members. What is contiguous on a member becomes one
/// request, so that a long run costs a request for each member and not one for each chunk.
pub fn read(geometry: &Geometry, offset: u64, len: u64) -> SmallVec<[MemberIo; 4]> {
    let mut plan: SmallVec<[MemberIo; 4]> = SmallVec::new();
    let mut done = 0;
    while done < len {
        let place = geometry.locate(offset + done);
        let take = place.left.min(len - done);
        let part = Part {
            at: done as usize,
            len: take as usize,
        };
        let joined = plan
            .iter_mut()
            .rev()
            .find(|io| io.slot == place.slot)
            .filter(|io| io.offset + io.len == place.offset);
        match joined {
            Some(io) => {
                io.len += take;
                io.parts.push(part);
            }
            None => plan.push(MemberIo {
                slot: place.slot,
                offset: place.offset,
                len: take,
                parts: SmallVec::from_slice(&[part]),
            }),
        }
        done += take;
    }
    plan
}
