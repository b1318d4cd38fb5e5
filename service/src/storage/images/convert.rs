//! From images, volumes or exports to another.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_block::{BlockDevice, Result as BlockResult};
use weft_qcow2::{BitmapInfo, Image};
use weft_uring::spawner;

use super::copy::Copy;
use super::create::{Create, create};
use super::keys::{Keys, Passphrase};
use super::name::Name;
use super::open::{Chain, Format, How, open};
use super::pack::Pack;
use super::policy::Policy;
use super::source::Source;
use super::{Progress, failed};
use crate::api::{Error, ErrorKind, ImageCopy, Result};

/// Bytes of zeroes that are worth a hole, as in QEMU.
pub const SPARSE: u64 = 4096;

/// A copy that is to be made.
#[derive(Debug, Clone)]
pub struct Convert {
    /// The images that are copied, one behind the other, and how each is opened.
    pub from: Vec<(Name, How)>,
    /// Where the copy goes.
    pub to: Name,
    /// Its format; raw where it is no new file and nothing is said.
    pub format: Option<Format>,
    /// How the copy is made, by QEMU's options.
    pub options: Vec<(String, String)>,
    /// What the copy rests on, and the format of that.
    pub backing: Option<(String, Option<Format>)>,
    /// What the copy is or was encrypted with.
    pub key: Option<Passphrase>,
    /// Whether the copy is there already and is only written.
    pub onto: bool,
    /// Whether what is there already reads as zeroes.
    pub onto_zeroes: bool,
    /// Whether a file that is there is overwritten.
    pub overwrite: bool,
    /// Whether it is compressed.
    pub compress: bool,
    /// Runs of zeroes from this size on are not written; zero to write all.
    pub sparse: u64,
    /// Whether what cannot be read is copied as zeroes.
    pub salvage: bool,
    /// Whether bitmaps are copied.
    pub bitmaps: Bitmaps,
    /// Whether a power cut may take the copy along when this has ended, until the system has written it by itself.
    pub volatile: bool,
}

/// Which bitmaps are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bitmaps {
    /// None.
    None,
    /// All; one that cannot be trusted ends the copy.
    All,
    /// Those that can be trusted.
    Sound,
}

/// Copies images.
///
/// # Errors
/// As opening, reading and writing. A copy that was made and is not whole is taken away again.
pub async fn convert(request: Convert, progress: Progress<'_>) -> Result<ImageCopy> {
    let mut sources = Vec::with_capacity(request.from.len());
    for (name, how) in &request.from {
        sources.push(open(name, how).await?);
    }
    let bitmaps = bitmaps(&request, &sources)?;
    let source = joined(&sources, request.salvage);
    let size = source.device.info().size;
    let path = request.to.to_string();
    let made = match &request.to {
        Name::Path(path) if !request.onto => Some(make(&request, path, size).await?),
        _ => None,
    };
    let copied = onto(&request, &source, &bitmaps, made.is_some(), progress).await;
    if let (Err(_), Some(Made { path, new: true })) = (&copied, made) {
        // What matters is the first error.
        let _ = std::fs::remove_file(path);
    }
    Ok(ImageCopy {
        path,
        size_bytes: size,
        data_bytes: copied?,
        lost: source.lost(),
    })
}

/// What is read: a disk as it is, or more than that.
struct From {
    device: Arc<dyn BlockDevice>,
    joined: Option<Arc<Source>>,
}

impl From {
    fn lost(&self) -> Vec<Range<u64>> {
        self.joined
            .as_ref()
            .map_or_else(Vec::new, |source| source.lost())
    }
}

fn joined(sources: &[Chain], salvage: bool) -> From {
    if let ([one], false) = (sources, salvage) {
        let device = Arc::clone(one.device());
        return From {
            device,
            joined: None,
        };
    }
    let disks = sources.iter().map(|chain| Arc::clone(chain.device()));
    let source = Arc::new(Source::new(disks, salvage));
    From {
        device: Arc::clone(&source) as Arc<dyn BlockDevice>,
        joined: Some(source),
    }
}

/// A bitmap that is copied: what it is, and what it says was written.
type Copied = (BitmapInfo, Vec<Range<u64>>);

/// The bitmaps that are to be copied.
fn bitmaps(request: &Convert, sources: &[Chain]) -> Result<Vec<Copied>> {
    if request.bitmaps == Bitmaps::None {
        return Ok(Vec::new());
    }
    let [source] = sources else {
        let message = "bitmaps are copied from one image, not from several";
        return Err(Error::general(ErrorKind::Invalid, message));
    };
    let name = source.top().name.to_string();
    let image = source.image()?;
    let mut copied = Vec::new();
    for bitmap in image.bitmaps() {
        if bitmap.inconsistent {
            if request.bitmaps == Bitmaps::Sound {
                continue;
            }
            let message = format!(
                "bitmap {} of {name} was not written back when the image was last in use, and cannot be copied",
                bitmap.name
            );
            return Err(Error::new(ErrorKind::Invalid, name, message));
        }
        let dirty = image.dirty(&bitmap.name).map_err(failed(&name))?;
        copied.push((bitmap, dirty));
    }
    Ok(copied)
}

struct Made {
    path: PathBuf,
    /// Whether nothing was there before.
    new: bool,
}

async fn make(request: &Convert, path: &Path, size: u64) -> Result<Made> {
    let there = request.to.identity();
    let is_source = |(name, _): &(Name, How)| there.is_some() && name.identity() == there;
    if request.from.iter().any(is_source) {
        let to = request.to.to_string();
        let message = format!("{to} cannot be copied onto itself");
        return Err(Error::new(ErrorKind::Invalid, to, message));
    }
    let new = std::fs::symlink_metadata(path).is_err();
    let (backing, backing_format) = request.backing.clone().unzip();
    create(Create {
        path: path.into(),
        format: request.format.unwrap_or(Format::Raw),
        size: Some(size),
        backing,
        backing_format: backing_format.flatten(),
        options: request.options.clone(),
        overwrite: request.overwrite,
        unseen_backing: false,
        key: request.key.clone(),
        volatile: request.volatile,
    })
    .await?;
    let path = path.into();
    Ok(Made { path, new })
}

/// How the target is opened.
fn target_how(request: &Convert, made: bool) -> How {
    let mut how = How {
        format: request.format,
        keys: Keys::anywhere(request.key.iter().cloned().collect()),
        volatile: request.volatile,
        takes_room: made,
        ..How::to_read(Policy::TRUSTING).writing()
    };
    if made {
        // What the user has named as its backing file was allowed by that.
        how.format = request.format.or(Some(Format::Raw));
    } else if let Some((_, source)) = request.from.first() {
        how.policy = source.policy.clone();
    }
    how
}

/// Copies to the image that is there, and answers how many bytes are data.
async fn onto(
    request: &Convert,
    source: &From,
    bitmaps: &[Copied],
    made: bool,
    progress: Progress<'_>,
) -> Result<u64> {
    let path = request.to.to_string();
    let target = open(&request.to, &target_how(request, made)).await?;
    let (room, size) = (target.device().info().size, source.device.info().size);
    if room < size {
        let message = format!("{path} has {room} bytes, and {size} are to be copied there");
        return Err(Error::new(ErrorKind::NoSpace, path, message));
    }
    let is_block = |name: &Name| matches!(name, Name::Path(path) if !path.is_file());
    let onto_zeroes = request.onto_zeroes
        || (made
            && request.backing.is_none()
            && (target.top().image.is_some() || !is_block(&request.to)));
    let written = if request.compress {
        let pack = Pack {
            from: &source.device,
            to: target.image()?,
            size,
            onto_zeroes,
            progress,
        };
        pack.run().await
    } else {
        // A part of a cluster costs as much as the whole of it.
        let header = target.top().header.as_ref();
        let cluster = header.map_or(512, |header| header.geometry.grain());
        let copy = Copy {
            from: &source.device,
            to: &**target.device(),
            size,
            grain: match request.sparse {
                0 => 0,
                sparse => sparse.max(cluster),
            },
            onto_zeroes,
            progress,
        };
        copy.run().await
    };
    let written = written.map_err(failed(&path))?;
    if !bitmaps.is_empty() {
        let copied = write_bitmaps(target.image()?, bitmaps).await;
        copied.map_err(failed(&path))?;
    }
    target.close().await?;
    Ok(written)
}

async fn write_bitmaps(image: &Image, bitmaps: &[Copied]) -> BlockResult<()> {
    for (bitmap, dirty) in bitmaps {
        // It records what is written from now on, not the copy.
        image.create_bitmap(&bitmap.name, bitmap.granularity, bitmap.recording)?;
        let spawner = spawner();
        image.merge_bitmap(&bitmap.name, dirty, &spawner).await?;
    }
    Ok(())
}
