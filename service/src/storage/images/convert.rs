//! From one image, volume or export to another.

use std::path::PathBuf;

use super::copy::Copy;
use super::create::{Create, create};
use super::name::Name;
use super::open::{Format, How, open};
use super::policy::Policy;
use super::{Progress, failed, pack};
use crate::api::{Error, ErrorKind, ImageCopy, Result};

/// Bytes of zeroes that are worth a hole, as in QEMU.
pub const SPARSE: u64 = 4096;

/// A copy that is to be made.
#[derive(Debug, Clone)]
pub struct Convert {
    /// The image that is copied.
    pub from: Name,
    /// How it is opened.
    pub how: How,
    /// Where the copy goes.
    pub to: Name,
    /// Its format; raw where it is no new file and nothing is said.
    pub format: Option<Format>,
    /// How the copy is made, by QEMU's options.
    pub options: Vec<(String, String)>,
    /// What the copy rests on, and the format of that.
    pub backing: Option<(String, Option<Format>)>,
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
}

/// Copies an image.
///
/// # Errors
/// As opening, reading and writing. A copy that was made and is not whole is taken away again.
pub async fn convert(request: Convert, progress: Progress<'_>) -> Result<ImageCopy> {
    let source = open(&request.from, &request.how).await?;
    let size = source.device().info().size;
    let path = request.to.to_string();
    let made = match &request.to {
        Name::Path(path) if !request.onto => {
            Some(make(&request, path, size, request.from.identity()).await?)
        }
        _ => None,
    };
    let copied = onto(
        &request,
        &*source.device().clone(),
        size,
        made.is_some(),
        progress,
    )
    .await;
    if let (Err(_), Some(Made { path, new: true })) = (&copied, made) {
        // What matters is the first error.
        let _ = std::fs::remove_file(path);
    }
    Ok(ImageCopy {
        path,
        size_bytes: size,
        data_bytes: copied?,
    })
}

struct Made {
    path: PathBuf,
    /// Whether nothing was there before.
    new: bool,
}

async fn make(
    request: &Convert,
    path: &std::path::Path,
    size: u64,
    source: Option<super::name::Identity>,
) -> Result<Made> {
    if source.is_some() && request.to.identity() == source {
        let message = format!("{} cannot be copied onto itself", request.to);
        return Err(Error::new(
            ErrorKind::Invalid,
            request.to.to_string(),
            message,
        ));
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
    })
    .await?;
    let path = path.into();
    Ok(Made { path, new })
}

/// Copies `size` bytes to the image that is there, and answers how many are data.
async fn onto(
    request: &Convert,
    source: &dyn weft_block::BlockDevice,
    size: u64,
    made: bool,
    progress: Progress<'_>,
) -> Result<u64> {
    let path = request.to.to_string();
    let how = How {
        // What the user has named as its backing file was allowed by that.
        format: request.format.or(Some(Format::Raw)),
        ..How::to_read(Policy::TRUSTING).writing()
    };
    let how = match made {
        true => how,
        false => How {
            policy: request.how.policy.clone(),
            format: request.format,
            ..how
        },
    };
    let target = open(&request.to, &how).await?;
    let room = target.device().info().size;
    if room < size {
        let message = format!("{path} has {room} bytes, and {size} are to be copied there");
        return Err(Error::new(ErrorKind::NoSpace, path, message));
    }
    if request.compress {
        let image = target.image()?;
        if !made {
            let message =
                format!("{path} is there already: only a new image is written compressed");
            return Err(Error::new(ErrorKind::Unsupported, path, message));
        }
        let written = pack::copy(source, image, size, progress);
        let written = written.await.map_err(failed(&path))?;
        target.close().await?;
        return Ok(written);
    }
    // A part of a cluster costs as much as the whole of it.
    let cluster = target
        .top()
        .header
        .as_ref()
        .map_or(512, |header| header.geometry.grain());
    let is_block = |name: &Name| matches!(name, Name::Path(path) if !path.is_file());
    let copy = Copy {
        from: source,
        to: &**target.device(),
        size,
        grain: match request.sparse {
            0 => 0,
            sparse => sparse.max(cluster),
        },
        onto_zeroes: request.onto_zeroes
            || (made
                && request.backing.is_none()
                && (target.top().image.is_some() || !is_block(&request.to))),
        progress,
    };
    let written = copy.run().await.map_err(failed(&path))?;
    target.close().await?;
    Ok(written)
}
