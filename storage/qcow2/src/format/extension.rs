//! What follows the header in its cluster: extensions, and the backing file's name.

use weft_block::{Error, ErrorKind, Result};

use super::feature::FeatureName;
use super::fields::{pad, part, u32_at, u64_at};
use super::{Geometry, MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS, MAX_NAME};

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const ENCRYPTION: u32 = 0x0537_be77;
const DATA_FILE: u32 = 0x4441_5441;

/// The image that holds what this one does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name as the image tells it: a path, relative to the image's folder or absolute, or a URL. At most 1023 bytes.
    pub path: String,
    /// Its format (`qcow2`, `raw`); without it a reader would have to guess, which lets a guest make it guess wrong.
    pub format: Option<String>,
}

/// A part of the image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Its first byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Where the bitmaps are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapsExtension {
    /// How many.
    pub count: u32,
    /// Their directory.
    pub directory: Area,
}

/// The extensions of a header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions {
    /// The format of the backing file.
    pub backing_format: Option<String>,
    /// The name of the external data file.
    pub data_file: Option<String>,
    /// Where the bitmaps are. Only true as long as the autoclear bit says so.
    pub bitmaps: Option<BitmapsExtension>,
    /// Where the LUKS header and its keys are.
    pub encryption: Option<Area>,
    /// What the image calls its features.
    pub feature_names: Vec<FeatureName>,
    /// Those that this crate does not know, kept as they are.
    pub unknown: Vec<(u32, Vec<u8>)>,
}

impl Extensions {
    /// Parses what begins at `bytes`, up to the end mark or `bytes`' end.
    pub(super) fn parse(mut bytes: &[u8], geometry: Geometry) -> Result<Self> {
        let mut this = Self::default();
        while bytes.len() >= 8 {
            let (kind, len) = (u32_at(bytes, 0), u32_at(bytes, 4) as usize);
            if kind == END {
                break;
            }
            let data = part(bytes, 8, len).ok_or_else(|| {
                corrupt(format!(
                    "header extension {kind:#x} of {len} bytes leaves the header"
                ))
            })?;
            this.take(kind, data, geometry)?;
            let next = (8 + len).next_multiple_of(8).min(bytes.len());
            bytes = &bytes[next..];
        }
        Ok(this)
    }

    fn take(&mut self, kind: u32, data: &[u8], geometry: Geometry) -> Result<()> {
        match kind {
            BACKING_FORMAT => self.backing_format = Some(text(data, "format of the backing file")?),
            DATA_FILE => self.data_file = Some(text(data, "name of the data file")?),
            FEATURE_NAMES => self.feature_names = FeatureName::parse_table(data),
            BITMAPS => self.bitmaps = BitmapsExtension::parse(data, geometry)?,
            ENCRYPTION => self.encryption = Some(parse_encryption(data, geometry)?),
            _ => self.unknown.push((kind, data.to_vec())),
        }
        Ok(())
    }

    /// The bytes of all extensions and their end mark, in QEMU's order. Version 3 has the table of feature names.
    pub(super) fn write(&self, with_feature_names: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(format) = &self.backing_format {
            extension(&mut bytes, BACKING_FORMAT, format.as_bytes());
        }
        if let Some(name) = &self.data_file {
            extension(&mut bytes, DATA_FILE, name.as_bytes());
        }
        if let Some(area) = &self.encryption {
            let mut data = area.offset.to_be_bytes().to_vec();
            data.extend_from_slice(&area.len.to_be_bytes());
            extension(&mut bytes, ENCRYPTION, &data);
        }
        if with_feature_names {
            extension(&mut bytes, FEATURE_NAMES, &FeatureName::known_table());
        }
        if let Some(bitmaps) = &self.bitmaps {
            extension(&mut bytes, BITMAPS, &bitmaps.write());
        }
        for (kind, data) in &self.unknown {
            extension(&mut bytes, *kind, data);
        }
        extension(&mut bytes, END, &[]);
        bytes
    }
}

impl BitmapsExtension {
    fn parse(data: &[u8], geometry: Geometry) -> Result<Option<Self>> {
        if data.len() != 24 {
            return Err(corrupt(format!(
                "the bitmaps extension has {} bytes, not 24",
                data.len()
            )));
        }
        let (count, reserved) = (u32_at(data, 0), u32_at(data, 4));
        let (len, offset) = (u64_at(data, 8), u64_at(data, 16));
        let sound = reserved == 0
            && (1..=MAX_BITMAPS).contains(&count)
            && (1..=MAX_BITMAP_DIRECTORY_BYTES).contains(&len)
            && offset != 0
            && geometry.is_aligned(offset)
            && offset.checked_add(len).is_some();
        if !sound {
            return Err(corrupt(format!(
                "the directory of {count} bitmaps with {len} bytes at {offset} cannot be"
            )));
        }
        let directory = Area { offset, len };
        Ok(Some(Self { count, directory }))
    }

    fn write(self) -> Vec<u8> {
        let mut data = self.count.to_be_bytes().to_vec();
        data.extend_from_slice(&[0; 4]);
        data.extend_from_slice(&self.directory.len.to_be_bytes());
        data.extend_from_slice(&self.directory.offset.to_be_bytes());
        data
    }
}

fn parse_encryption(data: &[u8], geometry: Geometry) -> Result<Area> {
    if data.len() != 16 {
        return Err(corrupt(format!(
            "the encryption extension has {} bytes, not 16",
            data.len()
        )));
    }
    let (offset, len) = (u64_at(data, 0), u64_at(data, 8));
    if offset == 0 || !geometry.is_aligned(offset) || offset.checked_add(len).is_none() {
        return Err(corrupt(format!(
            "the encryption header of {len} bytes at {offset} cannot be"
        )));
    }
    Ok(Area { offset, len })
}

fn extension(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    pad(bytes);
}

/// A name of at most [`MAX_NAME`] bytes.
pub(super) fn text(data: &[u8], what: &str) -> Result<String> {
    if data.len() > MAX_NAME {
        let len = data.len();
        return Err(corrupt(format!(
            "the {what} has {len} bytes, and {MAX_NAME} are the most"
        )));
    }
    String::from_utf8(data.to_vec()).map_err(|_| {
        let sentence = format!("the {what} is not UTF-8");
        Error::new(ErrorKind::Unsupported, sentence)
    })
}

fn corrupt(sentence: String) -> Error {
    Error::new(ErrorKind::Corrupt, sentence)
}
