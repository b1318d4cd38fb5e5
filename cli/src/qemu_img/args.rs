//! What QEMU's program understands, as far as it is understood here. Numbers of coroutines, cache modes and rates are
//! taken and mean nothing.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// QEMU disk image utility, by weft.
#[derive(Debug, Parser)]
#[command(
    name = "weft-qemu-img",
    disable_version_flag = true,
    disable_help_subcommand = true
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Change options of an image
    Amend(Amend),
    /// Work with a bitmap
    Bitmap(Bitmap),
    /// Look for contradictions
    Check(Check),
    /// Copy what an image has into its backing file
    Commit(Commit),
    /// Compare two images
    Compare(Compare),
    /// Copy an image
    Convert(Convert),
    /// Make an image
    Create(Create),
    /// Tell what an image is
    Info(Info),
    /// Tell where the parts of an image are
    Map(Map),
    /// Tell how much room an image takes
    Measure(Measure),
    /// Change the backing file
    Rebase(Rebase),
    /// Change the size
    Resize(Resize),
    /// Work with snapshots
    Snapshot(Snapshot),
}

/// In what form an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Form {
    #[default]
    Human,
    Json,
}

/// What most commands take.
#[derive(Debug, Args)]
pub(super) struct Common {
    #[arg(long, value_name = "DEF")]
    pub(super) object: Vec<String>,
    #[arg(long)]
    pub(super) image_opts: bool,
    #[arg(short = 'q', long)]
    pub(super) quiet: bool,
    #[arg(short = 'U', long)]
    pub(super) force_share: bool,
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    pub(super) format: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Amend {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(short = 'o', value_name = "OPTIONS", required = true)]
    pub(super) options: Vec<String>,
    #[arg(long)]
    pub(super) force: bool,
    #[arg(short = 't', value_name = "CACHE")]
    cache: Option<String>,
    #[arg(short = 'p')]
    progress: bool,
    /// Missing only with `-o help`
    pub(super) filename: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Bitmap {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long)]
    pub(super) add: bool,
    #[arg(long)]
    pub(super) remove: bool,
    #[arg(long)]
    pub(super) clear: bool,
    #[arg(long)]
    pub(super) enable: bool,
    #[arg(long)]
    pub(super) disable: bool,
    #[arg(long, value_name = "SOURCE")]
    pub(super) merge: Vec<String>,
    #[arg(short = 'g', long, value_name = "SIZE")]
    pub(super) granularity: Option<String>,
    #[arg(short = 'b', long, value_name = "FILE")]
    pub(super) source_file: Option<String>,
    #[arg(short = 'F', long, value_name = "FMT", requires = "source_file")]
    pub(super) source_format: Option<String>,
    pub(super) filename: String,
    pub(super) bitmap: String,
}

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, value_enum, default_value = "human")]
    pub(super) output: Form,
    #[arg(short = 'r', long)]
    pub(super) repair: Option<String>,
    #[arg(short = 'T', value_name = "CACHE")]
    cache: Option<String>,
    pub(super) filename: String,
}

#[derive(Debug, Args)]
pub(super) struct Commit {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(short = 't', value_name = "CACHE")]
    cache: Option<String>,
    #[arg(short = 'b', value_name = "BASE")]
    pub(super) base: Option<String>,
    #[arg(short = 'r', value_name = "RATE")]
    rate: Option<String>,
    #[arg(short = 'd')]
    pub(super) keep: bool,
    #[arg(short = 'p')]
    pub(super) progress: bool,
    pub(super) filename: String,
}

#[derive(Debug, Args)]
pub(super) struct Compare {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(short = 'F', value_name = "FMT")]
    pub(super) other_format: Option<String>,
    #[arg(short = 'T', value_name = "CACHE")]
    cache: Option<String>,
    #[arg(short = 'p')]
    pub(super) progress: bool,
    #[arg(short = 's')]
    pub(super) strict: bool,
    pub(super) one: String,
    pub(super) other: String,
}

#[derive(Debug, Args)]
pub(super) struct Convert {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long)]
    pub(super) target_image_opts: bool,
    #[arg(long)]
    pub(super) target_is_zero: bool,
    #[arg(long)]
    pub(super) bitmaps: bool,
    #[arg(long, requires = "bitmaps")]
    pub(super) skip_broken_bitmaps: bool,
    #[arg(long)]
    pub(super) salvage: bool,
    #[arg(short = 'C')]
    offload: bool,
    #[arg(short = 'c')]
    pub(super) compress: bool,
    #[arg(short = 'p')]
    pub(super) progress: bool,
    #[arg(short = 'n')]
    pub(super) onto: bool,
    #[arg(short = 't', value_name = "CACHE")]
    pub(super) cache: Option<String>,
    #[arg(short = 'T', value_name = "CACHE")]
    source_cache: Option<String>,
    #[arg(short = 'O', value_name = "FMT")]
    pub(super) output_format: Option<String>,
    #[arg(short = 'B', value_name = "FILE")]
    pub(super) backing: Option<String>,
    #[arg(short = 'F', value_name = "FMT")]
    pub(super) backing_format: Option<String>,
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(super) options: Vec<String>,
    #[arg(short = 'l', value_name = "SNAPSHOT")]
    pub(super) snapshot: Option<String>,
    #[arg(short = 'S', value_name = "SIZE")]
    pub(super) sparse: Option<String>,
    #[arg(short = 'r', value_name = "RATE")]
    rate: Option<String>,
    #[arg(short = 'm', value_name = "COUNT")]
    coroutines: Option<u32>,
    #[arg(short = 'W')]
    out_of_order: bool,
    #[arg(num_args = 2.., required = true)]
    pub(super) filenames: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(short = 'b', value_name = "FILE")]
    pub(super) backing: Option<String>,
    #[arg(short = 'F', value_name = "FMT")]
    pub(super) backing_format: Option<String>,
    #[arg(short = 'u')]
    pub(super) unseen: bool,
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(super) options: Vec<String>,
    /// Missing only with `-o help`
    pub(super) filename: Option<String>,
    pub(super) size: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Info {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, value_enum, default_value = "human")]
    pub(super) output: Form,
    #[arg(long)]
    pub(super) backing_chain: bool,
    pub(super) filename: String,
}

#[derive(Debug, Args)]
pub(super) struct Map {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(short = 's', long, value_name = "OFFSET")]
    pub(super) start_offset: Option<String>,
    #[arg(short = 'l', long, value_name = "LEN")]
    pub(super) max_length: Option<String>,
    #[arg(long, value_enum, default_value = "human")]
    pub(super) output: Form,
    pub(super) filename: String,
}

#[derive(Debug, Args)]
pub(super) struct Measure {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, value_enum, default_value = "human")]
    pub(super) output: Form,
    #[arg(short = 'O', value_name = "FMT")]
    pub(super) output_format: Option<String>,
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(super) options: Vec<String>,
    #[arg(short = 's', long)]
    pub(super) size: Option<String>,
    #[arg(short = 'l', value_name = "SNAPSHOT")]
    pub(super) snapshot: Option<String>,
    #[arg(required_unless_present = "size", conflicts_with = "size")]
    pub(super) filename: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rebase {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(short = 't', value_name = "CACHE")]
    cache: Option<String>,
    #[arg(short = 'T', value_name = "CACHE")]
    source_cache: Option<String>,
    #[arg(short = 'p')]
    pub(super) progress: bool,
    #[arg(short = 'u')]
    pub(super) unsafely: bool,
    #[arg(short = 'b', value_name = "FILE", required_unless_present = "unsafely")]
    pub(super) backing: Option<String>,
    #[arg(short = 'F', value_name = "FMT")]
    pub(super) backing_format: Option<String>,
    pub(super) filename: String,
}

#[derive(Debug, Args)]
pub(super) struct Resize {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long)]
    pub(super) preallocation: Option<String>,
    #[arg(long)]
    pub(super) shrink: bool,
    pub(super) filename: String,
    #[arg(allow_hyphen_values = true)]
    pub(super) size: String,
}

#[derive(Debug, Args)]
pub(super) struct Snapshot {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(short = 'l', conflicts_with_all = ["apply", "create", "delete"])]
    pub(super) list: bool,
    #[arg(short = 'a', value_name = "SNAPSHOT", conflicts_with_all = ["create", "delete"])]
    pub(super) apply: Option<String>,
    #[arg(short = 'c', value_name = "SNAPSHOT", conflicts_with = "delete")]
    pub(super) create: Option<String>,
    #[arg(short = 'd', value_name = "SNAPSHOT")]
    pub(super) delete: Option<String>,
    pub(super) filename: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn qemus_lines_are_understood() {
        Arguments::command().debug_assert();
        for line in [
            "x create -q -f qcow2 -o cluster_size=4k,compat=1.1 a 1G",
            "x create -f qcow2 -F raw -b base a",
            "x convert -pc -f raw -O qcow2 -m 4 -W -t none -S 0 a b",
            "x convert -n -l snapshot.name=one a b",
            "x info -U --output=json --backing-chain a",
            "x check -r all -q a",
            "x resize a +1G",
            "x resize --shrink a -1G",
            "x snapshot -c one a",
            "x rebase -u -b  a",
            "x measure --size 1G -O qcow2",
            "x bitmap --add -g 64k a b",
            "x amend --object secret,id=a,file=b -o encrypt.state=active,encrypt.new-secret=a a",
            "x amend -o compat=1.1,refcount_bits=1 a",
            "x amend -f qcow2 -o help",
            "x convert --bitmaps --skip-broken-bitmaps --salvage a b c",
        ] {
            Arguments::try_parse_from(line.split(' '))
                .unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
