//! Which members take too long with a read, by the time that members usually take.
//!
//! A thread looks at its reads in flight every [`TICK`], while there are some, so that a read that is answered in time
//! costs no look at the clock. What is measured is therefore no finer than that, and need not be.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use slab::Slab;
use smallvec::SmallVec;
use weft_block::{IoVec, Spawner};

use super::state::MemberId;

/// How often a thread looks at its reads.
pub(crate) const TICK: Duration = Duration::from_millis(5);
/// A read that takes less is never late: what a busy disk needs now and then.
const FLOOR: Duration = Duration::from_millis(20);
/// A read that takes longer is always late, however slow its member usually is.
pub(crate) const CEILING: Duration = Duration::from_secs(1);
/// How many times as long as a member's slowest reads in a hundred a read may take.
const PATIENCE: u32 = 4;
/// How long after a late read a member is still suspected.
const SUSPICION: Duration = Duration::from_secs(60);
/// Vectors of memory that are kept for the next reads, of one length or another.
const MOST_SPARE: usize = 64;
/// Reads that are made from other members at a time.
const MOST_HEDGES: usize = 32;

/// What a thread knows of a member's reads.
#[derive(Debug)]
struct Pace {
    id: MemberId,
    /// What all but one in a hundred of its reads take at most.
    usual: Duration,
    /// When `usual` was last raised: once a tick, for what is late together has one cause.
    raised: Option<Duration>,
    /// Reads that are late now.
    late: u32,
    /// Until when it is suspected.
    suspected: Duration,
}

impl Pace {
    fn of(id: MemberId) -> Self {
        Self {
            id,
            usual: FLOOR / PATIENCE,
            raised: None,
            late: 0,
            suspected: Duration::ZERO,
        }
    }

    /// How long a read may take.
    fn bound(&self) -> Duration {
        (self.usual * PATIENCE).clamp(FLOOR, CEILING)
    }

    /// A read took so long. One in a hundred raises the estimate by a quarter, the others lower it by a hundredth of that,
    /// so that it comes to rest where one in a hundred is above it.
    fn learn(&mut self, took: Duration, now: Duration) {
        if took <= self.usual {
            self.usual -= self.usual / 400;
        } else if self.raised != Some(now) {
            self.raised = Some(now);
            self.usual = (self.usual + self.usual / 4 + TICK / 4).min(CEILING);
        }
    }
}

/// What to expect of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    /// It was late with a read not long ago.
    Suspected,
    /// It is late with a read now.
    Late,
}

/// A read in flight.
struct Read {
    id: MemberId,
    since: Duration,
    late: bool,
    /// Nobody waits to be told that it is late.
    settled: bool,
    waker: Option<Waker>,
}

/// The reads of one thread.
#[derive(Default)]
pub(crate) struct Watch {
    paces: RefCell<SmallVec<[Pace; 8]>>,
    reads: RefCell<Slab<Read>>,
    /// The time at the last tick.
    now: Cell<Duration>,
    ticking: Cell<bool>,
    hedges: Cell<usize>,
    spare: RefCell<Vec<IoVec>>,
}

impl Watch {
    /// Memory of our own for a read of `len` bytes.
    pub(crate) fn memory(&self, len: usize) -> IoVec {
        let mut spare = self.spare.borrow_mut();
        let place = spare.iter().rposition(|memory| memory.len() == len);
        place.map_or_else(|| IoVec::zeroed(len), |place| spare.swap_remove(place))
    }

    /// Takes such memory back, if nobody else has it.
    pub(crate) fn keep(&self, memory: IoVec) {
        let mut spare = self.spare.borrow_mut();
        if !memory.is_alone() {
            return;
        }
        match spare.len() < MOST_SPARE {
            true => spare.push(memory),
            // Another length is wanted now.
            false => spare[0] = memory,
        }
    }

    /// A read of a member begins. The answer is to be dropped when it ends.
    pub(crate) fn begin(self: &Rc<Self>, id: MemberId, spawner: &Spawner) -> Flight {
        if !self.ticking.replace(true) {
            self.now.set(spawner.now());
            let (watch, own) = (Rc::clone(self), Rc::clone(spawner));
            spawner.spawn(Box::pin(async move {
                while watch.reads.borrow().iter().any(|(_, read)| !read.settled) {
                    own.sleep(TICK).await;
                    watch.tick(own.now());
                }
                watch.ticking.set(false);
            }));
        }
        let key = self.reads.borrow_mut().insert(Read {
            id,
            since: self.now.get(),
            late: false,
            settled: false,
            waker: None,
        });
        Flight {
            watch: Rc::clone(self),
            key,
        }
    }

    fn tick(&self, now: Duration) {
        self.now.set(now);
        let mut woken: SmallVec<[Waker; 8]> = SmallVec::new();
        for (_, read) in self.reads.borrow_mut().iter_mut() {
            let took = now.saturating_sub(read.since);
            if read.settled {
                continue;
            }
            self.with(read.id, |pace| {
                if took >= pace.bound() && !read.late {
                    read.late = true;
                    pace.late += 1;
                    pace.suspected = now + SUSPICION;
                }
            });
            if read.late {
                // Also again, as long as it waits for its turn among those that are made from other members.
                woken.extend(read.waker.take());
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }

    fn with<T>(&self, id: MemberId, action: impl FnOnce(&mut Pace) -> T) -> T {
        let mut paces = self.paces.borrow_mut();
        let place = paces.iter().position(|pace| pace.id == id);
        let place = place.unwrap_or_else(|| {
            paces.push(Pace::of(id));
            paces.len() - 1
        });
        action(&mut paces[place])
    }

    /// Whether a member is late with a read now.
    pub(crate) fn is_late(&self, id: MemberId) -> bool {
        let paces = self.paces.borrow();
        paces.iter().any(|pace| pace.id == id && pace.late > 0)
    }

    /// What to expect of a member.
    pub(crate) fn standing(&self, id: MemberId) -> Standing {
        let paces = self.paces.borrow();
        match paces.iter().find(|pace| pace.id == id) {
            Some(pace) if pace.late > 0 => Standing::Late,
            Some(pace) if pace.suspected > self.now.get() => Standing::Suspected,
            _ => Standing::Good,
        }
    }

    /// Leave to make a read from other members, as long as few others have it.
    pub(crate) fn hedge(self: &Rc<Self>) -> Option<Hedge> {
        let under_way = self.hedges.get();
        (under_way < MOST_HEDGES).then(|| {
            self.hedges.set(under_way + 1);
            Hedge(Rc::clone(self))
        })
    }
}

/// Leave to make a read from other members.
pub(crate) struct Hedge(Rc<Watch>);

impl Drop for Hedge {
    fn drop(&mut self) {
        self.0.hedges.set(self.0.hedges.get() - 1);
    }
}

/// A read in flight, until this is dropped.
pub(crate) struct Flight {
    watch: Rc<Watch>,
    key: usize,
}

impl Flight {
    /// Whether it is late. If not, the task of `context` is woken when it is.
    pub(crate) fn is_late(&self, context: &Context<'_>) -> bool {
        let read = &mut self.watch.reads.borrow_mut()[self.key];
        match &mut read.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        read.late
    }

    /// Nobody waits for it any more: it is late until it ends, and is not looked at.
    pub(crate) fn settle(&self) {
        let read = &mut self.watch.reads.borrow_mut()[self.key];
        read.settled = true;
        read.waker = None;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let read = self.watch.reads.borrow_mut().remove(self.key);
        let now = self.watch.now.get();
        let took = now.saturating_sub(read.since);
        self.watch.with(read.id, |pace| {
            pace.late -= u32::from(read.late);
            pace.learn(took, now);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_follows_what_a_member_usually_takes() {
        let mut pace = Pace::of(1);
        assert_eq!(pace.bound(), FLOOR);
        let mut now = Duration::ZERO;
        // A disk whose reads take 30 ms, and one in fifty of them 90.
        for read in 0..20_000_u32 {
            now += TICK;
            let took = if read % 50 == 0 { 90 } else { 30 };
            pace.learn(Duration::from_millis(took), now);
        }
        let usual = pace.usual.as_millis();
        assert!((60..150).contains(&usual), "{usual}");
        for _ in 0..20_000 {
            now += TICK;
            pace.learn(Duration::ZERO, now);
        }
        assert_eq!(pace.bound(), FLOOR);
        for _ in 0..20_000 {
            now += TICK;
            pace.learn(Duration::from_secs(100), now);
        }
        assert_eq!(pace.bound(), CEILING);
    }

    #[test]
    fn what_is_late_together_is_learnt_once() {
        let mut pace = Pace::of(1);
        for _ in 0..1000 {
            pace.learn(Duration::from_secs(5), TICK);
        }
        assert!(pace.bound() < FLOOR * 2);
    }

    #[test]
    fn few_reads_are_made_from_other_members_at_a_time() {
        let watch = Rc::new(Watch::default());
        let hedges: Vec<Hedge> = std::iter::from_fn(|| watch.hedge()).collect();
        assert_eq!(hedges.len(), MOST_HEDGES);
        drop(hedges);
        assert!(watch.hedge().is_some());
    }
}
