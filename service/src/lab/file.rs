//! The declaration. Tables are named after the commands' nouns: `[disk.a]`, `[raid.tank]`, `[vg.data]`,
//! `[lv.data.root]`, `[host.a]`, `[net.lan]`, `[vpn.a]`, `[export.root]`, `[vm.web]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use weft_netio::PortForward;

use super::hosts;
use super::tunnels::{self, LabStretch, WrittenStretch};
use crate::api::{
    DhcpSetting, DiskCreate, Engine, Error, ErrorKind, ExportAdd, Host, LvCreate, NetCreate,
    NetMode, RaidCreate, Result, Size, VgCreate, VmRun, VolumeKind, VolumeSize, VpnCreate,
};
use crate::storage::disks::ImageWord;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<String>,
    #[serde(default)]
    disk: BTreeMap<String, WrittenDisk>,
    #[serde(default)]
    raid: BTreeMap<String, WrittenArray>,
    #[serde(default)]
    vg: BTreeMap<String, WrittenGroup>,
    #[serde(default)]
    lv: BTreeMap<String, BTreeMap<String, WrittenVolume>>,
    #[serde(default)]
    host: hosts::Written,
    #[serde(default)]
    net: BTreeMap<String, WrittenNetwork>,
    #[serde(default)]
    vpn: tunnels::Written,
    #[serde(default)]
    export: BTreeMap<String, WrittenExport>,
    #[serde(default)]
    vm: BTreeMap<String, WrittenMachine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDisk {
    path: String,
    size: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenArray {
    level: u32,
    disks: Vec<Spanned<String>>,
    #[serde(default)]
    spares: Vec<Spanned<String>>,
    chunk: Option<Spanned<String>>,
    layout: Option<String>,
    consistency: Option<String>,
    journal: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGroup {
    disks: Vec<Spanned<String>>,
    extent_size: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenVolume {
    size: Spanned<String>,
    #[serde(rename = "type", default = "linear")]
    kind: VolumeKind,
    stripes: Option<u32>,
    stripe_size: Option<Spanned<String>>,
}

fn linear() -> VolumeKind {
    VolumeKind::Linear
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNetwork {
    subnet: String,
    #[serde(default)]
    mode: NetMode,
    dhcp: Option<Spanned<String>>,
    #[serde(default)]
    forwards: Vec<Spanned<String>>,
    stretch: Option<WrittenStretch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExport {
    disk: Spanned<String>,
    nbd: Option<String>,
    vhost: Option<String>,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMachine {
    kernel: String,
    initrd: Option<String>,
    #[serde(default)]
    cmdline: String,
    #[serde(default = "one")]
    cpus: u32,
    memory: Spanned<String>,
    #[serde(default)]
    disks: Vec<Spanned<String>>,
    #[serde(default)]
    nets: Vec<Spanned<String>>,
    #[serde(default)]
    engine: Engine,
}

fn one() -> u32 {
    1
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

/// What a reference may name.
struct Names {
    disks: BTreeMap<String, String>,
    arrays: Vec<String>,
    volumes: Vec<String>,
}

impl Names {
    fn of(written: &Written, source: &Source<'_>) -> Self {
        let volumes = written
            .lv
            .iter()
            .flat_map(|(vg, volumes)| volumes.keys().map(move |name| format!("{vg}/{name}")));
        Self {
            disks: written
                .disk
                .iter()
                .map(|(name, disk)| (name.clone(), source.absolute(&disk.path)))
                .collect(),
            arrays: written.raid.keys().cloned().collect(),
            volumes: volumes.collect(),
        }
    }
}

/// The file, for messages and relative paths.
pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn stem(&self) -> String {
        self.path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    pub(super) fn absolute(&self, path: &str) -> String {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        normal(&folder.join(path)).to_string_lossy().into_owned()
    }

    pub(super) fn wrong(&self, offset: usize, what: &str) -> Error {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        let file = self.path.display().to_string();
        let what = what.trim_end().replace('\n', ", ");
        Error::new(
            ErrorKind::Invalid,
            file.clone(),
            format!("{file}:{line}:{column}: {what}"),
        )
    }

    fn size(&self, size: &Spanned<String>) -> Result<u64> {
        let parsed: Result<Size, String> = size.get_ref().parse();
        parsed
            .map(|size| size.0)
            .map_err(|what| self.wrong(size.span().start, &what))
    }

    fn optional_size(&self, size: Option<&Spanned<String>>) -> Result<Option<u64>> {
        size.map(|size| self.size(size)).transpose()
    }

    /// What a reference stands for: a declared disk's path, an array's name, `VG/LV`, a URL or a path.
    fn disk(&self, reference: &Spanned<String>, names: &Names) -> Result<String> {
        self.disk_called(reference.get_ref(), reference.span().start, names)
    }

    fn disk_called(&self, name: &str, place: usize, names: &Names) -> Result<String> {
        if ImageWord::is_meant_by(name) {
            let word = name.parse::<ImageWord>();
            let word = word.map_err(|error| self.wrong(place, &error.message))?;
            let word = word.map(|disk| self.disk_called(disk, place, names))?;
            return Ok(word.to_string());
        }
        if let Some(path) = names.disks.get(name) {
            return Ok(path.clone());
        }
        let mut ours = names.arrays.iter().chain(&names.volumes);
        if ours.any(|own| own == name) || name.contains("://") {
            return Ok(name.to_owned());
        }
        if name.starts_with('/') || name.starts_with("./") || name.starts_with("../") {
            return Ok(self.absolute(name));
        }
        Err(self.wrong(
            place,
            &format!("nothing named {name:?} is declared here; a path starts with / or ./"),
        ))
    }

    fn each_disk(&self, list: &[Spanned<String>], names: &Names) -> Result<Vec<String>> {
        list.iter()
            .map(|reference| self.disk(reference, names))
            .collect()
    }

    fn disks(&self, written: &Written) -> Result<Vec<LabDisk>> {
        let disk = |disk: &WrittenDisk| {
            Ok(LabDisk {
                path: self.absolute(&disk.path),
                size_bytes: self.size(&disk.size)?,
            })
        };
        written.disk.values().map(disk).collect()
    }

    fn arrays(&self, written: &Written, names: &Names) -> Result<Vec<LabArray>> {
        let array = |(name, array): (&String, &WrittenArray)| {
            Ok(LabArray {
                name: name.clone(),
                level: array.level,
                disks: self.each_disk(&array.disks, names)?,
                spares: self.each_disk(&array.spares, names)?,
                chunk_bytes: self.optional_size(array.chunk.as_ref())?,
                layout: array.layout.clone(),
                consistency: array.consistency.clone(),
                journal: match &array.journal {
                    Some(journal) => Some(self.disk(journal, names)?),
                    None => None,
                },
            })
        };
        written.raid.iter().map(array).collect()
    }

    fn groups(&self, written: &Written, names: &Names) -> Result<Vec<LabGroup>> {
        let group = |(name, group): (&String, &WrittenGroup)| {
            Ok(LabGroup {
                name: name.clone(),
                disks: self.each_disk(&group.disks, names)?,
                extent_bytes: self.optional_size(group.extent_size.as_ref())?,
            })
        };
        written.vg.iter().map(group).collect()
    }

    fn volumes(&self, written: &Written) -> Result<Vec<LabVolume>> {
        let mut volumes = Vec::new();
        for (vg, declared) in &written.lv {
            for (name, volume) in declared {
                let start = volume.size.span().start;
                if !written.vg.contains_key(vg) {
                    let what = format!("volume {vg}/{name} needs a group: declare [vg.{vg}]");
                    return Err(self.wrong(start, &what));
                }
                let size = volume.size.get_ref().parse();
                volumes.push(LabVolume {
                    vg: vg.clone(),
                    name: name.clone(),
                    size: size.map_err(|what: String| self.wrong(start, &what))?,
                    kind: volume.kind,
                    stripes: volume.stripes,
                    stripe_bytes: self.optional_size(volume.stripe_size.as_ref())?,
                });
            }
        }
        Ok(volumes)
    }

    fn networks(&self, written: &Written) -> Result<Vec<NetCreate>> {
        let network = |(name, network): (&String, &WrittenNetwork)| {
            let dhcp = match &network.dhcp {
                None => DhcpSetting::Default,
                Some(dhcp) => dhcp
                    .get_ref()
                    .parse()
                    .map_err(|what: String| self.wrong(dhcp.span().start, &what))?,
            };
            for forward in &network.forwards {
                let parsed: weft_netio::Result<PortForward> = forward.get_ref().parse();
                parsed.map_err(|error| self.wrong(forward.span().start, &error.sentence()))?;
            }
            let forwards = network.forwards.iter().map(Spanned::get_ref).cloned();
            Ok(NetCreate {
                name: name.clone(),
                subnet: network.subnet.clone(),
                mode: network.mode,
                dhcp,
                forwards: forwards.collect(),
            })
        };
        written.net.iter().map(network).collect()
    }

    fn stretches(&self, written: &Written) -> Result<Vec<LabStretch>> {
        let nets = written.net.iter();
        let stretched = nets.filter_map(|(name, net)| Some((name, net.stretch.as_ref()?)));
        stretched
            .map(|(name, stretch)| self.stretch(name, stretch, &written.vpn))
            .collect()
    }

    fn exports(&self, written: &Written, names: &Names) -> Result<Vec<LabExport>> {
        let export = |(name, export): (&String, &WrittenExport)| {
            Ok(LabExport {
                name: name.clone(),
                disk: self.disk(&export.disk, names)?,
                nbd: export.nbd.as_deref().map(|address| self.address(address)),
                vhost: export.vhost.as_deref().map(|socket| self.absolute(socket)),
                read_only: export.read_only,
            })
        };
        written.export.iter().map(export).collect()
    }

    fn address(&self, address: &str) -> String {
        match address.strip_prefix("unix:") {
            Some(path) => format!("unix:{}", self.absolute(path)),
            None => address.to_owned(),
        }
    }

    fn machines(&self, written: &Written, names: &Names) -> Result<Vec<VmRun>> {
        let net = |net: &Spanned<String>| {
            if written.net.contains_key(net.get_ref()) {
                return Ok(net.get_ref().clone());
            }
            let what = format!("no network named {:?} is declared here", net.get_ref());
            Err(self.wrong(net.span().start, &what))
        };
        let machine = |(name, machine): (&String, &WrittenMachine)| {
            Ok(VmRun {
                name: name.clone(),
                kernel: self.absolute(&machine.kernel),
                initrd: machine
                    .initrd
                    .as_deref()
                    .map(|initrd| self.absolute(initrd)),
                cmdline: machine.cmdline.clone(),
                cpus: machine.cpus,
                memory_bytes: self.size(&machine.memory)?,
                disks: self.each_disk(&machine.disks, names)?,
                nets: machine.nets.iter().map(net).collect::<Result<_>>()?,
                engine: machine.engine,
            })
        };
        written.vm.iter().map(machine).collect()
    }
}

/// `path` without `.` and `..`, by its text alone.
fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

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
