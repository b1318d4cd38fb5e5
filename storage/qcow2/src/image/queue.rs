//! The queue of an image: which way a request goes.

use std::rc::Rc;
use std::sync::Arc;

use weft_block::{
    Along, BlockQueue, Completion, Extent, ExtentKind, LocalBoxFuture, Op, Request, Result,
    Spawner, detached,
};

use super::core::Core;
use super::gate::Pass;
use super::lane::Lane;
use super::tables::{Run, Source};
use super::zero::Place;

/// Extents in one answer.
const MAX_EXTENTS: usize = 1024;

/// Bytes of the disk that one answer looks through.
const MAX_EXTENT_BYTES: u64 = 1 << 40;

pub(crate) struct Queue {
    lane: Rc<Lane>,
}

impl Queue {
    /// # Errors
    /// As opening a queue of what the image is made of.
    pub(crate) fn open(core: &Arc<Core>, spawner: &Spawner) -> Result<Self> {
        let lane = Lane::open(core, spawner)?;
        Ok(Self { lane })
    }
}

impl BlockQueue for Queue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let core = &self.lane.core;
        if let Err(error) = request.check(&core.info()) {
            return ready(request.failed(error));
        }
        if request.len == 0 && request.op != Op::Flush {
            return ready(request.done());
        }
        match core.gate.pass() {
            Some(pass) => match self.lane.at_once(&request) {
                Some(source) => self.send(request, source, pass),
                None => self.spawn(request, Some(pass)),
            },
            None => self.spawn(request, None),
        }
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        let lane = Rc::clone(&self.lane);
        Box::pin(async move {
            let mut info = lane.core.info();
            info.read_only = false;
            Request::discard(offset, len).check(&info)?;
            let _pass = lane.core.gate.wait().await;
            lane.extents(offset, len).await
        })
    }
}

impl Queue {
    /// Passes on a request whose bytes are in one place.
    fn send(
        &self,
        mut request: Request,
        run: Run,
        pass: Pass,
    ) -> LocalBoxFuture<'static, Completion> {
        let sent = match (run.source, self.lane.backing()) {
            (Source::Data { host, .. }, _) => {
                request.offset = host;
                self.lane.data().submit(request)
            }
            (Source::Backing, Some(backing)) => backing.submit(request),
            _ => {
                let len = request.buffer.len();
                request.buffer.fill(0, len, 0);
                return ready(request.done());
            }
        };
        Box::pin(Along::new(&self.lane.spawner, sent, pass))
    }

    /// Runs a request as a task of its own, to the end whoever waits.
    fn spawn(&self, request: Request, pass: Option<Pass>) -> LocalBoxFuture<'static, Completion> {
        let lane = Rc::clone(&self.lane);
        detached(&self.lane.spawner, async move {
            let _pass = match pass {
                Some(pass) => pass,
                None => lane.core.gate.wait().await,
            };
            let result = lane.serve(&request).await;
            Completion {
                result,
                buffer: request.buffer,
            }
        })
    }
}

impl Lane {
    /// Where the bytes of a request are, if they are in one place that the request can be sent to as it is.
    fn at_once(&self, request: &Request) -> Option<Run> {
        let fua = matches!(request.op, Op::Write { fua: true });
        if !matches!(request.op, Op::Read | Op::Write { .. }) || !self.core.is_plain() {
            return None;
        }
        // What is acknowledged then must not rest on tables that only memory has.
        let published = fua || self.core.publishes_first();
        let mut state = self.core.state();
        let range = request.offset..request.end();
        let run = match &state.runs(range.clone()).ok()?[..] {
            [run] => *run,
            _ => return None,
        };
        let good = match (run.source, request.op) {
            (Source::Data { host, .. }, Op::Read) => self.holds(host + run.len),
            (Source::Zero, Op::Read) => true,
            (Source::Backing, Op::Read) => match &self.core.backing {
                Some(backing) => request.end() <= backing.info().size,
                None => true,
            },
            (Source::Data { host, copied }, _) => {
                copied
                    && self.holds(host + run.len)
                    && state.check_writable().is_ok()
                    && !(published && (state.is_dirty() || state.publishing))
            }
            _ => false,
        };
        drop(state);
        let recorded = !good || request.op == Op::Read || self.core.tracking.record(range);
        (good && recorded).then_some(run)
    }

    /// Whether where the data is has at least `end` bytes.
    fn holds(&self, end: u64) -> bool {
        end <= self.core.data_size()
    }

    /// Does a request in as many steps as it takes.
    async fn serve(self: &Rc<Self>, request: &Request) -> Result<()> {
        let range = request.offset..request.end();
        if request.op.is_write() {
            self.core.state().check_writable()?;
            self.record(range.clone()).await?;
        }
        match request.op {
            Op::Read => self.read(request.offset, &request.buffer).await,
            Op::Flush => self.flush().await,
            Op::Write { fua } => {
                {
                    let _places = self.core.places.exclusive(self.clusters(range)).await;
                    self.write(request.offset, &request.buffer, fua).await?;
                }
                self.after_change(fua).await
            }
            Op::WriteZeroes { unmap, fua } => {
                let place = if unmap { Place::Freed } else { Place::Kept };
                {
                    let _places = self
                        .core
                        .places
                        .exclusive(self.clusters(range.clone()))
                        .await;
                    self.zero(range, place).await?;
                }
                self.after_change(fua).await
            }
            Op::Discard => {
                {
                    let _places = self
                        .core
                        .places
                        .exclusive(self.clusters(range.clone()))
                        .await;
                    self.discard(range).await?;
                }
                self.after_change(false).await
            }
        }
    }

    /// The clusters that `range` touches.
    fn clusters(&self, range: std::ops::Range<u64>) -> std::ops::Range<u64> {
        let geometry = self.core.geometry;
        geometry.round_down(range.start)..geometry.round_up(range.end)
    }

    /// Publishes what a request has changed, if it asks for that or too much waits.
    pub(crate) async fn after_change(self: &Rc<Self>, fua: bool) -> Result<()> {
        if fua {
            return self.flush().await;
        }
        let due = {
            let state = self.core.state();
            let waits = state.is_dirty() || state.publishing;
            state.pages.is_heavy() || waits && self.core.publishes_first()
        };
        if due { self.publish().await } else { Ok(()) }
    }

    async fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>> {
        let end = offset + len.min(MAX_EXTENT_BYTES);
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < MAX_EXTENTS {
            let reach = self.core.geometry.l2_reach();
            let stop = end.min((at / reach + 1) * reach);
            let runs = self.step(|state| state.runs(at..stop)).await?;
            for run in runs {
                self.extents_of(run, &mut extents).await?;
            }
            at = stop;
        }
        Ok(extents)
    }

    async fn extents_of(&self, run: Run, extents: &mut Vec<Extent>) -> Result<()> {
        let kind = match run.source {
            Source::Data { .. } | Source::Compressed { .. } => ExtentKind::Data,
            Source::Zero => ExtentKind::Zero,
            Source::Backing => return self.extents_behind(run, extents).await,
        };
        add(extents, run.guest, run.len, kind);
        Ok(())
    }

    /// What the backing file says of a part that is not here.
    async fn extents_behind(&self, run: Run, extents: &mut Vec<Extent>) -> Result<()> {
        let size = self.core.backing_size();
        let end = run.guest + run.len;
        let there = end.min(size.max(run.guest));
        let mut at = run.guest;
        while let Some(backing) = self.backing()
            && at < there
        {
            for extent in backing.extents(at, there - at).await? {
                add(extents, extent.offset, extent.len, extent.kind);
                at = extent.offset + extent.len;
            }
        }
        if at < end {
            add(extents, at, end - at, ExtentKind::Hole);
        }
        Ok(())
    }
}

/// Adds an extent, joined to the last one where both are one.
fn add(extents: &mut Vec<Extent>, offset: u64, len: u64, kind: ExtentKind) {
    match extents.last_mut() {
        Some(last) if last.kind == kind && last.offset + last.len == offset => last.len += len,
        _ => extents.push(Extent { offset, len, kind }),
    }
}

fn ready(completion: Completion) -> LocalBoxFuture<'static, Completion> {
    Box::pin(std::future::ready(completion))
}
