//! RAID arrays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use weft_raid::level::{CopiesLayout, Level, ParityLayout};
use weft_raid::{
    AssembleOptions, Consistency, CreateOptions, Examined, MemberDevice, MemberRole, MemberState,
};
use weft_uring::{ShardHandle, spawner};

use super::away::Away;
use super::describe;
use super::disks::{self, Access, Served};
use super::pace::Pace;
use super::rebuild::{Upkeep, now};
use super::scrubs::Position;
use super::{State, Storage, object};
use crate::api::{
    Advice, Array, DiskUse, Error, ErrorKind, Examination, RaidAssemble, RaidCreate, Result,
};
use crate::shards::{Shards, on};
use crate::store::Kind;

/// How long to wait for the lock of a disk that a killed daemon had.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// An array that runs.
pub(super) struct RunningArray {
    pub(super) array: weft_raid::Array,
    pub(super) home: ShardHandle,
    pub(super) upkeep: Upkeep,
    pub(super) away: Away,
    /// The scrub as the store knows it.
    pub(super) scrubbed: Option<Position>,
    /// Who was in which slot when an earlier daemon had the array.
    places: Places,
}

/// The members of an array that were seen, by their slots.
type Places = BTreeMap<u32, String>;

/// What the store keeps of an array.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its members, as far as they were seen.
    disks: Vec<String>,
    /// Which array it is.
    #[serde(default)]
    uuid: [u8; 16],
    /// Who is in which slot, or was last.
    #[serde(default)]
    places: Places,
    /// Whether it runs, or was stopped by name.
    running: bool,
    /// How fast its background work goes.
    #[serde(default)]
    pace: Pace,
    /// How far the check or repair is that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scrub: Option<Position>,
    /// The host's boot in which that was written.
    #[serde(default)]
    boot: String,
}

impl Record {
    fn new(array: &RunningArray, running: bool) -> Self {
        Self {
            disks: array.known_disks(),
            uuid: array.array.status().uuid,
            places: array.known_places(),
            running,
            pace: array.upkeep.pace(),
            scrub: Position::of(&array.array),
            boot: super::boot_id(),
        }
    }

    /// Whether the daemon alone has died since: the kernel has kept all that was written.
    fn is_of_this_boot(&self) -> bool {
        !self.boot.is_empty() && self.boot == super::boot_id()
    }
}

pub(super) fn user(name: &str) -> DiskUse {
    DiskUse {
        noun: "raid".to_owned(),
        name: name.to_owned(),
    }
}

pub(super) fn random() -> [u8; 16] {
    *uuid::Uuid::new_v4().as_bytes()
}

pub(super) fn member(disk: &str, served: &Served) -> MemberDevice {
    MemberDevice {
        path: disk.to_owned(),
        device: served.device.clone(),
    }
}

impl RunningArray {
    /// An array that runs from now on; `kept` is what is known of one of its name.
    fn start(array: weft_raid::Array, home: ShardHandle, kept: Record) -> Self {
        let upkeep = Upkeep::start(&array, &home, kept.pace);
        let is_it = kept.uuid == array.status().uuid;
        Self {
            places: if is_it { kept.places } else { Places::new() },
            array,
            home,
            upkeep,
            away: Away::default(),
            scrubbed: None,
        }
    }

    /// The array as a disk.
    pub(super) fn served(&self) -> Served {
        Served::here(Arc::new(self.array.clone()), self.home.clone())
    }

    pub(super) fn describe(&self, name: &str) -> Array {
        let (status, scrub) = (self.array.status(), self.array.scrub_report());
        let mut shown = describe::array(name, &status, scrub, &self.upkeep);
        shown.away = self.away.disks().map(str::to_owned).collect();
        for member in shown.members.iter_mut().filter(|one| one.path.is_none()) {
            member.path = member.slot.and_then(|slot| self.places.get(&slot).cloned());
        }
        shown
    }

    /// Who is in which slot, or was last.
    fn known_places(&self) -> Places {
        let mut places = self.places.clone();
        let members = self.array.status().members.into_iter();
        let seen = members.filter(|member| {
            member.role == MemberRole::Active && member.state != MemberState::Faulty
        });
        places.extend(seen.filter_map(|member| Some((member.slot?, member.path?))));
        places
    }

    /// A disk is no member any more.
    pub(super) fn is_out_for_good(&mut self, disk: &str) {
        self.places.retain(|_, place| place != disk);
        self.away.is_forgotten(disk);
    }

    /// What the store is to keep of it.
    pub(super) fn record(&self) -> Record {
        Record::new(self, true)
    }

    /// The disks that the array has now.
    pub(super) fn disks(&self) -> Vec<String> {
        self.array
            .status()
            .members
            .into_iter()
            .filter_map(|member| member.path)
            .collect()
    }

    /// Those, and the ones that are taken back when they answer.
    fn known_disks(&self) -> Vec<String> {
        let mut disks = self.disks();
        let away = self.away.disks().map(str::to_owned);
        disks.extend(away);
        disks.sort();
        disks.dedup();
        disks
    }
}

impl Storage {
    pub(super) async fn restore_arrays(&self, state: &mut State) {
        let records = self
            .store
            .read::<Record>(Kind::Array)
            .unwrap_or_else(|error| {
                tracing::error!(error = error.message, "arrays cannot be brought back");
                Vec::new()
            });
        for (name, record) in records.into_iter().filter(|(_, record)| record.running) {
            let back = match self.bring_back(state, &name, &record.disks, false).await {
                Err(error) if error.kind == ErrorKind::Degraded && record.is_of_this_boot() => {
                    let forced = self.bring_back(state, &name, &record.disks, true).await;
                    if forced.is_ok() {
                        tracing::warn!(array = name, error = error.message, "started all the same");
                    }
                    forced
                }
                back => back,
            };
            if let Err(error) = back {
                let disks = record.disks.join(" ");
                state.troubles.push(Advice {
                    object: object(&user(&name)),
                    message: format!(
                        "it could not be brought back: {error}; `weft raid stop {name}` leaves it"
                    ),
                    command: Some(format!("weft raid assemble {name} {disks}")),
                });
            }
        }
    }

    /// Starts an array again from what is left of its members.
    ///
    /// An array that was degraded when the daemon was killed is dirty, and is forced: nothing that was written is lost,
    /// and what was on its way is done again by the guests, whose in-flight regions remember it. After a power cut
    /// that is not so, and somebody has to say so by name.
    async fn bring_back(
        &self,
        state: &mut State,
        name: &str,
        disks: &[String],
        force: bool,
    ) -> Result<()> {
        let (mut there, mut absent) = (Vec::new(), Vec::new());
        for disk in disks {
            let taken = state.take_when_free(&self.shards, disk, user(name), Access::Exclusive);
            match taken.await {
                Ok(served) => there.push((disk.clone(), served)),
                Err(error) => {
                    tracing::warn!(array = name, error = error.message, "member left out");
                    absent.push(error.message);
                }
            }
        }
        if there.is_empty() {
            return Err(disks::all_absent(name, &absent));
        }
        let started = self.start_array(state, name, there, force).await;
        started.map_err(|error| Error {
            message: [&[error.message], &absent[..]].concat().join("; "),
            ..error
        })?;
        let running = state.running_array_mut(name)?;
        let used = running.disks();
        for disk in disks.iter().filter(|disk| !used.contains(disk)) {
            running.away.is_missed(disk);
        }
        self.store.put(Kind::Array, name, &running.record())
    }

    /// All arrays.
    pub async fn arrays(&self) -> Vec<Array> {
        let state = self.state.lock().await;
        state
            .arrays
            .iter()
            .map(|(name, running)| running.describe(name))
            .collect()
    }

    /// One array.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn array(&self, name: &str) -> Result<Array> {
        let state = self.state.lock().await;
        Ok(state.running_array(name)?.describe(name))
    }

    /// Whether one of `disks` is a member of the array, as far as they can be opened now.
    pub async fn holds_array(&self, name: &str, disks: &[String]) -> bool {
        for disk in disks {
            if let Ok(found) = self.examine_disk(disk).await
                && found.name.rsplit(':').next() == Some(name)
            {
                return true;
            }
        }
        false
    }

    /// The disks to start an array from: those declared, and those that it had when it last ran.
    pub async fn disks_of(&self, name: &str, declared: &[String]) -> Vec<String> {
        let mut disks: Vec<String> = declared.to_vec();
        let records = self.store.read::<Record>(Kind::Array).unwrap_or_default();
        let remembered = records.into_iter().find(|(found, _)| found == name);
        for disk in remembered.into_iter().flat_map(|(_, record)| record.disks) {
            if !disks.contains(&disk) {
                disks.push(disk);
            }
        }
        let exists = |disk: &String| !disk.starts_with('/') || std::path::Path::new(disk).exists();
        disks.retain(exists);
        disks
    }

    /// Reads a disk's superblock.
    ///
    /// # Errors
    /// `Invalid` if it has none, `Corrupt`, or what keeps the disk from being read.
    pub async fn examine_disk(&self, disk: &str) -> Result<Examination> {
        let served = self
            .state
            .lock()
            .await
            .find(&self.shards, disk, true)
            .await?;
        let found = examine(disk, &served).await?;
        Ok(describe::examination(disk, &found))
    }

    /// Makes an array and starts it.
    ///
    /// # Errors
    /// `Exists`, `Foreign` (a disk holds something), `InUse`, `Invalid`; the disks are as they were then.
    pub async fn create_array(&self, request: &RaidCreate) -> Result<Array> {
        let options = options(request)?;
        let mut state = self.state.lock().await;
        let name = &request.name;
        if state.arrays.contains_key(name) {
            return Err(Error::exists("array", name));
        }
        let mut disks = [&request.disks[..], &request.spares].concat();
        disks.extend(request.journal.clone());
        let served = state.take_all(&self.shards, &disks, &user(name)).await?;
        match self.make_array(request, options, &disks, &served).await {
            Ok(running) => self.keep_array(&mut state, name, running),
            Err(error) => {
                state.release_all(&disks, &user(name)).await;
                Err(error)
            }
        }
    }

    async fn make_array(
        &self,
        request: &RaidCreate,
        options: CreateOptions,
        disks: &[String],
        served: &[Served],
    ) -> Result<RunningArray> {
        for (disk, served) in disks.iter().zip(served) {
            disks::refuse_used(disk, served, request.force).await?;
        }
        let home = self.shards.place()?;
        let members: Vec<MemberDevice> = disks
            .iter()
            .zip(served)
            .map(|(disk, served)| member(disk, served))
            .collect();
        let array = on(&home, &request.name, move || async move {
            weft_raid::create(&options, members, &spawner()).await
        })
        .await?;
        Ok(RunningArray::start(array, home, Record::default()))
    }

    fn keep_array(&self, state: &mut State, name: &str, running: RunningArray) -> Result<Array> {
        let shown = running.describe(name);
        let record = running.record();
        state.arrays.insert(name.to_owned(), running);
        self.store.put(Kind::Array, name, &record)?;
        Ok(shown)
    }

    /// Starts an array from its members.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `InUse`, `Invalid` (members of different arrays), `Degraded` (too many are missing, or it
    /// was dirty too and is not forced), `Corrupt`; nothing was written then.
    pub async fn assemble_array(&self, request: &RaidAssemble) -> Result<Array> {
        let mut state = self.state.lock().await;
        let name = &request.name;
        crate::attach::check_name("array", name)?;
        if state.arrays.contains_key(name) {
            return Err(Error::exists("array", name));
        }
        let served = state
            .take_all(&self.shards, &request.disks, &user(name))
            .await?;
        let there = request.disks.iter().cloned().zip(served).collect();
        self.start_array(&mut state, name, there, request.force)
            .await?;
        state.is_no_trouble(&user(name));
        Ok(state.running_array(name)?.describe(name))
    }

    /// Starts an array from disks that are taken for it; those that it does not use are given back.
    async fn start_array(
        &self,
        state: &mut State,
        name: &str,
        there: Vec<(String, Served)>,
        force: bool,
    ) -> Result<()> {
        let home = self.shards.place()?;
        let members = there
            .iter()
            .map(|(disk, served)| member(disk, served))
            .collect();
        let options = AssembleOptions {
            name: Some(name.to_owned()),
            force,
            now: now(),
        };
        let assembled = on(&home, name, move || async move {
            weft_raid::assemble(members, &options, &spawner()).await
        });
        let running = match assembled.await {
            Ok(array) => {
                let mut kept = self.kept(name);
                if let Some(scrub) = kept.scrub.take() {
                    scrub.go_on(name, &array);
                }
                RunningArray::start(array, home, kept)
            }
            Err(error) => {
                for (disk, _) in &there {
                    state.release(disk, &user(name)).await;
                }
                return Err(error);
            }
        };
        let used = running.disks();
        for (disk, _) in there.iter().filter(|(disk, _)| !used.contains(disk)) {
            state.release(disk, &user(name)).await;
        }
        self.keep_array(state, name, running).map(drop)
    }

    /// What is known of an array of this name that ran before: how fast its background work was to go, how far it was.
    fn kept(&self, name: &str) -> Record {
        let records = self.store.read::<Record>(Kind::Array);
        let mut records = records.unwrap_or_default().into_iter();
        let record = records.find(|(known, _)| known == name);
        record.map(|(_, record)| record).unwrap_or_default()
    }

    /// Stops an array, cleanly. One that could not be brought back is not tried again.
    ///
    /// # Errors
    /// `NotFound`, or `InUse`.
    pub async fn stop_array(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        if !state.arrays.contains_key(name) && state.is_no_trouble(&user(name)) {
            let record = Record {
                running: false,
                ..self.kept(name)
            };
            return self.store.put(Kind::Array, name, &record);
        }
        let record = Record::new(state.running_array(name)?, false);
        if let Some(user) = state.claims.user(name) {
            let message = format!("array {name} is used by {} {}", user.noun, user.name);
            return Err(Error::new(ErrorKind::InUse, name, message));
        }
        self.halt_array(&mut state, name).await?;
        self.store.put(Kind::Array, name, &record)
    }

    /// Stops an array and gives its disks back, without a word in the store.
    pub(super) async fn halt_array(&self, state: &mut State, name: &str) -> Result<()> {
        let Some(running) = state.arrays.remove(name) else {
            return Ok(());
        };
        let disks = running.disks();
        running.upkeep.end().await;
        let array = running.array;
        let stopped = on(&running.home, name, move || async move {
            array.stop(&spawner()).await
        })
        .await;
        state.release_all(&disks, &user(name)).await;
        stopped
    }
}

impl State {
    /// Takes a disk that a daemon which was killed may still hold: the kernel frees its lock once the last request that
    /// was on its way has ended.
    pub(super) async fn take_when_free(
        &mut self,
        shards: &Shards,
        disk: &str,
        user: DiskUse,
        access: Access,
    ) -> Result<Served> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            let taken = self.take(shards, disk, user.clone(), access).await;
            match taken {
                Err(error) if error.kind == ErrorKind::Busy && Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_POLL).await;
                }
                taken => return taken,
            }
        }
    }

    pub(super) fn running_array_mut(&mut self, name: &str) -> Result<&mut RunningArray> {
        let running = self.arrays.get_mut(name);
        running.ok_or_else(|| Error::not_found("array", name))
    }

    pub(super) fn running_array(&self, name: &str) -> Result<&RunningArray> {
        self.arrays
            .get(name)
            .ok_or_else(|| Error::not_found("array", name))
    }
}

pub(super) async fn examine(disk: &str, served: &Served) -> Result<Examined> {
    let device = served.device.clone();
    on(&served.home, disk, move || async move {
        weft_raid::examine(&*device, &spawner()).await
    })
    .await
}

/// The request in the array's own words.
fn options(request: &RaidCreate) -> Result<CreateOptions> {
    let name = &request.name;
    crate::attach::check_name("array", name)?;
    let invalid =
        |what: String| Error::new(ErrorKind::Invalid, name, format!("array {name}: {what}"));
    let level = level(name, request.level)?;
    let (mut layout, mut copies) = (None, None);
    match (&request.layout, level) {
        (None, _) => {}
        (Some(name), Level::Raid10) => {
            let found = CopiesLayout::from_name(name);
            copies = Some(
                found.ok_or_else(|| invalid(format!("{level} has no layout named {name:?}")))?,
            );
        }
        (Some(layout_name), _) => layout = Some(parity_layout(name, level, layout_name)?),
    }
    let consistency = consistency(request, level)?;
    let members = request.disks.len() + request.spares.len() + request.journal.iter().len();
    let written = format!("{}:{name}", super::host_name());
    let mut options = CreateOptions::new(level, &written, members, now(), random);
    options.layout = layout;
    options.copies = copies;
    options.consistency = consistency;
    options.assume_clean = request.assume_clean;
    options.spares = request.spares.len();
    if let Some(chunk) = request.chunk_bytes {
        options.chunk = chunk;
    }
    Ok(options)
}

/// The level of a number.
pub(super) fn level(array: &str, number: u32) -> Result<Level> {
    let known = [0, 1, 4, 5, 6, 10].contains(&number);
    let level = i32::try_from(number).ok().and_then(Level::from_number);
    level.filter(|_| known).ok_or_else(|| {
        let why = format!("array {array}: there is no RAID-{number}; use 0, 1, 4, 5, 6 or 10");
        Error::new(ErrorKind::Invalid, array, why)
    })
}

/// The layout of a level with parity that md calls so.
pub(super) fn parity_layout(array: &str, level: Level, name: &str) -> Result<ParityLayout> {
    ParityLayout::from_name(level, name).ok_or_else(|| {
        let why = format!("array {array}: {level} has no layout named {name:?}");
        Error::new(ErrorKind::Invalid, array, why)
    })
}

/// What is to make the members agree after a crash, by md's name.
pub(super) fn policy(array: &str, asked: &str) -> Result<Consistency> {
    Consistency::from_name(asked).ok_or_else(|| {
        let why = format!("there is no consistency {asked:?}; use ppl, bitmap, journal or resync");
        Error::new(ErrorKind::Invalid, array, why)
    })
}

/// What is to make the members agree after a crash.
fn consistency(request: &RaidCreate, level: Level) -> Result<Consistency> {
    let name = &request.name;
    let invalid = |message: String| Error::new(ErrorKind::Invalid, name, message);
    let asked = match request.consistency.as_deref() {
        None if request.journal.is_some() => return Ok(Consistency::Journal),
        None => return Ok(Consistency::default_of(level)),
        Some(asked) => policy(name, asked)?,
    };
    match (asked, &request.journal) {
        (Consistency::Journal, None) => Err(invalid(format!(
            "array {name}: a journal needs a disk of its own; name one with --journal DISK"
        ))),
        (asked, Some(_)) if asked != Consistency::Journal => Err(invalid(format!(
            "array {name}: a disk for a journal is given, but the consistency is {}",
            asked.name()
        ))),
        (asked, _) => Ok(asked),
    }
}
