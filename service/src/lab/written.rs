//! A declaration as it is written.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::hosts;
use super::tunnels::{self, WrittenStretch};
use crate::api::{Engine, NetMode, VolumeKind};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) disk: BTreeMap<String, WrittenDisk>,
    #[serde(default)]
    pub(super) raid: BTreeMap<String, WrittenArray>,
    #[serde(default)]
    pub(super) vg: BTreeMap<String, WrittenGroup>,
    #[serde(default)]
    pub(super) lv: BTreeMap<String, BTreeMap<String, WrittenVolume>>,
    #[serde(default)]
    pub(super) host: hosts::Written,
    #[serde(default)]
    pub(super) net: BTreeMap<String, WrittenNetwork>,
    #[serde(default)]
    pub(super) vpn: tunnels::Written,
    #[serde(default)]
    pub(super) export: BTreeMap<String, WrittenExport>,
    #[serde(default)]
    pub(super) vm: BTreeMap<String, WrittenMachine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenDisk {
    pub(super) path: String,
    pub(super) size: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenArray {
    pub(super) level: u32,
    pub(super) disks: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) spares: Vec<Spanned<String>>,
    pub(super) chunk: Option<Spanned<String>>,
    pub(super) layout: Option<String>,
    pub(super) consistency: Option<String>,
    pub(super) journal: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenGroup {
    pub(super) disks: Vec<Spanned<String>>,
    pub(super) extent_size: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenVolume {
    pub(super) size: Spanned<String>,
    #[serde(rename = "type", default = "linear")]
    pub(super) kind: VolumeKind,
    pub(super) stripes: Option<u32>,
    pub(super) stripe_size: Option<Spanned<String>>,
}

fn linear() -> VolumeKind {
    VolumeKind::Linear
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenNetwork {
    pub(super) subnet: String,
    #[serde(default)]
    pub(super) mode: NetMode,
    pub(super) dhcp: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) forwards: Vec<Spanned<String>>,
    pub(super) stretch: Option<WrittenStretch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenExport {
    pub(super) disk: Spanned<String>,
    pub(super) nbd: Option<String>,
    pub(super) vhost: Option<String>,
    #[serde(default)]
    pub(super) read_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenMachine {
    pub(super) kernel: String,
    pub(super) initrd: Option<String>,
    #[serde(default)]
    pub(super) cmdline: String,
    #[serde(default = "one")]
    pub(super) cpus: u32,
    pub(super) memory: Spanned<String>,
    #[serde(default)]
    pub(super) disks: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) nets: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) engine: Engine,
}

fn one() -> u32 {
    1
}
