//! Changing the number of members, the chunk or the layout of rows with parity, while the array is in use.

use std::rc::Rc;

use weft_block::{Bytes, Error, ErrorKind, Result, SECTOR, Spawner};

use super::grow::Target;
use crate::array::{Array, Duty, Lane, Shared, Step};
use crate::geometry::Geometry;
use crate::reshape::{Change, Moves};
use crate::superblock::{Features, Reshape, Superblock};

/// Larger chunks that the data is moved aside by at most: as many are moved at once where old and new rows are as wide.
const MOST_ASIDE: u64 = 16;

impl Array {
    /// Begins to change the shape; a [`Syncer`](crate::Syncer) moves the data.
    pub(super) async fn begin_reshape(
        &self,
        lane: &Rc<Lane>,
        target: &Target,
        spawner: &Spawner,
    ) -> Result<()> {
        let shared = &lane.shared;
        let bitmap = shared.bitmap_sectors();
        let change = self.plan_reshape(&shared.superblock, &shared.geometry, bitmap, target)?;
        let _held = self.core.hold();
        shared.close();
        self.core.drained().await;
        let mut meta = self.core.meta.lock().await;
        let (dirt, template) = {
            let mut state = self.core.state();
            let slots = change.before.members()..change.after.members();
            let mut joining = slots.into_iter();
            for member in &mut state.members {
                if matches!(member.duty, Duty::Spare)
                    && let Some(slot) = joining.next()
                {
                    // Nothing of it counts before it has been moved there.
                    member.duty = Duty::InSync(slot);
                }
                begin(&mut member.superblock, target, &change);
            }
            state.reshaping = Some(change.clone());
            let mut template = shared.superblock.clone();
            begin(&mut template, target, &change);
            (state.dirt, template)
        };
        let before = Shared::new(
            &self.core,
            &shared.name,
            change.before.clone(),
            template,
            shared.bitmap_sectors() * SECTOR,
        );
        let shared = self.reform(Shared::coming(before, &change));
        let lane = Lane::open(&shared, spawner)?;
        let bitmap = lane.write_bitmap_to_all(&meta).await;
        lane.drop_members(&mut meta, bitmap).await?;
        lane.write_superblocks(&mut meta, dirt, Step::Two).await
    }

    /// How the data would move; nothing is changed.
    pub(super) fn plan_reshape(
        &self,
        now: &Superblock,
        before: &Geometry,
        bitmap_sectors: u64,
        target: &Target,
    ) -> Result<Change> {
        let wanted = Superblock {
            raid_disks: target.members,
            chunk: target.chunk,
            layout: target.layout,
            ..now.clone()
        };
        let chunk = u64::from(target.chunk) * SECTOR;
        if !before.member_size().is_multiple_of(chunk) {
            return self.invalid(&format!(
                "its members use {} each, which is no multiple of a chunk of {}",
                Bytes(before.member_size()),
                Bytes(chunk)
            ));
        }
        let after = Geometry::of(&wanted, &[])?;
        let aside = self.aside(before, &after, bitmap_sectors)?;
        let Some(moves) = Moves::new(before, &after, aside, aside > 0) else {
            return self.invalid("it cannot become smaller; only members can be added");
        };
        let position = moves.first();
        Ok(Change {
            before: before.clone(),
            after,
            moves,
            position,
        })
    }

    /// Bytes that the data moves on its members, so that the first step writes over nothing: towards the start, or where
    /// rows stay as wide and there is none before them, towards the end.
    fn aside(&self, before: &Geometry, after: &Geometry, bitmap: u64) -> Result<i64> {
        let chunk = before.chunk().max(after.chunk());
        let whole = |sectors: u64| sectors * SECTOR / chunk.max(64 << 10) * chunk.max(64 << 10);
        let (ahead, behind) = {
            let state = self.core.state();
            let taking = |member: &&crate::array::Member| member.duty.is_live();
            let least = |room: &dyn Fn(&Superblock) -> u64| {
                let members = state.members.iter().filter(taking);
                let rooms = members.map(|member| whole(room(&member.superblock)));
                rooms.min().unwrap_or(0)
            };
            (
                least(&|superblock| superblock.headroom(bitmap)),
                least(&Superblock::room_behind),
            )
        };
        let same_rows = before.row_bytes() / before.chunk() == after.row_bytes() / after.chunk();
        let bound = MOST_ASIDE * chunk;
        if !same_rows && ahead > 0 {
            // Once it has begun, the narrower old rows make room by themselves.
            return Ok(-(ahead.min(2 * chunk.max(64 << 10)) as i64));
        }
        match (ahead.min(bound), behind.min(bound)) {
            (0, 0) => {}
            (ahead, behind) if behind >= ahead && same_rows => return Ok(behind as i64),
            (0, _) => {}
            (ahead, _) => return Ok(-(ahead as i64)),
        }
        let why = format!(
            "array {} cannot change its shape: its members have no {} free before their data to move it aside",
            self.name(),
            Bytes(chunk)
        );
        Err(Error::new(ErrorKind::Unsupported, why))
    }

    /// Whether a change of shape has moved everything.
    pub(crate) fn is_moved(&self) -> bool {
        let shared = self.shared();
        shared
            .moving
            .as_ref()
            .is_some_and(|moving| moving.is_done())
    }

    /// The new shape is all there is.
    pub(crate) async fn finish_reshape(&self, spawner: &Spawner) -> Result<()> {
        let (array, own) = (self.clone(), Rc::clone(spawner));
        self.control(spawner, move |lane| async move {
            // Somebody else may have.
            if !array.is_moved() || array.refusal().is_some() {
                return Ok(());
            }
            let _held = array.core.hold();
            array.core.drained().await;
            let mut meta = array.core.meta.lock().await;
            let (dirt, after, template) = {
                let mut state = array.core.state();
                let Some(change) = state.reshaping.take() else {
                    return Ok(());
                };
                for member in &mut state.members {
                    finish(&mut member.superblock);
                }
                let mut template = lane.shared.superblock.clone();
                finish(&mut template);
                state.note(format!(
                    "the change of shape is done: {} members, chunks of {}, {} in all",
                    change.after.members(),
                    Bytes(change.after.chunk()),
                    Bytes(change.after.size())
                ));
                (state.dirt, change.after, template)
            };
            let shared = Shared::new(
                &array.core,
                array.name(),
                after,
                template,
                lane.shared.bitmap_sectors() * SECTOR,
            );
            let shared = array.reform(shared);
            let lane = Lane::open(&shared, &own)?;
            let failed = lane.prepare_log().await;
            lane.take_out(failed)?;
            lane.write_superblocks(&mut meta, dirt, Step::Two).await
        })
        .await
    }
}

/// What a superblock says when a change begins.
fn begin(superblock: &mut Superblock, target: &Target, change: &Change) {
    // md changes no shape with a log in use; its place is kept, and it comes back afterwards.
    let log = Features::PPL.with(Features::MULTIPLE_PPLS);
    let mut features = superblock.features.without(log).with(Features::RESHAPE);
    let shift = change.moves.shift();
    if shift != 0 {
        features = features.with(Features::NEW_OFFSET);
    }
    let more = i64::from(change.after.members()) - i64::from(change.before.members());
    if shift > 0 && more == 0 {
        features = features.with(Features::RESHAPE_BACKWARDS);
    }
    superblock.features = features;
    superblock.raid_disks = target.members;
    superblock.reshape = Reshape {
        new_level: superblock.level.number(),
        position: change.position / SECTOR,
        delta_disks: more as i32,
        new_layout: target.layout,
        new_chunk: target.chunk,
        new_offset: (shift / SECTOR as i64) as i32,
    };
}

/// What it says when the change is done.
pub(crate) fn finish(superblock: &mut Superblock) {
    let shift = superblock.shift();
    superblock.data_offset = superblock.data_offset.saturating_add_signed(shift);
    superblock.data_size = superblock.data_size.saturating_add_signed(-shift);
    superblock.chunk = superblock.reshape.new_chunk;
    superblock.layout = superblock.reshape.new_layout;
    let change = Features::RESHAPE
        .with(Features::RESHAPE_BACKWARDS)
        .with(Features::NEW_OFFSET);
    superblock.features = superblock.features.without(change);
    if superblock.log_place().is_some() {
        superblock.features = superblock.features.with(Features::PPL);
    }
    superblock.reshape = Reshape::default();
}
