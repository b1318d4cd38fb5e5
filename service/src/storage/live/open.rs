//! Opening an image with what it rests on, as far as its word lets it.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use weft_block::{BlockDevice, Switch};
use weft_qcow2::format::{Encryption, Header, incompatible};
use weft_qcow2::luks::MasterKey;
use weft_qcow2::{Image, OpenOptions, read_header};
use weft_uring::{FileDevice, ShardHandle, spawner};

use super::{ImageWord, Link, Logs, OpenImage, secrets, user};
use crate::api::{DiskUse, Error, ErrorKind, Result};
use crate::shards::Shards;
use crate::storage::State;
use crate::storage::disks::{Access, Reference, Served};
use crate::storage::images::{Allow, Format, Identity, MAX_CHAIN, Name, Policy, failed, open_path};

/// Where the devices of the kernel's LVM and md are: what an image made there calls its backing file.
const VOLUMES: &str = "/dev/";
const ARRAYS: &str = "/dev/md/";

/// An image of which only the header was read.
struct Found {
    disk: String,
    format: Format,
    file: Arc<dyn BlockDevice>,
    lock: Option<Arc<FileDevice>>,
    header: Option<Header>,
    data_file: Option<(String, Arc<dyn BlockDevice>)>,
    key: Option<Arc<MasterKey>>,
}

/// An opening under way.
struct Opening<'a> {
    state: &'a mut State,
    shards: &'a Shards,
    word: &'a ImageWord,
    /// Where the parts live, once the first of them is there.
    home: Option<ShardHandle>,
    /// Whether what is opened is claimed; a look claims nothing.
    claims: bool,
    claimed: Vec<String>,
}

impl State {
    /// Opens an image that is not open, and claims what it needs. Nothing is claimed if that fails.
    pub(super) async fn open_image(
        &mut self,
        shards: &Shards,
        word: &ImageWord,
        access: Access,
    ) -> Result<OpenImage> {
        let mut opening = Opening {
            state: self,
            shards,
            word,
            home: None,
            claims: true,
            claimed: Vec::new(),
        };
        let opened = opening.open(!access.writes()).await;
        let claimed = opening.claimed;
        match opened {
            Ok(open) => Ok(OpenImage { claimed, ..open }),
            Err(error) => {
                for disk in claimed {
                    self.release_below(&disk, &user(word)).await;
                }
                Err(error)
            }
        }
    }

    /// Opens an image for reading, for who looks at it and lets it go again at once.
    pub(super) async fn look_at_image(
        &mut self,
        shards: &Shards,
        word: &ImageWord,
    ) -> Result<Served> {
        let mut opening = Opening {
            state: self,
            shards,
            word,
            home: None,
            claims: false,
            claimed: Vec::new(),
        };
        let open = opening.open(true).await?;
        let top = Arc::clone(&open.links[0].device);
        Ok(Served::here(top, open.home))
    }

    /// Takes a disk for an image, which may be an image itself.
    fn take_below<'a>(
        &'a mut self,
        shards: &'a Shards,
        disk: &'a str,
        user: DiskUse,
        access: Access,
    ) -> BoxFuture<'a, Result<Served>> {
        Box::pin(self.take(shards, disk, user, access))
    }

    fn find_below<'a>(
        &'a mut self,
        shards: &'a Shards,
        disk: &'a str,
    ) -> BoxFuture<'a, Result<Served>> {
        Box::pin(self.find(shards, disk, true))
    }

    /// Gives back a disk that an image had, which may be an image itself.
    pub(super) fn release_below<'a>(
        &'a mut self,
        disk: &'a str,
        user: &'a DiskUse,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.release(disk, user))
    }

    /// The DISK that an image means by `name`: the kernel's names of volumes and arrays are ours if we serve them.
    pub(super) fn disk_named(&self, name: &Name) -> String {
        let text = name.to_string();
        let Name::Path(path) = name else {
            return text;
        };
        if let Some(array) = text.strip_prefix(ARRAYS)
            && self.arrays.contains_key(array)
        {
            return array.to_owned();
        }
        if let Some((vg, lv)) = text
            .strip_prefix(VOLUMES)
            .and_then(|disk| disk.split_once('/'))
            && let Some(group) = self.groups.get(vg)
            && group.volumes.contains_key(lv)
        {
            return format!("{vg}/{lv}");
        }
        // One name for one file, whichever way the image goes to it.
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        path.display().to_string()
    }
}

/// What an image in `disk` takes its own name to be, to which others are relative.
pub(super) fn name_of(disk: &str) -> Result<Name> {
    match Reference::of(disk) {
        Reference::Path(path) => Ok(Name::Path(path.into())),
        Reference::Url(url) => Name::of(url),
        Reference::Volume(vg, lv) => Ok(Name::Path(format!("{VOLUMES}{vg}/{lv}").into())),
        Reference::Array(name) => Ok(Name::Path(format!("{ARRAYS}{name}").into())),
        Reference::Image(word) => name_of(&word.parse::<ImageWord>()?.inner),
    }
}

/// Opens one image of a chain to be used. Everything that serves an image passes here.
pub(super) async fn open_for_use(
    disk: &str,
    file: Arc<dyn BlockDevice>,
    options: OpenOptions,
    home: &ShardHandle,
) -> Result<Image> {
    on(home, disk, move || async move {
        Image::open(file, options, &spawner()).await
    })
    .await
}

/// As [`crate::shards::on`], with the disk's name in what is said.
pub(super) async fn on<T, F>(
    home: &ShardHandle,
    disk: &str,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = weft_block::Result<T>> + 'static,
{
    // The answer within the answer is the disk's; the other one the thread's.
    let answer = crate::shards::on(home, disk, || async move { Ok(make().await) }).await?;
    answer.map_err(failed(disk))
}

impl Opening<'_> {
    async fn open(&mut self, read_only: bool) -> Result<OpenImage> {
        let found = self.find(read_only).await?;
        let home = self.home()?;
        let links = join(found, read_only, &self.state.logs, &home).await?;
        Ok(OpenImage {
            word: self.word.clone(),
            switch: Switch::new(Arc::clone(&links[0].device)),
            home,
            links,
            read_only,
            claimed: Vec::new(),
            job: None,
            copying: None,
            trouble: None,
        })
    }

    fn home(&mut self) -> Result<ShardHandle> {
        if self.home.is_none() {
            self.home = Some(self.shards.place()?);
        }
        self.home.clone().ok_or_else(|| {
            let message = "no I/O thread can be had";
            Error::new(ErrorKind::Io, &self.word.inner, message)
        })
    }

    /// Walks down the chain and reads the headers.
    async fn find(&mut self, read_only: bool) -> Result<Vec<Found>> {
        let mut chain: Vec<Found> = Vec::new();
        let mut seen: Vec<(String, Option<Identity>)> = Vec::new();
        let mut next = Some((self.word.inner.clone(), Format::Qcow2));
        while let Some((disk, format)) = next {
            let top = self.word;
            if chain.len() == MAX_CHAIN {
                let message = format!("{top} rests on more than {MAX_CHAIN} images");
                return Err(Error::new(ErrorKind::Invalid, top.to_string(), message));
            }
            let identity = name_of(&disk)?.identity();
            let is_same = |(name, one): &(String, Option<Identity>)| {
                *name == disk || (identity.is_some() && *one == identity)
            };
            if seen.iter().any(is_same) {
                let message = format!("{top} rests on itself: {disk} is in its chain twice");
                return Err(Error::new(ErrorKind::Invalid, top.to_string(), message));
            }
            seen.push((disk.clone(), identity));
            let found = self
                .look(disk, format, read_only || !chain.is_empty())
                .await?;
            next = self.below(&found)?;
            chain.push(found);
        }
        Ok(chain)
    }

    /// Opens what holds an image, and reads its header.
    async fn look(&mut self, disk: String, format: Format, read_only: bool) -> Result<Found> {
        let (file, lock) = self.file(&disk, read_only).await?;
        let home = self.home()?;
        let header = match format {
            Format::Raw => None,
            Format::Qcow2 => {
                let file = Arc::clone(&file);
                let read = move || async move { read_header(&*file, &spawner()).await };
                Some(on(&home, &disk, read).await?)
            }
        };
        let data_file = match &header {
            Some(header) => self.data_file(&disk, header, read_only).await?,
            None => None,
        };
        let key = match header.as_ref().map(|header| header.encryption) {
            Some(Encryption::Luks) => {
                secrets::key_of(self.word, &disk, Arc::clone(&file), &home).await?
            }
            _ => None,
        };
        Ok(Found {
            disk,
            format,
            file,
            lock,
            header,
            data_file,
            key,
        })
    }

    /// The device that `disk` stands for, claimed for the image.
    async fn file(
        &mut self,
        disk: &str,
        read_only: bool,
    ) -> Result<(Arc<dyn BlockDevice>, Option<Arc<FileDevice>>)> {
        let (claims, user) = (self.claims, user(self.word));
        let access = match read_only {
            true => Access::Fixed,
            false => Access::Alone,
        };
        let served = match Reference::of(disk) {
            Reference::Path(path) => {
                if claims {
                    self.state.claims.claim(disk, user, access)?;
                    self.claimed.push(disk.to_owned());
                }
                let file = open_path(Path::new(path), read_only, true)?;
                return Ok((file.clone(), Some(file)));
            }
            _ if claims => {
                let taken = self.state.take_below(self.shards, disk, user, access);
                let served = taken.await?;
                self.claimed.push(disk.to_owned());
                served
            }
            _ => self.state.find_below(self.shards, disk).await?,
        };
        self.home.get_or_insert(served.home);
        Ok((served.device, None))
    }

    /// The file that holds the data of an image, if it has one.
    async fn data_file(
        &mut self,
        disk: &str,
        header: &Header,
        read_only: bool,
    ) -> Result<Option<(String, Arc<dyn BlockDevice>)>> {
        let text = header.extensions.data_file.as_deref();
        let Some(text) = text.filter(|_| header.has(incompatible::DATA_FILE)) else {
            return Ok(None);
        };
        let disk = self.allowed(disk, text)?;
        let (file, _) = self.file(&disk, read_only).await?;
        Ok(Some((disk, file)))
    }

    /// The DISK and format of what an image rests on.
    fn below(&self, image: &Found) -> Result<Option<(String, Format)>> {
        let Some(backing) = image.header.as_ref().and_then(Header::backing) else {
            return Ok(None);
        };
        let by = &image.disk;
        let disk = self.allowed(by, &backing.path)?;
        let Some(format) = backing.format else {
            let message = format!(
                "{by} does not tell the format of its backing file {disk}, and a guess can be led astray by what is in it: \
                 name it once with `weft image rebase --unsafe`"
            );
            return Err(Error::new(ErrorKind::Invalid, by, message));
        };
        let format = format.parse();
        let format =
            format.map_err(|message: String| Error::new(ErrorKind::Unsupported, by, message))?;
        Ok(Some((disk, format)))
    }

    /// The DISK that the image in `by` means by `text`, if it may be opened.
    fn allowed(&self, by: &str, text: &str) -> Result<String> {
        let name = name_of(by)?.named_here(text)?;
        let disk = self.state.disk_named(&name);
        let policy = policy(self.word)?;
        if policy.allows(&name_of(&self.word.inner)?, &name) {
            return Ok(disk);
        }
        let is_file = matches!(Reference::of(&disk), Reference::Path(_));
        if is_file && !name.exists() {
            let message = format!("{by} needs the file {disk}, which is not there");
            return Err(Error::new(ErrorKind::NotFound, by, message));
        }
        let lies = match policy.allow {
            Allow::Beside => "lies elsewhere",
            _ => "was not allowed",
        };
        let mut word = self.word.clone();
        word.allow.push(disk.clone());
        let message =
            format!("{by} names {disk}, which {lies}: if it is meant, write the disk as {word}");
        Err(Error::new(ErrorKind::Permission, by, message))
    }
}

/// Which files the image may name.
pub(super) fn policy(word: &ImageWord) -> Result<Policy> {
    let allow = if word.allow_any {
        Allow::Everything
    } else if word.allow.is_empty() {
        Allow::Beside
    } else {
        let names = word.allow.iter().map(|disk| name_of(disk));
        Allow::These(names.collect::<Result<_>>()?)
    };
    Ok(Policy {
        allow,
        guess: false,
    })
}

/// Opens what was found from the bottom up.
async fn join(
    chain: Vec<Found>,
    read_only: bool,
    logs: &Logs,
    home: &ShardHandle,
) -> Result<Vec<Link>> {
    let mut links: Vec<Link> = Vec::with_capacity(chain.len());
    for (depth, found) in chain.into_iter().enumerate().rev() {
        let below = links.last().map(|link| Arc::clone(&link.device));
        let raw = Link {
            disk: found.disk,
            format: found.format,
            device: Arc::clone(&found.file),
            file: found.file,
            lock: found.lock,
            data_file: found.data_file,
            key: found.key,
            logs: logs.clone(),
            image: None,
        };
        let link = match found.header {
            None => raw,
            Some(_) => raw.reopen(below, read_only || depth > 0, home).await?,
        };
        links.push(link);
    }
    links.reverse();
    Ok(links)
}
