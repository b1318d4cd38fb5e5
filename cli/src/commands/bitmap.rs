//! `weft image bitmap`, of an image in a file, or of one that the daemon has open.

use weft_service::api::{
    Error, ErrorKind, ImageBitmap, ImageBitmapChange, ImageBitmapWanted, ImageWanted, Result,
};
use weft_service::storage::images::{self, Name};

use super::live::if_open;
use crate::args::{BitmapArgs, BitmapCommand};
use crate::render::Output;
use crate::render::images as tables;

/// What is done to which bitmap.
struct Change {
    bitmap: BitmapArgs,
    steps: Vec<ImageBitmapChange>,
    /// The image of the bitmap that is merged.
    from_image: Option<String>,
}

pub(super) fn run(command: BitmapCommand, output: &Output) -> Result<()> {
    match asked(command) {
        Asked::List(path) => list(&path, output),
        Asked::Change(change) => apply(&change, output),
    }
}

enum Asked {
    List(String),
    Change(Change),
}

fn asked(command: BitmapCommand) -> Asked {
    let change = |bitmap, step| {
        Asked::Change(Change {
            bitmap,
            steps: vec![step],
            from_image: None,
        })
    };
    match command {
        BitmapCommand::List { path } => Asked::List(path),
        BitmapCommand::Create {
            path,
            name,
            granularity,
            disabled,
        } => {
            let granularity_bytes = granularity.map(|size| size.0);
            let mut steps = vec![ImageBitmapChange::Add { granularity_bytes }];
            steps.extend(disabled.then_some(ImageBitmapChange::Disable));
            Asked::Change(Change {
                bitmap: BitmapArgs { path, name },
                steps,
                from_image: None,
            })
        }
        BitmapCommand::Remove(bitmap) => change(bitmap, ImageBitmapChange::Remove),
        BitmapCommand::Clear(bitmap) => change(bitmap, ImageBitmapChange::Clear),
        BitmapCommand::Enable(bitmap) => change(bitmap, ImageBitmapChange::Enable),
        BitmapCommand::Disable(bitmap) => change(bitmap, ImageBitmapChange::Disable),
        BitmapCommand::Merge {
            bitmap,
            from,
            from_image,
        } => Asked::Change(Change {
            bitmap,
            steps: vec![ImageBitmapChange::Merge { from }],
            from_image,
        }),
    }
}

fn list(path: &str, output: &Output) -> Result<()> {
    let shown = if_open(path, async |client, disk| {
        let request = ImageWanted {
            disk: disk.to_owned(),
        };
        let all: Vec<ImageBitmap> = client.post("/v1/image/bitmap/list", &request).await?;
        output.show(&all, |all| tables::bitmaps(all));
        Ok(())
    })?;
    if !shown {
        let name = Name::of(path)?;
        let all = weft_uring::block_on(images::list_bitmaps(&name, None))?;
        output.show(&all, |all| tables::bitmaps(all));
    }
    Ok(())
}

fn apply(change: &Change, output: &Output) -> Result<()> {
    let Change {
        bitmap: BitmapArgs { path, name },
        steps,
        from_image,
    } = change;
    let done = if_open(path, async |client, disk| {
        if let Some(image) = from_image {
            // Told only of an image that is open.
            let request = ImageWanted {
                disk: disk.to_owned(),
            };
            let _: Vec<ImageBitmap> = client.post("/v1/image/bitmap/list", &request).await?;
            let message = format!(
                "{path} is in use and takes bitmaps of its own alone, not those of {image}"
            );
            return Err(Error::new(ErrorKind::InUse, path, message));
        }
        let request = ImageBitmapWanted {
            disk: disk.to_owned(),
            bitmap: name.clone(),
            changes: steps.clone(),
        };
        let all: Vec<ImageBitmap> = client.post("/v1/image/bitmap/change", &request).await?;
        output.show(&all, |all| tables::bitmaps(all));
        Ok(())
    })?;
    if !done {
        let image = Name::of(path)?;
        let source = from_image.as_deref().map(Name::of).transpose()?;
        let source = source.map(|name| (name, None));
        weft_uring::block_on(async {
            images::change_bitmap(&image, None, name, steps, source.as_ref()).await?;
            let all = images::list_bitmaps(&image, None).await?;
            output.show(&all, |all| tables::bitmaps(all));
            Ok(())
        })?;
    }
    Ok(())
}
