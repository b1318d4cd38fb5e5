//! The commands that read and write data: commit, compare, convert, rebase.

use std::cell::Cell;

use weft_service::api::{Error, ErrorKind, Result};
use weft_service::storage::images::{
    self, Below, Bitmaps, Commit, Convert, Format, How, Name, Policy, Rebase,
};

use super::args::{self, Common};
use super::commands::{not_opened, say, target};
use super::secrets::Secrets;
use super::words;
use crate::render::print;

/// Images that differ.
const DIFFERENT: u8 = 1;

/// QEMU's line of progress, where it was asked for.
struct Progress {
    shown: bool,
    /// Hundredths of a percent that were told last.
    last: Cell<u64>,
}

impl Progress {
    fn new(wanted: bool, common: &Common) -> Self {
        Self {
            shown: wanted && !common.quiet,
            last: Cell::new(u64::MAX),
        }
    }

    fn tell(&self, done: u64, total: u64) {
        let now = u64::try_from(u128::from(done) * 10_000 / u128::from(total.max(1)));
        let now = now.unwrap_or(10_000);
        if self.shown && self.last.replace(now) / 100 != now / 100 {
            print(format!("    ({:.2}/100%)\r", now as f64 / 100.0).as_bytes());
        }
    }

    fn end(&self) {
        if self.shown {
            print(b"    (100.00/100%)\n");
        }
    }
}

pub(super) async fn compare(compare: args::Compare) -> Result<u8> {
    let (one, how) = target(&compare.common, &compare.one)?;
    let (other, other_how) = target(&compare.common, &compare.other)?;
    let other_how = How {
        format: words::format(compare.other_format.as_ref())?,
        ..other_how
    };
    let one = images::open(&one, &how)
        .await
        .map_err(|error| not_opened(&compare.one, error))?;
    let other = images::open(&other, &other_how)
        .await
        .map_err(|error| not_opened(&compare.other, error))?;
    let progress = Progress::new(compare.progress, &compare.common);
    let tell = |done, total| progress.tell(done, total);
    let found = images::compare(&one, &other, compare.strict, &tell).await?;
    progress.end();
    if !found.same_size && compare.strict {
        say(&compare.common, "Strict mode: Image size mismatch!\n");
        return Ok(DIFFERENT);
    }
    // It comes to mind when all that both have was the same.
    let both = one.device().info().size.min(other.device().info().size);
    if !found.same_size && found.first_difference.is_none_or(|first| first >= both) {
        say(&compare.common, "Warning: Image size mismatch!\n");
    }
    let verdict = match (found.first_difference, found.first_other_allocation) {
        (Some(offset), _) => format!("Content mismatch at offset {offset}!\n"),
        (None, Some(offset)) => {
            format!("Strict mode: Offset {offset} block status mismatch!\n")
        }
        (None, None) => "Images are identical.\n".to_owned(),
    };
    say(&compare.common, &verdict);
    Ok(if found.identical { 0 } else { DIFFERENT })
}

pub(super) async fn convert(convert: args::Convert) -> Result<u8> {
    // The arguments are at least two.
    let (output, sources) = convert
        .filenames
        .split_last()
        .unwrap_or((&convert.filenames[0], &[]));
    if sources.len() > 1 && convert.snapshot.is_some() {
        let message = "No support for concatenating multiple snapshot";
        return Err(Error::general(ErrorKind::Invalid, message));
    }
    let mut from = Vec::with_capacity(sources.len());
    for source in sources {
        let (name, how) = target(&convert.common, source)?;
        let how = How {
            snapshot: convert.snapshot.as_deref().map(words::snapshot),
            ..how
        };
        if name.to_string() == *output || !source_is_there(&name) {
            // As QEMU says it, before anything is made.
            images::open(&name, &how)
                .await
                .map_err(|error| not_opened(source, error))?;
        }
        from.push((name, how));
    }
    let progress = Progress::new(convert.progress, &convert.common);
    let tell = |done, total| progress.tell(done, total);
    let (quiet, request) = (convert.common.quiet, request(convert, from)?);
    let copy = images::convert(request, &tell).await?;
    progress.end();
    for lost in copy.lost.iter().filter(|_| !quiet) {
        let (start, end) = (lost.start, lost.end);
        eprintln!("warning: error while reading bytes {start} to {end}: they are copied as zeroes");
    }
    Ok(0)
}

/// What a command line asks to be copied.
fn request(convert: args::Convert, from: Vec<(Name, How)>) -> Result<Convert> {
    let output = &convert.filenames[convert.filenames.len() - 1];
    let secrets = Secrets::of(&convert.common.object)?;
    let to = words::image(output, convert.target_image_opts, &secrets)?;
    if to.below != Below::AsItSays {
        let message = format!("{output}: what a copy rests on is said with -B");
        return Err(Error::new(ErrorKind::Unsupported, output, message));
    }
    let format = to.format.or(words::format(convert.output_format.as_ref())?);
    let backing_format = words::format(convert.backing_format.as_ref())?;
    if convert.backing.is_some() && backing_format.is_none() {
        let message = format!("{output}: Backing file specified without backing format");
        return Err(Error::new(ErrorKind::Invalid, output, message));
    }
    let mut options = words::options(&convert.options);
    let key = secrets.taken_from(&mut options)?.or(to.keys.first());
    if convert.compress && key.is_some() {
        let message = "Compression and encryption not supported at the same time";
        return Err(Error::general(ErrorKind::Unsupported, message));
    }
    let volatile = words::volatile(convert.cache.as_deref())?;
    Ok(Convert {
        from,
        onto: convert.onto || matches!(to.name, Name::Nbd(_)),
        to: to.name,
        format: Some(format.unwrap_or(Format::Raw)),
        options,
        backing: convert.backing.map(|backing| (backing, backing_format)),
        key,
        onto_zeroes: convert.target_is_zero,
        overwrite: true,
        compress: convert.compress,
        sparse: match &convert.sparse {
            Some(text) => words::size(text)?,
            None => images::SPARSE,
        },
        salvage: convert.salvage,
        bitmaps: match (convert.bitmaps, convert.skip_broken_bitmaps) {
            (false, _) => Bitmaps::None,
            (true, false) => Bitmaps::All,
            (true, true) => Bitmaps::Sound,
        },
        volatile,
    })
}

fn source_is_there(name: &Name) -> bool {
    match name {
        Name::Path(path) => path.exists(),
        Name::Nbd(_) => true,
    }
}

pub(super) async fn rebase(rebase: args::Rebase) -> Result<u8> {
    let (image, how) = target(&rebase.common, &rebase.filename)?;
    let progress = Progress::new(rebase.progress, &rebase.common);
    let tell = |done, total| progress.tell(done, total);
    let request = Rebase {
        image,
        format: how.format,
        backing: rebase.backing.filter(|name| !name.is_empty()),
        backing_format: words::format(rebase.backing_format.as_ref())?,
        unsafely: rebase.unsafely,
        policy: Policy::TRUSTING,
        keys: how.keys,
    };
    images::rebase(&request, &tell)
        .await
        .map_err(|error| not_opened(&rebase.filename, error))?;
    progress.end();
    Ok(0)
}

pub(super) async fn commit(commit: args::Commit) -> Result<u8> {
    let (image, how) = target(&commit.common, &commit.filename)?;
    let base = commit.base.as_deref().map(Name::of).transpose()?;
    let progress = Progress::new(commit.progress, &commit.common);
    let tell = |done, total| progress.tell(done, total);
    let request = Commit {
        image,
        how,
        keep: commit.keep || base.is_some(),
        base,
    };
    images::commit(&request, &tell).await?;
    progress.end();
    say(&commit.common, "Image committed.\n");
    Ok(0)
}
