//! QEMU and the stock kernel's virtio drivers as judges of the vhost-user backends.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weft_block::ErrorKind;
use weft_netio::{InterfaceName, Namespace, Offloads as TapOffloads, Tap, TapOptions};
use weft_tests::guest::LinuxGuest;
use weft_tests::{Netns, Process, can, require, skip, sparse_file, temp_dir};
use weft_uring::{FileDevice, OpenOptions, Shard, block_on};
use weft_vhost_user::{
    BlkBackend, BlkOptions, BlkServe, FrameFile, NetBackend, NetOptions, NetPort, Offloads, Served,
    Setting,
};

/// In the environment of a process that is to be a backend: its folder.
const ORDERS: &str = "WEFT_TEST_BACKEND";
const QUEUES: u16 = 2;
/// SHA-256 of the page that the guest fetches: 20,000,000 times `w`.
const PAGE_SUM: &str = "6a100509ea7acbf9e7d9a20e6030d9e2a3c95c06992d4a2b1adeecb73c64c1db";
const LONG: Duration = Duration::from_secs(60);

fn disk_options() -> BlkServe {
    BlkServe {
        model: BlkOptions {
            queues: QUEUES,
            serial: "weft-volume".into(),
            ..BlkOptions::default()
        },
        ..BlkServe::default()
    }
}

/// A guest whose disk is at `socket`, found again when its backend comes back.
fn guest(name: &str, socket: &Path) -> LinuxGuest {
    let memory = "memory-backend-memfd,id=memory,share=on,size=1024M";
    let chardev = format!("socket,id=disk,path={},reconnect=1", socket.display());
    let device = format!("vhost-user-blk-pci,chardev=disk,num-queues={QUEUES}");
    LinuxGuest::new(name)
        .cpus(2)
        .qemu_args(["-object", memory, "-machine", "memory-backend=memory"])
        .qemu_args(["-chardev", &chardev, "-device", &device])
}

#[test]
fn a_guest_mounts_writes_and_verifies_a_volume() {
    require!("qemu-system-x86_64", "mkfs.ext4", "e2fsck");
    let folder = temp_dir();
    let image = sparse_file(folder.path(), "volume", 256 << 20);
    let socket = folder.path().join("disk.sock");
    let shard = Shard::start("attach").expect("a shard starts");
    let disk = FileDevice::open(&image, &OpenOptions::default()).expect("the image opens");
    let handle = shard.handle();
    let serving = BlkBackend::serve(&handle, &socket, Arc::new(disk), disk_options());
    let served = block_on(serving).expect("the disk is served");
    let output = guest("vhost-user-blk", &socket)
        .run(
            "echo queues $(ls /sys/block/vda/mq | wc -l) serial $(cat /sys/block/vda/serial)
             echo cache $(cat /sys/block/vda/queue/write_cache)
             mkfs.ext4 -q /dev/vda
             mount -o discard /dev/vda /mnt
             for n in 1 2 3 4 5 6 7 8; do head -c 3000000 /dev/urandom >/mnt/$n & done; wait
             sync /mnt/*
             (cd /mnt && sha256sum [1-8] >sums)
             umount /mnt
             echo 3 >/proc/sys/vm/drop_caches
             mount /dev/vda /mnt
             (cd /mnt && sha256sum --quiet -c sums) && echo 'sums agree'
             rm /mnt/[1-4]
             fstrim /mnt && echo trimmed
             umount /mnt
             head -c 1048576 /dev/zero | tr '\\000' 'x' >/dev/vda.x
             dd if=/dev/vda.x of=/dev/vda bs=512 count=2048 seek=500000 oflag=direct status=none
             dd if=/dev/vda bs=512 count=2048 skip=500000 iflag=direct status=none | cmp - /dev/vda.x && echo 'raw agrees'",
        )
        .expect("the guest runs")
        .success();
    for line in [
        "queues 2 serial weft-volume",
        "cache write back",
        "sums agree",
        "trimmed",
        "raw agrees",
    ] {
        assert!(output.contains(line), "no `{line}` in:\n{output}");
    }
    let statistics = served.statistics();
    assert!(statistics.discards > 0 && statistics.flushes > 0);
    assert_eq!((statistics.errors, statistics.broken_rings), (0, 0));
    block_on(served.stop());
    assert!(!socket.exists());
    let checked = Command::new("e2fsck").arg("-fn").arg(&image).output();
    let checked = checked.expect("e2fsck runs");
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}

/// Not a test: a backend's whole life, if this process was started to be one.
#[test]
fn backend() {
    let Some(folder) = std::env::var_os(ORDERS) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let disk = open(&folder.join("volume"));
    block_on(async {
        let socket = folder.join("disk.sock");
        let served = BlkBackend::serve_here(socket, Arc::new(disk), disk_options());
        let _served = served.expect("the disk is served");
        std::future::pending::<()>().await;
    });
}

/// Opens the image. The kernel lets go of a killed process's lock when that one's last request is done.
fn open(path: &Path) -> FileDevice {
    let started = Instant::now();
    loop {
        match FileDevice::open(path, &OpenOptions::default()) {
            Err(error) if error.kind() == ErrorKind::Busy && started.elapsed() < LONG => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.expect("the image opens"),
        }
    }
}

fn start_backend(folder: &Path) -> Process {
    let mut command = Process::command(std::env::current_exe().expect("this program has a path"));
    command
        .args(["--exact", "backend", "--nocapture"])
        .env(ORDERS, folder)
        .stdout(Stdio::null());
    let mut process = Process::spawn(command).expect("the backend starts");
    let socket = folder.join("disk.sock");
    while UnixStream::connect(&socket).is_err() {
        assert!(process.is_running(), "the backend ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    process
}

#[test]
fn a_guest_outlives_its_backend_under_load() {
    require!("qemu-system-x86_64", "fio");
    let folder = temp_dir();
    sparse_file(folder.path(), "volume", 64 << 20);
    let mut backend = start_backend(folder.path());
    let mut guest = guest("vhost-user-kill", &folder.path().join("disk.sock"))
        .time_limit(Duration::from_secs(180))
        .start(
            "echo ready
             fio --name=load --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 --bs=4k \
                 --rw=randwrite --size=24M --loops=3 --verify=crc32c --verify_fatal=1 --verify_backlog=512 \
                 --fsync=64 --output-format=terse --terse-version=3 >/weft/share/fio || { echo fio failed; exit 1; }
             echo verified",
        )
        .expect("the guest starts");
    guest.wait_for("ready").expect("the guest comes up");
    let mut kills = 0;
    while kills < 5 && !guest.output().contains("verified") {
        std::thread::sleep(Duration::from_millis(1200));
        backend.signal(Signal::SIGKILL).expect("the backend lives");
        backend.wait_for(LONG).expect("the backend is reaped");
        backend = start_backend(folder.path());
        kills += 1;
    }
    let output = guest.wait().expect("the guest ends").success();
    assert!(output.contains("verified"), "{output}");
    assert!(kills >= 2, "the load was over before it was disturbed");
}

/// A TAP as a port of one part.
fn port(tap: Tap) -> Box<dyn NetPort> {
    Box::new(FrameFile::new(tap, |tap, setting| {
        let done = match setting {
            Setting::Setup(setup) => tap
                .set_offloads(TapOffloads::of_virtio_net(setup.features))
                .map(drop),
            Setting::Enabled(enabled) => tap.set_queue_enabled(enabled),
        };
        done.map_err(std::io::Error::other)
    }))
}

/// Queues of the TAP `tap0` in `namespace`, which has the address 10.77.0.1.
fn taps(namespace: &Netns, count: usize) -> Vec<Tap> {
    let options = TapOptions {
        multi_queue: count > 1,
        ..TapOptions::default()
    };
    let taps = Namespace::open_named(namespace.name())
        .expect("the namespace opens")
        .run(|| {
            let name = InterfaceName::new("tap0").expect("a name");
            (0..count)
                .map(|_| Tap::open(&name, &options).expect("a TAP"))
                .collect()
        })
        .expect("a thread in the namespace");
    for line in ["addr add 10.77.0.1/24 dev tap0", "link set tap0 up"] {
        namespace.run("ip", line.split(' ')).expect("ip runs");
    }
    taps
}

/// A backend for `taps` at `socket`.
fn serve_nic(shard: &Shard, socket: &Path, taps: Vec<Tap>) -> Served {
    let options = NetOptions {
        mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
        mtu: None,
        pairs: 0,
        offloads: Offloads::TCP,
    };
    let handle = shard.handle();
    let ports = move || Ok(taps.into_iter().map(port).collect());
    block_on(NetBackend::serve(&handle, socket, options, ports)).expect("a NIC")
}

fn iperf3_server(namespace: &Netns) -> Process {
    let mut iperf = namespace.command("iperf3");
    iperf
        .args(["-s", "-p", "5201"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Process::spawn(iperf).expect("iperf3 starts")
}

#[test]
fn a_guest_talks_through_a_tap() {
    require!("qemu-system-x86_64", "ip", "ping", "iperf3", "busybox");
    if !can::be_root() || !can::open("/dev/net/tun") {
        skip!("needs root and /dev/net/tun");
    }
    let folder = temp_dir();
    let socket = folder.path().join("nic.sock");
    let namespace = Netns::new().expect("a namespace");
    let taps = taps(&namespace, 1);
    std::fs::write(folder.path().join("page"), vec![b'w'; 20_000_000]).expect("a page");
    let mut web = namespace.command("busybox");
    web.args(["httpd", "-f", "-p", "10.77.0.1:8080", "-h"]);
    let _web = Process::spawn({
        web.arg(folder.path());
        web
    });
    let _iperf = iperf3_server(&namespace);
    let shard = Shard::start("attach").expect("a shard starts");
    let served = serve_nic(&shard, &socket, taps);
    let mut guest = LinuxGuest::new("vhost-user-net")
        .vhost_user_net(&socket, "52:54:00:12:34:56")
        .module("virtio_net")
        .module("af_packet")
        .start(
            "ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up
             ping -c 3 -i 0.2 -W 5 10.77.0.1
             echo features $(cat /sys/class/net/eth0/device/features)
             busybox wget -q -O - http://10.77.0.1:8080/page | sha256sum
             iperf3 -c 10.77.0.1 -t 1 >/dev/null && echo sent
             echo up
             while [ ! -e /weft/share/done ]; do sleep 0.2; done
             echo over",
        )
        .expect("the guest starts");
    guest.wait_for("up\n").expect("the guest reaches its host");
    let pinged = namespace.run("ping", ["-c", "3", "-i", "0.2", "-W", "5", "10.77.0.2"]);
    assert!(
        pinged
            .expect("the guest answers")
            .contains(" 0% packet loss")
    );
    std::fs::write(guest.share().join("done"), "").expect("the guest is told");
    let output = guest.wait().expect("the guest ends").success();
    assert!(output.contains(PAGE_SUM), "{output}");
    assert!(output.contains("sent"), "{output}");
    let statistics = served.statistics();
    // Long frames came through whole: 20 MB in far fewer frames than of 1,500 bytes.
    assert!(statistics.reads < 10_000, "{statistics:?}");
    assert_eq!(statistics.broken_rings, 0);
    block_on(served.stop());
}

#[test]
fn a_guest_uses_two_queue_pairs() {
    require!("qemu-system-x86_64", "ip", "iperf3");
    if !can::be_root() || !can::open("/dev/net/tun") {
        skip!("needs root and /dev/net/tun");
    }
    let folder = temp_dir();
    let socket = folder.path().join("nic.sock");
    let namespace = Netns::new().expect("a namespace");
    let taps = taps(&namespace, 2);
    let _iperf = iperf3_server(&namespace);
    let shard = Shard::start("attach").expect("a shard starts");
    let served = serve_nic(&shard, &socket, taps);
    let memory = "memory-backend-memfd,id=memory,share=on,size=1024M";
    let chardev = format!("socket,id=nic,path={}", socket.display());
    let output = LinuxGuest::new("vhost-user-mq")
        .cpus(2)
        .qemu_args(["-object", memory, "-machine", "memory-backend=memory"])
        .qemu_args(["-chardev", &chardev])
        .qemu_args(["-netdev", "vhost-user,id=nic,chardev=nic,queues=2"])
        .qemu_args(["-device", "virtio-net-pci,netdev=nic,mq=on,vectors=0"])
        .module("virtio_net")
        .module("af_packet")
        .run(
            "ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up
             echo queues $(ls /sys/class/net/eth0/queues)
             iperf3 -c 10.77.0.1 -P 4 -t 1 >/dev/null && echo sent
             iperf3 -c 10.77.0.1 -P 4 -t 1 -R >/dev/null && echo received",
        )
        .expect("the guest runs")
        .success();
    for line in ["queues rx-0 rx-1 tx-0 tx-1", "sent", "received"] {
        assert!(output.contains(line), "no `{line}` in:\n{output}");
    }
    assert_eq!(served.statistics().broken_rings, 0);
    block_on(served.stop());
}
