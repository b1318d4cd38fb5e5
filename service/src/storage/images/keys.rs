//! Passphrases of encrypted images: where they come from, and what they open.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use weft_block::BlockDevice;
use weft_qcow2::luks::{
    Area, Change, CreateOptions, LuksError, MasterKey, Random, Rate, Result as LuksResult, SLOTS,
    Work,
};
use weft_qcow2::read_encryption;
use weft_uring::spawner;
use zeroize::Zeroizing;

use super::failed;
use super::name::Name;
use super::open::{Format, How, open};
use crate::api::{Error, ErrorKind, Result};

/// Bytes of a passphrase at most, as many as cryptsetup takes from a file.
const MAX_PASSPHRASE: u64 = 8 << 20;

/// How long a new passphrase is to keep a guesser busy, unless told otherwise: as QEMU and cryptsetup have it.
pub const USUAL_TIME: Duration = Duration::from_millis(2000);

/// A passphrase. It is overwritten when the last one who has it lets go, and is never shown.
#[derive(Clone)]
pub struct Passphrase(Arc<Zeroizing<Vec<u8>>>);

impl Passphrase {
    /// These bytes.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// All bytes of a file: a newline at its end is one of them, as it is to QEMU and cryptsetup.
    ///
    /// # Errors
    /// `Invalid` for an empty or endless file, and as reading it.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_if(path, |_| Ok(()))
    }

    /// The same of a file that is its owner's alone, as one must be that is read whenever a disk is opened.
    ///
    /// # Errors
    /// As [`read`](Self::read), and `Permission` if others may open the file.
    pub(in crate::storage) fn read_own(path: &Path) -> Result<Self> {
        let text = path.display().to_string();
        if path.is_relative() {
            let message = format!("there is no key file {text}");
            return Err(Error::new(ErrorKind::NotFound, text, message));
        }
        // Looked at first: a pipe would be waited for.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let message = format!("{text} is no file that could hold a passphrase");
            return Err(Error::new(ErrorKind::Invalid, text, message));
        }
        Self::read_if(path, |found| {
            if found.mode() & 0o077 == 0 {
                return Ok(());
            }
            let message = format!(
                "{text} holds a passphrase and others on this machine may open it: make it its owner's alone, with `chmod 600 {text}`"
            );
            Err(Error::new(ErrorKind::Permission, &text, message))
        })
    }

    fn read_if(path: &Path, allowed: impl FnOnce(&Metadata) -> Result<()>) -> Result<Self> {
        let text = path.display().to_string();
        let tried = format!("the passphrase in {text} cannot be read");
        let failed = |error| Error::from_io(&text, &tried, &error);
        let mut bytes = Zeroizing::new(Vec::new());
        let file = File::open(path).map_err(failed)?;
        allowed(&file.metadata().map_err(failed)?)?;
        let mut file = file.take(MAX_PASSPHRASE + 1);
        file.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.is_empty() || bytes.len() as u64 > MAX_PASSPHRASE {
            let message = format!("{text} holds no passphrase: it is empty or without end");
            return Err(Error::new(ErrorKind::Invalid, text, message));
        }
        Ok(Self(Arc::new(bytes)))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// The passphrases with which the images of a chain are opened.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<(Option<usize>, Passphrase)>);

impl Keys {
    /// Each is tried with each image.
    pub fn anywhere(passphrases: Vec<Passphrase>) -> Self {
        Self(passphrases.into_iter().map(|key| (None, key)).collect())
    }

    /// One more, for the image that is so deep in the chain.
    pub fn insert(&mut self, depth: usize, passphrase: Passphrase) {
        self.0.push((Some(depth), passphrase));
    }

    /// The one that was given first.
    pub fn first(&self) -> Option<Passphrase> {
        self.0.first().map(|(_, key)| key.clone())
    }

    /// The same, tried with each image.
    #[must_use]
    pub fn everywhere(self) -> Self {
        Self::anywhere(self.0.into_iter().map(|(_, key)| key).collect())
    }

    /// Whether there is one for the image that is so deep.
    pub(super) fn has_for(&self, depth: usize) -> bool {
        self.of(depth).next().is_some()
    }

    /// The key of an encrypted image, called `name`, whose area was read. It takes seconds of CPU by design.
    ///
    /// # Errors
    /// `Invalid` without a passphrase that opens it.
    pub(in crate::storage) fn open(&self, name: &str, area: &Area) -> Result<MasterKey> {
        unlock(name, area, self.0.iter().map(|(_, key)| key))
    }

    fn of(&self, depth: usize) -> impl Iterator<Item = &Passphrase> {
        let is_meant = move |place: &Option<usize>| place.is_none_or(|place| place == depth);
        self.0
            .iter()
            .filter_map(move |(place, key)| is_meant(place).then_some(key))
    }

    /// The key of the encrypted image in `file`, which is so deep in its chain. It takes seconds of CPU by design.
    ///
    /// # Errors
    /// `Invalid` without a passphrase that opens it, and as reading its header.
    pub(super) async fn unlock(
        &self,
        name: &Name,
        file: &dyn BlockDevice,
        depth: usize,
    ) -> Result<Option<Arc<MasterKey>>> {
        let text = name.to_string();
        let area = read_encryption(file, &spawner()).await;
        let Some(area) = area.map_err(failed(&text))? else {
            return Ok(None);
        };
        if !self.has_for(depth) {
            let message = format!(
                "{text} is encrypted, and no key was given: name the file with its passphrase"
            );
            return Err(Error::new(ErrorKind::Invalid, text, message));
        }
        unlock(&text, &area, self.of(depth)).map(|key| Some(Arc::new(key)))
    }
}

fn unlock<'a>(
    name: &str,
    area: &Area,
    mut passphrases: impl Iterator<Item = &'a Passphrase>,
) -> Result<MasterKey> {
    let mut newline = false;
    let found = passphrases.find_map(|key| {
        newline |= key.bytes().ends_with(b"\n");
        area.unlock(key.bytes()).ok()
    });
    found.map(|unlocked| unlocked.key).ok_or_else(|| {
        let hint = match newline {
            true => " (the file ends with a newline, which belongs to it)",
            false => "",
        };
        let message =
            format!("the key is wrong: the passphrase opens none of the key slots of {name}{hint}");
        Error::new(ErrorKind::Invalid, name, message)
    })
}

/// Makes what a new image is encrypted with. A guesser is busy with each guess for `time` on a machine like this one.
///
/// # Errors
/// `Invalid` for a passphrase that is no text, which QEMU could not be given; `Unsupported` as the engine says.
pub(in crate::storage) fn new_area(
    options: CreateOptions,
    time: Duration,
    passphrase: &Passphrase,
) -> Result<(Area, MasterKey)> {
    check_text(passphrase)?;
    let work = work(options, time).map_err(refused)?;
    let made = Area::create(options, passphrase.bytes(), work, &mut chance()?);
    made.map_err(refused)
}

fn check_text(passphrase: &Passphrase) -> Result<()> {
    if std::str::from_utf8(passphrase.bytes()).is_err() {
        let message = "a passphrase is text in UTF-8: QEMU takes no other";
        return Err(Error::general(ErrorKind::Invalid, message));
    }
    Ok(())
}

fn work(options: CreateOptions, time: Duration) -> LuksResult<Work> {
    let now =
        || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, |now| now.into());
    let mut timed = |work: &mut dyn FnMut()| {
        let start = now();
        work();
        now().saturating_sub(start)
    };
    Work::lasting(time, Rate::measure(options.hash, options.spec, &mut timed))
}

/// The kernel's random numbers, without end.
fn chance() -> Result<impl FnMut(&mut [u8])> {
    const SOURCE: &str = "/dev/urandom";
    let tried = "no random numbers can be had";
    let mut file = File::open(SOURCE).map_err(|error| Error::from_io(SOURCE, tried, &error))?;
    Ok(move |bytes: &mut [u8]| {
        // Nothing must go on without them: a key would be known.
        file.read_exact(bytes).expect("the kernel has numbers");
    })
}

fn refused(error: LuksError) -> Error {
    Error::general(error.kind().into(), error.to_string())
}

/// A change of the keys of an image.
#[derive(Debug, Clone)]
pub enum KeyChange {
    /// Another passphrase opens it, from the slot that is named or the first free one.
    Add {
        /// The new one.
        new: Passphrase,
        /// Its slot.
        slot: Option<usize>,
        /// How long each guess is to take.
        time: Duration,
    },
    /// This passphrase opens it no more.
    Remove(Passphrase),
    /// The slot is erased.
    Erase(usize),
}

/// Changes the keys of the image at `name`, which `keys` open, and tells in which slots. The last key goes only if that is
/// forced: without it the data is lost.
///
/// # Errors
/// `Invalid` if it is not encrypted, or a key is wrong; and as opening and writing. A cut locks nobody out.
pub async fn change_keys(
    name: &Name,
    format: Option<Format>,
    keys: &Keys,
    change: &KeyChange,
    force: bool,
) -> Result<Vec<usize>> {
    let how = How {
        format,
        ..How::tables().writing()
    };
    let chain = open(name, &how).await?;
    let path = name.to_string();
    let image = chain.image()?;
    let area = read_encryption(&*chain.top().file, &spawner()).await;
    let mut area = area.map_err(failed(&path))?.ok_or_else(|| {
        let message = format!("{path} is not encrypted, and has no keys");
        Error::new(ErrorKind::Invalid, &path, message)
    })?;
    let mut random = chance()?;
    let of_image = |error: LuksError| failed(&path)(error.into());
    let changes = match change {
        KeyChange::Add { new, slot, time } => {
            check_text(new)?;
            let key = unlock(&path, &area, keys.of(0))?;
            let options = CreateOptions {
                spec: area.header().spec(),
                hash: area.header().hash(),
            };
            let work = work(options, *time).map_err(of_image)?;
            let added = area.add_key(&key, new.bytes(), *slot, work, &mut random);
            vec![added.map_err(of_image)?]
        }
        KeyChange::Remove(old) => remove(&path, &mut area, old, force, &mut random)?,
        KeyChange::Erase(slot) => {
            let erased = area.erase_key(*slot, force, &mut random);
            vec![erased.map_err(of_image)?]
        }
    };
    for change in &changes {
        let changed = image.change_keys(&area, change, &spawner()).await;
        changed.map_err(failed(&path))?;
    }
    chain.close().await?;
    Ok(changes.iter().map(|change| change.slot).collect())
}

/// Erases every slot that the passphrase opens.
fn remove(
    path: &str,
    area: &mut Area,
    old: &Passphrase,
    force: bool,
    random: Random,
) -> Result<Vec<Change>> {
    let slots = area.slots_of(old.bytes());
    let in_use = area.header().slots().iter();
    let in_use = in_use.filter(|slot| slot.is_in_use()).count();
    let problem = match slots.len() {
        0 => "the key is wrong: the passphrase opens none of its key slots",
        len if len == in_use && !force => {
            "the passphrase is the last that opens it; without it the data is lost, so removing it must be forced"
        }
        _ => "",
    };
    if !problem.is_empty() {
        let message = format!("{path}: {problem}");
        return Err(Error::new(ErrorKind::Invalid, path, message));
    }
    let mut changes = Vec::with_capacity(SLOTS);
    for slot in slots {
        changes.push(
            area.erase_key(slot, force, &mut *random)
                .map_err(|error| failed(path)(error.into()))?,
        );
    }
    Ok(changes)
}
