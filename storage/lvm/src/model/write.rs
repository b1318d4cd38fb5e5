//! From the model to a text that LVM2 accepts, in LVM2's order.

use super::{LogicalVolume, Mapping, PhysicalVolume, Segment, VolumeGroup};
use crate::text::{Entry, Section, Value, print_text};

/// The text of a group, without the NUL that ends it on disk. It says the same when parsed.
pub fn metadata_text(group: &VolumeGroup) -> String {
    let mut tree = Section::default();
    tree.entries
        .push(Entry::section(group.name.as_str(), group_section(group)));
    let origin = &group.origin;
    tree.entries.extend([
        text("contents", "Text Format Volume Group"),
        number("version", 1),
        text("description", &origin.description),
        text("creation_host", &origin.host),
        number("creation_time", origin.time),
    ]);
    let mut out = String::new();
    print_text(&tree, &mut out);
    out
}

fn group_section(group: &VolumeGroup) -> Section {
    let mut entries = vec![
        text("id", &group.id.to_string()),
        number("seqno", group.seqno),
        text("format", "lvm2"),
        Entry::value("status", Value::strings(&group.status)),
        Entry::value("flags", Value::strings(&group.flags)),
    ];
    entries.extend(tags(&group.tags));
    entries.extend([
        number("extent_size", group.extent_size),
        number("max_lv", group.max_lv),
        number("max_pv", group.max_pv),
        number("metadata_copies", group.metadata_copies),
    ]);
    entries.extend(group.rest.iter().cloned());
    let pvs = group.physical_volumes.iter();
    entries.push(Entry::section(
        "physical_volumes",
        Section {
            entries: pvs.map(pv_entry).collect(),
        },
    ));
    if !group.logical_volumes.is_empty() {
        let lvs = group.logical_volumes.iter();
        let entries_of_lvs = lvs.map(|lv| lv_entry(lv, group)).collect();
        entries.push(Entry::section(
            "logical_volumes",
            Section {
                entries: entries_of_lvs,
            },
        ));
    }
    Section { entries }
}

fn pv_entry(pv: &PhysicalVolume) -> Entry {
    let mut entries = vec![
        text("id", &pv.id.to_string()),
        text("device", &pv.device),
        Entry::value("status", Value::strings(&pv.status)),
        Entry::value("flags", Value::strings(&pv.flags)),
    ];
    entries.extend(tags(&pv.tags));
    if pv.device_size != 0 {
        entries.push(number("dev_size", pv.device_size));
    }
    entries.extend([
        number("pe_start", pv.extent_start),
        number("pe_count", pv.extent_count),
    ]);
    entries.extend(pv.rest.iter().cloned());
    Entry::section(pv.key.as_str(), Section { entries })
}

fn lv_entry(lv: &LogicalVolume, group: &VolumeGroup) -> Entry {
    let mut entries = vec![
        text("id", &lv.id.to_string()),
        Entry::value("status", Value::strings(&lv.status)),
        Entry::value("flags", Value::strings(&lv.flags)),
    ];
    entries.extend(tags(&lv.tags));
    entries.extend(lv.creation_time.map(|time| number("creation_time", time)));
    let host = lv.creation_host.as_deref();
    entries.extend(host.map(|host| text("creation_host", host)));
    entries.extend(lv.rest.iter().cloned());
    entries.push(number("segment_count", lv.segments.len() as u64));
    for (index, segment) in lv.segments.iter().enumerate() {
        entries.push(segment_entry(index + 1, segment, group));
    }
    Entry::section(lv.name.as_str(), Section { entries })
}

fn segment_entry(index: usize, segment: &Segment, group: &VolumeGroup) -> Entry {
    let mut entries = vec![
        number("start_extent", segment.start),
        number("extent_count", segment.count),
    ];
    entries.extend(tags(&segment.tags));
    match &segment.mapping {
        Mapping::Other { name } => entries.push(text("type", name)),
        Mapping::Striped {
            stripe_size,
            stripes,
        } => {
            entries.push(text("type", "striped"));
            entries.push(number("stripe_count", stripes.len() as u64));
            if *stripe_size != 0 {
                entries.push(number("stripe_size", *stripe_size));
            }
            let pairs = stripes.iter().flat_map(|stripe| {
                let key = group.physical_volumes[stripe.pv].key.clone();
                [Value::Text(key), Value::Number(stripe.start as i64)]
            });
            entries.push(Entry::value("stripes", Value::Array(pairs.collect())));
        }
    }
    entries.extend(segment.rest.iter().cloned());
    Entry::section(format!("segment{index}"), Section { entries })
}

/// Tags, if there are any: LVM2 leaves an empty list out.
fn tags(tags: &[String]) -> Option<Entry> {
    (!tags.is_empty()).then(|| Entry::value("tags", Value::strings(tags)))
}

fn text(key: &str, value: &str) -> Entry {
    Entry::value(key, Value::Text(value.to_owned()))
}

/// A number; what the model holds was read from signed numbers or checked to be small.
fn number(key: &str, value: u64) -> Entry {
    Entry::value(key, Value::Number(i64::try_from(value).unwrap_or(i64::MAX)))
}
