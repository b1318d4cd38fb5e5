//! Arrays that become larger, or something else.

use weft_raid::level::Level;
use weft_raid::{Growth, MemberSize};
use weft_uring::spawner;

use super::Storage;
use super::arrays::{level, parity_layout, policy};
use crate::api::{self, Array, Error, ErrorKind, RaidGrow, RaidMember, Result};
use crate::shards::on;

impl Storage {
    /// Changes what an array is, in use: members, chunk and layout, its level, its policy, or how much of each member it
    /// uses. Whether that can be is asked before a disk is touched.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for what cannot be, `Degraded`, `Busy`, `Unsupported` (no room to move the data aside), or
    /// what keeps a disk from being added; the array is as it was then.
    pub async fn grow_array(&self, name: &str, request: &RaidGrow) -> Result<Array> {
        let now = {
            let state = self.state.lock().await;
            state.running_array(name)?.array.geometry()
        };
        let growth = growth(name, now.level(), now.members(), request)?;
        // Nothing waits beside stripes: their disks join when there is a place for them.
        let early = now.level() != Level::Raid0;
        let joining = if early { request.disks.len() as u32 } else { 0 };
        self.check_growth(name, &growth, joining).await?;
        if !early {
            let grown = self.begin_growth(name, growth).await?;
            let back = Growth {
                level: Some(now.level()),
                ..Growth::default()
            };
            return match self.add_all(name, request).await {
                Ok(added) => Ok(added.unwrap_or(grown)),
                Err(error) => {
                    self.begin_growth(name, back).await?;
                    Err(error)
                }
            };
        }
        self.add_all(name, request).await?;
        match self.begin_growth(name, growth).await {
            Ok(array) => Ok(array),
            Err(error) => {
                self.take_out(name, &request.disks).await;
                Err(error)
            }
        }
    }

    async fn check_growth(&self, name: &str, growth: &Growth, joining: u32) -> Result<()> {
        let (array, home) = {
            let state = self.state.lock().await;
            let running = state.running_array(name)?;
            (running.array.clone(), running.home.clone())
        };
        let growth = growth.clone();
        on(&home, name, move || async move {
            array.check_growth(&growth, joining, &spawner()).await
        })
        .await
    }

    async fn begin_growth(&self, name: &str, growth: Growth) -> Result<Array> {
        let grow = |array: weft_raid::Array| async move { array.grow(&growth, &spawner()).await };
        self.change_array(name, grow).await
    }

    /// Adds the disks; none of them if one cannot be added.
    async fn add_all(&self, name: &str, request: &RaidGrow) -> Result<Option<Array>> {
        let mut added = None;
        for (index, disk) in request.disks.iter().enumerate() {
            let member = RaidMember {
                disk: disk.clone(),
                journal: false,
                force: request.force,
            };
            match self.add_member(name, &member).await {
                Ok(array) => added = Some(array),
                Err(error) => {
                    self.take_out(name, &request.disks[..index]).await;
                    return Err(error);
                }
            }
        }
        Ok(added)
    }

    /// Takes disks out again that were added for nothing.
    async fn take_out(&self, name: &str, disks: &[String]) {
        for disk in disks {
            if let Err(error) = self.remove_member(name, disk).await {
                tracing::warn!(array = name, disk, error = error.message, "still a spare");
            }
        }
    }
}

/// The request in the array's own words.
fn growth(name: &str, from: Level, members: u32, request: &RaidGrow) -> Result<Growth> {
    let to = request
        .level
        .map(|number| level(name, number))
        .transpose()?;
    let layout = request.layout.as_deref();
    let layout = layout.map(|layout| parity_layout(name, to.unwrap_or(from), layout));
    let consistency = request.consistency.as_deref();
    let joining = request.disks.len() as u32;
    // What changes its level to get a parity more takes its disks for that.
    let wider = matches!((from, to), (_, None) | (Level::Raid1, _)) || to == Some(from);
    let growth = Growth {
        level: to,
        members: match request.members {
            None if joining > 0 && wider => Some(members + joining),
            asked => asked,
        },
        chunk: request.chunk_bytes,
        layout: layout.transpose()?,
        size: request.size.map(|size| match size {
            api::MemberSize::Max => MemberSize::Max,
            api::MemberSize::Bytes(bytes) => MemberSize::Bytes(bytes),
        }),
        consistency: consistency.map(|asked| policy(name, asked)).transpose()?,
    };
    if growth == Growth::default() {
        let why = format!("array {name}: say what it is to become, such as more members");
        return Err(Error::new(ErrorKind::Invalid, name, why));
    }
    Ok(growth)
}
