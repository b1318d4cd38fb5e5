//! The declaration. Tables are named after the commands' nouns: `[disk.a]`, `[raid.tank]`, `[vg.data]`,
//! `[lv.data.root]`, `[host.a]`, `[net.lan]`, `[vpn.a]`, `[export.root]`, `[vm.web]`.

use std::path::Path;

use super::source::{Names, Source};
use super::tunnels::LabStretch;
use super::written::Written;
use crate::api::{
    DiskCreate, ExportAdd, Host, LvCreate, NetCreate, RaidCreate, Result, VgCreate, VmRun,
    VolumeKind, VolumeSize, VpnCreate,
};

/// A checked declaration: every reference names something, every path is absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lab {
    /// Its name: the file's, without its ending, unless it says otherwise.
    pub name: String,
    /// Disk files, by path.
    pub disks: Vec<LabDisk>,
    /// Arrays.
    pub arrays: Vec<LabArray>,
    /// Volume groups.
    pub groups: Vec<LabGroup>,
    /// Volumes.
    pub volumes: Vec<LabVolume>,
    /// Hosts, with their links.
    pub hosts: Vec<Host>,
    /// Networks.
    pub networks: Vec<NetCreate>,
    /// Tunnels.
    pub tunnels: Vec<VpnCreate>,
    /// Networks that are joined to another host's bridge.
    pub stretches: Vec<LabStretch>,
    /// Exports.
    pub exports: Vec<LabExport>,
    /// Machines.
    pub machines: Vec<VmRun>,
}

/// A declared disk file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabDisk {
    /// Where.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// A declared array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabArray {
    /// Its name.
    pub name: String,
    /// Its level.
    pub level: u32,
    /// Its members.
    pub disks: Vec<String>,
    /// Its spares.
    pub spares: Vec<String>,
    /// Bytes of a chunk.
    pub chunk_bytes: Option<u64>,
    /// md's name of the layout.
    pub layout: Option<String>,
    /// `ppl`, `bitmap`, `journal` or `resync`; the default is `journal` with a journal, otherwise `ppl` for RAID-5 and
    /// `bitmap` for the others.
    pub consistency: Option<String>,
    /// The disk of its journal.
    pub journal: Option<String>,
}

/// A declared volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabGroup {
    /// Its name.
    pub name: String,
    /// Its physical volumes.
    pub disks: Vec<String>,
    /// Bytes of an extent.
    pub extent_bytes: Option<u64>,
}

/// A declared volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabVolume {
    /// Its group.
    pub vg: String,
    /// Its name.
    pub name: String,
    /// How large.
    pub size: VolumeSize,
    /// What kind.
    pub kind: VolumeKind,
    /// Over how many disks.
    pub stripes: Option<u32>,
    /// Bytes of a stripe.
    pub stripe_bytes: Option<u64>,
}

/// A declared export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabExport {
    /// Its name.
    pub name: String,
    /// The DISK.
    pub disk: String,
    /// Where NBD is served.
    pub nbd: Option<String>,
    /// Where vhost-user-blk is served.
    pub vhost: Option<String>,
    /// Whether writes are refused.
    pub read_only: bool,
}

impl LabDisk {
    /// The command that makes it.
    pub fn create(&self) -> DiskCreate {
        DiskCreate {
            path: self.path.clone(),
            size_bytes: self.size_bytes,
        }
    }
}

impl LabArray {
    /// The disks that it starts from: its members and its journal.
    pub fn needed(&self) -> Vec<String> {
        let disks = self.disks.iter().chain(&self.journal);
        disks.cloned().collect()
    }

    /// The command that makes it.
    pub fn create(&self) -> RaidCreate {
        RaidCreate {
            name: self.name.clone(),
            level: self.level,
            disks: self.disks.clone(),
            spares: self.spares.clone(),
            chunk_bytes: self.chunk_bytes,
            layout: self.layout.clone(),
            consistency: self.consistency.clone(),
            journal: self.journal.clone(),
            ..RaidCreate::default()
        }
    }
}

impl LabGroup {
    /// The command that makes it.
    pub fn create(&self) -> VgCreate {
        VgCreate {
            name: self.name.clone(),
            disks: self.disks.clone(),
            extent_bytes: self.extent_bytes,
            metadata_bytes: None,
            metadata_copies: None,
            force: false,
        }
    }
}

impl LabVolume {
    /// The command that makes it.
    pub fn create(&self) -> LvCreate {
        LvCreate {
            size: self.size,
            kind: self.kind,
            stripes: self.stripes,
            stripe_bytes: self.stripe_bytes,
        }
    }
}

impl LabExport {
    /// The command that makes it.
    pub fn create(&self) -> ExportAdd {
        ExportAdd {
            disk: self.disk.clone(),
            name: Some(self.name.clone()),
            nbd: self.nbd.clone(),
            vhost: self.vhost.clone(),
            read_only: self.read_only,
        }
    }
}

impl Lab {
    /// Parses and checks the text of the file at `path`.
    ///
    /// # Errors
    /// `Invalid`, as `FILE:LINE:COLUMN: what is wrong`.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let source = Source { path, text };
        let written: Written = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            source.wrong(start, error.message())
        })?;
        let names = Names::of(&written, &source);
        Ok(Self {
            name: written.name.clone().unwrap_or_else(|| source.stem()),
            disks: source.disks(&written)?,
            arrays: source.arrays(&written, &names)?,
            groups: source.groups(&written, &names)?,
            volumes: source.volumes(&written)?,
            hosts: source.hosts(&written.host)?,
            networks: source.networks(&written)?,
            tunnels: source.tunnels(&written.vpn, |net| written.net.contains_key(net))?,
            stretches: source.stretches(&written)?,
            exports: source.exports(&written, &names)?,
            machines: source.machines(&written, &names)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DhcpSetting;

    fn parse(text: &str) -> Result<Lab> {
        Lab::parse(Path::new("/labs/first.toml"), text)
    }

    fn message(text: &str) -> String {
        parse(text).unwrap_err().message
    }

    #[test]
    fn references_become_paths_and_names() {
        let lab = parse(
            r#"
            [disk.a]
            path = "disks/../a.img"
            size = "512M"
            [raid.tank]
            level = 1
            disks = ["a", "./b.img"]
            [vg.data]
            disks = ["tank"]
            [lv.data.root]
            size = "100%FREE"
            [net.lan]
            subnet = "10.77.0.0/24"
            [vm.web]
            kernel = "vmlinuz"
            memory = "256M"
            disks = ["data/root"]
            nets = ["lan"]
            "#,
        )
        .unwrap();
        assert_eq!(lab.name, "first");
        assert_eq!(lab.arrays[0].disks, ["/labs/a.img", "/labs/b.img"]);
        assert_eq!(lab.volumes[0].size, VolumeSize::PercentFree(100));
        assert_eq!(lab.machines[0].disks, ["data/root"]);
        assert_eq!(lab.machines[0].kernel, "/labs/vmlinuz");
        assert_eq!(lab.networks[0].dhcp, DhcpSetting::Default);
    }

    #[test]
    fn a_journal_is_one_of_the_disks_that_an_array_needs() {
        let lab = parse("[raid.t]\nlevel = 6\ndisks = [\"./a\", \"./b\"]\njournal = \"./j\"\n");
        let array = &lab.unwrap().arrays[0];
        assert_eq!(array.needed(), ["/labs/a", "/labs/b", "/labs/j"]);
        assert_eq!(array.create().journal.as_deref(), Some("/labs/j"));
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_column() {
        let at = "/labs/first.toml:";
        assert!(message("[disk.a\npath = 1").starts_with(&format!("{at}1:8: ")));
        let size = message("[disk.a]\npath = \"a\"\nsize = \"12Q\"\n");
        assert!(
            size.starts_with(&format!("{at}3:8: \"12Q\" is not a size")),
            "{size}"
        );
        let unknown = message("[raid.t]\nlevel = 1\ndisks = [\n  \"nobody\",\n]\n");
        assert!(
            unknown.starts_with(&format!("{at}4:3: nothing named \"nobody\"")),
            "{unknown}"
        );
        let field = message("[net.lan]\nsubnets = \"10.0.0.0/8\"\n");
        assert!(
            field.starts_with(&format!("{at}2:1: unknown field `subnets`")),
            "{field}"
        );
        let group = message("[lv.data.root]\nsize = \"1G\"\n");
        assert!(group.contains("declare [vg.data]"), "{group}");
    }
}
