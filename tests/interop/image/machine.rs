//! A machine that boots from an overlay over a backing file, served by us as vhost-user-blk with several queues: one of
//! the cases in which other engines lost data.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use weft_block::BlockDevice;
use weft_qcow2::format::Backing;
use weft_qcow2::{CreateOptions, Image, OpenOptions, create};
use weft_tests::guest::{Initramfs, Kernel, root_image};
use weft_tests::{Process, require, run, temp_dir};
use weft_uring::{FileDevice, Shard, block_on, spawner};
use weft_vhost_user::{BlkBackend, BlkOptions, BlkServe};

const QUEUES: u16 = 2;
const LONG: Duration = Duration::from_secs(120);

/// Loads what the disk needs, and goes on from there.
const INIT: &str = "#!/bin/sh
mount -t devtmpfs dev /dev; mount -t proc proc /proc
while read module; do insmod /weft/modules/$module; done </weft/load-order
mount -t ext4 /dev/vda /root && exec switch_root /root /sbin/init
echo no root; reboot -f
";

/// What the booted system does: both processors write into clusters that the overlay does not have yet, side by side.
const WORK: &str = "
mount -t devtmpfs dev /dev
exec >/dev/console 2>&1
echo booted from $(cat /release) with $(ls /sys/block/vda/mq 2>/dev/null | wc -l) queues
for n in 1 2 3 4; do (dd if=/dev/urandom of=/tmp/$n bs=1000 count=1500 2>/dev/null; sync) & done; wait
sha256sum /tmp/[1-4] /bin/busybox /release >/tmp/sums
sync; echo 3 >/proc/sys/vm/drop_caches
sha256sum -c /tmp/sums >/dev/null && echo sums agree
sync; mount -o remount,ro /; reboot -f
";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A root file system in an image, and an overlay of ours over it.
fn make_overlay(folder: &Path) -> Result<()> {
    let raw = root_image(folder, &format!("mount -t sysfs sys /sys\n{WORK}"))?;
    run(
        "debugfs",
        [
            "-w",
            "-R",
            &format!("write {} release", text(&folder.join("release"))),
            text(&raw),
        ],
    )?;
    let base = folder.join("base.qcow2");
    run(
        "qemu-img",
        [
            "convert",
            "-c",
            "-f",
            "raw",
            "-O",
            "qcow2",
            text(&raw),
            text(&base),
        ],
    )?;
    let mut options = CreateOptions::new(std::fs::metadata(&raw)?.len());
    options.backing = Some(Backing {
        path: "base.qcow2".into(),
        format: Some("qcow2".into()),
    });
    block_on(async {
        let file = FileDevice::create(folder.join("overlay.qcow2"), 0)?;
        create(&file, &options, &spawner()).await
    })?;
    Ok(())
}

async fn open(folder: &Path) -> Result<Image> {
    let options = weft_uring::OpenOptions {
        fill_last_block: true,
        ..weft_uring::OpenOptions::default()
    };
    let reading = weft_uring::OpenOptions {
        read_only: true,
        ..options
    };
    let base = FileDevice::open(folder.join("base.qcow2"), &reading)?;
    let base = Image::open(Arc::new(base), OpenOptions::default(), &spawner()).await?;
    let file = FileDevice::open(folder.join("overlay.qcow2"), &options)?;
    let options = OpenOptions {
        backing: Some(Arc::new(base) as Arc<dyn BlockDevice>),
        ..OpenOptions::default()
    };
    Ok(Image::open(Arc::new(file), options, &spawner()).await?)
}

fn boot(folder: &Path, socket: &Path) -> Result<String> {
    let kernel = Kernel::cloud()?;
    let mut archive = Initramfs::with_busybox()?;
    archive.file("init", INIT.as_bytes());
    archive.modules(
        &kernel,
        &["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"],
    )?;
    let initramfs = folder.join("initramfs");
    std::fs::write(&initramfs, archive.finish())?;
    let console = folder.join("console");
    let mut command = Process::command("qemu-system-x86_64");
    let words = "-nodefaults -display none -no-reboot -M q35,memory-backend=memory -cpu max -smp 2 -m 512 \
                 -accel tcg,thread=multi -object memory-backend-memfd,id=memory,share=on,size=512M";
    command
        .args(words.split_whitespace())
        .args([
            "-kernel",
            text(&kernel.vmlinux()),
            "-initrd",
            text(&initramfs),
        ])
        .args([
            "-append",
            "console=ttyS0 quiet reboot=t panic=-1 no_timer_check",
        ])
        .args(["-serial", &format!("file:{}", text(&console))])
        .args(["-chardev", &format!("socket,id=disk,path={}", text(socket))])
        .args([
            "-device",
            &format!("vhost-user-blk-pci,chardev=disk,num-queues={QUEUES}"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut machine = Process::spawn(command)?;
    let begun = Instant::now();
    while machine.is_running() {
        if begun.elapsed() > LONG {
            bail!(
                "the machine does not end: {}",
                std::fs::read_to_string(&console)?
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(std::fs::read_to_string(&console)?)
}

#[test]
fn a_machine_boots_from_an_overlay() -> Result<()> {
    require!(
        "qemu-system-x86_64",
        "qemu-img",
        "mkfs.ext4",
        "debugfs",
        "e2fsck"
    );
    let folder = temp_dir();
    let folder = folder.path();
    std::fs::write(folder.join("release"), "the base\n")?;
    make_overlay(folder)?;
    let base = weft_tests::data::sha256(&folder.join("base.qcow2"))?;
    let shard = Shard::start("attach")?;
    let socket = folder.join("disk.sock");
    let place = folder.to_owned();
    let opened = shard
        .handle()
        .run(move || async move { open(&place).await });
    let image = block_on(opened).context("the shard runs")??;
    let serving = BlkServe {
        model: BlkOptions {
            queues: QUEUES,
            ..BlkOptions::default()
        },
        ..BlkServe::default()
    };
    let served = block_on(BlkBackend::serve(
        &shard.handle(),
        &socket,
        Arc::new(image.clone()),
        serving,
    ))?;
    let output = boot(folder, &socket)?;
    block_on(served.stop());
    let closing = image.clone();
    let closed = shard
        .handle()
        .run(move || async move { closing.close(&spawner()).await });
    block_on(closed).context("the shard runs")??;
    drop((image, shard));
    for line in [
        &format!("booted from the base with {QUEUES} queues"),
        "sums agree",
    ] {
        ensure!(output.contains(line), "no `{line}` in:\n{output}");
    }
    let overlay = folder.join("overlay.qcow2");
    run("qemu-img", ["check", "-q", "-f", "qcow2", text(&overlay)])?;
    ensure!(weft_tests::data::sha256(&folder.join("base.qcow2"))? == base);
    let whole = folder.join("whole");
    run(
        "qemu-img",
        [
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            text(&overlay),
            text(&whole),
        ],
    )?;
    run("e2fsck", ["-fn", text(&whole)])?;
    let sums = run("debugfs", ["-R", "cat /tmp/sums", text(&whole)])?;
    ensure!(sums.contains("/tmp/4"), "{sums}");
    Ok(())
}
