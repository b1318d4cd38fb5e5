//! What the guest is made of.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::initramfs::Initramfs;
use super::kernel::Kernel;
use super::running::{Guest, GuestRun};
use super::slot::guest_slot;
use crate::process::Process;

const INIT: &str = include_str!("init.sh");

/// LVM in the guest looks at the devices itself: no udev daemon runs there.
const LVM_CONFIGURATION: &str = "devices { obtain_device_list_from_udev = 0 use_devicesfile = 0 }\n\
    activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }\n";

/// What the guest needs before it has its root.
const BOOT_MODULES: &[&str] = &["virtio_pci", "9p", "9pnet_virtio", "overlay", "virtio_blk"];

/// `no_timer_check`: on a busy host the emulated timer can be late enough for the kernel to think that it has none.
/// `nohz=off highres=off`: a timer that is set for one shot at a time can be lost for good; a periodic one comes again.
const COMMAND_LINE: &str = "console=ttyS0 reboot=t panic=-1 quiet mitigations=off net.ifnames=0 no_timer_check \
    nohz=off highres=off";

enum Device {
    Disk { path: PathBuf, read_only: bool },
    VhostUserDisk { socket: PathBuf },
    VhostUserNet { socket: PathBuf, mac: String },
}

/// A Linux guest that is being described. See [the module](super).
#[must_use = "a guest does nothing until it runs"]
pub struct LinuxGuest {
    name: String,
    devices: Vec<Device>,
    modules: Vec<String>,
    environment: Vec<(String, String)>,
    arguments: Vec<OsString>,
    command_line: String,
    cpus: u32,
    memory_mib: u32,
    nested_kvm: bool,
    user_network: bool,
    time_limit: Duration,
}

impl LinuxGuest {
    /// A guest with one CPU, 1 GiB of memory, no disk, no network and two minutes to live. `name` is for messages and
    /// the names of logs.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            devices: Vec::new(),
            modules: Vec::new(),
            environment: Vec::new(),
            arguments: Vec::new(),
            command_line: String::new(),
            cpus: 1,
            memory_mib: 1024,
            nested_kvm: false,
            user_network: false,
            time_limit: Duration::from_secs(120),
        }
    }

    /// Adds a raw file as the next virtio disk.
    pub fn disk(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().into();
        self.devices.push(Device::Disk {
            path,
            read_only: false,
        });
        self
    }

    /// Adds several raw files as virtio disks.
    pub fn disks<P: AsRef<Path>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        paths.into_iter().fold(self, |guest, path| guest.disk(path))
    }

    /// Adds a raw file as the next virtio disk, which the guest cannot write.
    pub fn read_only_disk(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().into();
        self.devices.push(Device::Disk {
            path,
            read_only: true,
        });
        self
    }

    /// Adds the disk behind a vhost-user-blk socket. The guest's memory becomes shareable.
    pub fn vhost_user_disk(mut self, socket: impl AsRef<Path>) -> Self {
        let socket = socket.as_ref().into();
        self.devices.push(Device::VhostUserDisk { socket });
        self
    }

    /// Adds the NIC behind a vhost-user-net socket. The guest's memory becomes shareable.
    pub fn vhost_user_net(mut self, socket: impl AsRef<Path>, mac: &str) -> Self {
        let (socket, mac) = (socket.as_ref().into(), mac.into());
        self.devices.push(Device::VhostUserNet { socket, mac });
        self
    }

    /// Loads a kernel module, with what it needs, before the script starts.
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.into());
        self
    }

    /// Sets an environment variable of the script.
    pub fn env(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    /// Adds arguments of QEMU.
    pub fn qemu_args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds words to the kernel's command line.
    pub fn command_line(mut self, words: &str) -> Self {
        self.command_line.push(' ');
        self.command_line.push_str(words);
        self
    }

    /// How many CPUs; nested KVM takes one whatever is asked for.
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// How much memory.
    pub fn memory_mib(mut self, size: u32) -> Self {
        self.memory_mib = size;
        self
    }

    /// Gives the guest a working `/dev/kvm`, by emulated AMD SVM. The guest then has one CPU: with two, KVM under TCG
    /// hangs. Machines inside it may have several.
    pub fn nested_kvm(mut self) -> Self {
        self.nested_kvm = true;
        self.module("kvm-amd")
    }

    /// Gives the guest `eth0` at 10.0.2.15 in QEMU's user network, where the host's loopback is 10.0.2.2.
    pub fn user_network(mut self) -> Self {
        self.user_network = true;
        self.module("virtio_net").module("af_packet")
    }

    /// How long the guest may run before it is killed.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Runs `script` to its end. A script that fails is an answer, not an error.
    ///
    /// # Errors
    /// If QEMU or the kernel is missing, if the guest does not come up, or if it outlives its time limit.
    pub fn run(self, script: &str) -> Result<GuestRun> {
        self.start(script)?.wait()
    }

    /// Starts the guest with `script` and gives it to the caller while it runs. Waits for other guests to end first if
    /// the machine has enough of them.
    ///
    /// # Errors
    /// If QEMU or the kernel is missing.
    pub fn start(self, script: &str) -> Result<Guest> {
        let kernel = Kernel::full()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("weft-guest-{}-", self.name))
            .tempdir()
            .context("making a folder for the guest")?;
        let share = folder.path().join("share");
        std::fs::create_dir(&share)?;
        let initramfs = folder.path().join("initramfs");
        std::fs::write(&initramfs, self.initramfs(&kernel, script)?)?;
        let slot = guest_slot()?;
        let command = self.qemu(&kernel, folder.path())?;
        let started = Instant::now();
        let process = Process::spawn(command)?;
        Ok(Guest::new(
            self.name,
            process,
            slot,
            folder,
            started,
            self.time_limit,
        ))
    }

    fn initramfs(&self, kernel: &Kernel, script: &str) -> Result<Vec<u8>> {
        let mut archive = Initramfs::with_busybox()?;
        archive.file("init", INIT.as_bytes());
        archive.modules(kernel, BOOT_MODULES)?;
        let modules = kernel.modules();
        let modules = modules
            .to_str()
            .context("the cache folder's path is text")?;
        archive.file("weft/modules-folder", modules.as_bytes());
        archive.file("weft/lvmlocal.conf", LVM_CONFIGURATION.as_bytes());
        archive.file("weft/start.sh", self.start_script(script).as_bytes());
        Ok(archive.finish())
    }

    /// What the chroot's shell runs: the environment, the modules, then the caller's script in its own shell, so that
    /// neither its `exit` nor its `set` touches the rest.
    fn start_script(&self, script: &str) -> String {
        let mut text = String::from(
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
             export HOME=/root LC_ALL=C.UTF-8 DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1\n\
             hostname weft-guest\nip link set lo up\ncd /weft\n",
        );
        for module in &self.modules {
            text.push_str(&format!("modprobe {module} || exit 97\n"));
        }
        if self.user_network {
            text.push_str(
                "ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0 && \
                 ip route add default via 10.0.2.2 || exit 97\n",
            );
        }
        for (name, value) in &self.environment {
            let quoted = value.replace('\'', r"'\''");
            text.push_str(&format!("export {name}='{quoted}'\n"));
        }
        text.push_str("cat >/weft/script <<'weft-end-of-script'\n");
        text.push_str(script);
        text.push_str("\nweft-end-of-script\nsh -e /weft/script\n");
        text
    }

    fn qemu(&self, kernel: &Kernel, folder: &Path) -> Result<Command> {
        let mut command = Process::command("qemu-system-x86_64");
        let cpus = if self.nested_kvm { 1 } else { self.cpus };
        let cpu = if self.nested_kvm { "max,+svm" } else { "max" };
        command
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
                "-M",
                "q35",
                "-cpu",
                cpu,
            ])
            .args(["-accel", "tcg,thread=multi", "-smp", &cpus.to_string()])
            .args(["-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(kernel.vmlinux())
            .arg("-initrd")
            .arg(folder.join("initramfs"))
            .arg("-append")
            .arg(format!("{COMMAND_LINE}{}", self.command_line))
            .arg("-serial")
            .arg(option("file:", &folder.join("console"), ""))
            .arg("-virtfs")
            .arg("local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap")
            .arg("-virtfs")
            .arg(option(
                "local,path=",
                &folder.join("share"),
                ",mount_tag=share,security_model=none",
            ));
        if self.uses_vhost_user() {
            let memory = format!("memfd,id=memory,share=on,size={}M", self.memory_mib);
            command.args([
                "-object",
                &format!("memory-backend-{memory}"),
                "-machine",
                "memory-backend=memory",
            ]);
        }
        for (number, device) in self.devices.iter().enumerate() {
            add_device(&mut command, number, device);
        }
        if self.user_network {
            command.args([
                "-netdev",
                "user,id=user",
                "-device",
                "virtio-net-pci,netdev=user",
            ]);
        }
        command.args(&self.arguments);
        let messages = std::fs::File::create(folder.join("qemu"))?;
        command
            .stdin(Stdio::null())
            .stdout(messages.try_clone()?)
            .stderr(messages);
        Ok(command)
    }

    fn uses_vhost_user(&self) -> bool {
        let is_vhost_user = |device: &Device| !matches!(device, Device::Disk { .. });
        self.devices.iter().any(is_vhost_user)
    }
}

fn add_device(command: &mut Command, number: usize, device: &Device) {
    match device {
        Device::Disk { path, read_only } => {
            let end = format!(
                ",if=none,format=raw,id=disk{number},cache=writeback,discard=unmap,read-only={}",
                on_off(*read_only)
            );
            command.arg("-drive").arg(option("file=", path, &end));
            command.args([
                "-device",
                &format!("virtio-blk-pci,drive=disk{number},serial=disk{number}"),
            ]);
        }
        Device::VhostUserDisk { socket } => {
            command.arg("-chardev");
            command.arg(option(
                &format!("socket,id=socket{number},path="),
                socket,
                "",
            ));
            command.args([
                "-device",
                &format!("vhost-user-blk-pci,chardev=socket{number}"),
            ]);
        }
        Device::VhostUserNet { socket, mac } => {
            command.arg("-chardev");
            command.arg(option(
                &format!("socket,id=socket{number},path="),
                socket,
                "",
            ));
            command.args([
                "-netdev",
                &format!("vhost-user,id=net{number},chardev=socket{number}"),
            ]);
            // Without MSI-X: QEMU 7.2 under TCG dies of unmasking a vector of a vhost-user NIC (it reaches for KVM's).
            command.args([
                "-device",
                &format!("virtio-net-pci,netdev=net{number},mac={mac},vectors=0"),
            ]);
        }
    }
}

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// A QEMU option with a path in it, in which commas are doubled.
fn option(before: &str, path: &Path, after: &str) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("{before}{path}{after}").into()
}
