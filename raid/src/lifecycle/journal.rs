//! A new journal for an array that has lost its own.

use std::rc::Rc;

use weft_block::{Result, Spawner};

use crate::array::{Array, Duty, Lane, Step};
use crate::create::{MemberDevice, journal_superblock, journal_writes, write_all};
use crate::superblock::{Role, Superblock};

impl Array {
    /// Gives an array whose journal has failed a new one, on a device whatever it held: it takes writes again. `uuid` is
    /// a random identity for the device.
    ///
    /// # Errors
    /// `Invalid` if it has a journal that works or never had one, or the device is too small or in use; otherwise as its
    /// writes. The array is as it was then.
    pub async fn add_journal(
        &self,
        member: MemberDevice,
        uuid: [u8; 16],
        spawner: &Spawner,
    ) -> Result<()> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        self.lacks_journal()?;
        let member = self.check_new(member)?;
        let (array, own) = (self.clone(), Rc::clone(spawner));
        self.control(spawner, move |lane| async move {
            // What was logged before the old one failed is on the members then.
            let _quiet = array.shared().locks.exclusive(0..u64::MAX).await;
            let failed = lane.flush_members().await;
            lane.fail_members(failed).await?;
            array.begin_journal(&lane, member, uuid, &own).await
        })
        .await
    }

    fn lacks_journal(&self) -> Result<()> {
        if !self.shared().has_journal() {
            return self.invalid("it was made without a journal, and takes none");
        }
        let holder = {
            let state = self.core.state();
            state.journal().map(|member| member.path.clone())
        };
        match holder {
            Some(path) => self.invalid(&format!("it has a journal, {path}")),
            None => Ok(()),
        }
    }

    async fn begin_journal(
        &self,
        lane: &Rc<Lane>,
        member: MemberDevice,
        uuid: [u8; 16],
        spawner: &Spawner,
    ) -> Result<()> {
        let mut meta = self.core.meta.lock().await;
        self.lacks_journal()?;
        let Some(number) = self.free_number() else {
            return self.invalid("it has had all the members that its superblock can tell apart");
        };
        let now = self.core.state().now;
        let mut roles = self.core.state().roles.clone();
        if let Some(role) = roles.get_mut(number as usize) {
            *role = Role::Journal;
        }
        let template = Superblock {
            dev_number: number,
            utime: now,
            roles,
            ..self.shared().superblock.clone()
        };
        let name = self.name();
        let (superblock, _) = journal_superblock(name, &template, &member, uuid)?;
        let mut writes = journal_writes(name, &template, &member, uuid)?;
        // It becomes one by the superblocks that all get together.
        writes.truncate(1);
        write_all(&member, writes, spawner)
            .await
            .map_err(|error| error.in_context(format!("{} cannot be added", member.path)))?;
        let sectors = superblock.data_size;
        let dirt = self.take_in(member, superblock, Duty::Journal);
        if let Some(journal) = &self.shared().journal {
            journal.begin_anew(sectors, now.seconds() << 20);
        }
        self.core.changed();
        lane.write_superblocks(&mut meta, dirt, Step::Two).await
    }
}
