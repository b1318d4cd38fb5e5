//! Opening: from a name to a device, with all that the image there rests on.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use weft_block::{BlockDevice, IoVec, Request};
use weft_export::nbd::client::NbdDevice;
use weft_qcow2::format::{Header, MAGIC, incompatible};
use weft_qcow2::{Image, OpenOptions, read_header};
use weft_uring::{FileDevice, spawner};

use super::described::{Below, Described};
use super::failed;
use super::keys::Keys;
use super::name::{Identity, Name};
use super::policy::Policy;
use crate::api::{Error, ErrorKind, Result};
use crate::storage::disks;

/// Images that may rest on each other. Backup chains of a year have as many; a stranger's chain ends somewhere.
pub const MAX_CHAIN: usize = 400;

/// The format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk and nothing else.
    Raw,
    /// qcow2.
    Qcow2,
}

impl Format {
    /// Its name, as QEMU calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ => Err(format!(
                "the image format {text:?} is not known here: it is raw or qcow2"
            )),
        }
    }
}

/// How an image is opened.
#[derive(Debug, Clone)]
pub struct How {
    /// Its format; guessed if not given.
    pub format: Option<Format>,
    /// The images of the chain that are opened to be written, by their depth.
    pub writable: Vec<usize>,
    /// Whether the files are locked. Without, what is read may change while it is.
    pub locked: bool,
    /// Whether a power cut may take along what is written to files.
    pub volatile: bool,
    /// Whether files take room in advance as they become longer, because they are about to be written as a whole.
    pub takes_room: bool,
    /// Whether what it rests on is opened too. Without, the image reads as zeroes where it has nothing.
    pub chain: bool,
    /// Whether the data is looked at. Without, a data file is not opened.
    pub data: bool,
    /// The snapshot that is opened in place of the disk, to be read.
    pub snapshot: Option<String>,
    /// Whether an image that is marked as corrupt may be written, by a repair.
    pub for_repair: bool,
    /// Which files images may name.
    pub policy: Policy,
    /// What opens those that are encrypted.
    pub keys: Keys,
    /// What the image rests on, by the user's own word.
    pub below: Below,
}

impl How {
    /// To read the disk, with all that it rests on as far as `policy` allows.
    pub fn to_read(policy: Policy) -> Self {
        Self {
            format: None,
            writable: Vec::new(),
            locked: true,
            volatile: false,
            takes_room: false,
            chain: true,
            data: true,
            snapshot: None,
            for_repair: false,
            policy,
            keys: Keys::default(),
            below: Below::AsItSays,
        }
    }

    /// To look at the tables of the image, and at no other file.
    pub fn tables() -> Self {
        Self {
            chain: false,
            data: false,
            ..Self::to_read(Policy::STRICT)
        }
    }

    /// The same, to write the image.
    #[must_use]
    pub fn writing(mut self) -> Self {
        self.writable = vec![0];
        self
    }

    /// How each of the files is opened.
    pub(super) fn of_file(&self, read_only: bool) -> weft_uring::OpenOptions {
        weft_uring::OpenOptions {
            read_only,
            lock: self.locked,
            fill_last_block: true,
            volatile: self.volatile,
            takes_room: self.takes_room,
            ..weft_uring::OpenOptions::default()
        }
    }
}

/// One image of a chain.
pub struct Link {
    /// Where it is.
    pub name: Name,
    /// Its format.
    pub format: Format,
    /// The file that holds it.
    pub file: Arc<dyn BlockDevice>,
    /// What its header says, if it has one.
    pub header: Option<Header>,
    /// Where its data is, if not in the file.
    pub data_file: Option<Name>,
    /// The image, if it is one.
    pub image: Option<Image>,
    /// Its disk.
    pub device: Arc<dyn BlockDevice>,
}

/// An image with what it rests on, the topmost first.
pub struct Chain {
    /// Never empty.
    pub links: Vec<Link>,
}

impl Chain {
    /// The image itself.
    pub fn top(&self) -> &Link {
        &self.links[0]
    }

    /// The image's disk.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.top().device
    }

    /// The qcow2 image that is on top.
    ///
    /// # Errors
    /// `Unsupported` if it is raw.
    pub fn image(&self) -> Result<&Image> {
        let top = self.top();
        top.image.as_ref().ok_or_else(|| {
            let message = format!("{} is a raw image, which cannot do that", top.name);
            Error::new(ErrorKind::Unsupported, top.name.to_string(), message)
        })
    }

    /// Makes all that was written durable, and gives back what is free.
    ///
    /// # Errors
    /// As writing.
    pub async fn close(&self) -> Result<()> {
        for link in &self.links {
            let name = link.name.to_string();
            if let Some(image) = &link.image {
                image.close(&spawner()).await.map_err(failed(&name))?;
            } else if !link.device.info().read_only {
                let queue = link.device.open(&spawner()).map_err(failed(&name))?;
                let flushed = queue.submit(Request::flush()).await;
                flushed.result.map_err(failed(&name))?;
            }
        }
        Ok(())
    }
}

/// An image of which only the header was read.
struct Found {
    name: Name,
    format: Format,
    file: Arc<dyn BlockDevice>,
    header: Option<Header>,
    read_only: bool,
    /// It rests on nothing, whatever it says.
    alone: bool,
}

/// An image that is to be looked at next.
struct Next {
    name: Name,
    format: Option<Format>,
    below: Below,
    /// The user has said so, and not an image.
    by_user: bool,
}

/// Opens the image at `name`, and as much of its chain as `how` says.
///
/// # Errors
/// `NotFound`, `Busy`, `Permission` (of the file system, or because `how` does not allow a file that an image names),
/// `Invalid` for a chain that is none, and whatever the images say.
pub async fn open(name: &Name, how: &How) -> Result<Chain> {
    let found = find(name, how).await?;
    let mut links: Vec<Link> = Vec::with_capacity(found.len());
    for (depth, found) in found.into_iter().enumerate().rev() {
        let below = links.last().map(|link| Arc::clone(&link.device));
        let snapshot = how.snapshot.clone().filter(|_| depth == 0);
        let top = Rest {
            depth,
            below,
            snapshot,
        };
        links.push(join(name, found, top, how).await?);
    }
    links.reverse();
    Ok(Chain { links })
}

/// Walks down the chain and reads the headers.
async fn find(first: &Name, how: &How) -> Result<Vec<Found>> {
    let mut chain: Vec<Found> = Vec::new();
    let mut seen: Vec<Identity> = Vec::new();
    let mut next = Some(Next {
        name: first.clone(),
        format: how.format,
        below: how.below.clone(),
        by_user: true,
    });
    while let Some(Next {
        name,
        format,
        below,
        by_user,
    }) = next
    {
        if chain.len() == MAX_CHAIN {
            let message = format!("{first} rests on more than {MAX_CHAIN} images");
            return Err(Error::new(ErrorKind::Invalid, first.to_string(), message));
        }
        let identity = name.identity();
        if let Some(identity) = identity {
            if seen.contains(&identity) {
                let message = format!("{first} rests on itself: {name} is in its chain twice");
                return Err(Error::new(ErrorKind::Invalid, first.to_string(), message));
            }
            seen.push(identity);
        }
        let read_only = !how.writable.contains(&chain.len());
        let mut found = look(name, format, read_only, how).await?;
        found.alone = below == Below::Nothing;
        next = match (how.chain, below) {
            (false, _) | (true, Below::Nothing) => None,
            (true, Below::AsItSays) => self::below(first, &found, &how.policy)?,
            (true, Below::This(below)) => Some(said(first, &found, *below, by_user, how)?),
        };
        chain.push(found);
    }
    Ok(chain)
}

async fn look(name: Name, format: Option<Format>, read_only: bool, how: &How) -> Result<Found> {
    let file = open_file(&name, &how.of_file(read_only)).await?;
    let text = name.to_string();
    let format = match format {
        Some(format) => format,
        None => guess(&*file).await.map_err(failed(&text))?,
    };
    let header = match format {
        Format::Raw => None,
        Format::Qcow2 => {
            let header = read_header(&*file, &spawner()).await;
            Some(header.map_err(failed(&text))?)
        }
    };
    Ok(Found {
        name,
        format,
        file,
        header,
        read_only,
        alone: false,
    })
}

/// What an image rests on because somebody else says so.
fn said(first: &Name, image: &Found, below: Described, by_user: bool, how: &How) -> Result<Next> {
    let by = image.name.to_string();
    if image.header.is_none() {
        let message = format!("{by} is a raw image, and rests on nothing");
        return Err(Error::new(ErrorKind::Invalid, by, message));
    }
    if !by_user {
        how.policy.check(first, &by, &below.name)?;
        if below.format.is_none() && !how.policy.guess {
            return Err(not_told(by, &below.name));
        }
    }
    Ok(Next {
        name: below.name,
        format: below.format,
        below: below.below,
        by_user,
    })
}

fn not_told(by: String, name: &Name) -> Error {
    let message = format!(
        "{by} does not tell the format of its backing file {name}, and a guess can be led astray by what is in it: \
         name it once with `weft image rebase --unsafe`, or allow the guess with --guess-format"
    );
    Error::new(ErrorKind::Invalid, by, message)
}

/// What an image itself says that it rests on, if that may be opened.
fn below(first: &Name, image: &Found, policy: &Policy) -> Result<Option<Next>> {
    let Some(backing) = image.header.as_ref().and_then(Header::backing) else {
        return Ok(None);
    };
    let by = image.name.to_string();
    let described = Described::by_image(&image.name, &backing.path)?;
    let (name, below) = (described.name, described.below);
    policy.check(first, &by, &name)?;
    // As QEMU has it, the image's own word comes first.
    let format = match (backing.format, described.format) {
        (None, None) if !policy.guess => return Err(not_told(by, &name)),
        (None, format) => format,
        (Some(format), _) => Some(
            format
                .parse()
                .map_err(|message: String| Error::new(ErrorKind::Unsupported, by, message))?,
        ),
    };
    Ok(Some(Next {
        name,
        format,
        below,
        by_user: false,
    }))
}

/// What an image is opened with beside its file.
struct Rest {
    /// Where it is in the chain.
    depth: usize,
    below: Option<Arc<dyn BlockDevice>>,
    snapshot: Option<String>,
}

async fn join(first: &Name, found: Found, rest: Rest, how: &How) -> Result<Link> {
    let text = found.name.to_string();
    let Some(header) = &found.header else {
        if rest.snapshot.is_some() {
            let message = format!("{text} is a raw image and has no snapshots");
            return Err(Error::new(ErrorKind::Invalid, text, message));
        }
        return Ok(Link {
            device: Arc::clone(&found.file),
            name: found.name,
            format: found.format,
            file: found.file,
            header: None,
            data_file: None,
            image: None,
        });
    };
    let data_file = data_file(first, &found, header, how).await?;
    let (data_name, data_device) = data_file.unzip();
    // Who looks at the tables alone needs no key; one that was given is to fit.
    let key = match how.data || how.keys.has_for(rest.depth) {
        true => {
            how.keys
                .unlock(&found.name, &*found.file, rest.depth)
                .await?
        }
        false => None,
    };
    let options = OpenOptions {
        read_only: found.read_only,
        backing: rest.below,
        without_backing: !how.chain || found.alone,
        key,
        without_key: !how.data,
        data_file: data_device,
        snapshot: rest.snapshot,
        for_repair: how.for_repair,
        ..OpenOptions::default()
    };
    let opened = Image::open(Arc::clone(&found.file), options, &spawner()).await;
    let image = opened.map_err(failed(&text))?;
    Ok(Link {
        device: Arc::new(image.clone()),
        name: found.name,
        format: found.format,
        file: found.file,
        header: found.header,
        data_file: data_name,
        image: Some(image),
    })
}

/// The file that holds the data of an image, if it has one and that may be opened.
async fn data_file(
    first: &Name,
    image: &Found,
    header: &Header,
    how: &How,
) -> Result<Option<(Name, Arc<dyn BlockDevice>)>> {
    let Some(text) = &header.extensions.data_file else {
        return Ok(None);
    };
    if !header.has(incompatible::DATA_FILE) {
        return Ok(None);
    }
    let name = image.name.named_here(text)?;
    if !how.data {
        // Nothing is read there: anything may stand in.
        return Ok(Some((name, Arc::clone(&image.file))));
    }
    how.policy.check(first, &image.name.to_string(), &name)?;
    let device = open_file(&name, &how.of_file(image.read_only)).await?;
    Ok(Some((name, device)))
}

/// Opens what holds an image: a file, a block device, an export.
pub(super) async fn open_file(
    name: &Name,
    options: &weft_uring::OpenOptions,
) -> Result<Arc<dyn BlockDevice>> {
    match name {
        Name::Path(path) => Ok(open_path_as(path, options)?),
        Name::Nbd(url) => {
            let device = NbdDevice::connect(url)
                .await
                .map_err(failed(&url.to_string()))?;
            Ok(Arc::new(device))
        }
    }
}

/// Opens the file or block device that holds an image.
pub(in crate::storage) fn open_path(
    path: &Path,
    read_only: bool,
    locked: bool,
) -> Result<Arc<FileDevice>> {
    let how = How {
        locked,
        ..How::tables()
    };
    open_path_as(path, &how.of_file(read_only))
}

fn open_path_as(path: &Path, options: &weft_uring::OpenOptions) -> Result<Arc<FileDevice>> {
    let text = path.display().to_string();
    let opened = FileDevice::open(path, options);
    let device = opened.map_err(|error| disks::file_failure(&text, &error))?;
    Ok(Arc::new(device))
}

/// The format that the first bytes look like.
async fn guess(file: &dyn BlockDevice) -> weft_block::Result<Format> {
    let info = file.info();
    if info.size < u64::from(info.logical_block) {
        return Ok(Format::Raw);
    }
    let queue = file.open(&spawner())?;
    let read = Request::read(0, IoVec::zeroed(info.logical_block as usize));
    let answer = queue.submit(read).await;
    answer.result?;
    let bytes = answer.buffer.into_buffer();
    Ok(match bytes.starts_with(&MAGIC) {
        true => Format::Qcow2,
        false => Format::Raw,
    })
}
