//! `weft image`. An image that nobody uses is a file: no daemon is asked.

use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use weft_qcow2::Repair;
use weft_service::api::{Error, ErrorKind, ImageCopy, RaidSync, Result, Size};
use weft_service::storage::disks::ImageWord;
use weft_service::storage::images::{
    self, Allow, Bitmaps, Commit, Convert, Create, Format, How, KeyChange, Keys, Measured, Name,
    Passphrase, Policy, Rebase, Resize,
};

use crate::args::{
    Arguments, ImageAmendArgs, ImageArgs, ImageCheckArgs, ImageCommand, ImageCommitArgs,
    ImageConvertArgs, ImageCreateArgs, ImageRebaseArgs, ImageResizeArgs, KeyArgs, KeyCommand,
    RepairWhat, SnapshotCommand, TrustArgs,
};
use crate::render::images as tables;
use crate::render::{CopyProgress, Output};

pub(crate) fn run(command: ImageCommand, output: &Output) -> Result<ExitCode> {
    if let ImageCommand::Snapshot(command) = &command
        && super::live::snapshot(command, output)?
    {
        return Ok(ExitCode::SUCCESS);
    }
    if let ImageCommand::Bitmap(command) = command {
        return super::bitmap::run(command, output).map(|()| ExitCode::SUCCESS);
    }
    if let ImageCommand::Commit(request) = &command
        && super::live::commit(request, output)?
    {
        return Ok(ExitCode::SUCCESS);
    }
    weft_uring::block_on(dispatch(command, output)).map_err(super::live::who_has_it)
}

async fn dispatch(command: ImageCommand, output: &Output) -> Result<ExitCode> {
    match command {
        ImageCommand::Create(request) => create(request, output).await?,
        ImageCommand::Info {
            image,
            backing_chain,
            trust,
        } => info(image, backing_chain, &trust, output).await?,
        ImageCommand::Check(request) => return check(&request, output).await,
        ImageCommand::Resize(request) => resize(request, output).await?,
        ImageCommand::Map { image, trust } => map(image, &trust, output).await?,
        ImageCommand::Compare {
            one,
            other,
            strict,
            format,
            other_format,
            keys,
            trust,
        } => {
            let sides = [(one, format), (other, other_format)];
            let how = reading(&keys, &trust)?;
            return compare(sides, strict, &how, output).await;
        }
        ImageCommand::Convert(request) => convert(request, output).await?,
        ImageCommand::Measure {
            path,
            size,
            output_format,
            format,
            options,
            trust,
        } => {
            let what = match (path, size) {
                (Some(path), _) => What::Image(path, format),
                (None, size) => What::Size(size.map_or(0, |size| size.0)),
            };
            measure(what, output_format, &options, &trust, output).await?;
        }
        ImageCommand::Rebase(request) => rebase(request, output).await?,
        ImageCommand::Commit(request) => commit(request, output).await?,
        ImageCommand::Amend(request) => amend(request, output).await?,
        ImageCommand::Key(command) => key(command, output).await?,
        ImageCommand::Snapshot(command) => snapshot(command, output).await?,
        ImageCommand::Bitmap(_) | ImageCommand::Live(_) => {
            unreachable!("these ask the daemon first")
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Which files the user lets images name.
fn policy(trust: &TrustArgs) -> Result<Policy> {
    let names: Result<Vec<Name>> = trust
        .allow_backing
        .iter()
        .map(|name| Name::of(name))
        .collect();
    let allow = match (trust.allow_any_backing, names?) {
        (true, _) => Allow::Everything,
        (false, names) if names.is_empty() => Allow::Beside,
        (false, names) => Allow::These(names),
    };
    Ok(Policy {
        allow,
        guess: trust.guess_format,
    })
}

/// The passphrases in the files that the user names.
fn key_files(keys: &KeyArgs) -> Result<Keys> {
    let read: Result<Vec<Passphrase>> = keys
        .key_file
        .iter()
        .map(|file| Passphrase::read(file))
        .collect();
    Ok(Keys::anywhere(read?))
}

/// How images are opened whose data is read.
fn reading(keys: &KeyArgs, trust: &TrustArgs) -> Result<How> {
    Ok(How {
        keys: key_files(keys)?,
        ..How::to_read(policy(trust)?)
    })
}

fn how(image: &ImageArgs, trust: &TrustArgs) -> Result<How> {
    Ok(How {
        format: image.format,
        locked: !image.unlocked,
        ..How::to_read(policy(trust)?)
    })
}

async fn create(request: ImageCreateArgs, output: &Output) -> Result<()> {
    let path = request.path.display().to_string();
    let key = request.key_file.as_deref().map(Passphrase::read);
    images::create(Create {
        path: request.path,
        format: request.format,
        size: request.size.map(|size| size.0),
        backing: request.backing,
        backing_format: request.backing_format,
        options: request.options,
        overwrite: false,
        unseen_backing: false,
        key: key.transpose()?,
        volatile: false,
    })
    .await?;
    show_info(&path, output).await
}

/// Tells what there is now.
async fn show_info(path: &str, output: &Output) -> Result<()> {
    let infos = images::info(&Name::of(path)?, &How::tables()).await?;
    output.show(&infos[0], tables::info);
    Ok(())
}

async fn info(image: ImageArgs, chain: bool, trust: &TrustArgs, output: &Output) -> Result<()> {
    let how = How {
        chain,
        data: false,
        ..how(&image, trust)?
    };
    let infos = images::info(&Name::of(&image.path)?, &how).await?;
    if chain {
        output.show(&infos, |infos| {
            let texts: Vec<String> = infos.iter().map(tables::info).collect();
            texts.join("\n")
        });
    } else {
        output.show(&infos[0], tables::info);
    }
    Ok(())
}

async fn check(request: &ImageCheckArgs, output: &Output) -> Result<ExitCode> {
    let (path, repair) = request.meaning().unwrap_or_else(|message| {
        Arguments::command()
            .error(clap::error::ErrorKind::InvalidValue, message)
            .exit()
    });
    let repair = match repair {
        None => Repair::Nothing,
        Some(RepairWhat::Leaks) => Repair::Leaks,
        Some(RepairWhat::All) => Repair::All,
    };
    let name = Name::of(path)?;
    let how = How {
        format: request.format,
        locked: !request.unlocked,
        ..How::tables()
    };
    let found = images::check(&name, &how, repair).await?;
    output.show(&found, tables::check);
    let good = found.repaired || (found.corruptions == 0 && found.leaks == 0);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn resize(request: ImageResizeArgs, output: &Output) -> Result<()> {
    let path = &request.path;
    let resize = Resize {
        image: Name::of(path)?,
        how: How {
            format: request.format,
            ..reading(&request.keys, &request.trust)?
        },
        sizing: request.size,
        shrink: request.shrink,
        preallocation: request.preallocation,
    };
    let resized = images::resize(&resize).await?;
    let answer = serde_json::json!({
        "path": path, "old_size_bytes": resized.old, "size_bytes": resized.new,
    });
    output.show(&answer, |_| {
        format!(
            "{path}: {} now, {} before\n",
            Size(resized.new),
            Size(resized.old)
        )
    });
    Ok(())
}

async fn map(image: ImageArgs, trust: &TrustArgs, output: &Output) -> Result<()> {
    // Where data is can be told without a key.
    let how = How {
        data: false,
        ..how(&image, trust)?
    };
    let chain = images::open(&Name::of(&image.path)?, &how).await?;
    let mut extents = Vec::new();
    images::map(&chain, 0, u64::MAX, |extent| {
        extents.push(extent);
        Ok(())
    })
    .await?;
    output.show(&extents, |extents| tables::map(extents));
    Ok(())
}

async fn compare(
    sides: [(String, Option<Format>); 2],
    strict: bool,
    how: &How,
    output: &Output,
) -> Result<ExitCode> {
    let mut chains = Vec::new();
    for (path, format) in &sides {
        let how = How {
            format: *format,
            ..how.clone()
        };
        chains.push(images::open(&Name::of(path)?, &how).await?);
    }
    let progress = CopyProgress::new("compare", output);
    let tell = |done, total| progress.tell(done, total);
    let found = images::compare(&chains[0], &chains[1], strict, &tell).await?;
    progress.finish();
    output.show(&found, tables::comparison);
    Ok(if found.identical {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn convert(request: ImageConvertArgs, output: &Output) -> Result<()> {
    let how = How {
        format: request.format,
        snapshot: request.snapshot,
        ..reading(&request.keys, &request.trust)?
    };
    // The arguments are at least two.
    let (target, sources) = request
        .files
        .split_last()
        .unwrap_or((&request.files[0], &[]));
    let to = Name::of(target)?;
    let from = sources
        .iter()
        .map(|name| Ok((Name::of(name)?, how.clone())));
    let onto = request.onto || matches!(to, Name::Nbd(_));
    let format = match (request.output_format, onto) {
        (Some(format), _) => Some(format),
        (None, true) => None,
        (None, false) if request.compress || target.ends_with(".qcow2") => Some(Format::Qcow2),
        (None, false) => Some(Format::Raw),
    };
    let progress = CopyProgress::new("copy", output);
    let tell = |done, total| progress.tell(done, total);
    let request = Convert {
        from: from.collect::<Result<_>>()?,
        to,
        format,
        options: request.options,
        backing: request
            .backing
            .map(|backing| (backing, request.backing_format)),
        key: request
            .target_key_file
            .as_deref()
            .map(Passphrase::read)
            .transpose()?,
        onto,
        onto_zeroes: false,
        overwrite: false,
        compress: request.compress,
        sparse: images::SPARSE,
        salvage: request.salvage,
        bitmaps: match (request.bitmaps, request.skip_broken_bitmaps) {
            (false, _) => Bitmaps::None,
            (true, false) => Bitmaps::All,
            (true, true) => Bitmaps::Sound,
        },
        volatile: request.volatile,
    };
    let copy = images::convert(request, &tell).await?;
    progress.finish();
    let text = |copy: &ImageCopy| {
        let (size, data) = (Size(copy.size_bytes), Size(copy.data_bytes));
        let mut text = format!("{}: {size}, of which {data} are data\n", copy.path);
        for lost in &copy.lost {
            let (len, at) = (Size(lost.end - lost.start), lost.start);
            text.push_str(&format!("{len} at {at} could not be read and are zeroes\n"));
        }
        text
    };
    output.show(&copy, text);
    Ok(())
}

enum What {
    Image(String, Option<Format>),
    Size(u64),
}

async fn measure(
    what: What,
    format: Format,
    options: &[(String, String)],
    trust: &TrustArgs,
    output: &Output,
) -> Result<()> {
    let made = images::read_options(options, 0)?;
    if let Some((key, _)) = made.unknown.first() {
        let message = format!("there is no option {key}");
        return Err(Error::general(ErrorKind::Invalid, message));
    }
    let found = match what {
        What::Size(size) => images::measure(Measured::Size(size), format, &made).await?,
        What::Image(path, from) => {
            let how = How {
                format: from,
                data: false,
                ..How::to_read(policy(trust)?)
            };
            let chain = images::open(&Name::of(&path)?, &how).await?;
            images::measure(Measured::Image(&chain), format, &made).await?
        }
    };
    output.show(&found, |found| {
        let (now, full) = (found.required_bytes, found.full_bytes);
        format!(
            "{} ({now} bytes) now, {} ({full} bytes) when it is full\n",
            Size(now),
            Size(full)
        )
    });
    Ok(())
}

async fn rebase(request: ImageRebaseArgs, output: &Output) -> Result<()> {
    let rebase = Rebase {
        image: Name::of(&request.path)?,
        format: Some(Format::Qcow2),
        backing: request.backing,
        backing_format: request.backing_format,
        unsafely: request.unsafely,
        policy: policy(&request.trust)?,
        keys: key_files(&request.keys)?,
    };
    let progress = CopyProgress::new("rebase", output);
    let tell = |done, total| progress.tell(done, total);
    images::rebase(&rebase, &tell).await?;
    progress.finish();
    show_info(&request.path, output).await
}

async fn commit(request: ImageCommitArgs, output: &Output) -> Result<()> {
    let path = &request.path;
    let paced = RaidSync::from(request.pace) != RaidSync::default();
    if paced || request.below || ImageWord::is_meant_by(path) {
        let message = format!(
            "{path} serves as no disk now: an image that nobody uses is named by its file, and committed at once"
        );
        return Err(Error::new(ErrorKind::Invalid, path, message));
    }
    let base = request.base.as_deref().map(Name::of);
    let commit = Commit {
        image: Name::of(&request.path)?,
        how: reading(&request.keys, &request.trust)?,
        base: base.transpose()?,
        keep: request.keep,
    };
    let progress = CopyProgress::new("commit", output);
    let tell = |done, total| progress.tell(done, total);
    images::commit(&commit, &tell).await?;
    progress.finish();
    show_info(&request.path, output).await
}

async fn amend(request: ImageAmendArgs, output: &Output) -> Result<()> {
    let amendments = images::read_amendments(&request.options, false)?;
    if let Some((key, _)) = amendments.unknown.first() {
        let message = match key.as_str() {
            "size" => "a disk gets another size with `weft image resize`".to_owned(),
            "backing_file" | "backing_fmt" => {
                "an image rests on another one with `weft image rebase`".to_owned()
            }
            _ => format!("an image that is there cannot get another {key}: convert it"),
        };
        return Err(Error::general(ErrorKind::Invalid, message));
    }
    let how = How {
        format: Some(Format::Qcow2),
        ..reading(&request.keys, &request.trust)?
    };
    images::amend(&Name::of(&request.path)?, &how, &amendments).await?;
    show_info(&request.path, output).await
}

async fn key(command: KeyCommand, output: &Output) -> Result<()> {
    let (path, keys, change, force) = match command {
        KeyCommand::Add {
            path,
            keys,
            new_key_file,
            slot,
            work,
        } => {
            let change = KeyChange::Add {
                new: Passphrase::read(&new_key_file)?,
                slot,
                time: Duration::from_millis(work.guess_time),
            };
            (path, key_files(&keys)?, change, false)
        }
        KeyCommand::Remove {
            path,
            key_file,
            slot,
            force,
        } => {
            let change = match (key_file, slot) {
                (Some(file), _) => KeyChange::Remove(Passphrase::read(&file)?),
                (None, slot) => KeyChange::Erase(slot.unwrap_or_default()),
            };
            (path, Keys::default(), change, force)
        }
    };
    let format = Some(Format::Qcow2);
    images::change_keys(&Name::of(&path)?, format, &keys, &change, force).await?;
    show_info(&path, output).await
}

async fn snapshot(command: SnapshotCommand, output: &Output) -> Result<()> {
    match command {
        SnapshotCommand::Create { path, tag } => {
            let made = images::create_snapshot(&Name::of(&path)?, None, &tag, true).await?;
            output.show(&made, |made| tables::snapshot_made(&path, made));
        }
        SnapshotCommand::List { path } => {
            let all = images::snapshots(&Name::of(&path)?, None, true).await?;
            output.show(&all, |all| tables::snapshots(all));
        }
        SnapshotCommand::Apply { path, tag } => {
            images::apply_snapshot(&Name::of(&path)?, None, &tag).await?;
            output.done(&format!("{path} is what it was at snapshot {tag}"));
        }
        SnapshotCommand::Delete { path, tag } => {
            images::delete_snapshot(&Name::of(&path)?, None, &tag).await?;
            output.done(&format!("snapshot {tag} of {path} is deleted"));
        }
    }
    Ok(())
}
