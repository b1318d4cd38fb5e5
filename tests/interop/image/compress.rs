//! Compressed clusters: QEMU's we make long again, and QEMU ours.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use weft_block::BlockDevice;
use weft_qcow2::compress::{compress, decompress};
use weft_qcow2::format::{CompressionType, Mapping};
use weft_qcow2::{CreateOptions, Image, OpenOptions, Packed, Repair, create};
use weft_tests::data::Sequence;
use weft_tests::{data, require, run, temp_dir};
use weft_uring::{FileDevice, OpenOptions as FileOptions, block_on, spawner};

use crate::layout::{CLUSTER, MIB, layout_of, read};

const SIZE: u64 = 4 * MIB;

/// Words that come again near and far, a part of noise, and a part of zeroes.
fn disk() -> Vec<u8> {
    let words: Vec<_> = (0..300).map(|seed| data::bytes(seed, 7)).collect();
    let mut sequence = Sequence::new(2);
    let mut bytes = Vec::new();
    while bytes.len() < SIZE as usize {
        bytes.extend_from_slice(&words[sequence.below(300) as usize]);
    }
    bytes.truncate(SIZE as usize);
    let noise = data::bytes(1, CLUSTER as usize);
    bytes[(CLUSTER * 5) as usize..][..noise.len()].copy_from_slice(&noise);
    bytes[(CLUSTER * 9) as usize..(CLUSTER * 11) as usize].fill(0);
    bytes
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn both_ways(kind: CompressionType, name: &str) -> Result<()> {
    let folder = temp_dir();
    let (plain, image) = (folder.path().join("plain"), folder.path().join("image"));
    let disk = disk();
    std::fs::write(&plain, &disk)?;
    let options = format!("compression_type={name}");
    let line = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options];
    let paths = [text(&plain), text(&image)];
    run("qemu-img", line.into_iter().chain(paths))?;

    let (header, clusters) = layout_of(&image)?;
    ensure!(header.compression == kind);
    let file = File::options().read(true).write(true).open(&image)?;
    // What we write lies at the end of the file, each part right after the one before, as compressed data does.
    let mut end = file.metadata()?.len().next_multiple_of(CLUSTER);
    let mut compressed = 0;
    for cluster in &clusters {
        let Mapping::Compressed { host, len } = cluster.mapping else {
            continue;
        };
        compressed += 1;
        let mut bytes = vec![0; CLUSTER as usize];
        // The last sector may end behind the file.
        let len = len.min(file.metadata()?.len() - host) as usize;
        decompress(kind, &read(&image, host, len)?, &mut bytes)
            .with_context(|| format!("the cluster at {}", cluster.guest))?;
        ensure!(bytes == disk[cluster.guest as usize..][..bytes.len()]);

        let ours = compress(kind, &bytes).context("what QEMU compresses shrinks")?;
        file.write_all_at(&ours, end)?;
        let (host, len) = (end, ours.len() as u64);
        let (entry, _) = Mapping::Compressed { host, len }.encode(header.geometry);
        file.write_all_at(&entry.to_be_bytes(), cluster.entry)?;
        end += len;
    }
    ensure!(compressed > 50, "only {compressed} clusters are compressed");
    file.set_len(end.next_multiple_of(512))?;
    run(
        "qemu-img",
        ["compare", "-f", "raw", text(&plain), text(&image)],
    )?;
    Ok(())
}

#[test]
fn deflate_goes_both_ways() -> Result<()> {
    require!("qemu-img");
    both_ways(CompressionType::Zlib, "zlib")
}

#[test]
fn zstandard_goes_both_ways() -> Result<()> {
    require!("qemu-img");
    both_ways(CompressionType::Zstd, "zstd")
}

fn open_file(path: &Path) -> weft_block::Result<Arc<dyn BlockDevice>> {
    let options = FileOptions {
        fill_last_block: true,
        ..FileOptions::default()
    };
    Ok(Arc::new(FileDevice::open(path, &options)?))
}

/// Writes all of `disk` compressed, in several pieces, and some of it over again.
async fn pack(path: &Path, disk: &[u8]) -> Result<()> {
    let spawner = spawner();
    let image = Image::open(open_file(path)?, OpenOptions::default(), &spawner).await?;
    let header = image.header();
    let cluster = header.geometry.cluster() as usize;
    let packer = image.packer(&spawner)?;
    let mut sequence = Sequence::new(8);
    let mut at = 0;
    while at < disk.len() {
        let len = ((1 + sequence.below(40) as usize) * cluster).min(disk.len() - at);
        let short = |part: &[u8]| Packed::new(header.compression, part);
        let clusters: Vec<_> = disk[at..at + len].chunks(cluster).map(short).collect();
        packer.write(at as u64, clusters.clone()).await?;
        if sequence.below(3) == 0 {
            packer.write(at as u64, clusters).await?;
        }
        at += len;
    }
    Ok(image.close(&spawner).await?)
}

#[test]
fn an_image_that_we_compress_is_qemus_too() -> Result<()> {
    require!("qemu-img", "qemu-io");
    let folder = temp_dir();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, disk())?;
    for (number, (kind, cluster_bits, refcount_order)) in [
        (CompressionType::Zlib, 16, 4),
        (CompressionType::Zstd, 16, 1),
        (CompressionType::Zlib, 12, 0),
        (CompressionType::Zstd, 21, 6),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(format!("image{number}"));
        let mut options = CreateOptions::new(SIZE);
        options.compression = kind;
        (options.cluster_bits, options.refcount_order) = (cluster_bits, refcount_order);
        block_on(async {
            let file = FileDevice::create(&path, 0)?;
            create(&file, &options, &spawner()).await?;
            drop(file);
            pack(&path, &disk()).await
        })?;
        let image = text(&path);
        // Its exit status tells of leaks too.
        run("qemu-img", ["check", "-q", image])?;
        run("qemu-img", ["compare", "-f", "raw", text(&plain), image])?;
        ensure!(
            std::fs::metadata(&path)?.len() < SIZE || refcount_order == 0 || cluster_bits == 21
        );
        // QEMU takes some of them away, and we find nothing wrong.
        run(
            "qemu-io",
            [
                "-c",
                "write -P 7 100k 300k",
                "-c",
                "write -z -u 1M 1M",
                image,
            ],
        )?;
        let report = block_on(async {
            let image = Image::open(open_file(&path)?, OpenOptions::default(), &spawner()).await?;
            image.check(Repair::Nothing, &spawner()).await
        })?;
        ensure!(report.corruptions + report.leaks == 0, "{report:#?}");
    }
    Ok(())
}
