//! Answers in QEMU's words, as scripts read them.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use weft_qcow2::CreateOptions;
use weft_qcow2::format::{CompressionType, Version};
use weft_service::api::{
    ImageBitmap, ImageCheck, ImageExtent, ImageInfo, ImageKeySlot, ImageLuks, ImageSnapshot,
    Qcow2Info,
};
use weft_service::storage::images::Formatted;

pub(super) fn info_json(info: &ImageInfo) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("virtual-size", json!(info.size_bytes));
    put("filename", json!(info.path));
    put("format", json!(info.format));
    if let Some(used) = info.used_bytes {
        put("actual-size", json!(used));
    }
    let dirty = info.qcow2.as_ref().is_some_and(|qcow2| qcow2.dirty);
    put("dirty-flag", json!(dirty));
    if let Some(qcow2) = &info.qcow2 {
        put("cluster-size", json!(qcow2.cluster_bytes));
        if qcow2.encryption.is_some() {
            put("encrypted", json!(true));
        }
        put(
            "format-specific",
            json!({ "type": "qcow2", "data": specific_json(qcow2) }),
        );
    }
    if let Some(backing) = &info.backing {
        put("backing-filename", json!(backing.name));
        put("full-backing-filename", json!(backing.path));
        if let Some(format) = &backing.format {
            put("backing-filename-format", json!(format));
        }
    }
    if !info.snapshots.is_empty() {
        let snapshots: Vec<Value> = info.snapshots.iter().map(snapshot_json).collect();
        put("snapshots", json!(snapshots));
    }
    Value::Object(object)
}

fn specific_json(qcow2: &Qcow2Info) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("compat", json!(compat(qcow2)));
    put("compression-type", json!(qcow2.compression));
    put("refcount-bits", json!(qcow2.refcount_bits));
    if let Some(encryption) = &qcow2.encryption {
        let mut encrypt = qcow2.luks.as_ref().map_or(json!({}), luks_json);
        encrypt["format"] = json!(encryption);
        put("encrypt", encrypt);
    }
    if qcow2.version == 3 {
        put("lazy-refcounts", json!(qcow2.lazy_refcounts));
        put("corrupt", json!(qcow2.corrupt));
        put("extended-l2", json!(qcow2.extended_l2));
        if let Some(file) = &qcow2.data_file {
            put("data-file", json!(file));
            put("data-file-raw", json!(qcow2.data_file_raw));
        }
        if !qcow2.bitmaps.is_empty() {
            let bitmaps: Vec<Value> = qcow2.bitmaps.iter().map(bitmap_json).collect();
            put("bitmaps", json!(bitmaps));
        }
    }
    Value::Object(object)
}

fn luks_json(luks: &ImageLuks) -> Value {
    let slot = |slot: &ImageKeySlot| match slot.in_use {
        true => json!({
            "active": true, "iters": slot.iterations, "key-offset": slot.offset, "stripes": slot.stripes,
        }),
        false => json!({ "active": false, "key-offset": slot.offset }),
    };
    let mut value = json!({
        "ivgen-alg": luks.iv,
        "hash-alg": luks.hash,
        "cipher-alg": luks.cipher,
        "cipher-mode": luks.mode,
        "uuid": luks.uuid,
        "payload-offset": luks.payload_offset,
        "master-key-iters": luks.digest_iterations,
        "slots": luks.slots.iter().map(slot).collect::<Vec<_>>(),
    });
    if let Some(hash) = &luks.iv_hash {
        value["ivgen-hash-alg"] = json!(hash);
    }
    value
}

/// In the order of QEMU's hash tables.
fn luks_text(luks: &ImageLuks) -> String {
    let mut text = format!(
        "    encrypt:\n        ivgen alg: {}\n        hash alg: {}\n        cipher alg: {}\n        uuid: {}\n",
        luks.iv, luks.hash, luks.cipher, luks.uuid
    );
    if let Some(hash) = &luks.iv_hash {
        text.push_str(&format!("        ivgen hash alg: {hash}\n"));
    }
    text.push_str(&format!(
        "        format: luks\n        cipher mode: {}\n        slots:\n",
        luks.mode
    ));
    for (index, slot) in luks.slots.iter().enumerate() {
        let active = slot.in_use;
        text.push_str(&format!(
            "            [{index}]:\n                active: {active}\n"
        ));
        if active {
            text.push_str(&format!("                iters: {}\n", slot.iterations));
        }
        text.push_str(&format!("                key offset: {}\n", slot.offset));
        if active {
            text.push_str(&format!("                stripes: {}\n", slot.stripes));
        }
    }
    text.push_str(&format!(
        "        payload offset: {}\n        master key iters: {}\n",
        luks.payload_offset, luks.digest_iterations
    ));
    text
}

fn flags(bitmap: &ImageBitmap) -> Vec<&'static str> {
    let flags = [(bitmap.in_use, "in-use"), (bitmap.auto, "auto")];
    flags
        .iter()
        .filter_map(|(set, name)| set.then_some(*name))
        .collect()
}

fn bitmap_json(bitmap: &ImageBitmap) -> Value {
    json!({
        "name": bitmap.name, "granularity": bitmap.granularity_bytes, "flags": flags(bitmap),
    })
}

fn snapshot_json(snapshot: &ImageSnapshot) -> Value {
    let mut value = json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_bytes,
        "date-sec": snapshot.seconds,
        "date-nsec": snapshot.nanoseconds,
        "vm-clock-sec": snapshot.vm_clock_nanoseconds / 1_000_000_000,
        "vm-clock-nsec": snapshot.vm_clock_nanoseconds % 1_000_000_000,
    });
    if let Some(count) = snapshot.instructions {
        value["icount"] = json!(count);
    }
    value
}

fn compat(qcow2: &Qcow2Info) -> &'static str {
    if qcow2.version == 3 { "1.1" } else { "0.10" }
}

pub(super) fn info_text(info: &ImageInfo) -> String {
    let mut text = format!(
        "image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\ndisk size: {}\n",
        info.path,
        info.format,
        human(info.size_bytes),
        info.size_bytes,
        info.used_bytes.map_or("unavailable".to_owned(), human),
    );
    let qcow2 = info.qcow2.as_ref();
    if qcow2.is_some_and(|qcow2| qcow2.encryption.is_some()) {
        text.push_str("encrypted: yes\n");
    }
    if let Some(qcow2) = qcow2 {
        text.push_str(&format!("cluster_size: {}\n", qcow2.cluster_bytes));
    }
    if qcow2.is_some_and(|qcow2| qcow2.dirty) {
        text.push_str("cleanly shut down: no\n");
    }
    if let Some(backing) = &info.backing {
        text.push_str(&format!("backing file: {}", backing.name));
        if backing.path != backing.name {
            text.push_str(&format!(" (actual path: {})", backing.path));
        }
        text.push('\n');
        if let Some(format) = &backing.format {
            text.push_str(&format!("backing file format: {format}\n"));
        }
    }
    text.push_str(&snapshots_text(&info.snapshots));
    if let Some(qcow2) = qcow2 {
        text.push_str(&specific_text(qcow2));
    }
    text
}

fn specific_text(qcow2: &Qcow2Info) -> String {
    let mut text = format!(
        "Format specific information:\n    compat: {}\n    compression type: {}\n",
        compat(qcow2),
        qcow2.compression
    );
    let later = qcow2.version == 3;
    if later {
        text.push_str(&format!("    lazy refcounts: {}\n", qcow2.lazy_refcounts));
    }
    for (index, bitmap) in qcow2.bitmaps.iter().enumerate() {
        if index == 0 {
            text.push_str("    bitmaps:\n");
        }
        text.push_str(&format!("        [{index}]:\n            flags:\n"));
        for (index, flag) in flags(bitmap).iter().enumerate() {
            text.push_str(&format!("                [{index}]: {flag}\n"));
        }
        text.push_str(&format!(
            "            name: {}\n            granularity: {}\n",
            bitmap.name, bitmap.granularity_bytes
        ));
    }
    text.push_str(&format!("    refcount bits: {}\n", qcow2.refcount_bits));
    if let Some(luks) = &qcow2.luks {
        text.push_str(&luks_text(luks));
    }
    if let Some(file) = &qcow2.data_file {
        let raw = qcow2.data_file_raw;
        text.push_str(&format!(
            "    data file: {file}\n    data file raw: {raw}\n"
        ));
    }
    if later {
        text.push_str(&format!(
            "    corrupt: {}\n    extended l2: {}\n",
            qcow2.corrupt, qcow2.extended_l2
        ));
    }
    text
}

pub(super) fn snapshots_text(all: &[ImageSnapshot]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let line = |id: &str, tag: &str, size: &str, date: &str, clock: &str, count: &str| {
        format!("{id:<9} {tag:<16} {size:>8}{date:>20}{clock:>13}{count:>11}\n")
    };
    let mut text = "Snapshot list:\n".to_owned();
    text.push_str(&line("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"));
    for snapshot in all {
        let clock = snapshot.vm_clock_nanoseconds;
        let seconds = clock / 1_000_000_000;
        let clock = format!(
            "{:02}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            clock / 1_000_000 % 1000
        );
        let count = snapshot.instructions.map(|count| count.to_string());
        text.push_str(&line(
            &snapshot.id,
            &snapshot.name,
            &human(snapshot.vm_state_bytes),
            &date(snapshot.seconds),
            &clock,
            &count.unwrap_or_default(),
        ));
    }
    text
}

/// In UTC, which is what a host without a time zone shows.
fn date(seconds: u32) -> String {
    let Ok(date) = OffsetDateTime::from_unix_timestamp(i64::from(seconds)) else {
        return String::new();
    };
    let (day, time) = (date.date(), date.time());
    format!(
        "{day} {:02}:{:02}:{:02}",
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// A size with three digits, as QEMU writes it.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // A thousand of a unit is one of the next.
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        value if value < 0.9995 => 3,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let mut text = format!("{value:.digits$}");
    if text.contains('.') {
        text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    format!("{text} {}", UNITS[unit])
}

/// What options say of encryption, in the order in which QEMU repeats it.
fn encryption(options: &[(String, String)]) -> String {
    const ORDER: [&str; 8] = [
        "format",
        "key-secret",
        "cipher-alg",
        "cipher-mode",
        "ivgen-alg",
        "ivgen-hash-alg",
        "hash-alg",
        "iter-time",
    ];
    let mut text = String::new();
    for name in ORDER {
        let key = format!("encrypt.{name}");
        if let Some((_, value)) = options.iter().find(|(known, _)| *known == key) {
            text.push_str(&format!(" {key}={value}"));
        }
    }
    text
}

/// What was made, of `given` options.
pub(super) fn formatted(path: &str, formatted: &Formatted, given: &[(String, String)]) -> String {
    let mut text = format!("Formatting '{path}', fmt={}", formatted.format.name());
    let preallocation = given.iter().rfind(|(key, _)| key == "preallocation");
    let preallocation =
        preallocation.map_or(String::new(), |(_, mode)| format!(" preallocation={mode}"));
    match &formatted.qcow2 {
        None => text.push_str(&format!(" size={}{preallocation}", formatted.size)),
        Some(options) => {
            text.push_str(&encryption(given));
            text.push_str(&options_text(options, formatted.size, &preallocation));
        }
    }
    text.push('\n');
    text
}

fn options_text(options: &CreateOptions, size: u64, preallocation: &str) -> String {
    let switch = |on: bool| if on { "on" } else { "off" };
    let compression = match options.compression {
        CompressionType::Zlib => "zlib",
        CompressionType::Zstd => "zstd",
    };
    let mut text = format!(
        " cluster_size={} extended_l2={}{preallocation} compression_type={compression} size={size}",
        1_u64 << options.cluster_bits,
        switch(options.extended_l2),
    );
    if options.version == Version::V2 {
        text.push_str(" compat=0.10");
    }
    if let Some(backing) = &options.backing {
        text.push_str(&format!(" backing_file={}", backing.path));
        if let Some(format) = &backing.format {
            text.push_str(&format!(" backing_fmt={format}"));
        }
    }
    if let Some(file) = &options.data_file {
        text.push_str(&format!(" data_file={file}"));
        if options.raw_data_file {
            text.push_str(" data_file_raw=on");
        }
    }
    text.push_str(&format!(
        " lazy_refcounts={} refcount_bits={}",
        switch(options.lazy_refcounts),
        1_u32 << options.refcount_order
    ));
    text
}

/// What a check has found, and after a repair what it finds then.
pub(super) fn check_json(before: &ImageCheck, after: Option<&ImageCheck>) -> Value {
    let now = after.unwrap_or(before);
    let mut value = json!({
        "filename": now.path,
        "format": "qcow2",
        "check-errors": 0,
        "image-end-offset": now.end_bytes,
    });
    let fixed = |count: u64| if after.is_some() { count } else { 0 };
    for (key, count) in [
        ("corruptions", now.corruptions),
        ("leaks", now.leaks),
        ("corruptions-fixed", fixed(before.corruptions)),
        ("leaks-fixed", fixed(before.leaks)),
        ("total-clusters", now.total_clusters),
        ("allocated-clusters", now.allocated_clusters),
        ("fragmented-clusters", now.fragmented_clusters),
        ("compressed-clusters", now.compressed_clusters),
    ] {
        if count != 0 {
            value[key] = json!(count);
        }
    }
    value
}

pub(super) fn check_text(before: &ImageCheck, after: Option<&ImageCheck>) -> String {
    let mut text = String::new();
    if after.is_some() && (before.leaks, before.corruptions) != (0, 0) {
        text.push_str(&format!(
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n\
             Double checking the fixed image now...\n",
            before.leaks, before.corruptions
        ));
    }
    let now = after.unwrap_or(before);
    if (now.corruptions, now.leaks) == (0, 0) {
        text.push_str("No errors were found on the image.\n");
    }
    if now.corruptions != 0 {
        text.push_str(&format!(
            "\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n",
            now.corruptions
        ));
    }
    if now.leaks != 0 {
        text.push_str(&format!(
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
            now.leaks
        ));
    }
    if now.total_clusters != 0 && now.allocated_clusters != 0 {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        text.push_str(&format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            now.allocated_clusters,
            now.total_clusters,
            percent(now.allocated_clusters, now.total_clusters),
            percent(now.fragmented_clusters, now.allocated_clusters),
            percent(now.compressed_clusters, now.allocated_clusters),
        ));
    }
    text.push_str(&format!("Image end offset: {}\n", now.end_bytes));
    text
}

/// The parts of a disk as QEMU prints them: a line each.
pub(super) fn map_json(extents: &[ImageExtent]) -> String {
    let line = |extent: &ImageExtent| {
        let offset = extent
            .file_offset
            .map_or(String::new(), |offset| format!(", \"offset\": {offset}"));
        format!(
            "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}{offset}}}",
            extent.offset, extent.len_bytes, extent.depth, extent.present, extent.zero, extent.data
        )
    };
    let lines: Vec<String> = extents.iter().map(line).collect();
    format!("[{}]\n", lines.join(",\n"))
}

/// The parts that hold data, up to the first that is at no place that can be told; and whether there is none.
pub(super) fn map_text(extents: &[ImageExtent]) -> (String, bool) {
    let line = |start: &str, len: &str, place: &str, file: &str| {
        format!("{start:<16}{len:<16}{place:<16}{file}\n")
    };
    let hex = |number: u64| match number {
        0 => "0".to_owned(),
        number => format!("{number:#x}"),
    };
    let mut text = line("Offset", "Length", "Mapped to", "File");
    for extent in extents.iter().filter(|extent| extent.data && !extent.zero) {
        let Some(place) = extent.file_offset.map(hex) else {
            return (text, false);
        };
        let file = extent.file.as_deref().unwrap_or_default();
        text.push_str(&line(
            &hex(extent.offset),
            &hex(extent.len_bytes),
            &place,
            file,
        ));
    }
    (text, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (331_776, "324 KiB"),
            (1_380_352, "1.32 MiB"),
            (104_857_600, "100 MiB"),
            (1 << 30, "1 GiB"),
            (1000 << 20, "0.977 GiB"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }
}
