//! The commands that read and write data: commit, compare, convert, rebase.

use std::cell::Cell;

use weft_service::api::{Error, ErrorKind, Result};
use weft_service::storage::images::{self, Convert, Format, How, Name, Policy, Rebase};

use super::args::{self, Common};
use super::commands::{not_opened, say, target, unsupported};
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
    for (asked, what) in [
        (
            convert.bitmaps,
            "--bitmaps: bitmaps are not copied here yet",
        ),
        (convert.salvage, "--salvage is not done here"),
        (
            convert.filenames.len() > 2,
            "several images are not joined to one here",
        ),
    ] {
        if asked {
            return Err(unsupported(what));
        }
    }
    let [source, output] = &convert.filenames[..] else {
        return Err(unsupported("one image is copied to one other"));
    };
    let (from, how) = target(&convert.common, source)?;
    let how = How {
        snapshot: convert.snapshot.as_deref().map(words::snapshot),
        ..how
    };
    let (to, output_format) = words::image(output, convert.target_image_opts)?;
    let format = output_format.or(words::format(convert.output_format.as_ref())?);
    let progress = Progress::new(convert.progress, &convert.common);
    let tell = |done, total| progress.tell(done, total);
    if from.to_string() == *output || !source_is_there(&from) {
        // As QEMU says it, before anything is made.
        images::open(&from, &how)
            .await
            .map_err(|error| not_opened(source, error))?;
    }
    let backing_format = words::format(convert.backing_format.as_ref())?;
    if convert.backing.is_some() && backing_format.is_none() {
        let message = format!("{output}: Backing file specified without backing format");
        return Err(Error::new(ErrorKind::Invalid, output, message));
    }
    let request = Convert {
        from,
        how,
        onto: convert.onto || matches!(to, Name::Nbd(_)),
        to,
        format: Some(format.unwrap_or(Format::Raw)),
        options: words::options(&convert.options),
        backing: convert.backing.map(|backing| (backing, backing_format)),
        onto_zeroes: convert.target_is_zero,
        overwrite: true,
        compress: convert.compress,
        sparse: match &convert.sparse {
            Some(text) => words::size(text)?,
            None => images::SPARSE,
        },
    };
    images::convert(request, &tell).await?;
    progress.end();
    Ok(0)
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
    };
    images::rebase(&request, &tell)
        .await
        .map_err(|error| not_opened(&rebase.filename, error))?;
    progress.end();
    Ok(0)
}

pub(super) async fn commit(commit: args::Commit) -> Result<u8> {
    let (image, how) = target(&commit.common, &commit.filename)?;
    if let Some(base) = &commit.base {
        // Another one than the image's own would have to be written past those between.
        let chain = images::open(&image, &how)
            .await
            .map_err(|error| not_opened(&commit.filename, error))?;
        let below = chain.links.get(1).map(|link| link.name.clone());
        if below.is_none_or(|below| below.to_string() != *base) {
            return Err(unsupported(
                "-b: an image is committed to the one that it rests on",
            ));
        }
    }
    let progress = Progress::new(commit.progress, &commit.common);
    let tell = |done, total| progress.tell(done, total);
    let keep = commit.keep || commit.base.is_some();
    images::commit(&image, how.format, how.policy, keep, &tell).await?;
    progress.end();
    say(&commit.common, "Image committed.\n");
    Ok(0)
}
