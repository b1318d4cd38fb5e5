//! Other people's engines, qcow2-rs and imago, take turns with QEMU and us on one image: after each turn QEMU and we find
//! nothing wrong with it, and all read the same disk. They are in a program of their own (`tests/peers`).
//!
//! What a peer cannot do, or does wrong, is named in its [`Peer`] and shown by [`failings_that_the_turns_go_around`].

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use weft_qcow2::luks::Area;
use weft_tests::{require, run, temp_dir};

use super::dm_crypt::our_image;
use super::luks::{KINDS, create_options, random, work};
use super::random::{Act, Disk, Form, SECTOR, SECTORS, Site, fills, seeds, text};
use crate::layout::read;

const PROGRAM: &str = "image-peers";

/// Another engine, and what it can do.
#[derive(Debug)]
struct Peer {
    name: &'static str,
    /// Images that it reads and writes.
    forms: &'static [Form],
    /// Whether zeroes and discards, in images of version 3, and other sizes are among what it does.
    does_more: bool,
    /// Whether a write leaves snapshots alone.
    keeps_snapshots: bool,
    /// Sectors of the backing files that it can stand.
    base_sectors: u64,
}

/// Refuses extended L2 entries and zstd.
const IMAGO: Peer = Peer {
    name: "imago",
    forms: &[
        ("", None),
        ("", Some("raw")),
        ("", Some("qcow2")),
        ("cluster_size=512", None),
        ("cluster_size=4096", Some("qcow2")),
        ("cluster_size=2M", None),
        ("compat=0.10", None),
        ("compat=0.10", Some("qcow2")),
        ("refcount_bits=2", None),
        ("refcount_bits=64,cluster_size=1024", None),
        ("lazy_refcounts=on", None),
        ("preallocation=metadata", None),
    ],
    does_more: true,
    keeps_snapshots: true,
    base_sectors: SECTORS / 2,
};

/// Refuses the same and takes every backing file for qcow2. Behind the end of one it reads what was in the buffer before.
/// In tables of clusters under 4 KiB it looks in the wrong place.
const QCOW2_RS: Peer = Peer {
    name: "qcow2-rs",
    forms: &[
        ("", None),
        ("", Some("qcow2")),
        ("cluster_size=4096", Some("qcow2")),
        ("cluster_size=2M", None),
        ("compat=0.10", None),
        ("refcount_bits=64", None),
        ("lazy_refcounts=on", None),
        ("preallocation=metadata", None),
    ],
    does_more: false,
    keeps_snapshots: false,
    base_sectors: SECTORS,
};

impl Peer {
    /// Lets the peer do what the lines of `script` say.
    fn run(&self, image: &Path, script: &str) -> Result<()> {
        let file = image.with_extension("script");
        std::fs::write(&file, script)?;
        let (name, image) = (self.name, image.display());
        let line = format!("{PROGRAM} {name} {image} <{}", file.display());
        run("sh", ["-c", &line]).context(script.to_owned())?;
        Ok(())
    }

    fn read(&self, image: &Path) -> Result<Vec<u8>> {
        let copy = image.with_extension("copy");
        self.run(image, &format!("read {}", copy.display()))?;
        Ok(std::fs::read(copy)?)
    }

    /// It does a few things.
    fn turn(&self, site: &mut Site, (options, _): Form) -> Result<()> {
        let zeroes = self.does_more && !options.contains("compat=0.10");
        let mut script = String::new();
        for _ in 0..1 + site.random.below(8) {
            let act = site.draw();
            let line = match act {
                Act::Write { start, len, fill } => {
                    format!("write {fill} {} {}\n", start * SECTOR, len * SECTOR)
                }
                Act::Zero { start, len, .. } if zeroes => {
                    format!("zero {} {}\n", start * SECTOR, len * SECTOR)
                }
                Act::Discard { start, len } if zeroes => {
                    format!("discard {} {}\n", start * SECTOR, len * SECTOR)
                }
                _ => "flush\n".to_owned(),
            };
            match act {
                // What it discards reads as zeroes.
                Act::Discard { start, len } if zeroes => site.note(&Act::Zero {
                    start,
                    len,
                    unmap: true,
                }),
                Act::Write { .. } => site.note(&act),
                Act::Zero { .. } if zeroes => site.note(&act),
                _ => {}
            }
            script.push_str(&line);
        }
        self.run(&site.image, &script)
    }

    /// It makes the disk longer or shorter.
    fn resize(&self, site: &mut Site) -> Result<()> {
        let sectors = SECTORS / 2 + site.random.below(SECTORS);
        // As of QEMU: what was in the last cluster behind a shorter end comes back.
        let sectors = sectors / 4096 * 4096;
        if !site.snapshots.is_empty() || !site.disk.len().is_multiple_of(4096) {
            return Ok(());
        }
        self.run(&site.image, &format!("resize {}", sectors * SECTOR))?;
        site.disk.resize(sectors as usize, 0);
        Ok(())
    }

    /// It reads what all others read.
    fn judge(&self, site: &Site) -> Result<()> {
        let found: Disk = fills(&self.read(&site.image)?)?;
        let other = found.iter().zip(&site.disk).position(|(a, b)| a != b);
        ensure!(
            found.len() == site.disk.len() && other.is_none(),
            "{} reads {} sectors; the first that differs is {:?}",
            self.name,
            found.len(),
            other.map(|sector| (sector, found[sector], site.disk[sector]))
        );
        Ok(())
    }

    fn seed(&self, seed: u64) -> Result<()> {
        let form = self.forms[seed as usize % self.forms.len()];
        let mut site = Site::new(seed, form, self.base_sectors)?;
        for turn in 0..8 {
            let choice = site.random.below(10);
            match choice {
                0 | 1 => site.ours(),
                2 | 3 => site.theirs(),
                4..=7 => self.turn(&mut site, form),
                8 if self.keeps_snapshots && site.snapshots.len() < site.most_snapshots => {
                    site.snapshot()
                }
                8 if self.does_more => self.resize(&mut site),
                _ => site.resize(),
            }
            .and_then(|()| site.judge())
            .and_then(|()| self.judge(&site))
            .with_context(|| format!("turn {turn}, choice {choice}"))?;
        }
        Ok(())
    }

    fn seeds(&self) -> Result<()> {
        for seed in seeds(self.forms.len())? {
            let form = self.forms[seed as usize % self.forms.len()];
            let what = || format!("{}, seed {seed}, {form:?}", self.name);
            self.seed(seed).with_context(what)?;
        }
        Ok(())
    }
}

#[test]
fn imago_qemu_and_we_in_turns_leave_one_image() -> Result<()> {
    require!("qemu-img", "qemu-io", PROGRAM);
    IMAGO.seeds()
}

#[test]
fn qcow2_rs_qemu_and_we_in_turns_leave_one_image() -> Result<()> {
    require!("qemu-img", "qemu-io", PROGRAM);
    QCOW2_RS.seeds()
}

/// A failing that is mended one day fails this test, so that the turns need not go around it any more.
#[test]
fn failings_that_the_turns_go_around() -> Result<()> {
    require!("qemu-img", "qemu-io", PROGRAM);
    let folder = temp_dir();
    for peer in [IMAGO, QCOW2_RS] {
        let image = folder.path().join(format!("{}.qcow2", peer.name));
        let path = text(&image);
        run("qemu-img", ["create", "-q", "-f", "qcow2", &path, "1M"])?;
        run("qemu-img", ["bitmap", "--add", &path, "changes"])?;
        run("qemu-io", ["-c", "write -P 1 0 64k", &path])?;
        run("qemu-img", ["snapshot", "-c", "one", &path])?;
        peer.run(&image, "write 2 0 65536")?;

        let raw = text(&image.with_extension("raw"));
        let convert = ["convert", "-q", "-l", "one", "-O", "raw", &path, &raw];
        run("qemu-img", convert)?;
        let kept = std::fs::read(&raw)?[0] == 1;
        ensure!(kept == peer.keeps_snapshots, "{}: snapshot", peer.name);
        // What a bitmap tells of a disk that was written without it is not to be believed any more.
        let believed = read(&image, 95, 1)?[0] & 1 == 1;
        ensure!(believed != peer.keeps_snapshots, "{}: bitmap", peer.name);

        // A write far behind what the first table maps.
        let create = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=1k",
            &path,
            "1M",
        ];
        run("qemu-img", create)?;
        let small = peer.run(&image, "write 3 786432 512");
        ensure!(
            small.is_ok() == peer.keeps_snapshots,
            "{}: clusters",
            peer.name
        );

        // Both take what is encrypted for data.
        let (area, _) = Area::create(create_options(KINDS[0]), b"ours", work(), &mut random(2))?;
        let plain = vec![7; 3 << 16];
        let image = image.with_extension("luks");
        our_image(&image, &area, &plain)?;
        let found = peer.read(&image)?;
        ensure!(
            found.len() == plain.len() && found != plain,
            "{}",
            peer.name
        );
    }
    Ok(())
}
