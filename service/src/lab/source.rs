//! The file of a declaration: what its words stand for, and where in it something is wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use weft_netio::PortForward;

use super::file::{LabArray, LabDisk, LabExport, LabGroup, LabVolume};
use super::tunnels::LabStretch;
use super::written::{
    Written, WrittenArray, WrittenDisk, WrittenExport, WrittenGroup, WrittenMachine, WrittenNetwork,
};
use crate::api::{DhcpSetting, Error, ErrorKind, NetCreate, Result, Size, VmRun};
use crate::storage::disks::ImageWord;

/// What a reference may name.
pub(super) struct Names {
    disks: BTreeMap<String, String>,
    arrays: Vec<String>,
    volumes: Vec<String>,
}

impl Names {
    pub(super) fn of(written: &Written, source: &Source<'_>) -> Self {
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
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn stem(&self) -> String {
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

    pub(super) fn disks(&self, written: &Written) -> Result<Vec<LabDisk>> {
        let disk = |disk: &WrittenDisk| {
            Ok(LabDisk {
                path: self.absolute(&disk.path),
                size_bytes: self.size(&disk.size)?,
            })
        };
        written.disk.values().map(disk).collect()
    }

    pub(super) fn arrays(&self, written: &Written, names: &Names) -> Result<Vec<LabArray>> {
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

    pub(super) fn groups(&self, written: &Written, names: &Names) -> Result<Vec<LabGroup>> {
        let group = |(name, group): (&String, &WrittenGroup)| {
            Ok(LabGroup {
                name: name.clone(),
                disks: self.each_disk(&group.disks, names)?,
                extent_bytes: self.optional_size(group.extent_size.as_ref())?,
            })
        };
        written.vg.iter().map(group).collect()
    }

    pub(super) fn volumes(&self, written: &Written) -> Result<Vec<LabVolume>> {
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

    pub(super) fn networks(&self, written: &Written) -> Result<Vec<NetCreate>> {
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

    pub(super) fn stretches(&self, written: &Written) -> Result<Vec<LabStretch>> {
        let nets = written.net.iter();
        let stretched = nets.filter_map(|(name, net)| Some((name, net.stretch.as_ref()?)));
        stretched
            .map(|(name, stretch)| self.stretch(name, stretch, &written.vpn))
            .collect()
    }

    pub(super) fn exports(&self, written: &Written, names: &Names) -> Result<Vec<LabExport>> {
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

    pub(super) fn machines(&self, written: &Written, names: &Names) -> Result<Vec<VmRun>> {
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
