//! From the model to a text that LVM2 accepts, in LVM2's order.
//!
//! A group may have ten thousand volumes, and each change writes all of them: the text is printed straight from the
//! model, without a tree in between.

use std::fmt::Write;

use super::{LogicalVolume, Mapping, PhysicalVolume, Segment, VolumeGroup};
use crate::format::Id;
use crate::text::{Entry, print_entry, print_quoted};

/// Bytes of text for a volume, about.
const BYTES_A_VOLUME: usize = 400;

/// The text of a group, without the NUL that ends it on disk. It says the same when parsed.
pub fn metadata_text(group: &VolumeGroup) -> String {
    let volumes = group.logical_volumes.len() + group.physical_volumes.len();
    let mut out = Out(String::with_capacity(BYTES_A_VOLUME * (volumes + 2)));
    out.section(&group.name, |out| print_group(out, group));
    let origin = &group.origin;
    out.text("contents", "Text Format Volume Group");
    out.number("version", 1);
    out.text("description", &origin.description);
    out.text("creation_host", &origin.host);
    out.number("creation_time", origin.time);
    out.0
}

fn print_group(out: &mut Out, group: &VolumeGroup) {
    out.id(&group.id);
    out.number("seqno", group.seqno);
    out.text("format", "lvm2");
    out.strings("status", &group.status);
    out.strings("flags", &group.flags);
    out.tags(&group.tags);
    out.number("extent_size", group.extent_size);
    out.number("max_lv", group.max_lv);
    out.number("max_pv", group.max_pv);
    out.number("metadata_copies", group.metadata_copies);
    out.rest(&group.rest);
    out.section("physical_volumes", |out| {
        for pv in &group.physical_volumes {
            out.section(&pv.key, |out| print_pv(out, pv));
        }
    });
    if !group.logical_volumes.is_empty() {
        out.section("logical_volumes", |out| {
            for lv in &group.logical_volumes {
                out.section(&lv.name, |out| print_lv(out, lv, group));
            }
        });
    }
}

fn print_pv(out: &mut Out, pv: &PhysicalVolume) {
    out.id(&pv.id);
    out.text("device", &pv.device);
    out.strings("status", &pv.status);
    out.strings("flags", &pv.flags);
    out.tags(&pv.tags);
    if pv.device_size != 0 {
        out.number("dev_size", pv.device_size);
    }
    out.number("pe_start", pv.extent_start);
    out.number("pe_count", pv.extent_count);
    out.rest(&pv.rest);
}

fn print_lv(out: &mut Out, lv: &LogicalVolume, group: &VolumeGroup) {
    out.id(&lv.id);
    out.strings("status", &lv.status);
    out.strings("flags", &lv.flags);
    out.tags(&lv.tags);
    if let Some(time) = lv.creation_time {
        out.number("creation_time", time);
    }
    if let Some(host) = &lv.creation_host {
        out.text("creation_host", host);
    }
    out.rest(&lv.rest);
    out.number("segment_count", lv.segments.len() as u64);
    for (index, segment) in lv.segments.iter().enumerate() {
        let key = format!("segment{}", index + 1);
        out.section(&key, |out| print_segment(out, segment, group));
    }
}

fn print_segment(out: &mut Out, segment: &Segment, group: &VolumeGroup) {
    out.number("start_extent", segment.start);
    out.number("extent_count", segment.count);
    out.tags(&segment.tags);
    match &segment.mapping {
        Mapping::Other { name } => out.text("type", name),
        Mapping::Striped {
            stripe_size,
            stripes,
        } => {
            out.text("type", "striped");
            out.number("stripe_count", stripes.len() as u64);
            if *stripe_size != 0 {
                out.number("stripe_size", *stripe_size);
            }
            out.list("stripes", stripes, |out, stripe| {
                print_quoted(&group.physical_volumes[stripe.pv].key, out);
                out.push_str(", ");
                print_number(stripe.start, out);
            });
        }
    }
    out.rest(&segment.rest);
}

/// Digits; the formatting machinery takes several times as long.
fn print_number(number: u64, out: &mut String) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend(digits[at..].iter().map(|&digit| char::from(digit)));
}

/// A text that grows.
struct Out(String);

impl Out {
    fn key(&mut self, key: &str) {
        self.0.push_str(key);
        self.0.push_str(" = ");
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        print_number(value, &mut self.0);
        self.0.push('\n');
    }

    fn id(&mut self, id: &Id) {
        self.key("id");
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "\"{id}\"");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        print_quoted(value, &mut self.0);
        self.0.push('\n');
    }

    fn list<T>(&mut self, key: &str, values: &[T], print: impl Fn(&mut String, &T)) {
        self.key(key);
        self.0.push('[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.0.push_str(", ");
            }
            print(&mut self.0, value);
        }
        self.0.push_str("]\n");
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        self.list(key, values, |out, value| print_quoted(value, out));
    }

    /// Tags, if there are any: LVM2 leaves an empty list out.
    fn tags(&mut self, tags: &[String]) {
        if !tags.is_empty() {
            self.strings("tags", tags);
        }
    }

    fn section(&mut self, key: &str, contents: impl FnOnce(&mut Self)) {
        self.0.push_str(key);
        self.0.push_str(" {\n");
        contents(self);
        self.0.push_str("}\n");
    }

    fn rest(&mut self, entries: &[Entry]) {
        for entry in entries {
            print_entry(entry, &mut self.0);
        }
    }
}
