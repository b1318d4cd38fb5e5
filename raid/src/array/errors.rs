//! Read errors that were made good: a member that has too many of them is worn out.

use std::sync::atomic::Ordering;

use weft_block::{Error, ErrorKind, Result};

use super::state::MemberId;
use super::{Array, Duty, Lane};

/// Pages that a member may have to be mended in within an hour, as md has it.
pub(crate) const MOST_READ_ERRORS: u32 = 20;
/// Bytes that count as one error: a bad block of the medium is several of a smaller unit.
const PAGE: u64 = 4096;
const HOUR: u64 = 3600;

/// The read errors of a member, of which each hour forgets half.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadErrors {
    count: u32,
    /// Seconds since 1970.
    since: u64,
    page: Option<u64>,
}

impl ReadErrors {
    /// Counts one at a byte of member space; how many they are.
    fn count(&mut self, offset: u64, now: u64) -> u32 {
        let hours = now.saturating_sub(self.since) / HOUR;
        if hours > 0 {
            self.count = self.count.checked_shr(hours.min(32) as u32).unwrap_or(0);
            self.since = now;
        }
        let page = Some(offset / PAGE);
        if self.page != page {
            self.page = page;
            self.count += 1;
        }
        self.count
    }
}

impl Array {
    /// How many pages of a member may have to be mended within an hour (20 unless this is called). One with more is
    /// replaced by a spare, or failed if there is none and the array can do without it.
    pub fn set_most_read_errors(&self, most: u32) {
        self.core.most_read_errors.store(most, Ordering::Relaxed);
    }
}

/// What is to be done about a member.
enum Worn {
    No,
    Fail(String),
    Replace { slot: u32, spare: MemberId },
}

impl Lane {
    /// A block that a member could not read was written there again.
    pub(crate) async fn mended(&self, id: MemberId, offset: u64) -> Result<()> {
        match self.wear(id, offset) {
            Worn::No => Ok(()),
            Worn::Fail(why) => {
                let error = Error::new(ErrorKind::Io, why);
                self.fail_members(vec![(id, error)]).await
            }
            Worn::Replace { slot, spare } => {
                let mut meta = self.shared.core.meta.lock().await;
                let is_free = {
                    let state = self.shared.state();
                    let duty = state.member(spare).map(|member| &member.duty);
                    matches!(duty, Some(Duty::Spare)) && state.replacement(slot).is_none()
                };
                match is_free {
                    true => self.replace(&mut meta, slot, spare).await,
                    false => Ok(()),
                }
            }
        }
    }

    fn wear(&self, id: MemberId, offset: u64) -> Worn {
        let geometry = &self.shared.geometry;
        let mut state = self.shared.state();
        let now = state.now.seconds();
        let Some(member) = state.member_mut(id) else {
            return Worn::No;
        };
        let errors = &mut member.superblock.corrected_reads;
        *errors = errors.saturating_add(1);
        let count = member.read_errors.count(offset, now);
        let (Duty::InSync(slot), path) = (&member.duty, &member.path) else {
            return Worn::No;
        };
        let (slot, path) = (*slot, path.clone());
        let doubtful = !state.is_whole(geometry) || state.intent.resync_count() > 0;
        let few = count <= self.shared.core.most_read_errors.load(Ordering::Relaxed);
        let doubtful = doubtful || state.reshaping.is_some();
        if few || doubtful || state.replacement(slot).is_some() {
            return Worn::No;
        }
        let why = format!("{path} could not read {count} pages within an hour");
        let mut members = state.members.iter();
        let spare = members.find(|member| matches!(member.duty, Duty::Spare));
        match spare.map(|member| member.id) {
            Some(spare) => {
                state.note(format!("{why} and is replaced by a spare"));
                Worn::Replace { slot, spare }
            }
            None if state.is_needed(geometry, id) => Worn::No,
            None => Worn::Fail(why),
        }
    }
}
