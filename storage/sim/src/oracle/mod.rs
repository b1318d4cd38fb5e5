//! The judge of what a device read back.

mod history;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{BlockDevice, BlockQueue, ErrorKind, IoVec, Op, Request};

use history::{Change, Sector, value_of};
use watched::Watched;

/// Violations that are kept; the first are the ones that tell.
const MAX_VIOLATIONS: usize = 16;

/// Knows, sector by sector, which values the block contract allows after what was submitted, acknowledged and flushed.
///
/// [`watch`](Self::watch) puts it in front of a device: from then on every read through it is judged. After a power cut
/// call [`power_cut`](Self::power_cut), bring the device back, and [`verify`](Self::verify) reads every sector that was
/// ever written. Clones are the same oracle. It starts from a device that reads as zeroes.
#[derive(Clone)]
pub struct Oracle {
    state: Arc<Mutex<State>>,
}

struct State {
    block: u64,
    now: u64,
    sectors: BTreeMap<u64, Sector>,
    /// When the reads in flight were submitted.
    reads: BTreeSet<u64>,
    read_errors_allowed: bool,
    violations: Vec<String>,
}

/// A request that the oracle saw begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    op: Op,
    offset: u64,
    len: u64,
    at: u64,
}

impl Oracle {
    /// A judge over sectors of `block` bytes: the logical block size of the device that will be watched.
    pub fn new(block: u32) -> Self {
        let state = State {
            block: u64::from(block),
            now: 0,
            sectors: BTreeMap::new(),
            reads: BTreeSet::new(),
            read_errors_allowed: false,
            violations: Vec::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Says that the device holds `bytes` at `offset`, in whole sectors, before anything is done to it.
    pub fn holds(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.lock();
        let block = state.block;
        for (number, sector) in bytes.chunks(block as usize).enumerate() {
            let held = Sector::holding(value_of(sector));
            state.sectors.insert(offset / block + number as u64, held);
        }
    }

    /// `device`, with the oracle in front.
    pub fn watch(&self, device: Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice> {
        Arc::new(Watched::new(device, self.clone()))
    }

    /// Whether reads may fail where no failed or cut write explains it: a device with faults and no redundancy.
    pub fn allow_read_errors(&self, allowed: bool) {
        self.lock().read_errors_allowed = allowed;
    }

    /// The power was cut: nothing in flight is acknowledged any more, and what was not durable may be old, new or torn.
    pub fn power_cut(&self) {
        let state = &mut *self.lock();
        state.now += 1;
        state.reads.clear();
        state.sectors.values_mut().for_each(Sector::cut);
    }

    /// The process that served the device was killed, and its host lives: what was acknowledged is there, and as volatile
    /// as it was; what was in flight may be old, new or torn.
    pub fn process_killed(&self) {
        let state = &mut *self.lock();
        state.now += 1;
        state.reads.clear();
        let at = state.now;
        state
            .sectors
            .values_mut()
            .for_each(|sector| sector.left(at));
    }

    /// Reads every sector that was ever written through `queue` and judges it. What is seen is what must stay.
    pub async fn verify(&self, queue: &dyn BlockQueue) {
        let (block, sectors) = {
            let state = self.lock();
            let sectors: Vec<u64> = state.sectors.keys().copied().collect();
            (state.block, sectors)
        };
        for sector in sectors {
            let read = Request::read(sector * block, IoVec::zeroed(block as usize));
            let begun = self.begin(&read);
            let completion = queue.submit(read).await;
            let kind = completion.result.err().map(|error| error.kind());
            self.end(begun, kind, &completion.buffer);
        }
    }

    /// What contradicted the contract, in sentences; empty for an honest device.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// # Panics
    /// With the violations, if there are any.
    pub fn assert_honest(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }

    /// A request is submitted.
    pub(crate) fn begin(&self, request: &Request) -> Begun {
        let state = &mut *self.lock();
        state.now += 1;
        let begun = Begun {
            op: request.op,
            offset: request.offset,
            len: request.len,
            at: state.now,
        };
        if begun.op == Op::Read {
            state.reads.insert(begun.at);
        }
        for sector in begun.sectors(state.block) {
            let change = match begun.op {
                Op::Write { .. } => {
                    let place = (sector * state.block).saturating_sub(begun.offset) as usize;
                    let mut bytes = vec![0; state.block as usize];
                    request.buffer.copy_out(place, &mut bytes);
                    Change::Write(value_of(&bytes))
                }
                Op::WriteZeroes { .. } => Change::Write(0),
                Op::Discard => Change::Discard,
                Op::Read | Op::Flush => continue,
            };
            let history = state.sectors.entry(sector).or_default();
            history.submitted(change, begun.at);
        }
        begun
    }

    /// It completed.
    pub(crate) fn end(&self, begun: Begun, error: Option<ErrorKind>, buffer: &IoVec) {
        let state = &mut *self.lock();
        state.now += 1;
        match begun.op {
            Op::Read => state.judge_read(begun, error, buffer),
            Op::Flush => state.flushed(begun, error),
            Op::Write { fua } | Op::WriteZeroes { fua, .. } => state.changed(begun, error, fua),
            Op::Discard => state.changed(begun, error, false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    fn sectors(self, block: u64) -> std::ops::Range<u64> {
        self.offset / block..self.offset.saturating_add(self.len) / block
    }
}

impl State {
    fn judge_read(&mut self, begun: Begun, error: Option<ErrorKind>, buffer: &IoVec) {
        let block = self.block;
        self.reads.remove(&begun.at);
        let oldest_read = self.oldest_read();
        let mut excused = self.read_errors_allowed || error == Some(ErrorKind::Offline);
        let mut wrong = Vec::new();
        for sector in begun.sectors(block) {
            let history = self.sectors.entry(sector).or_default();
            if error.is_some() {
                excused |= history.may_be_unreadable(begun.at);
                // It was looked at while the device was about to become longer, and a cut came first.
                excused |= error == Some(ErrorKind::OutOfRange) && history.holds_nothing();
                continue;
            }
            let mut bytes = vec![0; block as usize];
            buffer.copy_out((sector * block - begun.offset) as usize, &mut bytes);
            if let Err(reason) = history.observed(value_of(&bytes), begun.at, oldest_read) {
                wrong.push(format!("sector {sector}: {reason}"));
            }
        }
        wrong.into_iter().for_each(|text| self.violation(text));
        if let Some(kind) = error.filter(|_| !excused) {
            let (offset, len) = (begun.offset, begun.len);
            self.violation(format!(
                "reading {len} bytes at {offset} failed ({}) where nothing explains it",
                kind.name()
            ));
        }
    }

    fn flushed(&mut self, begun: Begun, error: Option<ErrorKind>) {
        let (now, oldest_read) = (self.now, self.oldest_read());
        for history in self.sectors.values_mut() {
            match error {
                None => history.flushed(begun.at),
                Some(_) => history.flush_failed(now),
            }
            history.prune(oldest_read);
        }
    }

    fn oldest_read(&self) -> u64 {
        self.reads.first().copied().unwrap_or(u64::MAX)
    }

    fn changed(&mut self, begun: Begun, error: Option<ErrorKind>, fua: bool) {
        let (now, oldest_read) = (self.now, self.oldest_read());
        for sector in begun.sectors(self.block) {
            if let Some(history) = self.sectors.get_mut(&sector) {
                history.completed(begun.at, now, error.is_none(), fua);
                history.prune(oldest_read);
            }
        }
    }

    fn violation(&mut self, text: String) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(text);
        }
    }
}
