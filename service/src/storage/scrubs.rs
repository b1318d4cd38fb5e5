//! Checks and repairs of arrays, which go on where they were when the daemon starts anew.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_raid as raid;

use super::Storage;
use crate::api::{Array, Error, Result};
use crate::store::Kind;

/// How often it is written down how far they are.
const PERIOD: Duration = Duration::from_secs(5);

/// How far a check or repair is, for the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Of the array.
    uuid: [u8; 16],
    action: Action,
    /// Bytes that are done.
    done: u64,
    mismatches: u64,
    located: u64,
    repaired: u64,
    unreadable: u64,
    places: Vec<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Check,
    Repair,
    RepairFromData,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    offset: u64,
    len: u64,
    liars: Vec<u32>,
    repaired: bool,
}

impl Position {
    /// Where the scrub of an array is; nothing if none runs.
    pub(super) fn of(array: &raid::Array) -> Option<Self> {
        let (done, report) = (array.scrub_position()?, array.scrub_report()?);
        let place = |place: raid::Mismatch| Place {
            offset: place.offset,
            len: place.len,
            liars: place.liars.to_vec(),
            repaired: place.repaired,
        };
        Some(Self {
            uuid: array.status().uuid,
            action: match report.scrub {
                raid::Scrub::Check => Action::Check,
                raid::Scrub::Repair => Action::Repair,
                raid::Scrub::RepairFromData => Action::RepairFromData,
            },
            done,
            mismatches: report.mismatches,
            located: report.located,
            repaired: report.repaired,
            unreadable: report.unreadable,
            places: report.places.into_iter().map(place).collect(),
        })
    }

    /// Lets the scrub of the array go on from here, if it is still the same array and can be compared.
    pub(super) fn go_on(self, name: &str, array: &raid::Array) {
        if array.status().uuid != self.uuid {
            return;
        }
        let place = |place: Place| raid::Mismatch {
            offset: place.offset,
            len: place.len,
            liars: place.liars.into(),
            repaired: place.repaired,
        };
        let report = raid::ScrubReport {
            scrub: match self.action {
                Action::Check => raid::Scrub::Check,
                Action::Repair => raid::Scrub::Repair,
                Action::RepairFromData => raid::Scrub::RepairFromData,
            },
            complete: false,
            mismatches: self.mismatches,
            located: self.located,
            repaired: self.repaired,
            unreadable: self.unreadable,
            places: self.places.into_iter().map(place).collect(),
        };
        if let Err(error) = array.scrub_from(report, self.done) {
            tracing::warn!(
                array = name,
                error = error.sentence(),
                "its check does not go on"
            );
        }
    }
}

impl Storage {
    /// Begins to compare the members, in the background.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` (no redundancy), `Degraded`, or `Busy`.
    pub async fn scrub_array(&self, name: &str, scrub: weft_raid::Scrub) -> Result<Array> {
        let mut state = self.state.lock().await;
        let running = state
            .arrays
            .get_mut(name)
            .ok_or_else(|| Error::not_found("array", name))?;
        let begun = running.array.scrub(scrub);
        begun.map_err(|error| Error::from_block(name, &error))?;
        running.upkeep.wake();
        Ok(running.describe(name))
    }

    /// Writes down how far checks and repairs are, for as long as the daemon lives.
    pub async fn remember_scrubs(&self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let mut state = self.state.lock().await;
            for (name, running) in &mut state.arrays {
                let position = Position::of(&running.array);
                if position == running.scrubbed {
                    continue;
                }
                running.scrubbed = position;
                if let Err(error) = self.store.put(Kind::Array, name, &running.record()) {
                    tracing::warn!(array = name, error = error.message, "not remembered");
                }
            }
        }
    }
}
