//! Persistent bitmaps: QEMU reads in ours what we recorded, and we in QEMU's what it did.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use weft_block::{BlockDevice, IoVec, Request};
use weft_qcow2::{CreateOptions, Image, OpenOptions, create};
use weft_tests::{Process, require, run, temp_dir};
use weft_uring::{FileDevice, block_on, spawner};

use crate::layout::MIB;

const SIZE: u64 = 64 * MIB;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Does something with the image, and closes it.
fn with_image<T>(path: &Path, work: impl AsyncFnOnce(&Image) -> Result<T>) -> Result<T> {
    block_on(async {
        let options = weft_uring::OpenOptions {
            fill_last_block: true,
            ..weft_uring::OpenOptions::default()
        };
        let file = Arc::new(FileDevice::open(path, &options)?);
        let image = Image::open(file, OpenOptions::default(), &spawner()).await?;
        let done = work(&image).await?;
        image.close(&spawner()).await?;
        Ok(done)
    })
}

async fn write(image: &Image, range: Range<u64>) -> Result<()> {
    let queue = image.open(&spawner())?;
    let data = IoVec::copy_of(&vec![1; (range.end - range.start) as usize]);
    Ok(queue
        .submit(Request::write(range.start, data))
        .await
        .result?)
}

/// The parts that QEMU says a bitmap has set, as its NBD server tells them.
fn told_by_qemu(image: &Path, name: &str) -> Result<Vec<Range<u64>>> {
    let socket = image.with_extension("socket");
    let mut command = Process::command("qemu-nbd");
    command.args([
        "-r",
        "-t",
        "-f",
        "qcow2",
        "-B",
        name,
        "-k",
        text(&socket),
        text(image),
    ]);
    let _server = Process::spawn(command)?;
    for _ in 0..500 {
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let context = format!("--map=qemu:dirty-bitmap:{name}");
    let url = format!("nbd+unix:///?socket={}", text(&socket));
    let map: Vec<serde_json::Value> =
        serde_json::from_str(&run("nbdinfo", ["--json", &context, &url])?)?;
    std::fs::remove_file(&socket)?;
    let number = |entry: &serde_json::Value, name: &str| entry[name].as_u64().unwrap_or(0);
    let set = map.iter().filter(|entry| number(entry, "type") == 1);
    let part = |entry: &serde_json::Value| {
        let start = number(entry, "offset");
        start..start + number(entry, "length")
    };
    Ok(set.map(part).collect())
}

fn check(image: &Path) -> Result<()> {
    run("qemu-img", ["check", "-q", "-f", "qcow2", text(image)])?;
    Ok(())
}

#[test]
fn we_go_on_with_qemus_bitmap() -> Result<()> {
    require!("qemu-img", "qemu-nbd", "nbdinfo");
    let folder = temp_dir();
    for options in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on",
    ] {
        let image = folder.path().join("theirs.qcow2");
        let size = SIZE.to_string();
        run(
            "qemu-img",
            [
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                options,
                text(&image),
                &size,
            ],
        )?;
        run(
            "qemu-img",
            ["bitmap", "--add", "-g", "64k", text(&image), "monday"],
        )?;
        run(
            "qemu-img",
            ["bitmap", "--add", "--disable", text(&image), "still"],
        )?;
        with_image(&image, async |image| {
            ensure!(image.bitmaps().len() == 2);
            write(image, MIB..MIB + 4096).await?;
            write(image, SIZE - MIB..SIZE).await
        })?;
        check(&image)?;
        let expected = [MIB..MIB + 65536, SIZE - MIB..SIZE];
        ensure!(told_by_qemu(&image, "monday")? == expected, "{options}");
        ensure!(told_by_qemu(&image, "still")?.is_empty(), "{options}");
        run(
            "qemu-img",
            ["bitmap", "--merge", "monday", text(&image), "still"],
        )?;
        let dirty = with_image(&image, async |image| Ok(image.dirty("still")?))?;
        ensure!(dirty == expected, "{options}: {dirty:?}");
        with_image(&image, async |image| {
            image.remove_bitmap("monday")?;
            Ok(image.resize(SIZE * 3, &spawner()).await?)
        })?;
        check(&image)?;
        ensure!(told_by_qemu(&image, "still")? == expected, "{options}");
    }
    Ok(())
}

#[test]
fn qemu_goes_on_with_our_bitmap() -> Result<()> {
    require!("qemu-img", "qemu-io", "qemu-nbd", "nbdinfo");
    let folder = temp_dir();
    let path = folder.path().join("ours.qcow2");
    block_on(async {
        let file = FileDevice::create(&path, 0)?;
        create(&file, &CreateOptions::new(SIZE), &spawner()).await
    })?;
    with_image(&path, async |image| {
        image.create_bitmap("tuesday", 65536, true)?;
        write(image, 0..512).await
    })?;
    check(&path)?;
    run(
        "qemu-io",
        ["-f", "qcow2", "-c", "write 10M 64k", text(&path)],
    )?;
    check(&path)?;
    let expected = [0..65536, 10 * MIB..10 * MIB + 65536];
    ensure!(told_by_qemu(&path, "tuesday")? == expected);
    let dirty = with_image(&path, async |image| Ok(image.dirty("tuesday")?))?;
    ensure!(dirty == expected, "{dirty:?}");
    // A program that does not write it back leaves it inconsistent for both.
    block_on(async {
        let file = Arc::new(FileDevice::open(
            &path,
            &weft_uring::OpenOptions::default(),
        )?);
        let image = Image::open(file, OpenOptions::default(), &spawner()).await?;
        write(&image, 0..512).await
    })?;
    let info = run("qemu-img", ["info", "--output=json", text(&path)])?;
    ensure!(info.contains("in-use"), "{info}");
    check(&path)
}
