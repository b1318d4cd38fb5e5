//! All that exists.

use serde::{Deserialize, Serialize};

use super::{Array, Disk, Export, Group, Host, ImageDisk, Machine, Network, Volume, Vpn};

/// How the whole is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Nothing to do.
    Good,
    /// Something heals by itself.
    Recovering,
    /// Somebody should act.
    Degraded,
    /// Data cannot be reached.
    Failed,
}

/// What to do about an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// The object's noun and name, as `raid tank`.
    pub object: String,
    /// How it is, in a sentence.
    pub message: String,
    /// The command that comes next, if there is one.
    pub command: Option<String>,
}

/// All that exists, what rests on what, and its health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// How the whole is.
    pub health: Health,
    /// What to do.
    pub advice: Vec<Advice>,
    /// Disks in use.
    pub disks: Vec<Disk>,
    /// Arrays.
    pub arrays: Vec<Array>,
    /// Volume groups.
    pub groups: Vec<Group>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Images that serve as disks.
    pub images: Vec<ImageDisk>,
    /// Exports.
    pub exports: Vec<Export>,
    /// Hosts of labs.
    pub hosts: Vec<Host>,
    /// Networks.
    pub networks: Vec<Network>,
    /// WireGuard tunnels.
    pub tunnels: Vec<Vpn>,
    /// Machines.
    pub machines: Vec<Machine>,
}
