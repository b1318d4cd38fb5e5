//! Machines of the VMM inside the Linux guest.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use weft_tests::guest::{self, GuestRun, Initramfs, LinuxGuest};
use weft_tests::temp_dir;
use weft_vmm::{Config, Console, Disk, Nic, Report};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm-process");

/// How the stock cloud kernel is booted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kernel {
    /// As Debian ships it.
    BzImage,
    /// The ELF file inside.
    Vmlinux,
}

/// A VM of the in-tree VMM. Its files lie on the host, its sockets in the Linux guest as `/weft/NAME.…`, its log and report
/// in `/weft/share`.
pub(crate) struct Inner {
    kernel: Kernel,
    task: String,
    modules: Vec<&'static str>,
    config: Config,
}

/// Init of the inner guest: busybox under all its names, the modules, then the task.
const INIT: &str = "#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod /weft/modules/$module; done </weft/load-order
. /task
poweroff -f
";

impl Inner {
    /// A VM with one CPU and no device.
    pub(crate) fn new(name: &str, kernel: Kernel) -> Self {
        let place = |what: &str| PathBuf::from(format!("/weft/{name}.{what}"));
        let kept = |what: &str| PathBuf::from(format!("/weft/share/{name}.{what}"));
        Self {
            kernel,
            task: String::new(),
            modules: Vec::new(),
            config: Config {
                name: name.into(),
                cpus: 1,
                memory_bytes: 256 << 20,
                kernel: PathBuf::new(),
                initrd: None,
                cmdline: "console=ttyS0 panic=-1 mitigations=off quiet".into(),
                disks: Vec::new(),
                nics: Vec::new(),
                console: Console {
                    log: Some(kept("log")),
                    socket: Some(place("console")),
                    ..Console::default()
                },
                control: Some(place("control")),
                report: Some(kept("report")),
                sandbox: true,
            },
        }
    }

    pub(crate) fn cpus(mut self, count: u32) -> Self {
        self.config.cpus = count;
        self
    }

    /// Sets the memory; what the machine does not touch costs nothing.
    pub(crate) fn memory(mut self, bytes: u64) -> Self {
        self.config.memory_bytes = bytes;
        self
    }

    /// Adds the disk behind this socket.
    pub(crate) fn disk(mut self, socket: &str) -> Self {
        let name = format!("disk{}", self.config.disks.len());
        self.config.disks.push(Disk {
            name,
            socket: socket.into(),
            queues: 0,
        });
        self.module("virtio_pci").module("virtio_blk")
    }

    /// Adds a NIC with this address, whose back end is behind the socket.
    pub(crate) fn nic(mut self, socket: &str, mac: [u8; 6]) -> Self {
        let name = format!("nic{}", self.config.nics.len());
        self.config.nics.push(Nic {
            name,
            socket: socket.into(),
            mac: Some(mac),
        });
        self.module("virtio_pci").module("virtio_net")
    }

    /// Loads a module before the task.
    pub(crate) fn module(mut self, name: &'static str) -> Self {
        self.modules.push(name);
        self
    }

    /// Adds words to the kernel's command line.
    pub(crate) fn cmdline(mut self, words: &str) -> Self {
        self.config.cmdline.push(' ');
        self.config.cmdline.push_str(words);
        self
    }

    /// What the guest does before it powers off.
    pub(crate) fn task(mut self, script: &str) -> Self {
        self.task = script.into();
        self
    }
}

/// The Linux guest and the machines in it.
pub(crate) struct Outer {
    name: String,
    folder: TempDir,
    script: String,
}

impl Outer {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            folder: temp_dir(),
            script: format!(
                "vmm={PROGRAM}\n\
                 wait_for() {{ n=0; until grep -q \"$2\" $1 2>/dev/null; do n=$((n+1)); \
                 [ $n -lt 600 ] || {{ cat $1; exit 98; }}; sleep 0.1; done; }}\n"
            ),
        }
    }

    /// A folder that the Linux guest sees under the same path, but cannot write.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds lines to the Linux guest's script.
    pub(crate) fn script(&mut self, text: &str) -> &mut Self {
        self.script.push_str(text);
        self.script.push('\n');
        self
    }

    /// Adds a machine that the script waits for.
    pub(crate) fn vm(&mut self, inner: Inner) -> &mut Self {
        let name = inner.config.name.clone();
        self.start(inner);
        self.script(&format!("wait ${name} || echo {name} failed"))
    }

    /// Adds a machine that runs beside the script; its process is `$NAME`.
    pub(crate) fn start(&mut self, inner: Inner) -> &mut Self {
        let name = inner.config.name.clone();
        let config = self.place(inner);
        self.script(&format!("$vmm run {} & {name}=$!", config.display()))
    }

    /// Adds qemu-storage-daemon as the back end of a disk with the file `image`, on `socket`.
    pub(crate) fn storage_daemon(&mut self, image: &str, socket: &str) -> &mut Self {
        self.script(&format!(
            "qemu-storage-daemon --blockdev file,node-name=f,filename={image} --export \
             vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={socket},writable=on,num-queues=2 & qsd=$!"
        ))
    }

    fn place(&self, inner: Inner) -> PathBuf {
        let mut config = inner.config;
        let kernel = guest::Kernel::cloud().expect("the cloud kernel is there");
        let mut archive = Initramfs::with_busybox().expect("busybox is there");
        archive.file("init", INIT.as_bytes());
        archive.file("task", inner.task.as_bytes());
        archive
            .modules(&kernel, &inner.modules)
            .expect("the kernel has the modules");
        let initrd = self.folder().join(format!("{}.initrd", config.name));
        std::fs::write(&initrd, archive.finish()).expect("the initrd is written");
        config.initrd = Some(initrd);
        config.kernel = match inner.kernel {
            Kernel::BzImage => kernel.image(),
            Kernel::Vmlinux => self.vmlinux(&kernel.image()),
        };
        let path = self.folder().join(format!("{}.json", config.name));
        let json = serde_json::to_vec(&config).expect("a configuration has a JSON form");
        std::fs::write(&path, json).expect("the configuration is written");
        path
    }

    /// Unpacks the ELF file of a bzImage: its header says where the payload is (boot protocol 2.08).
    fn vmlinux(&self, image: &Path) -> PathBuf {
        let bytes = std::fs::read(image).expect("the kernel can be read");
        let word =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize;
        let start = (usize::from(bytes[0x1f1]) + 1) * 512 + word(0x248);
        // The last four bytes are the unpacked size.
        let payload = &bytes[start..start + word(0x24c) - 4];
        let packed = self.folder().join("payload");
        std::fs::write(&packed, payload).expect("the payload is written");
        let vmlinux = self.folder().join("vmlinux");
        let status = Command::new("lz4")
            .arg("-dqf")
            .args([&packed, &vmlinux])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "lz4 unpacks the kernel"
        );
        vmlinux
    }

    /// Runs the Linux guest with all of it.
    pub(crate) fn run(self) -> Verdict {
        let run = LinuxGuest::new(&self.name)
            .nested_kvm()
            .time_limit(Duration::from_secs(240))
            .run(&self.script)
            .expect("the Linux guest runs");
        assert_eq!(run.status, 0, "{}", run.output);
        Verdict(run)
    }
}

/// What the machines left.
pub(crate) struct Verdict(GuestRun);

impl Verdict {
    /// What the Linux guest's script printed.
    pub(crate) fn output(&self) -> &str {
        &self.0.output
    }

    /// A machine's console.
    pub(crate) fn console(&self, name: &str) -> String {
        let bytes = self
            .0
            .shared_file(&format!("{name}.log"))
            .expect("there is a log");
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// A machine's report.
    pub(crate) fn report(&self, name: &str) -> Report {
        let bytes = self
            .0
            .shared_file(&format!("{name}.report"))
            .expect("there is a report");
        serde_json::from_slice(&bytes).expect("a report is JSON")
    }
}
