//! Bitmaps. Of several actions in one line each is done once, in the order in which a line makes sense: made, cleared,
//! merged into, switched, removed.

use weft_service::api::{Error, ErrorKind, Result};
use weft_service::storage::images::{self, BitmapChange};

use super::args::Bitmap;
use super::commands::{not_opened, target};
use super::secrets::Secrets;
use super::words;

pub(super) async fn run(bitmap: Bitmap) -> Result<u8> {
    let (name, how) = target(&bitmap.common, &bitmap.filename)?;
    let changes = changes(&bitmap)?;
    images::change_bitmap(&name, how.format, &bitmap.bitmap, &changes)
        .await
        .map_err(|error| not_opened(&bitmap.filename, error))?;
    Ok(0)
}

fn changes(bitmap: &Bitmap) -> Result<Vec<BitmapChange>> {
    let invalid = |message: &str| Error::general(ErrorKind::Invalid, message);
    let granularity = match &bitmap.granularity {
        Some(_) if !bitmap.add => return Err(invalid("granularity only supported with --add")),
        Some(text) => Some(words::size(text)?),
        None => None,
    };
    let source = match &bitmap.source_file {
        Some(_) if bitmap.merge.is_empty() => {
            return Err(invalid(
                "Merge bitmap source file only supported with --merge",
            ));
        }
        Some(file) => {
            let format = words::format(bitmap.source_format.as_ref())?;
            let source = words::image(file, false, &Secrets::default())?;
            Some((source.name, format))
        }
        None => None,
    };
    let mut changes = Vec::new();
    if bitmap.add {
        changes.push(BitmapChange::Add(granularity));
    }
    if bitmap.clear {
        changes.push(BitmapChange::Clear);
    }
    for other in &bitmap.merge {
        changes.push(BitmapChange::Merge(other.clone(), source.clone()));
    }
    for (asked, change) in [
        (bitmap.enable, BitmapChange::Enable),
        (bitmap.disable, BitmapChange::Disable),
        (bitmap.remove, BitmapChange::Remove),
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
