//! A file that is open here and in QEMU: one writer at most, whoever came first, and readers beside readers.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use weft_block::ErrorKind;
use weft_tests::{Process, require, run, temp_dir};
use weft_uring::{FileDevice, OpenOptions};

/// QEMU with a file open, until it is dropped.
struct Holder(#[expect(dead_code, reason = "it lives as long as the holder")] Process);

impl Holder {
    /// Opens `path` as qemu-io does with `options`. Its answer to a first question says that it is open.
    fn open(options: &[&str], path: &Path) -> Result<Self> {
        let mut command = Process::command("qemu-io");
        command.args(options).arg(path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::null());
        let mut process = Process::spawn(command)?;
        let child = process.child();
        let mut input = child.stdin.take().context("a pipe")?;
        writeln!(input, "length")?;
        // Open for as long as the child lives: its end would end the child.
        child.stdin = Some(input);
        let mut line = String::new();
        let output = child.stdout.take().context("a pipe")?;
        BufReader::new(output).read_line(&mut line)?;
        if !line.contains("MiB") {
            bail!("qemu-io {options:?} answered {line:?}");
        }
        Ok(Self(process))
    }
}

fn ours(path: &Path, read_only: bool) -> weft_block::Result<FileDevice> {
    let options = OpenOptions {
        read_only,
        ..OpenOptions::default()
    };
    FileDevice::open(path, &options)
}

struct Site {
    _folder: tempfile::TempDir,
    qcow2: PathBuf,
    raw: PathBuf,
}

fn site() -> Result<Site> {
    let folder = temp_dir();
    let (qcow2, raw) = (folder.path().join("image"), folder.path().join("raw"));
    let line = ["create", "-q", "-f", "qcow2", text(&qcow2), "4M"];
    run("qemu-img", line)?;
    FileDevice::create(&raw, 4 << 20)?;
    Ok(Site {
        _folder: folder,
        qcow2,
        raw,
    })
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_qemu_writes_is_in_use() -> Result<()> {
    require!("qemu-img", "qemu-io");
    let site = site()?;
    for (options, path) in [
        (&["-f", "qcow2"][..], &site.qcow2),
        (&["-f", "raw"], &site.raw),
    ] {
        let holder = Holder::open(options, path)?;
        for read_only in [false, true] {
            let error = ours(path, read_only).expect_err("it is written there");
            ensure!(error.kind() == ErrorKind::Busy, "{}", error.sentence());
            let sentence = error.to_string();
            ensure!(sentence.contains(text(path)) && sentence.contains("in use"));
        }
        drop(holder);
        ours(path, false)?;
    }
    Ok(())
}

#[test]
fn what_qemu_reads_is_read_here_too_and_not_written() -> Result<()> {
    require!("qemu-img", "qemu-io");
    let site = site()?;
    let holder = Holder::open(&["-r", "-f", "qcow2"], &site.qcow2)?;
    let error = ours(&site.qcow2, false).expect_err("it is read there");
    ensure!(error.kind() == ErrorKind::Busy, "{}", error.sentence());
    let reader = ours(&site.qcow2, true)?;
    drop(holder);
    ensure!(ours(&site.qcow2, false).is_err(), "we read it ourselves");
    drop(reader);
    ours(&site.qcow2, false)?;

    // A reader that says that it bears writers.
    let _holder = Holder::open(&["-r", "-U", "-f", "qcow2"], &site.qcow2)?;
    ours(&site.qcow2, false)?;
    Ok(())
}

#[test]
fn what_we_write_is_in_use_for_qemu() -> Result<()> {
    require!("qemu-img", "qemu-io", "qemu-storage-daemon");
    let site = site()?;
    let ours = (ours(&site.qcow2, false)?, ours(&site.raw, false)?);
    for (options, path) in [
        (&["-f", "qcow2"][..], &site.qcow2),
        (&["-r", "-f", "qcow2"], &site.qcow2),
        (&["-f", "raw"], &site.raw),
    ] {
        let opened = Holder::open(options, path);
        ensure!(opened.is_err(), "qemu-io {options:?} opens it");
    }
    let image = text(&site.qcow2);
    for line in [
        &["info", image][..],
        &["check", image],
        &["snapshot", "-c", "one", image],
        &["resize", image, "8M"],
    ] {
        let error = run("qemu-img", line).expect_err("it is written here");
        ensure!(format!("{error:#}").contains("lock"), "{error:#}");
    }
    let node = format!("driver=qcow2,node-name=n,file.driver=file,file.filename={image}");
    let error = run("qemu-storage-daemon", ["--blockdev", &node]).expect_err("as the others");
    ensure!(format!("{error:#}").contains("lock"), "{error:#}");
    // Whoever says that it bears writers may look.
    run("qemu-img", ["info", "-U", image])?;
    drop(ours);
    run("qemu-img", ["snapshot", "-c", "one", image])?;
    Ok(())
}

#[test]
fn what_we_read_qemu_reads_too_and_does_not_write() -> Result<()> {
    require!("qemu-img", "qemu-io");
    let site = site()?;
    let image = text(&site.qcow2);
    let reader = ours(&site.qcow2, true)?;
    let second = ours(&site.qcow2, true)?;
    Holder::open(&["-r", "-f", "qcow2"], &site.qcow2)?;
    run("qemu-img", ["info", image])?;
    run("qemu-img", ["check", image])?;
    ensure!(Holder::open(&["-f", "qcow2"], &site.qcow2).is_err());
    ensure!(run("qemu-img", ["resize", image, "8M"]).is_err());
    drop((reader, second));
    run("qemu-img", ["resize", image, "8M"])?;
    Ok(())
}
