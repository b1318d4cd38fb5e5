//! Bitmaps. Of several actions in one line each is done once, in the order in which a line makes sense: made, cleared,
//! merged into, switched, removed.

use weft_service::api::{Error, ErrorKind, ImageBitmapChange, Result};
use weft_service::storage::images::{self, Format, Name};

use super::args::Bitmap;
use super::commands::{not_opened, target};
use super::secrets::Secrets;
use super::words;

pub(super) async fn run(bitmap: Bitmap) -> Result<u8> {
    let (name, how) = target(&bitmap.common, &bitmap.filename)?;
    let (changes, source) = (changes(&bitmap)?, source(&bitmap)?);
    images::change_bitmap(&name, how.format, &bitmap.bitmap, &changes, source.as_ref())
        .await
        .map_err(|error| not_opened(&bitmap.filename, error))?;
    Ok(0)
}

/// The other image that bitmaps are merged from.
fn source(bitmap: &Bitmap) -> Result<Option<(Name, Option<Format>)>> {
    let Some(file) = &bitmap.source_file else {
        return Ok(None);
    };
    if bitmap.merge.is_empty() {
        let message = "Merge bitmap source file only supported with --merge";
        return Err(Error::general(ErrorKind::Invalid, message));
    }
    let format = words::format(bitmap.source_format.as_ref())?;
    let source = words::image(file, false, &Secrets::default())?;
    Ok(Some((source.name, format)))
}

fn changes(bitmap: &Bitmap) -> Result<Vec<ImageBitmapChange>> {
    let invalid = |message: &str| Error::general(ErrorKind::Invalid, message);
    let granularity_bytes = match &bitmap.granularity {
        Some(_) if !bitmap.add => return Err(invalid("granularity only supported with --add")),
        Some(text) => Some(words::size(text)?),
        None => None,
    };
    let mut changes = Vec::new();
    if bitmap.add {
        changes.push(ImageBitmapChange::Add { granularity_bytes });
    }
    if bitmap.clear {
        changes.push(ImageBitmapChange::Clear);
    }
    for other in &bitmap.merge {
        let from = other.clone();
        changes.push(ImageBitmapChange::Merge { from });
    }
    for (asked, change) in [
        (bitmap.enable, ImageBitmapChange::Enable),
        (bitmap.disable, ImageBitmapChange::Disable),
        (bitmap.remove, ImageBitmapChange::Remove),
    ] {
        if asked {
            changes.push(change);
        }
    }
    if changes.is_empty() {
        let message =
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge";
        return Err(invalid(message));
    }
    Ok(changes)
}
