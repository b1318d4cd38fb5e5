//! Check, repair, resize, and snapshots.

use weft_qcow2::format::SnapshotEntry;
use weft_qcow2::{Repair, SnapshotName};
use weft_uring::spawner;

use super::create::{fill_image, fill_raw, with_data_file};
use super::failed;
use super::info::snapshot;
use super::name::Name;
use super::open::{Format, How, open};
use super::options::Preallocation;
use crate::api::{Error, ErrorKind, ImageCheck, ImageSnapshot, Result};

/// Looks for contradictions in the image at `name`, and mends what `repair` says. An encrypted one needs no key for that;
/// if `how` has one it is to fit.
///
/// # Errors
/// `Unsupported` for a raw image; as opening and writing. What is wrong with the image is in the answer.
pub async fn check(name: &Name, how: &How, repair: Repair) -> Result<ImageCheck> {
    let mut how = How {
        for_repair: true,
        chain: false,
        data: false,
        ..how.clone()
    };
    if repair != Repair::Nothing {
        how = how.writing();
    }
    let chain = open(name, &how).await?;
    let path = name.to_string();
    let report = chain.image()?.check(repair, &spawner()).await;
    let report = report.map_err(failed(&path))?;
    chain.close().await?;
    Ok(ImageCheck {
        corruptions: report.corruptions,
        leaks: report.leaks,
        repaired: report.repaired,
        problems: report.problems,
        total_clusters: report.total_clusters,
        allocated_clusters: report.allocated_clusters,
        fragmented_clusters: report.fragmented_clusters,
        compressed_clusters: report.compressed_clusters,
        end_bytes: report.image_end,
        path,
    })
}

/// Another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizing {
    /// So many bytes.
    To(u64),
    /// So many more.
    More(u64),
    /// So many less.
    Less(u64),
}

/// How a disk was resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resized {
    /// Bytes before.
    pub old: u64,
    /// Bytes now.
    pub new: u64,
}

/// Another size for a disk.
#[derive(Debug, Clone)]
pub struct Resize {
    /// The image.
    pub image: Name,
    /// How it is opened.
    pub how: How,
    /// The size.
    pub sizing: Sizing,
    /// Whether it may be a smaller one.
    pub shrink: bool,
    /// What room is taken for what is gained.
    pub preallocation: Preallocation,
}

/// Gives the disk in an image another size. A smaller one must be allowed, for what is cut off is gone.
///
/// # Errors
/// `Invalid`, and as opening and writing.
pub async fn resize(request: &Resize) -> Result<Resized> {
    let Resize {
        image,
        how,
        sizing,
        shrink,
        preallocation,
    } = request;
    // The backing file is opened too: what is gained must not show what it holds there.
    let chain = open(image, &how.clone().writing()).await?;
    let path = image.to_string();
    let old = chain.device().info().size;
    let invalid = |message: String| Error::new(ErrorKind::Invalid, &path, message);
    let new = match *sizing {
        Sizing::To(size) => Some(size),
        Sizing::More(more) => old.checked_add(more),
        Sizing::Less(less) => old.checked_sub(less),
    };
    let new = new
        .filter(|new| *new > 0)
        .and_then(|new| new.checked_next_multiple_of(512))
        .ok_or_else(|| invalid(format!("{path} has {old} bytes, and cannot get that size")))?;
    if new < old && !*shrink {
        let message = format!(
            "{path} has {old} bytes: to cut it to {new} throws away what is behind; say so with --shrink"
        );
        return Err(invalid(message));
    }
    if new < old && *preallocation != Preallocation::Off {
        return Err(invalid(format!("{path}: a smaller disk takes no room")));
    }
    let failed = failed(&path);
    match &chain.top().image {
        Some(image) => {
            image.resize(new, &spawner()).await.map_err(&failed)?;
            let raw = image.header().raw_data_file();
            let taken = fill_image(image, old..new, with_data_file(*preallocation, raw)).await;
            taken.map_err(&failed)?;
        }
        None => {
            chain.device().set_len(new).map_err(&failed)?;
            let taken = fill_raw(&**chain.device(), old, new, *preallocation).await;
            taken.map_err(&failed)?;
        }
    }
    chain.close().await?;
    Ok(Resized { old, new })
}

/// The snapshots of the image at `name`, in their order; a raw one has none.
///
/// # Errors
/// As opening and reading.
pub async fn snapshots(
    name: &Name,
    format: Option<Format>,
    locked: bool,
) -> Result<Vec<ImageSnapshot>> {
    let how = How {
        format,
        locked,
        ..How::tables()
    };
    let chain = open(name, &how).await?;
    let Some(image) = &chain.top().image else {
        return Ok(Vec::new());
    };
    let entries = image.snapshots(&spawner()).await;
    let entries = entries.map_err(failed(&name.to_string()))?;
    Ok(entries.iter().map(snapshot).collect())
}

/// Keeps the disk as it is now, under the name `tag`, which may be another one's too if it need not be `unique`.
///
/// # Errors
/// `Invalid` or `Exists` for a name that would not be unique; as opening and writing.
pub async fn create_snapshot(
    name: &Name,
    format: Option<Format>,
    tag: &str,
    unique: bool,
) -> Result<ImageSnapshot> {
    let made = snapshot_name(tag);
    let chain = open(name, &changing(format)).await?;
    let (image, path) = (chain.image()?, name.to_string());
    if unique {
        let there = image.snapshots(&spawner()).await.map_err(failed(&path))?;
        check_unique(&path, tag, &there)?;
    }
    let entry = image.create_snapshot(made, &spawner()).await;
    let entry = entry.map_err(failed(&path))?;
    chain.close().await?;
    Ok(snapshot(&entry))
}

/// That `tag` will name one snapshot beside those that are there, by their names and numbers.
pub(in crate::storage) fn check_unique(
    disk: &str,
    tag: &str,
    there: &[SnapshotEntry],
) -> Result<()> {
    if tag.is_empty() {
        let message = format!("{disk}: a snapshot needs a name");
        return Err(Error::new(ErrorKind::Invalid, disk, message));
    }
    let found = there.iter().find(|one| one.name == tag || one.id == tag);
    found.map_or(Ok(()), |one| {
        let message = format!(
            "{disk} has a snapshot {tag} already, number {}; delete that first, or choose another name",
            one.id
        );
        Err(Error::new(ErrorKind::Exists, disk, message))
    })
}

/// What a snapshot is called that is made now.
pub(in crate::storage) fn snapshot_name(tag: &str) -> SnapshotName {
    let now = crate::storage::unix_time();
    SnapshotName {
        name: tag.to_owned(),
        seconds: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
        nanoseconds: now.subsec_nanos(),
    }
}

/// Makes the disk what it was when the snapshot `tag` (its number or name) was made.
///
/// # Errors
/// As opening and writing.
pub async fn apply_snapshot(name: &Name, format: Option<Format>, tag: &str) -> Result<()> {
    let chain = open(name, &changing(format)).await?;
    let applied = chain.image()?.apply_snapshot(tag, &spawner()).await;
    applied.map_err(failed(&name.to_string()))?;
    chain.close().await
}

/// Deletes the snapshot `tag` (its number or name).
///
/// # Errors
/// As opening and writing.
pub async fn delete_snapshot(name: &Name, format: Option<Format>, tag: &str) -> Result<()> {
    let chain = open(name, &changing(format)).await?;
    let deleted = chain.image()?.delete_snapshot(tag, &spawner()).await;
    deleted.map_err(failed(&name.to_string()))?;
    chain.close().await
}

fn changing(format: Option<Format>) -> How {
    How {
        format,
        ..How::tables().writing()
    }
}
