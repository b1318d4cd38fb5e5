//! Options of an image that is there.

use weft_qcow2::format::{Header, Version};
use weft_qcow2::{Amendment, read_header};
use weft_uring::spawner;

use super::failed;
use super::name::Name;
use super::open::{How, open};
use super::options::{Preallocation, bytes, log2, switch, version};
use super::upkeep::{Resize, Sizing, resize};
use crate::api::Result;

/// What of an image is to be another way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amendments {
    /// Each makes the image another way at once, in an order in which one makes room for the next.
    ways: Vec<Amendment>,
    /// Another size of the disk, which may be a smaller one.
    size: Option<u64>,
    /// Options that are not known.
    pub unknown: Vec<(String, String)>,
}

/// Reads options by QEMU's names. A size is `unknown` unless it is taken too.
///
/// # Errors
/// `Invalid` for a value that cannot be.
pub fn read_amendments(options: &[(String, String)], takes_size: bool) -> Result<Amendments> {
    let mut read = Amendments::default();
    let mut last = None;
    for (key, value) in options {
        let way = match key.as_str() {
            "compat" => match version(value)? {
                Version::V3 => {
                    read.ways.insert(0, Amendment::Version(Version::V3));
                    continue;
                }
                Version::V2 => {
                    last = Some(Amendment::Version(Version::V2));
                    continue;
                }
            },
            "refcount_bits" => Amendment::RefcountOrder(log2(key, bytes(key, value)?)?),
            "lazy_refcounts" => Amendment::LazyRefcounts(switch(key, value)?),
            "data_file" => Amendment::DataFile(value.clone()),
            "data_file_raw" => Amendment::RawDataFile(switch(key, value)?),
            "size" if takes_size => {
                read.size = Some(bytes(key, value)?);
                continue;
            }
            _ => {
                read.unknown.push((key.clone(), value.clone()));
                continue;
            }
        };
        read.ways.push(way);
    }
    // Version 2 can say the least.
    read.ways.extend(last);
    Ok(read)
}

impl Amendments {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.ways.is_empty() && self.size.is_none()
    }
}

/// Makes the image at `name` another way. What it holds stays what it is. After a cut some of it is done, and the rest not.
///
/// # Errors
/// `Invalid` or `Unsupported` for what the image cannot be, before anything has changed as far as the header tells; and as
/// opening and writing.
pub async fn amend(name: &Name, how: &How, amendments: &Amendments) -> Result<()> {
    let path = name.to_string();
    let tables = How {
        chain: false,
        data: false,
        keys: Default::default(),
        ..how.clone()
    };
    let header = header_of(name, &tables).await?;
    let mut planned = header.clone();
    for way in &amendments.ways {
        planned = way.applied(&planned).map_err(failed(&path))?;
    }
    for way in &amendments.ways {
        if amendments.size.is_some() && *way == Amendment::Version(Version::V2) {
            // Below, after that.
            continue;
        }
        amend_one(name, how, &tables, way).await?;
    }
    if let Some(size) = amendments.size {
        let request = Resize {
            image: name.clone(),
            how: how.clone(),
            sizing: Sizing::To(size),
            shrink: true,
            preallocation: Preallocation::Off,
        };
        resize(&request).await?;
        let old = Amendment::Version(Version::V2);
        if amendments.ways.contains(&old) {
            amend_one(name, how, &tables, &old).await?;
        }
    }
    // What the file has no use for any more is cut off.
    open(name, &tables.writing()).await?.close().await
}

async fn header_of(name: &Name, tables: &How) -> Result<Header> {
    let chain = open(name, tables).await?;
    chain.image()?;
    let header = read_header(&*chain.top().file, &spawner()).await;
    header.map_err(failed(&name.to_string()))
}

async fn amend_one(name: &Name, how: &How, tables: &How, way: &Amendment) -> Result<()> {
    let header = header_of(name, tables).await?;
    // Only there it matters what lies below.
    let over_backing = *way == Amendment::Version(Version::V2) && header.backing_path.is_some();
    let how = match over_backing {
        true => how.clone(),
        false => tables.clone(),
    };
    let chain = open(name, &how.writing()).await?;
    let amended = chain.image()?.clone().amend(way, &spawner()).await;
    amended.map_err(failed(&name.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[(&str, &str)]) -> Amendments {
        let text: Vec<_> = text
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        read_amendments(&text, false).unwrap()
    }

    #[test]
    fn one_way_makes_room_for_the_next() {
        let (old, new) = (Version::V2, Version::V3);
        let lazy = Amendment::LazyRefcounts(true);
        let found = read(&[("lazy_refcounts", "on"), ("compat", "1.1")]);
        assert_eq!(found.ways, [Amendment::Version(new), lazy]);
        let bits = Amendment::RefcountOrder(4);
        let found = read(&[("compat", "v2"), ("refcount_bits", "16")]);
        assert_eq!(found.ways, [bits, Amendment::Version(old)]);
        let found = read(&[("size", "1M"), ("cluster_size", "4k")]);
        assert!(found.is_empty() && found.unknown.len() == 2);
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (key, value) in [
            ("compat", "2"),
            ("refcount_bits", "3"),
            ("lazy_refcounts", "perhaps"),
        ] {
            let option = (key.to_owned(), value.to_owned());
            assert!(read_amendments(&[option], true).is_err(), "{key}={value}");
        }
    }
}
