//! The stock kernels that `scripts/install-deps` unpacks.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::cache_dir;

/// A stock Debian kernel, unpacked and not installed.
#[derive(Debug, Clone)]
pub struct Kernel {
    root: PathBuf,
    version: String,
}

impl Kernel {
    /// The kernel of `linux-image-amd64`: every driver; what the Linux guest boots, since only this one has 9p.
    ///
    /// # Errors
    /// If `scripts/install-deps` has not fetched it.
    pub fn full() -> Result<Self> {
        Self::of_flavour("full")
    }

    /// The kernel of `linux-image-cloud-amd64`: small and quick to boot, with virtio; for virtual machines of ours.
    ///
    /// # Errors
    /// If `scripts/install-deps` has not fetched it.
    pub fn cloud() -> Result<Self> {
        Self::of_flavour("cloud")
    }

    fn of_flavour(flavour: &str) -> Result<Self> {
        let link = cache_dir().join("kernels").join(flavour);
        let root = link.canonicalize().with_context(|| {
            format!("no kernel at {}; run scripts/install-deps", link.display())
        })?;
        let version = root
            .file_name()
            .and_then(|name| name.to_str())
            .context("the kernel's folder has its version as name")?
            .to_string();
        ensure!(
            root.join("boot/vmlinux").exists(),
            "{} is not complete; run scripts/install-deps",
            root.display()
        );
        Ok(Self { root, version })
    }

    /// The release, as `uname -r` prints it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The bzImage.
    pub fn image(&self) -> PathBuf {
        self.root
            .join("boot")
            .join(format!("vmlinuz-{}", self.version))
    }

    /// The same unpacked, as an ELF image with a PVH entry: it boots seconds sooner under emulation.
    pub fn vmlinux(&self) -> PathBuf {
        self.root
            .join("boot")
            .join(format!("vmlinux-{}", self.version))
    }

    /// The folder that holds `VERSION/modules.dep`: what `/lib/modules` is on an installed system.
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules")
    }

    /// The files of `modules` and of all they need, in an order in which they load. Modules that are built in
    /// need nothing and are left out.
    ///
    /// # Errors
    /// If the kernel has no such module.
    pub fn load_order(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        let folder = self.modules().join(&self.version);
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let dependencies = read("modules.dep")?;
        let builtin = read("modules.builtin")?;
        let mut order: Vec<PathBuf> = Vec::new();
        for module in modules {
            if builtin.lines().any(|line| is_module(line, module)) {
                continue;
            }
            let (file, needs) = dependencies
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(file, _)| is_module(file, module))
                .with_context(|| format!("kernel {} has no module {module}", self.version))?;
            // modules.dep names what a module needs from the nearest to the farthest.
            for wanted in needs.split_whitespace().rev().chain([file]) {
                let path = folder.join(wanted);
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        }
        Ok(order)
    }
}

/// Whether the file is that of the module; names treat `-` and `_` alike.
fn is_module(file: &str, module: &str) -> bool {
    let stem = Path::new(file)
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split('.').next())
        .unwrap_or_default();
    stem.replace('-', "_") == module.replace('-', "_")
}
