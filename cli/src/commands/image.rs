//! `weft image`. An image that nobody uses is a file: no daemon is asked.

use std::process::ExitCode;

use clap::CommandFactory;
use weft_qcow2::{CreateOptions, Repair};
use weft_service::api::{Error, ErrorKind, ImageCopy, Result, Size};
use weft_service::storage::images::{
    self, Allow, Convert, Create, Format, How, Measured, Name, Policy, Rebase, Sizing,
};

use crate::args::{
    Arguments, ImageArgs, ImageCheckArgs, ImageCommand, ImageConvertArgs, ImageCreateArgs,
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
    weft_uring::block_on(dispatch(command, output))
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
        ImageCommand::Resize {
            path,
            size,
            shrink,
            format,
            trust,
        } => resize(&path, format, size, shrink, &trust, output).await?,
        ImageCommand::Map { image, trust } => map(image, &trust, output).await?,
        ImageCommand::Compare {
            one,
            other,
            strict,
            format,
            other_format,
            trust,
        } => {
            let sides = [(one, format), (other, other_format)];
            return compare(sides, strict, &trust, output).await;
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
        ImageCommand::Rebase {
            path,
            backing,
            backing_format,
            unsafely,
            trust,
        } => {
            let request = Rebase {
                image: Name::of(&path)?,
                format: Some(Format::Qcow2),
                backing,
                backing_format,
                unsafely,
                policy: policy(&trust)?,
            };
            rebase(&path, &request, output).await?;
        }
        ImageCommand::Commit { path, keep, trust } => commit(&path, keep, &trust, output).await?,
        ImageCommand::Snapshot(command) => snapshot(command, output).await?,
        ImageCommand::Live(_) => unreachable!("these need the daemon"),
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

fn how(image: &ImageArgs, trust: &TrustArgs) -> Result<How> {
    Ok(How {
        format: image.format,
        locked: !image.unlocked,
        ..How::to_read(policy(trust)?)
    })
}

async fn create(request: ImageCreateArgs, output: &Output) -> Result<()> {
    let path = request.path.display().to_string();
    images::create(Create {
        path: request.path,
        format: request.format,
        size: request.size.map(|size| size.0),
        backing: request.backing,
        backing_format: request.backing_format,
        options: request.options,
        overwrite: false,
        unseen_backing: false,
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
    let found = images::check(&name, request.format, !request.unlocked, repair).await?;
    output.show(&found, tables::check);
    let good = found.repaired || (found.corruptions == 0 && found.leaks == 0);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn resize(
    path: &str,
    format: Option<Format>,
    size: Sizing,
    shrink: bool,
    trust: &TrustArgs,
    output: &Output,
) -> Result<()> {
    let name = Name::of(path)?;
    let resized = images::resize(&name, format, policy(trust)?, size, shrink).await?;
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
    let chain = images::open(&Name::of(&image.path)?, &how(&image, trust)?).await?;
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
    trust: &TrustArgs,
    output: &Output,
) -> Result<ExitCode> {
    let mut chains = Vec::new();
    for (path, format) in &sides {
        let how = How {
            format: *format,
            ..How::to_read(policy(trust)?)
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
    let (from, to) = (Name::of(&request.source)?, Name::of(&request.target)?);
    let onto = request.onto || matches!(to, Name::Nbd(_));
    let format = match (request.output_format, onto) {
        (Some(format), _) => Some(format),
        (None, true) => None,
        (None, false) if request.compress || request.target.ends_with(".qcow2") => {
            Some(Format::Qcow2)
        }
        (None, false) => Some(Format::Raw),
    };
    let how = How {
        format: request.format,
        snapshot: request.snapshot,
        ..How::to_read(policy(&request.trust)?)
    };
    let progress = CopyProgress::new("copy", output);
    let tell = |done, total| progress.tell(done, total);
    let request = Convert {
        from,
        how,
        to,
        format,
        options: request.options,
        backing: None,
        onto,
        onto_zeroes: false,
        overwrite: false,
        compress: request.compress,
        sparse: images::SPARSE,
    };
    let copy = images::convert(request, &tell).await?;
    progress.finish();
    let text = |copy: &ImageCopy| {
        let (size, data) = (Size(copy.size_bytes), Size(copy.data_bytes));
        format!("{}: {size}, of which {data} are data\n", copy.path)
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
    let mut made = CreateOptions::new(0);
    if let Some((key, _)) = images::read_options(options, &mut made)?.first() {
        let message = format!("there is no option {key}");
        return Err(Error::general(ErrorKind::Invalid, message));
    }
    let found = match what {
        What::Size(size) => images::measure(Measured::Size(size), format, &made).await?,
        What::Image(path, from) => {
            let how = How {
                format: from,
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

async fn rebase(path: &str, request: &Rebase, output: &Output) -> Result<()> {
    let progress = CopyProgress::new("rebase", output);
    let tell = |done, total| progress.tell(done, total);
    images::rebase(request, &tell).await?;
    progress.finish();
    show_info(path, output).await
}

async fn commit(path: &str, keep: bool, trust: &TrustArgs, output: &Output) -> Result<()> {
    let progress = CopyProgress::new("commit", output);
    let tell = |done, total| progress.tell(done, total);
    images::commit(&Name::of(path)?, None, policy(trust)?, keep, &tell).await?;
    progress.finish();
    show_info(path, output).await
}

async fn snapshot(command: SnapshotCommand, output: &Output) -> Result<()> {
    match command {
        SnapshotCommand::Create { path, tag } => {
            let made = images::create_snapshot(&Name::of(&path)?, None, &tag).await?;
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
