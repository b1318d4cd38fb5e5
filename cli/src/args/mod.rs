//! What can be typed. One place per flag; man pages and completions are made from these definitions.

mod image;
mod machine;
mod network;
mod pace;
mod storage;
mod vpn;

pub(crate) use image::{
    BitmapArgs, BitmapCommand, ImageAmendArgs, ImageArgs, ImageCheckArgs, ImageCommand,
    ImageCommitArgs, ImageConvertArgs, ImageCreateArgs, ImageRebaseArgs, ImageResizeArgs,
    ImageSyncArgs, KeyArgs, KeyCommand, LiveCommand, RepairWhat, SnapshotCommand, TrustArgs,
};
pub(crate) use machine::{VmCommand, VmRunArgs};
pub(crate) use network::{NetCommand, PortCommand};
pub(crate) use pace::PaceArgs;
pub(crate) use storage::{
    DiskCommand, ExportCommand, LvCommand, LvType, RaidCommand, RaidCreateArgs, RaidGrowArgs,
    VgCommand,
};

pub(crate) use vpn::{PeerAddArgs, PeerCommand, VpnCommand, VpnCreateArgs, VpnImportArgs};

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Virtualize a machine's disks and links: RAID arrays, volume groups, networks, and the machines that use them.
///
/// Nouns, then verbs: `weft raid create`, `weft vg list`. Wherever a DISK is asked for, it is a path, VG/LV, an
/// array's name, an nbd:// URL, or qcow2:DISK for the image in one of these. Sizes take K, M, G and T, powers of 1024.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub(crate) struct Arguments {
    /// Print one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make everything that a lab file declares
    Up {
        /// The lab file
        file: PathBuf,
    },
    /// Take away what a lab file declares; disk files stay
    Down {
        /// The lab file
        file: PathBuf,
    },
    /// Show what `up` would change
    Plan {
        /// The lab file
        file: PathBuf,
    },
    /// Show all that exists, what rests on what, its health, and what to do
    Status {
        /// Show it again each second
        #[arg(long)]
        watch: bool,
    },
    /// Run the daemon in the foreground
    Daemon {
        /// End the daemon that answers
        #[arg(long)]
        stop: bool,
        /// End by itself once there is nothing left to serve
        #[arg(long, hide = true)]
        auto: bool,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Manual {
        /// The folder
        folder: PathBuf,
    },
    /// Be the process of one machine
    #[command(hide = true)]
    Machine {
        /// The configuration, as JSON
        config: PathBuf,
    },
    /// Disk files, and what disks hold
    #[command(subcommand)]
    Disk(DiskCommand),
    /// RAID arrays, in md's format
    #[command(subcommand)]
    Raid(RaidCommand),
    /// Volume groups, in LVM2's format
    #[command(subcommand)]
    Vg(VgCommand),
    /// Logical volumes
    #[command(subcommand)]
    Lv(LvCommand),
    /// Images in files: qcow2 and raw
    #[command(subcommand)]
    Image(ImageCommand),
    /// Disks that are offered to others
    #[command(subcommand)]
    Export(ExportCommand),
    /// Networks
    #[command(subcommand)]
    Net(NetCommand),
    /// WireGuard tunnels
    #[command(subcommand)]
    Vpn(VpnCommand),
    /// Machines
    #[command(subcommand)]
    Vm(VmCommand),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_of_the_contract_are_understood() {
        for line in [
            "weft raid create tank --level 5 a b c --chunk 64K --assume-clean",
            "weft --json raid list",
            "weft raid fail tank a --json",
            "weft vg create data tank --extent-size 4M --metadata-size 1M --metadata-copies 2",
            "weft lv create data/root --size 100%FREE --type striped --stripes 2",
            "weft lv resize data/root --size +1G",
            "weft image create a.qcow2 --size 1G --backing b.qcow2",
            "weft image check a.qcow2 --repair",
            "weft image check --repair leaks a.qcow2",
            "weft image convert a.qcow2 b.raw -O raw -c",
            "weft image resize a.qcow2 --size -1G --shrink",
            "weft image snapshot apply a.qcow2 monday",
            "weft image rebase a.qcow2 --backing b --backing-format raw --unsafe",
            "weft image show qcow2:a.qcow2",
            "weft image overlay qcow2:a.qcow2 b.qcow2 -o cluster_size=4K",
            "weft image sync qcow2:a.qcow2 --pause --ceiling 10M",
            "weft export add data/root --nbd unix:/tmp/s --name root --read-only",
            "weft export add data/root --vhost /tmp/s",
            "weft net create lan --subnet 10.0.0.0/24 --mode isolated --dhcp off",
            "weft net port add lan p --tap t0",
            "weft net stretch lan --vpn wg0 --vni 7 --remote 10.99.0.2 10.99.0.3",
            "weft net unstretch lan",
            "weft vpn create wg0 --address 10.99.0.1/24 --listen 51820 --key wg0.key",
            "weft vpn create wg0 --address 10.99.0.1/24 --address fd99::1/64 --net lan --nat --mtu 1380",
            "weft vpn create wg0 --address 10.99.0.1/24 --netns site --socket-netns out --fwmark 7",
            "weft vpn peer add wg0 --key K --allowed 10.99.0.2/32 10.2.0.0/16 --endpoint h:1 --psk-file p --keepalive 25",
            "weft vpn peer add wg0 --generate --name phone --allowed 10.99.0.3/32",
            "weft vpn peer remove wg0 phone",
            "weft vpn show wg0",
            "weft vpn list --json",
            "weft vpn import wg0.conf --name wg1",
            "weft vpn export wg0 phone --endpoint vpn.example --output phone.conf",
            "weft vpn remove wg0",
            "weft vpn run wg0 --foreground",
            "weft vpn keygen wg0.key",
            "weft vm run web --kernel k --cpus 2 --memory 256M --disk data/root --net lan --engine qemu",
            "weft daemon --stop",
            "weft status --watch",
        ] {
            Arguments::try_parse_from(line.split(' '))
                .unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn a_size_that_is_none_is_a_usage_error() {
        let error = Arguments::try_parse_from(["weft", "disk", "create", "a", "--size", "12Q"])
            .unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
