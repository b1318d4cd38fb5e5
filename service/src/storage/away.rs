//! Members on other machines that were away: they are taken back when they answer, if the array's bitmap remembers what
//! they have missed.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_raid::MemberState;
use weft_uring::{ShardHandle, spawner};

use super::arrays::{member, user};
use super::disks::{Access, Reference, Served};
use super::{State, Storage, exports};
use crate::api::{Error, ErrorKind, Result};
use crate::shards::Shards;

/// How often servers are asked for the members that they offered.
const PERIOD: Duration = Duration::from_secs(5);

/// The remote disks of one array that are waited for.
#[derive(Debug, Default)]
pub(super) struct Away {
    disks: BTreeSet<String>,
    /// Those that somebody has failed by name: they stay out until they are added by name.
    out: BTreeSet<String>,
}

impl Away {
    /// The disks that are waited for.
    pub(super) fn disks(&self) -> impl Iterator<Item = &str> {
        self.disks.iter().map(String::as_str)
    }

    /// A disk that belongs to the array is not there.
    pub(super) fn is_missed(&mut self, disk: &str) {
        let remote = matches!(Reference::of(disk), Reference::Url(_));
        if remote && !self.out.contains(disk) {
            self.disks.insert(disk.to_owned());
        }
    }

    /// Somebody does not want it.
    pub(super) fn is_out(&mut self, disk: &str) {
        self.disks.remove(disk);
        self.out.insert(disk.to_owned());
    }

    /// It is a member like any other, or none any more.
    pub(super) fn is_forgotten(&mut self, disk: &str) {
        self.disks.remove(disk);
        self.out.remove(disk);
    }
}

impl Storage {
    /// Looks after members that were away, for as long as the daemon lives.
    pub async fn take_back_members(&self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            for (name, disk, home) in self.away().await {
                match self.take_back(&name, &disk, home).await {
                    Ok(true) => tracing::info!(array = name, disk, "a member is back"),
                    Ok(false) => tracing::warn!(array = name, disk, "a member has missed too much"),
                    Err(error) => {
                        tracing::debug!(array = name, disk, error = error.message, "not back yet");
                    }
                }
            }
        }
    }

    /// The members that are away, with the homes of their arrays.
    async fn away(&self) -> Vec<(String, String, ShardHandle)> {
        let state = &mut *self.state.lock().await;
        let mut away = Vec::new();
        for (name, running) in &mut state.arrays {
            let members = running.array.status().members.into_iter();
            let faulty = members.filter(|member| member.state == MemberState::Faulty);
            for path in faulty.filter_map(|member| member.path) {
                let served = state.claims.file(&path);
                let remote = served.and_then(|served| served.remote.as_ref());
                if remote.is_some_and(|remote| remote.given_up().is_some()) {
                    running.away.is_missed(&path);
                }
            }
            let disks = running.away.disks();
            away.extend(disks.map(|disk| (name.clone(), disk.to_owned(), running.home.clone())));
        }
        away
    }

    /// Takes a member back if its server answers; whether the bitmap remembers what it has missed. If not, it is not
    /// waited for any more, for a rebuild of the whole is begun by name.
    async fn take_back(&self, name: &str, disk: &str, home: ShardHandle) -> Result<bool> {
        // Servers that do not answer take their time, and nobody waits for them.
        let served = exports::remote(disk, home).await?;
        let mut state = self.state.lock().await;
        let running = state.running_array(name)?;
        if !running.away.disks().any(|away| away == disk) {
            let message = format!("{disk} is not waited for any more");
            return Err(Error::new(ErrorKind::NotFound, disk, message));
        }
        state.hold_member(name, disk, served.clone())?;
        drop(state);
        let back = member(disk, &served);
        let (told, answered) = tokio::sync::oneshot::channel();
        let readmit = |array: weft_raid::Array| async move {
            let taken = array.readmit(back, &spawner()).await?;
            // Nobody listens only if the daemon ends.
            let _ = told.send(taken);
            Ok(())
        };
        let changed = self.change_array(name, readmit).await;
        let taken = answered.await.unwrap_or(false);
        let mut state = self.state.lock().await;
        let running = state.running_array_mut(name)?;
        if changed.is_ok() {
            running.away.is_forgotten(disk);
        }
        if !taken && running.disks().iter().all(|known| known != disk) {
            state.release(disk, &user(name)).await;
        }
        changed.map(|_| taken)
    }
}

impl State {
    /// Takes a disk that is to be a member of an array, or that is one which has failed: its file is at hand then, and a
    /// server that was given up is asked anew.
    pub(super) async fn take_member(
        &mut self,
        shards: &Shards,
        name: &str,
        disk: &str,
    ) -> Result<Served> {
        if !self.is_faulty(name, disk) {
            return self.take(shards, disk, user(name), Access::Exclusive).await;
        }
        if let Reference::Url(url) = Reference::of(disk) {
            let served = exports::remote(url, shards.place()?).await?;
            self.hold_member(name, disk, served)?;
        }
        self.find(shards, disk, false).await
    }

    /// Notes that an array has a disk, as which it is opened now.
    fn hold_member(&mut self, name: &str, disk: &str, served: Served) -> Result<()> {
        if !self.is_faulty(name, disk) {
            self.claims.claim(disk, user(name), Access::Exclusive)?;
        }
        self.claims.keep_file(disk, served);
        Ok(())
    }

    fn is_faulty(&self, name: &str, disk: &str) -> bool {
        let running = self.arrays.get(name);
        let members = running.map(|running| running.array.status().members);
        members.into_iter().flatten().any(|member| {
            member.state == MemberState::Faulty && member.path.as_deref() == Some(disk)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: &str = "nbd://far/disk";

    fn waited_for(away: &Away) -> Vec<&str> {
        away.disks().collect()
    }

    #[test]
    fn a_member_that_somebody_failed_stays_out_until_it_is_added() {
        let mut away = Away::default();
        away.is_missed("/a/file");
        assert_eq!(waited_for(&away), [""; 0]);
        away.is_missed(DISK);
        assert_eq!(waited_for(&away), [DISK]);
        away.is_out(DISK);
        away.is_missed(DISK);
        assert_eq!(waited_for(&away), [""; 0]);
        away.is_forgotten(DISK);
        away.is_missed(DISK);
        assert_eq!(waited_for(&away), [DISK]);
    }
}
