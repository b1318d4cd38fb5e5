//! Images as text.

use time::OffsetDateTime;
use weft_service::api::{
    ImageBitmap, ImageCheck, ImageComparison, ImageDisk, ImageExtent, ImageInfo, ImageLuks,
    ImageSnapshot, Qcow2Info, Size,
};

use super::details::lines;
use super::progress::{percent, speed, word};
use super::tables::{table, used_by};

/// Problems of a check that are shown; JSON has more.
const PROBLEMS_SHOWN: usize = 20;

pub(crate) fn info(info: &ImageInfo) -> String {
    let mut pairs = vec![
        ("image", info.path.clone()),
        ("format", info.format.clone()),
        (
            "size",
            format!("{} ({} bytes)", Size(info.size_bytes), info.size_bytes),
        ),
    ];
    if let Some(used) = info.used_bytes {
        pairs.push(("takes", Size(used).to_string()));
    }
    if let Some(backing) = &info.backing {
        let format = backing.format.as_deref().unwrap_or("format not told");
        pairs.push(("rests on", format!("{} ({format})", backing.path)));
    }
    if let Some(qcow2) = &info.qcow2 {
        pairs.extend(qcow2_pairs(qcow2));
    }
    let mut text = lines(&pairs);
    if !info.snapshots.is_empty() {
        text.push_str("snapshots\n");
        text.push_str(&snapshots(&info.snapshots));
    }
    text
}

/// The cipher, and which slots a passphrase opens.
fn luks(luks: &ImageLuks) -> String {
    let slots = luks.slots.iter().enumerate();
    let used: Vec<String> = slots
        .filter(|(_, slot)| slot.in_use)
        .map(|(number, _)| number.to_string())
        .collect();
    format!(
        "LUKS, {}-{}-{}, {}; key slots in use: {}",
        luks.cipher,
        luks.mode,
        luks.iv,
        luks.hash,
        used.join(", ")
    )
}

fn qcow2_pairs(qcow2: &Qcow2Info) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("version", qcow2.version.to_string()),
        (
            "clusters",
            format!(
                "{}, refcounts of {} bits, {}",
                Size(qcow2.cluster_bytes),
                qcow2.refcount_bits,
                qcow2.compression
            ),
        ),
    ];
    let flags = [
        (qcow2.extended_l2, "extended L2 entries"),
        (qcow2.lazy_refcounts, "lazy refcounts"),
        (qcow2.dirty, "was not closed"),
        (
            qcow2.corrupt,
            "corrupt: mend it with `weft image check --repair`",
        ),
    ];
    let flags: Vec<&str> = flags
        .iter()
        .filter_map(|(set, word)| set.then_some(*word))
        .collect();
    if !flags.is_empty() {
        pairs.push(("flags", flags.join(", ")));
    }
    if let Some(encryption) = &qcow2.encryption {
        let luks = qcow2.luks.as_ref().map(luks);
        pairs.push(("encrypted", luks.unwrap_or_else(|| encryption.clone())));
    }
    if let Some(file) = &qcow2.data_file {
        let raw = if qcow2.data_file_raw { " (raw)" } else { "" };
        pairs.push(("data in", format!("{file}{raw}")));
    }
    for bitmap in &qcow2.bitmaps {
        let (name, granularity) = (&bitmap.name, Size(bitmap.granularity_bytes));
        let state = bitmap_state(bitmap);
        pairs.push(("bitmap", format!("{name}, of {granularity}, {state}")));
    }
    pairs
}

pub(crate) fn snapshots(all: &[ImageSnapshot]) -> String {
    let row = |snapshot: &ImageSnapshot| {
        [
            snapshot.id.clone(),
            snapshot.name.clone(),
            made(snapshot),
            snapshot
                .size_bytes
                .map_or("-".to_owned(), |size| Size(size).to_string()),
        ]
    };
    table(["ID", "NAME", "MADE", "SIZE"], all.iter().map(row))
}

pub(crate) fn bitmaps(all: &[ImageBitmap]) -> String {
    let row = |bitmap: &ImageBitmap| {
        let written = bitmap.dirty_bytes.map(|bytes| Size(bytes).to_string());
        [
            bitmap.name.clone(),
            Size(bitmap.granularity_bytes).to_string(),
            bitmap_state(bitmap).to_owned(),
            written.unwrap_or("-".to_owned()),
        ]
    };
    table(
        ["NAME", "GRANULARITY", "STATE", "WRITTEN"],
        all.iter().map(row),
    )
}

fn bitmap_state(bitmap: &ImageBitmap) -> &'static str {
    match (bitmap.in_use, bitmap.auto) {
        (true, _) => "was not closed",
        (false, true) => "records",
        (false, false) => "disabled",
    }
}

/// When a snapshot was made, in UTC.
fn made(snapshot: &ImageSnapshot) -> String {
    let made = OffsetDateTime::from_unix_timestamp(i64::from(snapshot.seconds));
    let text = made.map(|made| {
        let form = time::format_description::well_known::Rfc3339;
        made.format(&form).unwrap_or_default()
    });
    text.unwrap_or_default()
}

pub(crate) fn check(found: &ImageCheck) -> String {
    let mut text = String::new();
    for problem in found.problems.iter().take(PROBLEMS_SHOWN) {
        text.push_str(&format!("  {problem}\n"));
    }
    if found.problems.len() > PROBLEMS_SHOWN {
        let more = found.problems.len() - PROBLEMS_SHOWN;
        text.push_str(&format!("  and {more} more\n"));
    }
    let path = &found.path;
    let verdict = match (found.corruptions, found.leaks, found.repaired) {
        (0, 0, _) => format!("{path} is in order"),
        (corruptions, leaks, true) => {
            format!("{path} had {corruptions} corruptions and {leaks} leaked clusters: all mended")
        }
        (0, leaks, false) => format!(
            "{path} has {leaks} leaked clusters, which take room and do no harm: \
             `weft image check --repair=leaks` frees them"
        ),
        (corruptions, leaks, false) => format!(
            "{path} has {corruptions} corruptions and {leaks} leaked clusters: \
             `weft image check --repair` mends what can be mended"
        ),
    };
    text.push_str(&format!(
        "{verdict}\n{} of {} clusters allocated, {} of them fragmented, {} compressed\n",
        found.allocated_clusters,
        found.total_clusters,
        found.fragmented_clusters,
        found.compressed_clusters
    ));
    text
}

pub(crate) fn map(extents: &[ImageExtent]) -> String {
    let row = |extent: &ImageExtent| {
        let kind = match (extent.present, extent.zero) {
            (false, _) => "nothing",
            (true, true) => "zeroes",
            _ if extent.compressed => "compressed",
            _ => "data",
        };
        let dash = || "-".to_owned();
        [
            extent.offset.to_string(),
            extent.len_bytes.to_string(),
            kind.to_owned(),
            extent.depth.to_string(),
            extent.file_offset.map_or_else(dash, |at| at.to_string()),
            extent.file.clone().unwrap_or_else(dash),
        ]
    };
    let head = ["OFFSET", "LENGTH", "HOLDS", "DEPTH", "AT", "FILE"];
    table(head, extents.iter().map(row))
}

pub(crate) fn comparison(found: &ImageComparison) -> String {
    let sizes = match found.same_size {
        true => "",
        false => ", and their sizes differ",
    };
    match (found.first_other_allocation, found.first_difference) {
        _ if found.identical => format!("both read the same{sizes}\n"),
        (_, Some(offset)) => format!("they differ from byte {offset} on{sizes}\n"),
        (Some(offset), _) => format!("at byte {offset} only one has something of its own\n"),
        _ => "their sizes differ\n".to_owned(),
    }
}

/// A snapshot that was made in `path`.
pub(crate) fn snapshot_made(path: &str, made: &ImageSnapshot) -> String {
    format!("{path}: snapshot {} is {:?}\n", made.id, made.name)
}

/// The images that serve as disks.
pub(crate) fn open(open: &[ImageDisk]) -> String {
    let row = |image: &ImageDisk| {
        let below = image.chain.iter().skip(1);
        let below: Vec<&str> = below.map(|link| link.disk.as_str()).collect();
        [
            image.disk.clone(),
            Size(image.size_bytes).to_string(),
            users(image),
            match below.is_empty() {
                true => "-".to_owned(),
                false => below.join(", "),
            },
        ]
    };
    table(
        ["IMAGE", "SIZE", "USED BY", "RESTS ON"],
        open.iter().map(row),
    )
}

/// One of them.
pub(crate) fn open_one(image: &ImageDisk) -> String {
    let mut text = format!(
        "image     {}\nsize      {} ({} bytes)\nused by   {}\n",
        image.disk,
        Size(image.size_bytes),
        image.size_bytes,
        users(image),
    );
    if image.read_only {
        text.push_str("access    reading alone\n");
    }
    if let Some(job) = &image.job {
        let (percent, speed) = (percent(job), speed(job));
        text.push_str(&format!(
            "job       {} {percent} %{speed}\n",
            word(job.action)
        ));
    }
    if let Some(place) = &image.moves_to {
        text.push_str(&format!("moves to  {place}\n"));
    }
    if let Some(trouble) = &image.trouble {
        text.push_str(&format!("trouble   {trouble}\n"));
    }
    for (depth, link) in image.chain.iter().enumerate() {
        let word = match depth {
            0 => "lies in",
            _ => "rests on",
        };
        text.push_str(&format!("{word:<9} {} ({})\n", link.disk, link.format));
    }
    text
}

fn users(image: &ImageDisk) -> String {
    let users = image.used_by.iter();
    let users: Vec<String> = users.map(used_by).collect();
    users.join(", ")
}
