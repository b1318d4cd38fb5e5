//! An array whose shape is being changed: what has been moved lies as the new shape says, the rest as the old one says.
//!
//! Both shapes are there side by side, each with its own geometry, locks and place of the data, over the same members. A
//! request is cut at the position and goes the way of each part. Whoever moves data holds its bytes of the array alone,
//! so a request waits at most for one step, and what it read from or wrote to an old place is done before that place
//! is taken for something else.
//!
//! A step reads by the old shape, writes by the new one, flushes every member, and then tells all superblocks how far it
//! is. Only when they know is the range given free: what is written from then on goes to the new place, and no crash
//! makes the old one count again.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use smallvec::SmallVec;
use weft_block::{
    Completion, Error, ErrorKind, IoVec, LocalBoxFuture, Op, RangeLocks, Request, Result,
};

use super::meta::Step;
use super::{Lane, Shared, rows};
use crate::reshape::{Change, Moves};

/// Bytes of the array that are read and written at once, in whole rows.
const PIECE: u64 = 1 << 20;

/// What a shape that is coming knows of the one that goes.
pub(crate) struct Moving {
    pub(crate) before: Arc<Shared>,
    pub(crate) moves: Moves,
    /// On ranges of the array.
    locks: Arc<RangeLocks>,
    /// Byte of the array up to which, or from which on, the new shape holds. The superblocks say so.
    position: AtomicU64,
}

/// A part of a request, and whether it goes the new way.
type Part = (bool, Request);

impl Moving {
    pub(crate) fn new(before: Arc<Shared>, change: &Change) -> Self {
        Self {
            before,
            moves: change.moves.clone(),
            locks: Arc::default(),
            position: AtomicU64::new(change.position),
        }
    }

    /// Bytes of the array in `most` bytes of each member.
    pub(crate) fn bytes_in(&self, most: u64) -> u64 {
        let rows = self.before.geometry.member_size().max(1);
        most * (self.moves.new_size() / rows).max(1)
    }

    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Whether everything has been moved.
    pub(crate) fn is_done(&self) -> bool {
        self.position() == self.moves.last()
    }

    /// Cuts a request at the position.
    fn parts(&self, request: &Request) -> SmallVec<[Part; 2]> {
        let position = self.position();
        let cut = position.clamp(request.offset, request.end());
        let ranges = [request.offset..cut, cut..request.end()];
        let ranges = ranges.into_iter().filter(|range| !range.is_empty());
        let part = |range: Range<u64>| {
            let buffer = match request.buffer.is_empty() {
                true => IoVec::empty(),
                false => {
                    let at = (range.start - request.offset) as usize;
                    request.buffer.slice(at, (range.end - range.start) as usize)
                }
            };
            let part = Request {
                op: request.op,
                offset: range.start,
                len: range.end - range.start,
                buffer,
            };
            (self.moves.is_moved(position, range.start), part)
        };
        ranges.map(part).collect()
    }
}

impl Lane {
    /// Answers a read or a change of an array whose shape is being changed.
    pub(crate) async fn pass_moving(
        self: Rc<Self>,
        moving: &Moving,
        request: Request,
    ) -> Completion {
        let _turn = moving.locks.shared(request.offset..request.end()).await;
        let sent = moving
            .parts(&request)
            .into_iter()
            .map(|(moved, part)| self.side(moved).send_rows(part));
        let done = join_all(sent).await;
        match done.into_iter().find_map(|part| part.result.err()) {
            Some(error) => request.failed(error),
            None => request.done(),
        }
    }

    /// The lane of the new shape or of the old one.
    fn side(self: &Rc<Self>, moved: bool) -> Rc<Self> {
        match &self.before {
            Some(before) if !moved => Rc::clone(before),
            _ => Rc::clone(self),
        }
    }

    fn send_rows(self: &Rc<Self>, request: Request) -> LocalBoxFuture<'static, Completion> {
        match request.op {
            Op::Read => rows::read(self, request).wait(),
            _ => self.spawn(request, Self::rows_write),
        }
    }

    /// Moves what is next, up to `most` bytes of each member.
    pub(crate) async fn reshape_step(self: &Rc<Self>, most: u64) -> Result<()> {
        let Some(moving) = &self.shared.moving else {
            return Ok(());
        };
        let position = moving.position();
        if moving.is_done() {
            return Ok(());
        }
        let Some(range) = moving.moves.step(position, moving.bytes_in(most)) else {
            let why = format!(
                "array {} cannot go on with its change of shape: where its data is to go lies data that has not been \
                 moved, and the members have no room to move it aside; Linux and mdadm can with a backup file",
                self.shared.name
            );
            return Err(Error::new(ErrorKind::Unsupported, why));
        };
        let _turn = moving.locks.exclusive(range.clone()).await;
        if moving.position() != position {
            // Somebody else has moved it: what lies at the old place is old by now.
            return Ok(());
        }
        // Whole rows of the new shape, so that nothing is read where nothing has been written.
        let row = self.shared.geometry.row_bytes();
        let piece = PIECE.next_multiple_of(row);
        let starts = (range.start..range.end).step_by(piece as usize);
        let pieces =
            starts.map(|start| self.move_piece(moving, start..range.end.min(start + piece)));
        for moved in join_all(pieces).await {
            moved?;
        }
        let mut meta = self.shared.core.meta.lock().await;
        let failed = self.flush_members().await;
        self.drop_members(&mut meta, failed).await?;
        let position = match moving.moves.is_moved(range.end, range.start) {
            true => range.end,
            false => range.start,
        };
        let dirt = {
            let mut state = self.shared.state();
            if let Some(change) = &mut state.reshaping {
                change.position = position;
            }
            state.dirt
        };
        self.write_superblocks(&mut meta, dirt, Step::One).await?;
        moving.position.store(position, Ordering::Release);
        Ok(())
    }

    /// Copies a piece from its old place to its new one; what is behind the old array's end becomes zeroes.
    async fn move_piece(self: &Rc<Self>, moving: &Moving, range: Range<u64>) -> Result<()> {
        let context = |error: Error| {
            let why = format!(
                "array {} cannot move its bytes {} to {}",
                self.shared.name, range.start, range.end
            );
            error.in_context(why)
        };
        let len = range.end - range.start;
        let old = moving.moves.old_size().saturating_sub(range.start).min(len);
        let write = match old {
            0 => Request::write_zeroes(range.start, len, false),
            old => {
                let data = match old < len {
                    true => IoVec::zeroed(len as usize),
                    false => self.pool.take(len as usize).into(),
                };
                let read = Request::read(range.start, data.slice(0, old as usize));
                let read = self.side(false).send_rows(read).await;
                read.result.map_err(context)?;
                drop(read.buffer);
                Request::write(range.start, data)
            }
        };
        let written = self.send_rows(write).await;
        self.pool.put_vector(written.buffer);
        written.result.map_err(context)
    }
}
