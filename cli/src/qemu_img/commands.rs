//! What each command does. The answer is the exit status.

use serde_json::{Value, json};
use weft_qcow2::Repair;
use weft_service::api::{Error, ErrorKind, Result};
use weft_service::storage::images::{self, Chain, Format, How, Keys, Measured, Name, Policy};

use super::args::{self, Command, Common, Form};
use super::secrets::Secrets;
use super::{FAILED, amend, bitmaps, copies, show, words};
use crate::render::print;

/// A comparison that could not be made.
const NOT_COMPARED: u8 = 2;
/// An image with contradictions.
const CORRUPT: u8 = 2;
/// An image with clusters that nobody uses, and nothing worse.
const LEAKS: u8 = 3;
/// An image of a format that cannot be checked.
const NOT_CHECKED: u8 = 63;

/// The exit status of a command that fails.
pub(super) fn failure(command: &Command) -> u8 {
    match command {
        Command::Compare(_) => NOT_COMPARED,
        _ => FAILED,
    }
}

pub(super) async fn run(command: Command) -> Result<u8> {
    match command {
        Command::Amend(amend) => amend::run(amend).await,
        Command::Bitmap(bitmap) => bitmaps::run(bitmap).await,
        Command::Check(check) => self::check(check).await,
        Command::Commit(commit) => copies::commit(commit).await,
        Command::Compare(compare) => copies::compare(compare).await,
        Command::Convert(convert) => copies::convert(convert).await,
        Command::Create(create) => self::create(create).await,
        Command::Info(info) => self::info(info).await,
        Command::Map(map) => self::map(map).await,
        Command::Measure(measure) => self::measure(measure).await,
        Command::Rebase(rebase) => copies::rebase(rebase).await,
        Command::Resize(resize) => self::resize(resize).await,
        Command::Snapshot(snapshot) => self::snapshot(snapshot).await,
    }
}

pub(super) fn unsupported(message: &str) -> Error {
    Error::general(ErrorKind::Unsupported, message)
}

/// The image that a command is about, and how it is opened to be read.
pub(super) fn target(common: &Common, filename: &str) -> Result<(Name, How)> {
    let secrets = Secrets::of(&common.object)?;
    let picked = words::image(filename, common.image_opts, &secrets)?;
    let how = How {
        format: picked.format.or(words::format(common.format.as_ref())?),
        locked: !common.force_share,
        keys: picked.keys,
        below: picked.below,
        ..How::to_read(Policy::TRUSTING)
    };
    Ok((picked.name, how))
}

pub(super) async fn opened(common: &Common, filename: &str) -> Result<Chain> {
    let (name, how) = target(common, filename)?;
    images::open(&name, &how)
        .await
        .map_err(|error| not_opened(filename, error))
}

/// As QEMU tells that an image cannot be opened.
pub(super) fn not_opened(filename: &str, error: Error) -> Error {
    let message = match error.kind {
        ErrorKind::NotFound => format!(
            "Could not open '{filename}': Could not open '{filename}': No such file or directory"
        ),
        _ => format!("Could not open '{filename}': {}", error.message),
    };
    Error { message, ..error }
}

pub(super) fn say(common: &Common, text: &str) {
    if !common.quiet {
        print(text.as_bytes());
    }
}

pub(super) fn print_json(value: &Value) {
    let text = serde_json::to_string_pretty(value).expect("answers are plain data");
    print(format!("{text}\n").as_bytes());
}

async fn create(create: args::Create) -> Result<u8> {
    let format = words::format(create.common.format.as_ref())?.unwrap_or(Format::Raw);
    if words::asks_for_help(&create.options) {
        print(help(format).as_bytes());
        return Ok(0);
    }
    let path = create.filename.ok_or_else(|| {
        let message = "Expecting image file name".to_owned();
        Error::general(ErrorKind::Invalid, message)
    })?;
    let mut options = words::options(&create.options);
    let said = options.clone();
    let key = Secrets::of(&create.common.object)?.taken_from(&mut options)?;
    let given = |key: &str| options.iter().any(|(name, _)| name == key);
    let backed = create.backing.is_some() || given("backing_file");
    if backed && create.backing_format.is_none() && !given("backing_fmt") {
        let message = format!("{path}: Backing file specified without backing format");
        return Err(Error::new(ErrorKind::Invalid, path, message));
    }
    let sized = create.size.is_some() || given("size") || backed;
    if !sized {
        let message = format!("{path}: Image creation needs a size parameter");
        return Err(Error::new(ErrorKind::Invalid, path, message));
    }
    let made = images::create(images::Create {
        path: path.clone().into(),
        format,
        size: create.size.map(|text| words::size(&text)).transpose()?,
        backing: create.backing,
        backing_format: words::format(create.backing_format.as_ref())?,
        options,
        overwrite: true,
        unseen_backing: create.unseen,
        key,
        volatile: false,
    })
    .await?;
    say(&create.common, &show::formatted(&path, &made, &said));
    Ok(0)
}

/// The options of a raw image, and what each is for.
const RAW_OPTIONS: &[(&str, &str)] = &[
    (
        "preallocation=<str>",
        "Preallocation mode (allowed values: off, falloc, full)",
    ),
    ("size=<size>", "Virtual disk size"),
];

/// Those of a qcow2 image.
const QCOW2_OPTIONS: &[(&str, &str)] = &[
    ("backing_file=<str>", "File name of a base image"),
    ("backing_fmt=<str>", "Image format of the base image"),
    ("cluster_size=<size>", "qcow2 cluster size"),
    (
        "compat=<str>",
        "Compatibility level (v2 [0.10] or v3 [1.1])",
    ),
    (
        "compression_type=<str>",
        "Compression method used for image cluster compression",
    ),
    ("data_file=<str>", "File name of an external data file"),
    (
        "data_file_raw=<bool (on/off)>",
        "The external data file must stay valid as a raw image",
    ),
    (
        "encrypt.cipher-alg=<str>",
        "Name of encryption cipher algorithm",
    ),
    (
        "encrypt.cipher-mode=<str>",
        "Name of encryption cipher mode",
    ),
    (
        "encrypt.format=<str>",
        "Encrypt the image, format choices: 'luks'",
    ),
    (
        "encrypt.hash-alg=<str>",
        "Name of encryption hash algorithm",
    ),
    (
        "encrypt.iter-time=<num>",
        "Time to spend in PBKDF in milliseconds",
    ),
    ("encrypt.ivgen-alg=<str>", "Name of IV generator algorithm"),
    (
        "encrypt.ivgen-hash-alg=<str>",
        "Name of IV generator hash algorithm",
    ),
    (
        "encrypt.key-secret=<str>",
        "ID of secret providing LUKS passphrase",
    ),
    ("extended_l2=<bool (on/off)>", "Extended L2 tables"),
    (
        "lazy_refcounts=<bool (on/off)>",
        "Postpone refcount updates",
    ),
    (
        "preallocation=<str>",
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    (
        "refcount_bits=<num>",
        "Width of a reference count entry in bits",
    ),
    ("size=<size>", "Virtual disk size"),
];

/// Those that a qcow2 image can have another way later.
pub(super) const OPTIONS_OF_AMEND: &[(&str, &str)] = &[
    (
        "compat=<str>",
        "Compatibility level (v2 [0.10] or v3 [1.1])",
    ),
    ("data_file=<str>", "File name of an external data file"),
    (
        "data_file_raw=<bool (on/off)>",
        "The external data file must stay valid as a raw image",
    ),
    (
        "encrypt.iter-time=<num>",
        "Time to spend in PBKDF in milliseconds",
    ),
    (
        "encrypt.keyslot=<num>",
        "Select a single keyslot to modify explicitly",
    ),
    (
        "encrypt.new-secret=<str>",
        "New secret to set in the matching keyslots",
    ),
    (
        "encrypt.old-secret=<str>",
        "Select all keyslots that match this password",
    ),
    (
        "encrypt.state=<str>",
        "Select new state of affected keyslots (active/inactive)",
    ),
    (
        "lazy_refcounts=<bool (on/off)>",
        "Postpone refcount updates",
    ),
    (
        "refcount_bits=<num>",
        "Width of a reference count entry in bits",
    ),
    ("size=<size>", "Virtual disk size"),
];

/// The options of a format.
fn help(format: Format) -> String {
    let options = match format {
        Format::Raw => RAW_OPTIONS,
        Format::Qcow2 => QCOW2_OPTIONS,
    };
    let lines = help_lines(options);
    format!("Supported {} options:\n{lines}", format.name())
}

/// A line for each option.
pub(super) fn help_lines(options: &[(&str, &str)]) -> String {
    let line = |(name, what): &(&str, &str)| format!("  {name:<22} - {what}\n");
    options.iter().map(line).collect()
}

async fn info(info: args::Info) -> Result<u8> {
    let (name, how) = target(&info.common, &info.filename)?;
    let how = How {
        chain: info.backing_chain,
        data: false,
        keys: Keys::default(),
        ..how
    };
    let infos = images::info(&name, &how)
        .await
        .map_err(|error| not_opened(&info.filename, error))?;
    match (info.output, info.backing_chain) {
        (Form::Json, false) => print_json(&show::info_json(&infos[0])),
        (Form::Json, true) => print_json(&infos.iter().map(show::info_json).collect()),
        (Form::Human, _) => {
            let texts: Vec<String> = infos.iter().map(show::info_text).collect();
            print(texts.join("\n").as_bytes());
        }
    }
    Ok(0)
}

async fn check(check: args::Check) -> Result<u8> {
    let (name, how) = target(&check.common, &check.filename)?;
    let repair = match check.repair.as_deref() {
        None => Repair::Nothing,
        Some("leaks") => Repair::Leaks,
        Some("all") => Repair::All,
        Some(other) => {
            let message = format!("-r expects leaks or all, not {other}");
            return Err(Error::general(ErrorKind::Invalid, message));
        }
    };
    let look = async |repair| images::check(&name, &how, repair).await;
    let before = match look(repair).await {
        Err(error)
            if error.kind == ErrorKind::Unsupported && error.message.contains("raw image") =>
        {
            super::complain(&unsupported("This image format does not support checks"));
            return Ok(NOT_CHECKED);
        }
        answer => answer.map_err(|error| not_opened(&check.filename, error))?,
    };
    for problem in &before.problems {
        eprintln!("{problem}");
    }
    let after = match repair {
        Repair::Nothing => None,
        _ => Some(look(Repair::Nothing).await?),
    };
    match check.output {
        Form::Json => print_json(&show::check_json(&before, after.as_ref())),
        Form::Human => say(&check.common, &show::check_text(&before, after.as_ref())),
    }
    let now = after.unwrap_or(before);
    Ok(match (now.corruptions, now.leaks) {
        (0, 0) => 0,
        (0, _) => LEAKS,
        _ => CORRUPT,
    })
}

async fn map(map: args::Map) -> Result<u8> {
    let chain = opened(&map.common, &map.filename).await?;
    let bytes = |text: Option<&String>| text.map(|text| words::size(text)).transpose();
    let start = bytes(map.start_offset.as_ref())?.unwrap_or(0);
    let len = bytes(map.max_length.as_ref())?.unwrap_or(u64::MAX);
    let mut extents = Vec::new();
    images::map(&chain, start, start.saturating_add(len), |extent| {
        extents.push(extent);
        Ok(())
    })
    .await?;
    let (text, whole) = match map.output {
        Form::Json => (show::map_json(&extents), true),
        Form::Human => show::map_text(&extents),
    };
    print(text.as_bytes());
    if whole {
        return Ok(0);
    }
    let message = "File contains external, encrypted or compressed clusters.";
    Err(unsupported(message))
}

async fn measure(measure: args::Measure) -> Result<u8> {
    let format = words::format(measure.output_format.as_ref())?.unwrap_or(Format::Raw);
    let mut options = words::options(&measure.options);
    Secrets::of(&measure.common.object)?.taken_from(&mut options)?;
    let options = images::read_options(&options, 0)?;
    if let Some((key, _)) = options.unknown.first() {
        let message = format!("Invalid parameter '{key}'");
        return Err(Error::general(ErrorKind::Invalid, message));
    }
    let mut bitmaps = None;
    let found = match (&measure.size, &measure.filename) {
        (Some(size), _) => {
            images::measure(Measured::Size(words::size(size)?), format, &options).await?
        }
        (None, filename) => {
            let filename = filename.as_deref().unwrap_or_default();
            let (name, how) = target(&measure.common, filename)?;
            let how = How {
                snapshot: measure.snapshot.as_deref().map(words::snapshot),
                ..how
            };
            let chain = images::open(&name, &how)
                .await
                .map_err(|error| not_opened(filename, error))?;
            if format == Format::Qcow2 {
                bitmaps = images::measure_bitmaps(&chain, &options).await?;
            }
            images::measure(Measured::Image(&chain), format, &options).await?
        }
    };
    let (required, full) = (found.required_bytes, found.full_bytes);
    match measure.output {
        Form::Json => {
            let mut value = json!({ "required": required, "fully-allocated": full });
            if let Some(bitmaps) = bitmaps {
                value["bitmaps"] = json!(bitmaps);
            }
            print_json(&value);
        }
        Form::Human => {
            let mut text = format!("required size: {required}\nfully allocated size: {full}\n");
            if let Some(bitmaps) = bitmaps {
                text.push_str(&format!("bitmaps size: {bitmaps}\n"));
            }
            print(text.as_bytes());
        }
    }
    Ok(0)
}

async fn resize(resize: args::Resize) -> Result<u8> {
    let (image, how) = target(&resize.common, &resize.filename)?;
    let invalid = |message| Error::general(ErrorKind::Invalid, message);
    let preallocation = resize.preallocation.as_deref().unwrap_or("off");
    let request = images::Resize {
        image,
        how,
        sizing: words::sizing(&resize.size)?,
        shrink: resize.shrink,
        preallocation: preallocation.parse().map_err(invalid)?,
    };
    let resized = images::resize(&request).await;
    resized.map_err(|error| match error.message.contains("--shrink") {
        true => Error {
            message: "Use the --shrink option to perform a shrink operation.".to_owned(),
            ..error
        },
        false => error,
    })?;
    say(&resize.common, "Image resized.\n");
    Ok(0)
}

async fn snapshot(snapshot: args::Snapshot) -> Result<u8> {
    let (name, how) = target(&snapshot.common, &snapshot.filename)?;
    let not_opened = |error| not_opened(&snapshot.filename, error);
    match (&snapshot.apply, &snapshot.create, &snapshot.delete) {
        (Some(tag), ..) => images::apply_snapshot(&name, how.format, tag).await?,
        (_, Some(tag), _) => {
            images::create_snapshot(&name, how.format, tag, false).await?;
        }
        (.., Some(tag)) => images::delete_snapshot(&name, how.format, tag).await?,
        _ => {
            let all = images::snapshots(&name, how.format, how.locked).await;
            say(
                &snapshot.common,
                &show::snapshots_text(&all.map_err(not_opened)?),
            );
        }
    }
    Ok(0)
}
