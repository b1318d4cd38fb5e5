//! Making images.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_block::{BlockDevice, IoVec, Request, Result as BlockResult};
use weft_qcow2::format::Backing;
use weft_qcow2::luks::Area;
use weft_qcow2::{CreateOptions, Fill, Image, create as create_qcow2};
use weft_uring::{FileDevice, spawner};

use super::described::Described;
use super::failed;
use super::keys::{Keys, Passphrase, new_area};
use super::name::Name;
use super::open::{Format, How, open, open_file};
use super::options::{
    EncryptOptions, Options, Preallocation, bytes, invalid, read_options, unsupported,
};
use super::policy::Policy;
use crate::api::{Error, ErrorKind, Result};

/// An image that is to be made.
#[derive(Debug, Clone)]
pub struct Create {
    /// Where.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes of the disk; those of the backing file unless given.
    pub size: Option<u64>,
    /// What it rests on, as the image is to name it.
    pub backing: Option<String>,
    /// The format of that; guessed if not given.
    pub backing_format: Option<Format>,
    /// Options by QEMU's names and values.
    pub options: Vec<(String, String)>,
    /// Whether a file that is there is overwritten.
    pub overwrite: bool,
    /// Whether the backing file is named without a look at it.
    pub unseen_backing: bool,
    /// What it is encrypted with; as LUKS is by default, unless options say how.
    pub key: Option<Passphrase>,
    /// Whether a power cut may take it along afterwards.
    pub volatile: bool,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Formatted {
    /// Its format.
    pub format: Format,
    /// Bytes of the disk.
    pub size: u64,
    /// How a qcow2 image was made.
    pub qcow2: Option<CreateOptions>,
}

/// Makes an image.
///
/// # Errors
/// `Exists`, `Invalid` for options that contradict each other, `Unsupported` for those that are not known here, and as
/// writing. A file that was made for it and came to nothing is taken away again.
pub async fn create(mut request: Create) -> Result<Formatted> {
    let path = request.path.display().to_string();
    for (key, value) in std::mem::take(&mut request.options) {
        match key.as_str() {
            "size" => request.size = Some(bytes(&key, &value)?),
            "backing_file" => request.backing = Some(value),
            "backing_fmt" => {
                request.backing_format = Some(value.parse().map_err(unsupported)?);
            }
            _ => request.options.push((key, value)),
        }
    }
    if request.format == Format::Raw && request.backing.is_some() {
        return Err(invalid(format!("{path}: a raw image rests on nothing")));
    }
    let below = match &request.backing {
        Some(backing) => Some(look_below(&request, backing).await?),
        None => None,
    };
    let size = request
        .size
        .or(below.and_then(|(_, size)| size))
        .ok_or_else(|| invalid(format!("{path}: how large is it to be? Say --size")))?;
    match request.format {
        Format::Raw => create_raw(&request, size).await,
        Format::Qcow2 => {
            let mut options = read_options(&request.options, size)?;
            options.image.backing = request.backing.clone().map(|path| Backing {
                path,
                format: below.map(|(format, _)| format.name().to_owned()),
            });
            if let Some((key, _)) = options.unknown.first() {
                return Err(invalid(format!("{path}: there is no option {key}")));
            }
            check(&path, &options)?;
            options.image.encryption = encryption(&request, &options)?;
            create_image(&request, options).await
        }
    }
}

/// What only shows when options are seen together.
fn check(path: &str, options: &Options) -> Result<()> {
    let image = &options.image;
    let preallocated = options.preallocation != Preallocation::Off;
    if preallocated && image.backing.is_some() && !image.extended_l2 {
        let message = format!(
            "{path}: room in an image over a backing file is only taken in advance with extended_l2=on"
        );
        return Err(Error::new(ErrorKind::Invalid, path, message));
    }
    Ok(())
}

/// What the new image is encrypted with.
fn encryption(request: &Create, options: &Options) -> Result<Option<Area>> {
    let Some(key) = &request.key else {
        if options.encryption.is_none() {
            return Ok(None);
        }
        let path = request.path.display().to_string();
        let message = format!("{path} is to be encrypted: name the file with its passphrase");
        return Err(Error::new(ErrorKind::Invalid, path, message));
    };
    let EncryptOptions { luks, time } = options.encryption.unwrap_or_default();
    let (area, _) = new_area(luks, time, key)?;
    Ok(Some(area))
}

/// The format of the backing file, and its size if it was looked at.
async fn look_below(request: &Create, backing: &str) -> Result<(Format, Option<u64>)> {
    if let (true, Some(format)) = (request.unseen_backing, request.backing_format) {
        return Ok((format, None));
    }
    let image = Name::Path(request.path.clone());
    let Described { name, format, .. } = Described::by_image(&image, backing)?;
    if name.identity().is_some() && name.identity() == image.identity() {
        let message = format!("{image} cannot rest on itself");
        return Err(Error::new(ErrorKind::Invalid, image.to_string(), message));
    }
    let how = How {
        format: request.backing_format.or(format),
        chain: false,
        data: false,
        ..How::to_read(Policy::STRICT)
    };
    let chain = open(&name, &how).await?;
    let size = chain.top().header.as_ref().map(|header| header.size);
    let size = size.unwrap_or_else(|| chain.device().info().size);
    Ok((chain.top().format, Some(size)))
}

async fn create_raw(request: &Create, size: u64) -> Result<Formatted> {
    let path = request.path.display().to_string();
    let mut preallocation = Preallocation::Off;
    for (key, value) in &request.options {
        if key == "preallocation" && value != "metadata" {
            preallocation = value.parse().map_err(invalid)?;
            continue;
        }
        let message = format!("{path}: a raw image is made without {key}={value}");
        return Err(Error::new(ErrorKind::Unsupported, path, message));
    }
    if request.key.is_some() {
        let message = format!("{path}: a raw image is not encrypted");
        return Err(Error::new(ErrorKind::Unsupported, path, message));
    }
    let (file, made) = place(request)?;
    let size = size.next_multiple_of(512);
    let taken = async {
        file.set_len(size)?;
        fill_raw(&*file, 0, size, preallocation).await
    };
    if let Err(error) = taken.await {
        take_away(&request.path, made);
        return Err(failed(&path)(error));
    }
    Ok(Formatted {
        format: Format::Raw,
        size,
        qcow2: None,
    })
}

/// Takes room for a part of a raw disk, which reads as zeroes.
pub(super) async fn fill_raw(
    file: &dyn BlockDevice,
    start: u64,
    end: u64,
    preallocation: Preallocation,
) -> BlockResult<()> {
    const PIECE: u64 = 1 << 20;
    let queue = file.open(&spawner())?;
    match preallocation {
        Preallocation::Off | Preallocation::Metadata => {}
        Preallocation::Falloc => {
            if start < end {
                let taken = Request::write_zeroes(start, end - start, false);
                queue.submit(taken).await.result?;
            }
        }
        Preallocation::Full => {
            let mut at = start;
            while at < end {
                let len = PIECE.min(end - at);
                let zeroes = Request::write(at, IoVec::zeroed(len as usize));
                queue.submit(zeroes).await.result?;
                at += len;
            }
        }
    }
    Ok(())
}

/// What is taken of an image whose data file may be raw. There each part has its place from the start, as QEMU has it: what
/// the file holds is the disk.
pub(super) fn with_data_file(preallocation: Preallocation, raw: bool) -> Preallocation {
    match preallocation {
        Preallocation::Off if raw => Preallocation::Metadata,
        other => other,
    }
}

/// Takes room for a part of an image's disk.
pub(super) async fn fill_image(
    image: &Image,
    range: Range<u64>,
    preallocation: Preallocation,
) -> BlockResult<()> {
    let fill = match preallocation {
        Preallocation::Off => return Ok(()),
        Preallocation::Metadata => Fill::Nothing,
        Preallocation::Falloc => Fill::Room,
        Preallocation::Full => Fill::Zeroes,
    };
    image.preallocate(range, fill, &spawner()).await
}

async fn create_image(request: &Create, options: Options) -> Result<Formatted> {
    let preallocation = with_data_file(options.preallocation, options.image.raw_data_file);
    let options = options.image;
    let path = request.path.display().to_string();
    let data_file = match &options.data_file {
        Some(name) => Some(Name::Path(request.path.clone()).named_here(name)?),
        None => None,
    };
    let (file, made) = place(request)?;
    let done = async {
        if let Some(name) = &data_file {
            make_data_file(name, options.size, request.volatile).await?;
        }
        let created = create_qcow2(&*file, &options, &spawner()).await;
        created.map_err(failed(&path))?;
        drop(file);
        if preallocation == Preallocation::Off {
            return Ok(());
        }
        take_room(request, data_file.is_some(), preallocation).await
    };
    if let Err(error) = done.await {
        take_away(&request.path, made);
        return Err(error);
    }
    Ok(Formatted {
        format: Format::Qcow2,
        size: options.size.next_multiple_of(512),
        qcow2: Some(options),
    })
}

/// Takes the room of an image that was just made.
async fn take_room(request: &Create, apart: bool, preallocation: Preallocation) -> Result<()> {
    let name = Name::Path(request.path.clone());
    // Its data file was named by the user.
    let how = How {
        format: Some(Format::Qcow2),
        data: apart,
        policy: Policy::TRUSTING,
        keys: Keys::anywhere(request.key.iter().cloned().collect()),
        volatile: request.volatile,
        ..How::tables().writing()
    };
    let chain = open(&name, &how).await?;
    let filled = fill_image(chain.image()?, 0..u64::MAX, preallocation).await;
    filled.map_err(failed(&name.to_string()))?;
    chain.close().await
}

/// The file that an image is made in, empty, and whether it was not there before.
fn place(request: &Create) -> Result<(Arc<dyn BlockDevice>, bool)> {
    let path = &request.path;
    let text = path.display().to_string();
    let options = weft_uring::OpenOptions {
        volatile: request.volatile,
        ..weft_uring::OpenOptions::default()
    };
    if std::fs::symlink_metadata(path).is_err() {
        let made = FileDevice::create_with(path, 0, &options);
        let made = made.map_err(|error| crate::storage::disks::file_failure(&text, &error))?;
        return Ok((Arc::new(made), true));
    }
    if !request.overwrite {
        let message = format!("{text} exists already and is left alone");
        return Err(Error::new(ErrorKind::Exists, text, message));
    }
    let file = FileDevice::open(path, &options)
        .map_err(|error| crate::storage::disks::file_failure(&text, &error))?;
    if !file.is_block_device() {
        file.set_len(0).map_err(failed(&text))?;
    }
    Ok((Arc::new(file), false))
}

/// A file that was made and came to nothing goes away again.
fn take_away(path: &Path, made: bool) {
    if made {
        // What matters is the first error.
        let _ = std::fs::remove_file(path);
    }
}

/// Sees to it that there is a data file of `size` bytes.
async fn make_data_file(name: &Name, size: u64, volatile: bool) -> Result<()> {
    let text = name.to_string();
    let size = size.next_multiple_of(512);
    if let Name::Path(path) = name
        && !path.exists()
    {
        let options = weft_uring::OpenOptions {
            volatile,
            ..weft_uring::OpenOptions::default()
        };
        let made = FileDevice::create_with(path, size, &options);
        made.map_err(|error| crate::storage::disks::file_failure(&text, &error))?;
        return Ok(());
    }
    let how = How {
        volatile,
        ..How::tables()
    };
    let file = open_file(name, &how.of_file(false)).await?;
    if file.info().size < size {
        file.set_len(size).map_err(failed(&text))?;
    }
    Ok(())
}
