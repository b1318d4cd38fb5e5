//! Pieces of qcow2 images from strangers.

use std::sync::Arc;

use weft_block::{BlockDevice, IoVec, Request, Spawner};
use weft_qcow2::compress::{compress, decompress};
use weft_qcow2::format::{
    BitmapEntry, CompressionType, Header, L1Entry, Mapping, SnapshotEntry, Version,
};
use weft_qcow2::{Amendment, Image, OpenOptions, Repair, SnapshotName};
use weft_sim::{Executor, MemoryDevice};

/// Disks that are looked at, at most; the format has much larger ones.
const LARGEST_DISK: u64 = 1 << 30;

/// A byte for the kind, a byte for the size of the cluster, and the compressed bytes.
pub(super) fn compressed(bytes: &[u8]) {
    let [kind, size, input @ ..] = bytes else {
        return;
    };
    let kind = match kind % 2 {
        0 => CompressionType::Zlib,
        _ => CompressionType::Zstd,
    };
    let mut cluster = vec![0; 512 << (size % 8)];
    let _ = decompress(kind, input, &mut cluster);
    if let Some(packed) = compress(kind, input) {
        let mut back = vec![0; input.len()];
        decompress(kind, &packed, &mut back).expect("it was compressed here");
        assert_eq!(back, input);
    }
}

/// The first cluster, and behind it whatever its counts say.
pub(super) fn header(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else {
        return;
    };
    if let Ok(written) = header.to_bytes() {
        let mut again = Header::parse(&written).expect("it was valid");
        // Which of the names of features there is room for may differ.
        again
            .extensions
            .feature_names
            .clone_from(&header.extensions.feature_names);
        assert_eq!(again, header);
    }
    let rest = &bytes[bytes.len().min(header.geometry.cluster() as usize)..];
    let (geometry, version) = (header.geometry, header.version);
    if let Ok((entries, len)) = SnapshotEntry::parse_table(rest, header.snapshots, geometry) {
        assert!(len <= rest.len());
        if let Ok(written) = SnapshotEntry::write_table(&entries) {
            let again = SnapshotEntry::parse_table(&written, entries.len() as u32, geometry);
            assert_eq!(again.expect("it was valid").0.len(), entries.len());
        }
    }
    if let Ok(entries) = BitmapEntry::parse_directory(rest, rest.len() as u32 / 32, geometry) {
        let written = BitmapEntry::write_directory(&entries);
        let again = BitmapEntry::parse_directory(&written, entries.len() as u32, geometry);
        assert_eq!(again.ok(), Some(entries));
    }
    for words in rest.chunks_exact(16) {
        let word = |at: usize| u64::from_be_bytes(words[at..at + 8].try_into().expect("eight"));
        let (raw, bitmap) = (word(0), word(8));
        if let Ok(Some(entry)) = L1Entry::decode(raw, geometry) {
            assert_eq!(
                L1Entry::decode(entry.encode(), geometry).ok(),
                Some(Some(entry))
            );
        }
        if let Ok(mapping) = Mapping::decode(raw, bitmap, version, geometry) {
            let (raw, bitmap) = mapping.encode(geometry);
            let again = Mapping::decode(raw, bitmap, version, geometry);
            assert_eq!(again.ok(), Some(mapping));
        }
    }
}

/// A whole image: checked, read, written and repaired.
pub(super) fn image(bytes: &[u8]) {
    if !Header::parse(bytes).is_ok_and(|header| header.size <= LARGEST_DISK) {
        return;
    }
    let executor = Executor::new(0);
    let spawner = executor.spawner();
    executor.block_on(async {
        let file = || -> Arc<dyn BlockDevice> {
            let memory = MemoryDevice::new(bytes.len().next_multiple_of(512) as u64);
            memory.poke(0, bytes);
            Arc::new(memory)
        };
        use_it(file(), false, &spawner).await;
        use_it(file(), true, &spawner).await;
    });
}

async fn use_it(file: Arc<dyn BlockDevice>, repair: bool, spawner: &Spawner) {
    let options = || OpenOptions {
        without_backing: true,
        without_key: true,
        for_repair: repair,
        cache: 1 << 20,
        ..OpenOptions::default()
    };
    let Ok(image) = Image::open(Arc::clone(&file), options(), spawner).await else {
        return;
    };
    let how = if repair { Repair::All } else { Repair::Nothing };
    let report = image.check(how, spawner).await;
    if repair && report.is_ok_and(|report| report.repaired) {
        let again = image.check(Repair::Nothing, spawner).await;
        let again = again.expect("what was repaired can be checked");
        assert_eq!(again.corruptions, 0, "{:#?}", again.problems);
    }
    let Ok(queue) = BlockDevice::open(&image, spawner) else {
        return;
    };
    let len = image.info().size.min(64 << 10);
    let read = Request::read(0, IoVec::zeroed(len as usize));
    let _ = queue.submit(read).await;
    let _ = queue.extents(0, len).await;
    let write = Request::write(len / 1024 * 512, IoVec::zeroed(512.min(len as usize)));
    let _ = queue.submit(write).await;
    let _ = queue.submit(Request::write_zeroes(0, len, true)).await;
    let _ = queue.submit(Request::flush()).await;
    drop(queue);
    change_it(&image, spawner).await;
    let _ = image.close(spawner).await;
    drop(image);
    for way in [
        Amendment::RefcountOrder(1),
        Amendment::RefcountOrder(4),
        Amendment::Version(Version::V2),
        Amendment::Version(Version::V3),
        Amendment::LazyRefcounts(true),
    ] {
        let Ok(image) = Image::open(Arc::clone(&file), options(), spawner).await else {
            return;
        };
        let _ = image.amend(&way, spawner).await;
    }
}

/// What changes all tables at once.
async fn change_it(image: &Image, spawner: &Spawner) {
    let snapshots = image.snapshots(spawner).await.unwrap_or_default();
    for entry in snapshots.iter().take(2) {
        let _ = image.apply_snapshot(&entry.id, spawner).await;
        let _ = image.delete_snapshot(&entry.id, spawner).await;
    }
    let name = SnapshotName {
        name: "new".into(),
        seconds: 0,
        nanoseconds: 0,
    };
    let _ = image.create_snapshot(name, spawner).await;
    for bitmap in image.bitmaps() {
        let _ = image.clear_bitmap(&bitmap.name, spawner).await;
    }
    let _ = image.create_bitmap("new", 65536, true);
    let _ = image.resize(image.info().size / 2, spawner).await;
}
