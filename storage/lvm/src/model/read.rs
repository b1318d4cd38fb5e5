//! From a parsed text to the model.

use weft_block::{Error, ErrorKind, Result};

use super::{LogicalVolume, Mapping, Origin, PhysicalVolume, Segment, Stripe, VolumeGroup, check};
use crate::format::Id;
use crate::text::{Item, Section, Value, parse_text};

/// The trailer's keys that every text has, with the values that say it is metadata of a version we know.
const CONTENTS: &str = "Text Format Volume Group";

/// Reads a metadata text (or a backup file) and checks that what it says can be.
///
/// # Errors
/// `Corrupt` with the line or the object and what is wrong; `Unsupported` for another format or version.
pub fn parse_metadata(bytes: &[u8]) -> Result<VolumeGroup> {
    let tree = parse_text(bytes).map_err(|error| corrupt(error.to_string()))?;
    let group = read_text(tree)?;
    check(&group)?;
    Ok(group)
}

fn corrupt(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, problem)
}

fn read_text(mut tree: Section) -> Result<VolumeGroup> {
    let mut trailer = Reader::new("the text", &mut tree);
    let contents = trailer.text("contents")?;
    let version = trailer.number("version")?;
    if contents.as_deref() != Some(CONTENTS) || version != Some(1) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the text is not LVM2 metadata of version 1",
        ));
    }
    let origin = Origin {
        description: trailer.text("description")?.unwrap_or_default(),
        host: trailer.text("creation_host")?.unwrap_or_default(),
        time: trailer.number("creation_time")?.unwrap_or_default(),
    };
    let mut sections = tree
        .entries
        .into_iter()
        .filter_map(|entry| match entry.item {
            Item::Section(section) => Some((entry.key, section)),
            Item::Value(_) => None,
        });
    match (sections.next(), sections.next()) {
        (Some((name, section)), None) => read_group(name, section, origin),
        _ => Err(corrupt("the text does not hold one volume group")),
    }
}

fn read_group(name: String, mut section: Section, origin: Origin) -> Result<VolumeGroup> {
    let what = format!("volume group {name}");
    let mut reader = Reader::new(&what, &mut section);
    match reader.text("format")?.as_deref() {
        None | Some("lvm2") => {}
        Some(other) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{what} has the format {other:?}, not \"lvm2\""),
            ));
        }
    }
    let mut group = VolumeGroup {
        id: reader.id()?,
        seqno: reader.needed("seqno")?,
        status: reader.strings("status")?,
        flags: reader.strings("flags")?,
        tags: reader.strings("tags")?,
        extent_size: reader.needed("extent_size")?,
        max_lv: reader.number("max_lv")?.unwrap_or(0),
        max_pv: reader.number("max_pv")?.unwrap_or(0),
        metadata_copies: reader.number("metadata_copies")?.unwrap_or(0),
        physical_volumes: Vec::new(),
        logical_volumes: Vec::new(),
        rest: Vec::new(),
        origin,
        name,
    };
    for (key, section) in reader.sections("physical_volumes")? {
        group.physical_volumes.push(read_pv(key, section)?);
    }
    for (name, section) in reader.sections("logical_volumes")? {
        let lv = read_lv(name, section, &group)?;
        group.logical_volumes.push(lv.into());
    }
    group.rest = section.entries;
    Ok(group)
}

fn read_pv(key: String, mut section: Section) -> Result<PhysicalVolume> {
    let what = format!("physical volume {key}");
    let mut reader = Reader::new(&what, &mut section);
    Ok(PhysicalVolume {
        id: reader.id()?,
        device: reader.text("device")?.unwrap_or_default(),
        status: reader.strings("status")?,
        flags: reader.strings("flags")?,
        tags: reader.strings("tags")?,
        device_size: reader.number("dev_size")?.unwrap_or(0),
        extent_start: reader.needed("pe_start")?,
        extent_count: reader.needed("pe_count")?,
        rest: section.entries,
        key,
    })
}

fn read_lv(name: String, mut section: Section, group: &VolumeGroup) -> Result<LogicalVolume> {
    let what = format!("logical volume {name}");
    let mut reader = Reader::new(&what, &mut section);
    let (id, status) = (reader.id()?, reader.strings("status")?);
    let (flags, tags) = (reader.strings("flags")?, reader.strings("tags")?);
    let creation_time = reader.number("creation_time")?;
    let creation_host = reader.text("creation_host")?;
    let count: u64 = reader.needed("segment_count")?;
    let mut segments = Vec::new();
    let mut rest = Vec::new();
    for entry in section.entries {
        match entry.item {
            Item::Section(section) if is_segment(&entry.key) => {
                segments.push(read_segment(&what, &entry.key, section, group)?);
            }
            _ => rest.push(entry),
        }
    }
    if segments.len() as u64 != count {
        let found = segments.len();
        return Err(corrupt(format!(
            "{what} has {found} segments, its count says {count}"
        )));
    }
    segments.sort_by_key(|segment| segment.start);
    Ok(LogicalVolume {
        name,
        id,
        status,
        flags,
        tags,
        creation_time,
        creation_host,
        segments,
        rest,
    })
}

fn is_segment(key: &str) -> bool {
    key.strip_prefix("segment").is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn read_segment(lv: &str, key: &str, mut section: Section, group: &VolumeGroup) -> Result<Segment> {
    let what = format!("{key} of {lv}");
    let mut reader = Reader::new(&what, &mut section);
    let start = reader.needed("start_extent")?;
    let count = reader.needed("extent_count")?;
    let tags = reader.strings("tags")?;
    let name = reader
        .text("type")?
        .ok_or_else(|| corrupt(format!("{what} has no type")))?;
    let mapping = match name.as_str() {
        "striped" | "linear" => read_stripes(&mut reader, group)?,
        _ => None,
    };
    let mapping = mapping.unwrap_or(Mapping::Other { name });
    Ok(Segment {
        start,
        count,
        tags,
        mapping,
        rest: section.entries,
    })
}

/// The stripes of a segment; nothing, and nothing taken, if one of them is not on a physical volume.
fn read_stripes(reader: &mut Reader<'_>, group: &VolumeGroup) -> Result<Option<Mapping>> {
    let what = reader.what;
    let Some(Item::Value(Value::Array(values))) = reader.section.find("stripes") else {
        return Err(corrupt(format!("{what} has no stripes")));
    };
    let mut stripes = Vec::new();
    for pair in values.chunks(2) {
        let [Value::Text(name), Value::Number(start)] = pair else {
            return Err(corrupt(format!(
                "{what} has stripes that are not pairs of a name and an extent"
            )));
        };
        let Some(pv) = group.physical_volumes.iter().position(|pv| pv.key == *name) else {
            return Ok(None);
        };
        let start = unsigned(what, "stripes", *start)?;
        stripes.push(Stripe { pv, start });
    }
    let count: u64 = reader.needed("stripe_count")?;
    if count != stripes.len() as u64 || stripes.is_empty() {
        let found = stripes.len();
        return Err(corrupt(format!(
            "{what} has {found} stripes, its count says {count}"
        )));
    }
    let stripe_size = reader.number("stripe_size")?.unwrap_or(0);
    reader.section.take("stripes");
    Ok(Some(Mapping::Striped {
        stripe_size,
        stripes,
    }))
}

fn unsigned(what: &str, key: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| corrupt(format!("{what} has a negative {key}")))
}

/// Takes the known keys out of a section.
struct Reader<'a> {
    what: &'a str,
    section: &'a mut Section,
}

impl<'a> Reader<'a> {
    fn new(what: &'a str, section: &'a mut Section) -> Self {
        Self { what, section }
    }

    fn wrong(&self, key: &str) -> Error {
        corrupt(format!(
            "{} has a {key} that is not of the kind it should be",
            self.what
        ))
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>> {
        match self.section.take(key) {
            None => Ok(None),
            Some(Item::Value(Value::Number(number))) => unsigned(self.what, key, number).map(Some),
            Some(_) => Err(self.wrong(key)),
        }
    }

    fn needed(&mut self, key: &str) -> Result<u64> {
        self.number(key)?
            .ok_or_else(|| corrupt(format!("{} has no {key}", self.what)))
    }

    fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.section.take(key) {
            None => Ok(None),
            Some(Item::Value(Value::Text(text))) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key)),
        }
    }

    fn id(&mut self) -> Result<Id> {
        let text = self
            .text("id")?
            .ok_or_else(|| corrupt(format!("{} has no id", self.what)))?;
        text.parse().map_err(|_| self.wrong("id"))
    }

    /// A list of strings; LVM2 also writes a single one without brackets.
    fn strings(&mut self, key: &str) -> Result<Vec<String>> {
        match self.section.take(key) {
            None => Ok(Vec::new()),
            Some(Item::Value(Value::Text(text))) => Ok(vec![text]),
            Some(Item::Value(Value::Array(values))) => values
                .into_iter()
                .map(|value| match value {
                    Value::Text(text) => Ok(text),
                    _ => Err(self.wrong(key)),
                })
                .collect(),
            Some(_) => Err(self.wrong(key)),
        }
    }

    fn sections(&mut self, key: &str) -> Result<Vec<(String, Section)>> {
        let entries = match self.section.take(key) {
            None => return Ok(Vec::new()),
            Some(Item::Section(section)) => section.entries,
            Some(Item::Value(_)) => return Err(self.wrong(key)),
        };
        entries
            .into_iter()
            .map(|entry| match entry.item {
                Item::Section(section) => Ok((entry.key, section)),
                Item::Value(_) => Err(self.wrong(&entry.key)),
            })
            .collect()
    }
}
