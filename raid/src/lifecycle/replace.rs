//! Copying a member onto another device without losing redundancy.

use std::rc::Rc;

use weft_block::{Result, Spawner};

use crate::array::{Array, Duty, MemberId};
use crate::create::MemberDevice;

impl Array {
    /// Copies the member `old` onto another device, whatever that held, which takes its place when it is whole. Until then
    /// `old` serves as it did, and a block that it cannot read is made from the others. `uuid` is a random identity for
    /// the new member.
    ///
    /// # Errors
    /// `Invalid` if `old` is not a member whose data is all there or is being replaced already, or the device is too
    /// small or in use; otherwise as its writes. The array is as it was then.
    pub async fn replace(
        &self,
        old: &str,
        member: MemberDevice,
        uuid: [u8; 16],
        spawner: &Spawner,
    ) -> Result<()> {
        self.replaceable(old)?;
        let member = self.check_new(member)?;
        let (array, old, own) = (self.clone(), old.to_owned(), Rc::clone(spawner));
        self.control(spawner, move |lane| async move {
            let mut meta = array.core.meta.lock().await;
            let slot = array.replaceable(&old)?;
            let path = member.path.clone();
            array.join(&lane, &mut meta, member, uuid, &own).await?;
            let id = array.spare(&path)?;
            lane.replace(&mut meta, slot, id).await
        })
        .await
    }

    /// As [`replace`](Self::replace), with a spare of the array.
    ///
    /// # Errors
    /// As there, and `Invalid` if there is no such spare.
    pub async fn replace_by_spare(&self, old: &str, spare: &str, spawner: &Spawner) -> Result<()> {
        let (array, old, spare) = (self.clone(), old.to_owned(), spare.to_owned());
        self.control(spawner, move |lane| async move {
            let mut meta = array.core.meta.lock().await;
            let (slot, id) = (array.replaceable(&old)?, array.spare(&spare)?);
            lane.replace(&mut meta, slot, id).await
        })
        .await
    }

    fn spare(&self, path: &str) -> Result<MemberId> {
        let id = {
            let state = self.core.state();
            let mut spares = state
                .members
                .iter()
                .filter(|member| matches!(member.duty, Duty::Spare));
            spares
                .find(|member| member.path == path)
                .map(|member| member.id)
        };
        id.map_or_else(|| self.invalid(&format!("{path} is not a spare")), Ok)
    }

    /// The slot of a member that can be replaced.
    fn replaceable(&self, path: &str) -> Result<u32> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let redundant = self.shared().geometry.tolerates() > 0;
        let slot = {
            let state = self.core.state();
            let member = state.members.iter().find(|member| member.path == path);
            match member.map(|member| &member.duty) {
                None => Err(format!("{path} is not a member")),
                Some(_) if state.reshaping.is_some() => {
                    Err("its shape is being changed; replace it when that is done".into())
                }
                Some(_) if !redundant => Err("without redundancy no member is replaced".into()),
                Some(Duty::InSync(slot)) if state.replacement(*slot).is_some() => {
                    Err(format!("{path} is being replaced already"))
                }
                Some(Duty::InSync(slot)) => Ok(*slot),
                Some(_) => Err(format!(
                    "{path} holds no data that could be copied; add a new disk instead"
                )),
            }
        };
        slot.or_else(|why| self.invalid(&why))
    }
}
