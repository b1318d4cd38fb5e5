//! What is done to a running array by name: fail, remove, add, tick, stop.

mod form;
mod grow;
mod journal;
mod policy;
mod replace;
mod reshape;
mod size;
mod takeover;

use std::rc::Rc;

pub(crate) use form::{adopt, same_form};
pub use grow::{Growth, MemberSize};
pub(crate) use reshape::finish as finish_superblock;
use weft_block::{Bytes, Error, ErrorKind, Result, SECTOR, Spawner};

use crate::array::{Array, Dirt, Due, Duty, Lane, Member, Meta, Run, Step, through};
use crate::assemble::{new_member, same_shape};
use crate::create::{MemberDevice, Writes, write_all};
use crate::examine::{Examined, examine};
use crate::layout::Layout;
use crate::level::Level;
use crate::superblock::{Features, MOST_ROLES, Role, Superblock, Timestamp, WRITE_MOSTLY};

impl Array {
    /// Runs a control operation to its end, with a lane of its own, whoever waits for it, and after those before it.
    async fn control<T: 'static, F>(
        &self,
        spawner: &Spawner,
        work: impl FnOnce(Rc<Lane>) -> F + 'static,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + 'static,
    {
        let (array, own) = (self.clone(), Rc::clone(spawner));
        Lane::to_the_end(spawner, async move {
            let _alone = array.core.control.lock().await;
            let lane = Lane::open(&array.shared(), &own)?;
            work(lane).await
        })
        .await
    }

    fn invalid<T>(&self, why: &str) -> Result<T> {
        let why = format!("array {}: {why}", self.shared().name);
        Err(Error::new(ErrorKind::Invalid, why))
    }

    /// To be called every few seconds (md does every five): clears bitmap bits that have aged, records how far a
    /// rebuild is, and marks the array clean once nothing was written between two calls. `now` is the time that
    /// superblocks get until the next call.
    ///
    /// # Errors
    /// If the members that are needed cannot be written.
    pub async fn tick(&self, now: Timestamp, spawner: &Spawner) -> Result<()> {
        self.core.state().now = now;
        let due = Due::now(&self.shared());
        let idle = due.is_nothing() || self.shared().geometry.level() == Level::Raid0;
        if idle || self.refusal().is_some() {
            return Ok(());
        }
        self.control(spawner, move |lane| async move { lane.rest(due).await })
            .await
    }

    /// Takes a member out of service. The others are told before this returns.
    ///
    /// # Errors
    /// `Invalid` if there is no such member, it is out already, or the array cannot do without it.
    pub async fn fail(&self, path: &str, spawner: &Spawner) -> Result<()> {
        let id = {
            let state = self.core.state();
            let Some(member) = state.members.iter().find(|member| member.path == path) else {
                drop(state);
                return self.invalid(&format!("{path} is not a member"));
            };
            let (id, faulty) = (member.id, !member.duty.is_live());
            let needed = state.is_needed(&self.shared().geometry, id);
            drop(state);
            if faulty {
                return self.invalid(&format!("{path} has failed already"));
            }
            if needed {
                return self.invalid(&format!(
                    "{path} cannot be failed, the data would be lost without it"
                ));
            }
            id
        };
        let why = Error::new(ErrorKind::Offline, "failed by an administrator");
        self.control(spawner, move |lane| async move {
            let journaled = lane.is_journaled();
            lane.fail_members(vec![(id, why)]).await?;
            match journaled && !lane.is_journaled() {
                // What it alone had made durable.
                true => {
                    let failed = lane.flush_members().await;
                    lane.fail_members(failed).await
                }
                false => Ok(()),
            }
        })
        .await
    }

    /// Says of a member of a mirror whether it is write-mostly: reads go to it only where no other has the copy, as for a
    /// disk that is slow or far away. The array remembers it.
    ///
    /// # Errors
    /// `Invalid` if there is no such member or the level has no copies to choose from; otherwise as its writes.
    pub async fn set_write_mostly(
        &self,
        path: &str,
        write_mostly: bool,
        spawner: &Spawner,
    ) -> Result<()> {
        if !matches!(self.shared().geometry.level(), Level::Raid1 | Level::Raid10) {
            return self.invalid("only RAID-1 and RAID-10 have copies to choose from");
        }
        let (path, array) = (path.to_owned(), self.clone());
        self.control(spawner, move |lane| async move {
            let mut meta = array.core.meta.lock().await;
            let dirt = {
                let mut state = array.core.state();
                let dirt = state.dirt;
                let mut members = state.members.iter_mut();
                let Some(member) = members.find(|member| member.path == path) else {
                    drop(state);
                    return array.invalid(&format!("{path} is not a member"));
                };
                let flags = member.superblock.devflags & !WRITE_MOSTLY;
                member.superblock.devflags = flags | if write_mostly { WRITE_MOSTLY } else { 0 };
                dirt
            };
            array.core.changed();
            lane.write_superblocks(&mut meta, dirt, Step::One).await
        })
        .await
    }

    /// Lets a failed member or a spare go.
    ///
    /// # Errors
    /// `Invalid` if there is no such member or it is in use.
    pub async fn remove(&self, path: &str, spawner: &Spawner) -> Result<()> {
        let path = path.to_owned();
        let array = self.clone();
        self.control(spawner, move |lane| async move {
            let mut meta = array.core.meta.lock().await;
            let dirt = {
                let mut state = array.core.state();
                let index = state.members.iter().position(|member| member.path == path);
                let Some(index) = index else {
                    drop(state);
                    return array.invalid(&format!("{path} is not a member"));
                };
                let duty = &state.members[index].duty;
                if duty.is_journal() {
                    drop(state);
                    return array.invalid(&format!(
                        "{path} holds its journal, without which it takes no writes; fail it first"
                    ));
                }
                if duty.slot().is_some() {
                    drop(state);
                    return array.invalid(&format!("{path} is in use; fail it first"));
                }
                let member = state.members.remove(index);
                let number = member.superblock.dev_number as usize;
                if let Some(role) = state.roles.get_mut(number) {
                    *role = Role::Spare;
                }
                state.dirt
            };
            array.core.changed();
            if array.refusal().is_some() {
                return Ok(());
            }
            lane.write_superblocks(&mut meta, dirt, Step::One).await
        })
        .await
    }

    /// Takes a device in, whatever it held: as the member it was, caught up by the bitmap, if it was away and the
    /// bitmap remembers all it has missed; otherwise as a new one, which gets a free slot and is rebuilt, or waits as
    /// a spare. `uuid` is a random identity for a new member. Says whether the bitmap catches it up.
    ///
    /// # Errors
    /// `Invalid` if it is a member already or too small; otherwise as its writes. The array is as it was then.
    pub async fn add(
        &self,
        member: MemberDevice,
        uuid: [u8; 16],
        spawner: &Spawner,
    ) -> Result<bool> {
        if self.shared().geometry.tolerates() == 0 {
            return self.invalid("a RAID-0 array takes no more members");
        }
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        if self.core.state().reshaping.is_some() {
            return self.invalid("its shape is being changed; add the disk when that is done");
        }
        let member = self.check_new(member)?;
        let examined = examine(&*member.device, spawner).await.ok();
        let array = self.clone();
        let own = Rc::clone(spawner);
        self.control(spawner, move |lane| async move {
            if let Some(examined) = examined
                && array.rejoin(&lane, &member, &examined).await?
            {
                return Ok(true);
            }
            let mut meta = array.core.meta.lock().await;
            array.join(&lane, &mut meta, member, uuid, &own).await?;
            drop(meta);
            lane.enlist_spares().await?;
            Ok(false)
        })
        .await
    }

    /// Takes a device back that was away, as the member it was, if the bitmap remembers all that it has missed. Whether it
    /// did; if not, nothing was written to it.
    ///
    /// # Errors
    /// `Invalid` if it is a member already or too small; otherwise as its reads and the array's writes.
    pub async fn readmit(&self, member: MemberDevice, spawner: &Spawner) -> Result<bool> {
        if let Some(refusal) = self.shared().refusal() {
            return Err(refusal);
        }
        let member = self.check_new(member)?;
        let examined = examine(&*member.device, spawner).await?;
        let array = self.clone();
        self.control(spawner, move |lane| async move {
            array.rejoin(&lane, &member, &examined).await
        })
        .await
    }

    /// A device that may join, as one that keeps what the array has told of itself.
    fn check_new(&self, member: MemberDevice) -> Result<MemberDevice> {
        self.check_fit(&member)?;
        Ok(match self.shared().info.volatile_cache {
            true => member,
            false => MemberDevice {
                device: through(member.device),
                ..member
            },
        })
    }

    fn check_fit(&self, member: &MemberDevice) -> Result<()> {
        let info = member.device.info();
        let path = &member.path;
        if info.read_only || info.logical_block as usize > self.shared().block {
            return self.invalid(&format!(
                "{path} is read-only or has larger blocks than the array"
            ));
        }
        let mut state = self.core.state();
        // A failed member that comes back under its name makes room for itself.
        let returns = |known: &Member| known.path == *path && !known.duty.is_live();
        state.members.retain(|known| !returns(known));
        let same = |known: &Member| {
            known.path == *path || std::sync::Arc::ptr_eq(&known.device, &member.device)
        };
        let known = state.members.iter().any(same);
        drop(state);
        match known {
            true => self.invalid(&format!("{path} is a member already")),
            false => Ok(()),
        }
    }

    /// Takes a member back that was away, if the bitmap remembers all it has missed.
    async fn rejoin(
        &self,
        lane: &Rc<Lane>,
        member: &MemberDevice,
        examined: &Examined,
    ) -> Result<bool> {
        let own = &examined.superblock;
        let shared = &self.shared();
        let Role::Active(slot) = own.role() else {
            return Ok(false);
        };
        let slot = u32::from(slot);
        let mut meta = shared.core.meta.lock().await;
        let remembers = meta.bitmap.as_ref().is_some_and(|image| {
            image.head().events_cleared <= own.events && own.events <= meta.events
        });
        let same = own.set_uuid == shared.superblock.set_uuid
            && own.ctime == shared.superblock.ctime
            && same_shape(own, &shared.superblock)
            && own.bitmap_room() >= shared.bitmap_sectors();
        let whole = !own.features.has(Features::RECOVERY_OFFSET);
        // No bitmap tells what has been moved without it.
        let moved = own.features.has(Features::RESHAPE)
            || shared.superblock.features.has(Features::RESHAPE);
        if !(remembers && same && whole && !moved && slot < shared.geometry.members()) {
            return Ok(false);
        }
        let (id, dirt) = {
            let mut state = shared.state();
            let mut members = state.members.iter();
            let taken = members.any(|known| known.superblock.dev_number == own.dev_number);
            if taken || state.holder(slot).is_some() {
                return Ok(false);
            }
            let id = state.next_id;
            state.next_id += 1;
            let duty = Duty::Rebuilding {
                slot,
                done: std::sync::Arc::default(),
                recorded: 0,
                by_bitmap: true,
            };
            let member = new_member(id, member.clone(), examined, duty);
            state.members.push(member);
            (id, state.dirt)
        };
        shared.changed();
        lane.write_bitmap_to(&meta, id).await?;
        lane.write_superblocks(&mut meta, dirt, Step::One).await?;
        Ok(true)
    }

    /// Takes a device in as a new spare.
    async fn join(
        &self,
        lane: &Rc<Lane>,
        meta: &mut Meta,
        member: MemberDevice,
        uuid: [u8; 16],
        spawner: &Spawner,
    ) -> Result<()> {
        let head = meta.bitmap.as_ref().map(|image| image.head());
        let device = member.device.info().size / SECTOR;
        let template = &self.shared().superblock;
        let (offset, size) = (template.data_offset, template.size);
        let Some(layout) = Layout::joining(device, offset, size, head, template.ppl()) else {
            let needs = Bytes((template.data_offset + template.size) * SECTOR);
            let (path, has) = (&member.path, Bytes(device * SECTOR));
            return self.invalid(&format!(
                "{path} is too small: it has {has}, a member needs {needs}"
            ));
        };
        let Some(number) = self.free_number() else {
            return self.invalid("it has had all the members that its superblock can tell apart");
        };
        let superblock = joining_superblock(template, &layout, device, number, uuid);
        let writes: Writes = match superblock.bblog_sector() {
            Some(at) => vec![(
                at * SECTOR,
                vec![0xff; usize::from(superblock.bblog_size) * SECTOR as usize],
            )],
            None => Vec::new(),
        };
        write_all(&member, writes, spawner)
            .await
            .map_err(|error| error.in_context(format!("{} cannot be added", member.path)))?;
        let dirt = self.take_in(member, superblock, Duty::Spare);
        self.core.changed();
        lane.write_superblocks(meta, dirt, Step::One).await
    }

    /// Notes a member that is new; its superblock is to be written. What the superblocks say of writes under way.
    fn take_in(&self, member: MemberDevice, superblock: Superblock, duty: Duty) -> Dirt {
        let examined = Examined {
            superblock,
            from_copy: None,
            bitmap: None,
            dirty_bits: 0,
            bad_blocks: Vec::new(),
            bad_block_log_torn: false,
        };
        let mut state = self.core.state();
        let id = state.next_id;
        state.next_id += 1;
        state.members.push(new_member(id, member, &examined, duty));
        state.dirt
    }

    /// A device number that nobody has; the table of roles grows if it must.
    fn free_number(&self) -> Option<u32> {
        let mut state = self.core.state();
        let taken = |number: usize| {
            let mut members = state.members.iter();
            members.any(|member| member.superblock.dev_number as usize == number)
        };
        let free = (0..state.roles.len())
            .find(|&number| state.roles[number] == Role::Spare && !taken(number));
        match free {
            Some(number) => Some(number as u32),
            None if state.roles.len() < MOST_ROLES as usize => {
                state.roles.push(Role::Spare);
                Some(state.roles.len() as u32 - 1)
            }
            None => None,
        }
    }

    /// Stops the array: waits for what is under way, flushes, clears the bitmap where it can and marks the superblocks
    /// clean. Afterwards every request is refused. An array that has failed is only let go.
    ///
    /// # Errors
    /// If the superblocks cannot be written; the array is stopped all the same, and its next start resyncs.
    pub async fn stop(&self, spawner: &Spawner) -> Result<()> {
        let failed = {
            let mut state = self.core.state();
            match state.run {
                Run::Stopped => return Ok(()),
                Run::Running => state.run = Run::Stopped,
                Run::Failed(_) => {}
            }
            state.run != Run::Stopped
        };
        self.core.changed();
        let read_only = weft_block::BlockDevice::info(self).read_only;
        self.control(spawner, move |lane| async move {
            lane.shared.core.drained().await;
            if failed || read_only {
                return Ok(());
            }
            lane.checkpoint().await?;
            lane.empty_journal().await?;
            lane.lay_down().await
        })
        .await
    }
}

/// The superblock of a new member.
fn joining_superblock(
    template: &Superblock,
    layout: &Layout,
    device: u64,
    number: u32,
    uuid: [u8; 16],
) -> Superblock {
    let own = Features::RECOVERY_OFFSET
        .with(Features::RECOVERY_BITMAP)
        .with(Features::REPLACEMENT)
        .with(Features::BAD_BLOCKS);
    Superblock {
        features: template.features.without(own),
        bitmap_offset: match template.features.has_ppl() {
            true => layout.ppl().word(),
            false if template.features.has(Features::BITMAP) => layout.log_offset as i32,
            false => template.bitmap_offset,
        },
        data_offset: layout.data_offset,
        data_size: device - layout.data_offset,
        recovery_offset: 0,
        dev_number: number,
        corrected_reads: 0,
        device_uuid: uuid,
        devflags: 0,
        bblog_shift: 0,
        bblog_size: layout.bblog_size as u16,
        bblog_offset: layout.bblog_offset as i32,
        ..template.clone()
    }
}
