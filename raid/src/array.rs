//! A running array.
//!
//! [`Array`] is the control side and may be cloned and used from any thread; each thread that does I/O opens a queue.
//! What the threads share is one state behind a mutex that is held for short synchronous sections only, locks on
//! ranges of member space, and an asynchronous lock that lets one task at a time write metadata.

mod copies;
mod core;
mod direct;
mod errors;
mod gather;
mod hedge;
mod intent;
mod journal;
mod lane;
mod lost;
mod meta;
mod moving;
mod pool;
mod ppl;
mod queue;
mod rows;
mod state;
mod stripes;
mod sync;
mod through;
mod units;
mod watch;
mod writing;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_block::{BlockDevice, BlockQueue, Info, RangeLocks, Result, SECTOR, Spawner};

pub(crate) use self::core::{Core, InFlight};
pub(crate) use errors::ReadErrors;
pub(crate) use intent::Intent;
pub(crate) use lane::Lane;
pub(crate) use meta::{Due, Meta, Step};
pub(crate) use moving::Moving;
pub(crate) use state::{Dirt, Duty, Member, MemberId, Run, State, done_bytes};
pub(crate) use sync::Scrubbing;
pub(crate) use sync::progress;
pub use sync::{Mismatch, Progress, Scrub, ScrubReport, SyncAction, Syncer};
pub(crate) use through::through;

use crate::geometry::{Geometry, Shape};
use crate::reshape::Change;
use crate::superblock::Superblock;

/// A running array: a block device over its members. Clones are the same array.
#[derive(Clone)]
pub struct Array {
    name: Arc<str>,
    pub(crate) core: Arc<Core>,
    /// The shape that it has now.
    current: Arc<Mutex<Arc<Shared>>>,
}

/// An array in one shape, as all threads see it. When the shape changes it is retired and another takes its place.
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    pub(crate) name: String,
    pub(crate) geometry: Geometry,
    /// The fields of the superblock that never change while the array has this shape.
    pub(crate) superblock: Superblock,
    /// Bytes: the unit of metadata writes, the largest logical block of the members.
    pub(crate) block: usize,
    pub(crate) info: Info,
    /// What lies at one member offset of all members belongs together: parity and its data, the copies of a mirror.
    pub(crate) locks: Arc<RangeLocks>,
    /// The partial parity log, if the array has one.
    log: Option<ppl::Log>,
    /// The journal, if the array has one, whether it is there or not.
    pub(crate) journal: Option<journal::Journal>,
    /// It takes no requests: another shape takes its place, or has.
    closed: AtomicBool,
    /// The bitmap's image in bytes, to know what space is unused.
    bitmap_bytes: u64,
    /// The shape that goes, while this one is coming.
    pub(crate) moving: Option<Moving>,
}

impl Shared {
    /// An array in the shape of `superblock`, or of what its change of shape leads to.
    pub(crate) fn new(
        core: &Arc<Core>,
        name: &str,
        geometry: Geometry,
        superblock: Superblock,
        bitmap_bytes: u64,
    ) -> Self {
        let (info, log, journal) = {
            let state = core.state();
            let superblocks = state.members.iter().map(|member| &member.superblock);
            let info = info(&geometry, &state.members);
            let log = ppl::Log::of(&superblock, superblocks, info.volatile_cache);
            let journaled = state.journal().map(|member| member.superblock.data_size);
            let journal = journal::Journal::of(&superblock, journaled);
            (info, log, journal)
        };
        Self {
            core: Arc::clone(core),
            name: name.to_owned(),
            block: info.logical_block as usize,
            geometry,
            superblock,
            info,
            locks: Arc::default(),
            log,
            journal,
            closed: AtomicBool::new(false),
            bitmap_bytes,
            moving: None,
        }
    }

    /// The coming shape of a change: requests go the way of both.
    pub(crate) fn coming(before: Self, change: &Change) -> Self {
        let mut shared = Self::new(
            &before.core,
            &before.name,
            change.after.clone(),
            before.superblock.clone(),
            before.bitmap_bytes,
        );
        // What is more than before is there when everything has been moved.
        shared.info.size = before.info.size.min(shared.info.size);
        shared.closed = AtomicBool::new(true);
        shared.moving = Some(Moving::new(Arc::new(before), change));
        shared
    }

    /// First byte of a member's data on its device.
    pub(crate) fn base(&self, member: &Member) -> u64 {
        match &self.moving {
            Some(_) => member.base().saturating_add_signed(member.shift()),
            None => member.base(),
        }
    }

    /// Takes no requests from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Takes requests again.
    pub(crate) fn reopen(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.core.state()
    }

    /// The members or the run state have changed: queues look again.
    pub(crate) fn changed(&self) {
        self.core.changed();
    }

    /// Whether another shape takes this one's place, or has.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The chunks that await a resync have changed.
    pub(crate) fn resync_changed(&self, state: &State) {
        self.core
            .resyncing
            .store(state.intent.resync_count() > 0, Ordering::Release);
    }

    /// Whether the members may differ somewhere in `range` of member space.
    pub(crate) fn needs_resync(&self, range: &Range<u64>) -> bool {
        self.core.resyncing.load(Ordering::Acquire) && self.state().intent.needs_resync(range)
    }

    /// Why a request is refused, if it is.
    pub(crate) fn refusal(&self) -> Option<weft_block::Error> {
        self.core.refusal(&self.name)
    }

    /// Takes a member out of service that nothing is read from; whoever sent it a change tells the others.
    pub(crate) fn fail_aside(&self, id: MemberId, why: &str) {
        let failed = self.state().fail(&self.geometry, &self.name, id, why);
        if failed {
            self.core.unrecorded.store(true, Ordering::Release);
            self.changed();
        }
    }

    /// Whether changes go to a partial parity log first, when it is on.
    pub(crate) fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// Whether changes go to a journal first.
    pub(crate) fn has_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// Sectors that the bitmap takes.
    pub(crate) fn bitmap_sectors(&self) -> u64 {
        self.bitmap_bytes.div_ceil(SECTOR)
    }

    /// Where the copy of a superblock is kept, if the member has unused space for it.
    pub(crate) fn copy_sector(&self, superblock: &Superblock) -> Option<u64> {
        superblock.copy_sector(self.bitmap_sectors())
    }
}

/// What an array starts from: all that [`crate::assemble`] has found out.
pub(crate) struct Start {
    pub(crate) name: String,
    /// Before a change of shape that is under way.
    pub(crate) geometry: Geometry,
    pub(crate) superblock: Superblock,
    pub(crate) state: State,
    pub(crate) meta: Meta,
}

impl Array {
    pub(crate) fn new(start: Start) -> Self {
        let Start {
            name,
            geometry,
            superblock,
            state,
            meta,
        } = start;
        let bitmap = meta.bitmap.as_ref().map_or(0, |image| image.bytes().len());
        let change = state.reshaping.clone();
        let core = Arc::new(Core::new(state, meta));
        let mut shared = Shared::new(&core, &name, geometry, superblock, bitmap as u64);
        if let Some(change) = change {
            shared = Shared::coming(shared, &change);
        }
        Self {
            name: name.into(),
            core,
            current: Arc::new(Mutex::new(Arc::new(shared))),
        }
    }

    /// Gives it another shape. Requests are held, and none is under way.
    pub(crate) fn reform(&self, shared: Shared) -> Arc<Shared> {
        let shared = Arc::new(shared);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&shared);
        self.core.changed();
        shared
    }

    /// The shape that it has now.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Why a request is refused, if it is.
    pub(crate) fn refusal(&self) -> Option<weft_block::Error> {
        self.core.refusal(&self.name)
    }

    /// The array's name, as messages use it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests that its queues have taken so far: whoever drives resync and rebuild sees by it whether others are there.
    pub fn requests(&self) -> u64 {
        self.core.requests.load(Ordering::Relaxed)
    }

    /// Where its bytes lie now.
    pub fn geometry(&self) -> Geometry {
        self.shared().geometry.clone()
    }
}

/// What the array is as a device, by what its members are.
fn info(geometry: &Geometry, members: &[Member]) -> Info {
    let infos: Vec<Info> = members.iter().map(|member| member.device.info()).collect();
    let most = |field: fn(&Info) -> u32| infos.iter().map(field).max();
    let logical = most(|info| info.logical_block).unwrap_or(512);
    // Parity and its data must stay one: a discarded row could read back as anything.
    let discards = !matches!(geometry.shape(), Shape::Parity(_));
    Info {
        size: geometry.size() / u64::from(logical) * u64::from(logical),
        logical_block: logical,
        physical_block: most(|info| info.physical_block).unwrap_or(logical),
        optimal_io: u32::try_from(geometry.row_bytes()).unwrap_or(0),
        memory_alignment: most(|info| info.memory_alignment).unwrap_or(1),
        volatile_cache: infos.iter().any(|info| info.volatile_cache),
        read_only: infos.iter().any(|info| info.read_only),
        discard: discards && infos.iter().all(|info| info.discard),
        fast_zeroes: infos.iter().all(|info| info.fast_zeroes),
    }
}

impl BlockDevice for Array {
    fn info(&self) -> Info {
        self.shared().info.clone()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        Ok(Box::new(queue::Queue::open(self, spawner)?))
    }

    /// One fewer than the member with the fewest has: control operations need one of their own.
    fn max_queues(&self) -> usize {
        let state = self.core.state();
        let fewest = state
            .members
            .iter()
            .map(|member| member.device.max_queues())
            .min();
        match fewest.unwrap_or(usize::MAX) {
            usize::MAX => usize::MAX,
            fewest => fewest.saturating_sub(1),
        }
    }
}
