//! What images are.

use weft_qcow2::format::{
    CompressionType, Encryption, Header, SnapshotEntry, Version, incompatible,
};
use weft_qcow2::luks::Area;
use weft_qcow2::read_encryption;
use weft_uring::spawner;

use super::bitmaps::bitmaps;
use super::failed;
use super::name::Name;
use super::open::{Chain, How, Link, open};
use crate::api::{
    ImageBacking, ImageInfo, ImageKeySlot, ImageLuks, ImageSnapshot, Qcow2Info, Result,
};

/// What the image at `name` is, and each that it rests on if `how` opens the chain.
///
/// # Errors
/// As opening it, and as reading it.
pub async fn info(name: &Name, how: &How) -> Result<Vec<ImageInfo>> {
    describe_all(&open(name, how).await?).await
}

async fn describe_all(chain: &Chain) -> Result<Vec<ImageInfo>> {
    let mut infos = Vec::with_capacity(chain.links.len());
    for link in &chain.links {
        infos.push(describe(link).await?);
    }
    Ok(infos)
}

async fn describe(link: &Link) -> Result<ImageInfo> {
    let path = link.name.to_string();
    let mut info = ImageInfo {
        format: link.format.name().to_owned(),
        size_bytes: link.device.info().size,
        used_bytes: used_bytes(&link.name),
        qcow2: None,
        backing: None,
        snapshots: Vec::new(),
        path,
    };
    if let (Some(header), Some(image)) = (&link.header, &link.image) {
        let failed = failed(&info.path);
        let snapshots = image.snapshots(&spawner()).await.map_err(&failed)?;
        info.snapshots = snapshots.iter().map(snapshot).collect();
        info.backing = backing(link, header);
        let mut qcow2 = qcow2(header);
        let area = read_encryption(&*link.file, &spawner()).await;
        qcow2.luks = area.map_err(&failed)?.as_ref().map(luks);
        qcow2.bitmaps = bitmaps(&*link.file, header).await.map_err(&failed)?;
        info.qcow2 = Some(qcow2);
        info.size_bytes = header.size;
    }
    Ok(info)
}

fn qcow2(header: &Header) -> Qcow2Info {
    let encryption = match header.encryption {
        Encryption::None => None,
        Encryption::Aes => Some("aes"),
        Encryption::Luks => Some("luks"),
    };
    Qcow2Info {
        version: if header.version == Version::V2 { 2 } else { 3 },
        cluster_bytes: header.geometry.cluster(),
        refcount_bits: 1 << header.geometry.refcount_order(),
        compression: match header.compression {
            CompressionType::Zlib => "zlib".to_owned(),
            CompressionType::Zstd => "zstd".to_owned(),
        },
        extended_l2: header.geometry.extended_l2(),
        lazy_refcounts: header.lazy_refcounts(),
        dirty: header.has(incompatible::DIRTY),
        corrupt: header.has(incompatible::CORRUPT),
        encryption: encryption.map(str::to_owned),
        luks: None,
        data_file: header.extensions.data_file.clone(),
        data_file_raw: header.raw_data_file(),
        bitmaps: Vec::new(),
    }
}

fn luks(area: &Area) -> ImageLuks {
    let header = area.header();
    let spec = header.spec();
    let slots = header.slots().iter().map(|slot| ImageKeySlot {
        in_use: slot.is_in_use(),
        iterations: slot.iterations(),
        offset: slot.material_offset(),
        stripes: slot.stripes(),
    });
    let name = spec.mode_name();
    let (mode, iv) = name.split_once('-').unwrap_or((&name, ""));
    let (iv, iv_hash) = match iv.split_once(':') {
        Some((iv, hash)) => (iv, Some(hash.to_owned())),
        None => (iv, None),
    };
    let algorithm = spec.algorithm();
    ImageLuks {
        cipher: format!("{}-{}", algorithm.name(), algorithm.key_bytes() * 8),
        mode: mode.to_owned(),
        iv: iv.to_owned(),
        iv_hash,
        hash: header.hash().name().to_owned(),
        uuid: header.uuid(),
        payload_offset: header.payload_offset(),
        digest_iterations: header.digest_iterations(),
        slots: slots.collect(),
    }
}

fn backing(link: &Link, header: &Header) -> Option<ImageBacking> {
    let backing = header.backing()?;
    let there = link.name.named_here(&backing.path);
    Some(ImageBacking {
        // Where the name cannot be followed it is still shown.
        path: there.map_or_else(|_| backing.path.clone(), |name| name.to_string()),
        name: backing.path,
        format: backing.format,
    })
}

pub(in crate::storage) fn snapshot(entry: &SnapshotEntry) -> ImageSnapshot {
    ImageSnapshot {
        id: entry.id.clone(),
        name: entry.name.clone(),
        seconds: entry.seconds,
        nanoseconds: entry.nanoseconds,
        size_bytes: entry.size,
        vm_state_bytes: entry.vm_state,
        vm_clock_nanoseconds: entry.vm_clock,
        instructions: entry.instructions,
    }
}

/// Bytes that a file takes of its file system.
fn used_bytes(name: &Name) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let Name::Path(path) = name else {
        return None;
    };
    // The kernel counts in units of 512 bytes, whatever the file system's block.
    std::fs::metadata(path)
        .ok()
        .map(|metadata| metadata.blocks() * 512)
}
