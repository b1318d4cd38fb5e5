//! What an array becomes at once: another level, policy, number of legs or size, without any of its data moved.

use std::rc::Rc;

use weft_block::{Error, ErrorKind, Result, SECTOR, Spawner};

use crate::array::{Array, Dirt, Duty, Intent, Lane, Shared, State, Step};
use crate::bitmap::{BitmapHead, BitmapImage};
use crate::examine::sync_size;
use crate::geometry::Geometry;
use crate::level::Level;
use crate::superblock::{Features, Superblock};

/// What an array is to be.
#[derive(Debug, Clone)]
pub(super) struct Form {
    /// Its fields that are the array's hold for all members.
    pub(super) superblock: Superblock,
    /// Byte from which on the members have to be made to agree; none if they do.
    pub(super) resync_from: Option<u64>,
    /// Whether it may be taken while a member is away.
    pub(super) degraded: bool,
}

impl Form {
    /// What the array is now, to be changed.
    pub(super) fn of(lane: &Lane) -> Self {
        Self {
            superblock: lane.shared.superblock.clone(),
            resync_from: None,
            degraded: false,
        }
    }

    pub(super) fn geometry(&self) -> Result<Geometry> {
        let superblock = &self.superblock;
        let sizes = vec![superblock.used() * SECTOR; superblock.raid_disks as usize];
        Geometry::of(superblock, &sizes)
    }
}

/// Gives a member's superblock the array's form.
pub(crate) fn adopt(own: &mut Superblock, form: &Superblock) {
    own.level = form.level;
    own.layout = form.layout;
    own.chunk = form.chunk;
    own.raid_disks = form.raid_disks;
    own.size = form.size;
    own.data_size = match form.level {
        // All that the members have would count.
        Level::Raid0 => form.data_size,
        _ => own.data_size.max(form.size),
    };
    let (policy, old) = (form.features.only(FORM), own.features.only(FORM));
    own.features = own.features.without(FORM).with(policy);
    if policy != old {
        own.bitmap_offset = form.bitmap_offset;
    }
}

/// Features that belong to the form.
const FORM: Features = Features::BITMAP
    .with(Features::PPL)
    .with(Features::MULTIPLE_PPLS)
    .with(Features::RAID0_LAYOUT);

/// Whether two superblocks tell of the same form.
pub(crate) fn same_form(one: &Superblock, other: &Superblock) -> bool {
    let form = |superblock: &Superblock| {
        let Superblock {
            level,
            layout,
            chunk,
            raid_disks,
            size,
            features,
            ..
        } = *superblock;
        (level, layout, chunk, raid_disks, size, features.only(FORM))
    };
    form(one) == form(other)
}

impl Array {
    /// Takes another form. Requests wait meanwhile; what was written is durable before, so that the members agree.
    ///
    /// # Errors
    /// `Degraded` if a member has gone meanwhile: it is as it was then. Otherwise as its metadata's writes.
    pub(super) async fn take_form(
        &self,
        lane: &Rc<Lane>,
        form: &Form,
        spawner: &Spawner,
    ) -> Result<Rc<Lane>> {
        let shared = &lane.shared;
        let geometry = form.geometry()?;
        let image = self.image(form).await?;
        let _held = self.core.hold();
        shared.close();
        self.core.drained().await;
        let mut meta = self.core.meta.lock().await;
        let failed = lane.flush_members().await;
        let told = lane.drop_members(&mut meta, failed).await;
        let enough = {
            let state = self.core.state();
            let stripes = form.superblock.level == Level::Raid0;
            let can_be = form.degraded && !(stripes && state.lacks_data(&shared.geometry));
            can_be || state.is_whole(&shared.geometry)
        };
        if told.is_err() || !enough {
            shared.reopen();
            told?;
            let why = format!("array {}: it has lost a member meanwhile", self.name());
            return Err(Error::new(ErrorKind::Degraded, why));
        }
        {
            let mut state = self.core.state();
            for member in &mut state.members {
                adopt(&mut member.superblock, &form.superblock);
            }
            take_slots(&mut state, &geometry);
            meta.bitmap = image;
            let events = meta.events;
            if let Some(image) = &mut meta.bitmap {
                // A member that is away has missed more than this bitmap will know.
                image.change_head(|head| head.events_cleared = events);
            }
            state.intent = intent(&geometry, form, meta.bitmap.as_ref());
            (state.resync_cursor, state.resync_unreadable) = (0, false);
            state.resync_total = state.intent.resync_bytes();
            if !state.is_whole(&geometry) {
                state.intent.missed_recorded();
            }
            (state.dirt, state.scrubbing) = (Dirt::Clean, None);
        }
        let bitmap = meta
            .bitmap
            .as_ref()
            .map_or(0, |image| image.bytes().len() as u64);
        let template = form.superblock.clone();
        let shared = Shared::new(&self.core, self.name(), geometry, template, bitmap);
        shared.resync_changed(&self.core.state());
        let lane = Lane::open(&self.reform(shared), spawner)?;
        let mut failed = lane.write_bitmap_to_all(&meta).await;
        failed.extend(lane.prepare_log().await);
        lane.take_out(failed)?;
        lane.write_superblocks(&mut meta, Dirt::Clean, Step::Two)
            .await?;
        Ok(lane)
    }

    /// The bitmap of a form, if it has one. Nothing of it is set but what has to be resynced.
    async fn image(&self, form: &Form) -> Result<Option<BitmapImage>> {
        let superblock = &form.superblock;
        if !superblock.features.has(Features::BITMAP) {
            return Ok(None);
        }
        let room = {
            let state = self.core.state();
            let live = state.members.iter().filter(|member| member.duty.is_live());
            let rooms = live.map(|member| {
                let mut own = member.superblock.clone();
                adopt(&mut own, superblock);
                own.bitmap_room()
            });
            rooms.min().unwrap_or(0)
        };
        let (uuid, size) = (superblock.set_uuid, sync_size(superblock));
        let had = self.core.meta.lock().await;
        let had = had.bitmap.as_ref().map(BitmapImage::head);
        let choose = |chunk: Option<u32>| BitmapHead::choose(uuid, size, room, chunk);
        let chosen = had.and_then(|had| {
            let head = choose(Some(had.chunk))?;
            Some(BitmapHead {
                daemon_sleep: had.daemon_sleep,
                write_behind: had.write_behind,
                ..head
            })
        });
        let Some(head) = chosen.or_else(|| choose(None)) else {
            return self.invalid("its members have no room for a bitmap");
        };
        let chunk = u64::from(head.chunk);
        let mut image = BitmapImage::new(head, false, room);
        if let Some(from) = form.resync_from {
            let bits = from / chunk..(size * SECTOR).div_ceil(chunk);
            bits.for_each(|bit| image.put(bit, true));
        }
        Ok(Some(image))
    }
}

/// Gives the members the slots that there are now. Those of a mirror close up; who has none becomes a spare.
fn take_slots(state: &mut State, geometry: &Geometry) {
    let mirror = geometry.level() == Level::Raid1;
    let spares = geometry.tolerates() > 0;
    let mut holders: Vec<&mut Duty> = state
        .members
        .iter_mut()
        .map(|member| &mut member.duty)
        .collect();
    holders.sort_by_key(|duty| duty.slot());
    let mut next = 0..geometry.members();
    for duty in holders {
        let slot = match duty {
            Duty::InSync(_) if mirror => next.next(),
            Duty::InSync(slot) => (*slot < geometry.members()).then_some(*slot),
            Duty::Spare => None,
            _ => continue,
        };
        *duty = match slot {
            Some(slot) => Duty::InSync(slot),
            None if spares => Duty::Spare,
            None => Duty::Faulty {
                slot: None,
                why: "RAID-0 has neither parity nor spares; remove it".to_owned(),
            },
        };
    }
}

fn intent(geometry: &Geometry, form: &Form, bitmap: Option<&BitmapImage>) -> Intent {
    let mut intent = Intent::of(geometry, bitmap);
    if let Some(from) = form.resync_from {
        intent.resync_from(from);
    }
    intent
}
