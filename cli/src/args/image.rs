//! `image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use weft_service::api::Size;
use weft_service::storage::images::{Format, Preallocation, Sizing};

use super::PaceArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image; its space is taken as it is written
    Create(ImageCreateArgs),
    /// Tell what an image is
    Info {
        #[command(flatten)]
        image: ImageArgs,
        /// Tell of each image that it rests on, too
        #[arg(long)]
        backing_chain: bool,
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Look for contradictions in an image; status 1 if there are any and they were not mended
    Check(ImageCheckArgs),
    /// Give an image's disk another size
    Resize(ImageResizeArgs),
    /// Show where each part of an image's disk comes from
    Map {
        #[command(flatten)]
        image: ImageArgs,
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Compare the disks of two images; status 1 if they differ
    Compare {
        /// An image or URL
        one: String,
        /// Another
        other: String,
        /// The sizes must be equal, and the same parts allocated
        #[arg(long)]
        strict: bool,
        /// The format of the first [default: guessed]
        #[arg(long)]
        format: Option<Format>,
        /// The format of the other [default: guessed]
        #[arg(long)]
        other_format: Option<Format>,
        #[command(flatten)]
        keys: KeyArgs,
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Copy images, or what NBD servers offer, to another; what holds nothing takes no room
    Convert(ImageConvertArgs),
    /// Tell how much room a copy would take
    Measure {
        /// The image
        #[arg(required_unless_present = "size")]
        path: Option<String>,
        /// In place of an image: the size of an empty disk
        #[arg(long, conflicts_with = "path")]
        size: Option<Size>,
        /// The format of the copy
        #[arg(short = 'O', long, default_value = "qcow2")]
        output_format: Format,
        /// The format of the image [default: guessed]
        #[arg(long)]
        format: Option<Format>,
        /// How the copy is made: KEY=VALUE, by QEMU's names
        #[arg(short = 'o', long = "option", value_parser = parse_option)]
        options: Vec<(String, String)>,
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Make an image rest on another file; its disk stays what it is
    Rebase(ImageRebaseArgs),
    /// Copy what an image has of its own into the one that it rests on, and empty it. An image in use is committed in the
    /// background; its users have the one below then
    Commit(ImageCommitArgs),
    /// Make an image another way than it was made; its disk stays what it is
    Amend(ImageAmendArgs),
    /// Passphrases of an encrypted image
    #[command(subcommand)]
    Key(KeyCommand),
    /// Snapshots inside an image
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Bitmaps inside an image, which tell what was written since
    #[command(subcommand)]
    Bitmap(BitmapCommand),
    #[command(flatten)]
    Live(LiveCommand),
}

/// What is done to images that serve as disks.
#[derive(Debug, Subcommand)]
pub(crate) enum LiveCommand {
    /// List the images that serve as disks now
    List,
    /// Tell of an image that serves as a disk: what it rests on, who uses it
    Show {
        /// The DISK: qcow2:PATH
        disk: String,
    },
    /// Make a new image the top of one that is in use: what was there stays as it is, and its users go on
    Overlay {
        /// The DISK: qcow2:PATH. Its word is that of the new image afterwards
        disk: String,
        /// The new image's file
        path: PathBuf,
        /// How it is made: KEY=VALUE, by QEMU's names
        #[arg(short = 'o', long = "option", value_parser = parse_option)]
        options: Vec<(String, String)>,
    },
    /// Copy what an image in use has from below into it, in the background; it rests on nothing then
    Stream {
        #[command(flatten)]
        sync: ImageSyncArgs,
        /// Only what the images above this one have, on which it rests then
        #[arg(long, value_name = "DISK")]
        base: Option<String>,
    },
    /// Copy an image in use to another DISK as it is now, in the background
    Backup {
        #[command(flatten)]
        sync: ImageSyncArgs,
        /// The DISK that it is copied to, at least as large
        target: String,
        /// Copy only what this bitmap of the image says was written, and let it begin anew
        #[arg(long)]
        bitmap: Option<String>,
    },
    /// Copy an image in use to another DISK, in the background, which takes its place when it has caught up
    Mirror {
        #[command(flatten)]
        sync: ImageSyncArgs,
        /// The DISK that it is copied to, at least as large
        target: String,
        /// Overwrite what that holds
        #[arg(long)]
        force: bool,
    },
    /// Pause, resume or bound what is done to an image in the background
    Sync(ImageSyncArgs),
    /// Give up what is done to an image in the background; the image is as good as before
    Cancel {
        /// The DISK
        disk: String,
    },
    /// Wait until nothing is done to an image in the background, and tell of the DISK that its users have then
    Wait {
        /// The DISK
        disk: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImageSyncArgs {
    /// The DISK
    pub(crate) disk: String,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Let one more passphrase open the image
    Add {
        /// The image
        path: String,
        #[command(flatten)]
        keys: KeyArgs,
        /// The file that holds the new passphrase
        #[arg(long, value_name = "FILE")]
        new_key_file: PathBuf,
        /// The slot that takes it, 0 to 7 [default: the first free one]
        #[arg(long)]
        slot: Option<usize>,
        #[command(flatten)]
        work: WorkArgs,
    },
    /// Let a passphrase open the image no more
    Remove {
        /// The image
        path: String,
        /// The file that holds the passphrase
        #[arg(long, value_name = "FILE", required_unless_present = "slot")]
        key_file: Option<PathBuf>,
        /// In place of a passphrase: the slot to erase
        #[arg(long, conflicts_with = "key_file")]
        slot: Option<usize>,
        /// Remove the last one too: what the image holds is lost for ever
        #[arg(long)]
        force: bool,
    },
}

/// How hard a passphrase is to guess.
#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    /// Milliseconds that each guess of the passphrase is to take
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    pub(crate) guess_time: u64,
}

/// What opens encrypted images.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// A file that holds the passphrase of an encrypted image, each of its bytes; again for images with others
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Keep the disk as it is now
    Create {
        /// The image
        path: String,
        /// What the snapshot is called
        tag: String,
    },
    /// List the snapshots
    List {
        /// The image
        path: String,
    },
    /// Make the disk what it was; the snapshot stays
    Apply {
        /// The image
        path: String,
        /// The snapshot's name or number
        tag: String,
    },
    /// Delete a snapshot
    Delete {
        /// The image
        path: String,
        /// The snapshot's name or number
        tag: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BitmapCommand {
    /// Record what is written from now on
    Create {
        /// The image
        path: String,
        /// What the bitmap is called
        name: String,
        /// Bytes that one bit stands for [default: the cluster, from 4K to 64K]
        #[arg(long)]
        granularity: Option<Size>,
        /// Record nothing yet
        #[arg(long)]
        disabled: bool,
    },
    /// List the bitmaps, and how much each says was written
    List {
        /// The image
        path: String,
    },
    /// Remove a bitmap
    Remove(BitmapArgs),
    /// Let a bitmap begin anew
    Clear(BitmapArgs),
    /// Record what is written from now on
    Enable(BitmapArgs),
    /// Record nothing from now on
    Disable(BitmapArgs),
    /// Let a bitmap say also what another one says
    Merge {
        #[command(flatten)]
        bitmap: BitmapArgs,
        /// The other bitmap
        from: String,
        /// The image that has the other one, if that is not the same
        #[arg(long, value_name = "IMAGE")]
        from_image: Option<String>,
    },
}

/// Which bitmap.
#[derive(Debug, Args)]
pub(crate) struct BitmapArgs {
    /// The image
    pub(crate) path: String,
    /// The bitmap
    pub(crate) name: String,
}

/// Which image.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// The image, a path or an nbd:// URL
    pub(crate) path: String,
    /// Its format [default: guessed]
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// Look at it although somebody writes it; what is told may be wrong
    #[arg(long)]
    pub(crate) unlocked: bool,
}

/// Which files an image may name.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// Open this file when an image names it, and none but those given so [default: all in the image's folder and below]
    #[arg(long, value_name = "FILE")]
    pub(crate) allow_backing: Vec<String>,
    /// Open every file that the image names, wherever it is
    #[arg(long, conflicts_with = "allow_backing")]
    pub(crate) allow_any_backing: bool,
    /// Guess the format of a backing file where the image does not tell it
    #[arg(long)]
    pub(crate) guess_format: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImageCreateArgs {
    /// Where
    pub(crate) path: PathBuf,
    /// How large [default: as the backing file]
    #[arg(long, required_unless_present = "backing")]
    pub(crate) size: Option<Size>,
    /// Its format
    #[arg(long, default_value = "qcow2")]
    pub(crate) format: Format,
    /// The image that holds what this one does not; a relative path begins at the new image's folder
    #[arg(long)]
    pub(crate) backing: Option<String>,
    /// The format of that [default: guessed now, and written down]
    #[arg(long, requires = "backing")]
    pub(crate) backing_format: Option<Format>,
    /// Encrypt it (LUKS) with the passphrase that this file holds, each of its bytes
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// KEY=VALUE by QEMU's names: cluster_size, compat, refcount_bits, extended_l2, lazy_refcounts, compression_type, data_file, data_file_raw, preallocation, encrypt.*
    #[arg(short = 'o', long = "option", value_parser = parse_option)]
    pub(crate) options: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct ImageConvertArgs {
    /// Images or URLs, copied one behind the other, and last the new file, or a URL
    #[arg(value_name = "SOURCE... TARGET", num_args = 2.., required = true)]
    pub(crate) files: Vec<String>,
    /// The format of the copy [default: qcow2 where its name ends so, otherwise raw]
    #[arg(short = 'O', long)]
    pub(crate) output_format: Option<Format>,
    /// The format of the source [default: guessed]
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// Copy this snapshot in place of the disk
    #[arg(long)]
    pub(crate) snapshot: Option<String>,
    /// What the copy rests on; a relative path begins at its folder
    #[arg(long)]
    pub(crate) backing: Option<String>,
    /// The format of that [default: guessed now, and written down]
    #[arg(long, requires = "backing")]
    pub(crate) backing_format: Option<Format>,
    /// Copy the bitmaps too
    #[arg(long)]
    pub(crate) bitmaps: bool,
    /// Leave out bitmaps that cannot be trusted
    #[arg(long, requires = "bitmaps")]
    pub(crate) skip_broken_bitmaps: bool,
    /// Copy what cannot be read as zeroes, and tell what that is
    #[arg(long)]
    pub(crate) salvage: bool,
    /// Compress
    #[arg(short, long)]
    pub(crate) compress: bool,
    /// How the copy is made: KEY=VALUE, by QEMU's names
    #[arg(short = 'o', long = "option", value_parser = parse_option)]
    pub(crate) options: Vec<(String, String)>,
    /// Write into a file that is there, in place of a new one
    #[arg(long)]
    pub(crate) onto: bool,
    /// Do not wait until the copy is on the medium: a power cut in the next minute may take it along
    #[arg(long)]
    pub(crate) volatile: bool,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    /// Encrypt the copy (LUKS) with the passphrase that this file holds
    #[arg(long, value_name = "FILE")]
    pub(crate) target_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImageResizeArgs {
    /// The image
    pub(crate) path: String,
    /// How large, or how much more or less: 2G, +1G, -512M
    #[arg(long, allow_hyphen_values = true, value_parser = parse_sizing)]
    pub(crate) size: Sizing,
    /// Allow a smaller one: what is cut off is gone
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Room to take for what is gained: off, metadata, falloc, full
    #[arg(long, default_value = "off")]
    pub(crate) preallocation: Preallocation,
    /// Its format [default: guessed]
    #[arg(long)]
    pub(crate) format: Option<Format>,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImageAmendArgs {
    /// The image
    pub(crate) path: String,
    /// KEY=VALUE by QEMU's names: compat, refcount_bits, lazy_refcounts, data_file, data_file_raw
    #[arg(short = 'o', long = "option", required = true, value_parser = parse_option)]
    pub(crate) options: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImageRebaseArgs {
    /// The image
    pub(crate) path: String,
    /// What it is to rest on; without, on nothing
    #[arg(long)]
    pub(crate) backing: Option<String>,
    /// The format of that [default: guessed]
    #[arg(long, requires = "backing")]
    pub(crate) backing_format: Option<Format>,
    /// Only change the name: both files are known to read the same
    #[arg(long = "unsafe")]
    pub(crate) unsafely: bool,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImageCommitArgs {
    /// The image, or the DISK that it is: qcow2:PATH
    pub(crate) path: String,
    /// Leave the image as it is
    #[arg(long)]
    pub(crate) keep: bool,
    /// Commit past those between into this one; the image is left as it is then
    #[arg(long, value_name = "FILE")]
    pub(crate) base: Option<String>,
    /// Of an image in use: leave it on top, and commit those below it
    #[arg(long)]
    pub(crate) below: bool,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImageCheckArgs {
    /// The image, a path or an nbd:// URL
    #[arg(required_unless_present = "repair")]
    path: Option<String>,
    /// Its format [default: guessed]
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// Look at it although somebody writes it; what is told may be wrong
    #[arg(long, conflicts_with = "repair")]
    pub(crate) unlocked: bool,
    /// Mend: leaks (clusters that are counted and not used), or all that can be mended [default: all]
    #[arg(long, value_name = "WHAT", num_args = 0..=1, default_missing_value = "all")]
    repair: Option<String>,
}

impl ImageCheckArgs {
    /// The image, and what is to be mended. In `--repair PATH` the word is the image.
    pub(crate) fn meaning(&self) -> Result<(&str, Option<RepairWhat>), String> {
        let what = self.repair.as_deref().map(|word| match word {
            "leaks" => Ok(RepairWhat::Leaks),
            "all" => Ok(RepairWhat::All),
            other => Err(other),
        });
        match (self.path.as_deref(), what) {
            (Some(path), None) => Ok((path, None)),
            (Some(path), Some(Ok(what))) => Ok((path, Some(what))),
            (None, Some(Err(path))) => Ok((path, Some(RepairWhat::All))),
            (_, Some(Err(word))) => Err(format!("--repair is leaks or all, not {word:?}")),
            (None, _) => Err("which image is to be checked?".to_owned()),
        }
    }
}

/// What a repair mends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RepairWhat {
    /// Clusters that are counted and not used
    Leaks,
    /// All that can be mended
    All,
}

pub(crate) fn parse_option(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no option; write it as KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn parse_sizing(text: &str) -> Result<Sizing, String> {
    let bytes = |text: &str| text.parse::<Size>().map(|size| size.0);
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(more), _) => bytes(more).map(Sizing::More),
        (_, Some(less)) => bytes(less).map(Sizing::Less),
        _ => bytes(text).map(Sizing::To),
    }
}
