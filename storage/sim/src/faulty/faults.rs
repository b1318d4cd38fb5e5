//! The switches of a faulty device.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{IoVec, Op, Request};

use super::answers::{Answer, Answering, Answers};

/// How often requests fail by chance: 0 never, 1 always.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Reads that fail.
    pub read: f64,
    /// Writes, discards and write-zeroes that fail, done in part or whole or not at all.
    pub write: f64,
    /// Flushes that fail.
    pub flush: f64,
}

/// The switches of a [`Faulty`](super::Faulty) device; clones switch the same device. All start off.
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: ChaCha8Rng,
    rates: Rates,
    offline: bool,
    offline_after: Option<u64>,
    flush_lies: bool,
    fua_lies: bool,
    failing_flushes: bool,
    unreadable: Vec<Range<u64>>,
    unwritable: Vec<Range<u64>>,
    bad: Vec<Range<u64>>,
    corrupt: Vec<Range<u64>>,
    lost: Vec<Range<u64>>,
    answering: Answering,
    requests: u64,
}

/// What happens to a request.
pub(super) enum Verdict {
    /// It goes down, and its completion is looked at.
    Watch,
    /// It fails and is not done.
    Fail,
    /// Its first bytes are done, then it fails.
    FailAfter(u64),
    /// It is acknowledged and not done.
    Pretend,
    /// The device is gone.
    Offline,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            random: ChaCha8Rng::seed_from_u64(seed),
            rates: Rates::default(),
            offline: false,
            offline_after: None,
            flush_lies: false,
            fua_lies: false,
            failing_flushes: false,
            unreadable: Vec::new(),
            unwritable: Vec::new(),
            bad: Vec::new(),
            corrupt: Vec::new(),
            lost: Vec::new(),
            answering: Answering::new(seed),
            requests: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Sets how often requests fail by chance.
    pub fn set_rates(&self, rates: Rates) {
        self.lock().rates = rates;
    }

    /// Takes the device away, or brings it back. Requests in flight complete as `Offline`; whether they were done is open.
    pub fn set_offline(&self, offline: bool) {
        let mut state = self.lock();
        state.offline = offline;
        state.offline_after = None;
    }

    /// Takes the device away once it has seen `requests` more requests.
    pub fn set_offline_after(&self, requests: u64) {
        self.lock().offline_after = Some(requests);
    }

    /// Whether the device is away.
    pub fn is_offline(&self) -> bool {
        self.lock().offline
    }

    /// Reads that touch the byte range fail until [`clear`](Self::clear).
    pub fn fail_reads(&self, range: Range<u64>) {
        self.lock().unreadable.push(range);
    }

    /// Writes that touch the byte range fail until [`clear`](Self::clear), done in part, whole or not at all.
    pub fn fail_writes(&self, range: Range<u64>) {
        self.lock().unwritable.push(range);
    }

    /// Whether every flush fails.
    pub fn fail_flushes(&self, fail: bool) {
        self.lock().failing_flushes = fail;
    }

    /// Reads that touch the byte range fail until its bytes are written again, as a disk's pending sectors do.
    pub fn bad_sectors(&self, range: Range<u64>) {
        self.lock().bad.push(range);
    }

    /// Reads of the byte range succeed with wrong data until its bytes are written again.
    pub fn corrupt_reads(&self, range: Range<u64>) {
        self.lock().corrupt.push(range);
    }

    /// Writes that touch the byte range are acknowledged and not done, until [`clear`](Self::clear).
    pub fn lose_writes(&self, range: Range<u64>) {
        self.lock().lost.push(range);
    }

    /// What becomes of the answers to requests that are done.
    pub fn set_answers(&self, answers: Answers) {
        self.lock().answering.set(answers);
    }

    /// Whether flushes are acknowledged without reaching the device below.
    pub fn lie_about_flush(&self, lie: bool) {
        self.lock().flush_lies = lie;
    }

    /// Whether writes with FUA reach the device below without it.
    pub fn lie_about_fua(&self, lie: bool) {
        self.lock().fua_lies = lie;
    }

    pub(super) fn drops_fua(&self) -> bool {
        self.lock().fua_lies
    }

    /// Switches everything off.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.rates = Rates::default();
        state.offline = false;
        state.offline_after = None;
        state.flush_lies = false;
        state.fua_lies = false;
        state.failing_flushes = false;
        state.unreadable.clear();
        state.unwritable.clear();
        state.bad.clear();
        state.corrupt.clear();
        state.lost.clear();
        state.answering.set(Answers::default());
    }

    /// Requests seen so far, failed ones among them.
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    pub(super) fn answer(&self, op: Op) -> Answer {
        self.lock().answering.judge(op)
    }

    pub(super) fn judge(&self, request: &Request, block: u32) -> Verdict {
        let state = &mut *self.lock();
        state.requests += 1;
        match &mut state.offline_after {
            Some(0) => state.offline = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if state.offline {
            return Verdict::Offline;
        }
        let range = request.offset..request.end();
        match request.op {
            Op::Read => state.judge_read(&range),
            Op::Flush => state.judge_flush(),
            Op::Write { .. } | Op::Discard | Op::WriteZeroes { .. } => {
                state.judge_write(&range, u64::from(block))
            }
        }
    }

    /// Flips a bit in each corrupt byte of a read at `offset`.
    pub(super) fn corrupt(&self, offset: u64, buffer: &mut IoVec) {
        let state = self.lock();
        let read = offset..offset + buffer.len() as u64;
        for range in state.corrupt.iter().filter(|range| touches(range, &read)) {
            let start = range.start.max(read.start);
            let len = (range.end.min(read.end) - start) as usize;
            let mut bytes = vec![0; len];
            let place = (start - offset) as usize;
            buffer.copy_out(place, &mut bytes);
            bytes.iter_mut().for_each(|byte| *byte ^= 0x10);
            buffer.copy_in(place, &bytes);
        }
    }

    /// The range was written: it is neither bad nor corrupt any more.
    pub(super) fn heal(&self, offset: u64, len: u64) {
        let mut state = self.lock();
        let written = offset..offset + len;
        state.bad = without(&state.bad, &written);
        state.corrupt = without(&state.corrupt, &written);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn judge_read(&mut self, range: &Range<u64>) -> Verdict {
        if touch(&self.unreadable, range) || touch(&self.bad, range) || self.chance(self.rates.read)
        {
            return Verdict::Fail;
        }
        Verdict::Watch
    }

    fn judge_flush(&mut self) -> Verdict {
        if self.failing_flushes || self.chance(self.rates.flush) {
            return Verdict::Fail;
        }
        if self.flush_lies {
            return Verdict::Pretend;
        }
        Verdict::Watch
    }

    fn judge_write(&mut self, range: &Range<u64>, block: u64) -> Verdict {
        if touch(&self.unwritable, range) || self.chance(self.rates.write) {
            let blocks = (range.end - range.start) / block;
            let done = self.random.random_range(0..=blocks);
            return match done {
                0 => Verdict::Fail,
                _ => Verdict::FailAfter(done * block),
            };
        }
        if touch(&self.lost, range) {
            return Verdict::Pretend;
        }
        Verdict::Watch
    }

    fn chance(&mut self, rate: f64) -> bool {
        rate > 0.0 && self.random.random_bool(rate.min(1.0))
    }
}

fn touches(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn touch(ranges: &[Range<u64>], range: &Range<u64>) -> bool {
    ranges.iter().any(|one| touches(one, range))
}

fn without(ranges: &[Range<u64>], gone: &Range<u64>) -> Vec<Range<u64>> {
    ranges
        .iter()
        .flat_map(|range| {
            [
                range.start..range.end.min(gone.start),
                range.start.max(gone.end)..range.end,
            ]
        })
        .filter(|range| !range.is_empty())
        .collect()
}
