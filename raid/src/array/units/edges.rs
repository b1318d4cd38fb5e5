//! Units of whole blocks: a journal knows nothing smaller, so what lies beside a smaller request is written with it.

use smallvec::SmallVec;
use weft_block::{Buffer, Request, Result};

use super::columns::Columns;
use super::{Lane, Work};
use crate::array::lane::Route;
use crate::journal::BLOCK_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A block that a request covers in part, as it was.
pub(super) struct Edge {
    /// Its first byte in the array.
    offset: u64,
    old: Buffer,
}

/// At most the first block of a request and the last.
pub(super) type Edges = SmallVec<[Edge; 2]>;

impl Edge {
    /// Copies what of the block lies in `into`, which is what the array has from byte `logical` on.
    pub(super) fn copy(&self, logical: u64, into: &mut [u8]) {
        let Some(at) = self.offset.checked_sub(logical) else {
            return;
        };
        let at = at as usize;
        if let Some(place) = into.get_mut(at..at + BLOCK_BYTES) {
            place.copy_from_slice(&self.old);
        }
    }
}

impl Lane {
    /// Bytes that are written to a member at once at least.
    pub(super) fn grain(&self) -> u64 {
        match self.shared.journal {
            Some(_) => BLOCK,
            None => u64::from(self.shared.info.logical_block),
        }
    }

    /// Where a request starts and ends, with what has to be written beside it.
    pub(super) fn with_edges(&self, request: &Request) -> (u64, u64) {
        match self.shared.journal {
            Some(_) => (
                request.offset / BLOCK * BLOCK,
                request.end().next_multiple_of(BLOCK),
            ),
            None => (request.offset, request.end()),
        }
    }

    /// The new contents of every slot that the unit writes, and what of them was there before. The unit's range is held.
    pub(super) async fn columns_with_edges(
        &self,
        work: &Work<'_>,
        route: &std::rc::Rc<Route>,
        trusted: bool,
    ) -> Result<(Columns, Edges)> {
        let edges = self.edges(work).await?;
        let work = Work {
            edges: &edges,
            ..*work
        };
        let columns = self.columns(&work, route, trusted).await?;
        Ok((columns, edges))
    }

    /// The blocks of a unit that the request covers in part.
    async fn edges(&self, work: &Work<'_>) -> Result<Edges> {
        let mut edges = Edges::new();
        if self.shared.journal.is_none() {
            return Ok(edges);
        }
        let ends = [work.request.offset, work.request.end()];
        let ends = ends.into_iter().filter(|end| !end.is_multiple_of(BLOCK));
        for offset in ends.map(|end| end / BLOCK * BLOCK) {
            let place = self.shared.geometry.locate(offset);
            let row = place.offset / work.shape.chunk();
            let index = work.shape.data_index(row, place.slot);
            let is_here = work.range().contains(&place.offset)
                && index.is_some_and(|index| work.is_written(index));
            if !is_here || edges.iter().any(|edge| edge.offset == offset) {
                continue;
            }
            let route = self.route();
            let old = match route.whole(place.slot, &(place.offset..place.offset + BLOCK)) {
                Some(leg) => self.mend(place.slot, leg.id, place.offset, BLOCK).await?,
                None => self.make_buffer(place.slot, place.offset, BLOCK).await?,
            };
            edges.push(Edge { offset, old });
        }
        Ok(edges)
    }
}
