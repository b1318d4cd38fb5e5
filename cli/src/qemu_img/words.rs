//! QEMU's ways to write options, sizes and names.

use weft_service::api::{Error, ErrorKind, Result, Size};
use weft_service::storage::images::{Below, Described, Format, Keys, Name, Sizing, named};

use super::secrets::Secrets;

/// Options in one text, with commas between them; two commas are one in a value.
pub(super) fn options(texts: &[String]) -> Vec<(String, String)> {
    let mut options = Vec::new();
    for text in texts {
        let text = text.replace(",,", "\0");
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let part = part.replace('\0', ",");
            let (key, value) = part.split_once('=').unwrap_or((&part, "on"));
            options.push((key.to_owned(), value.to_owned()));
        }
    }
    options
}

/// Whether somebody asks which options there are.
pub(super) fn asks_for_help(texts: &[String]) -> bool {
    options(texts)
        .iter()
        .any(|(key, _)| key == "help" || key == "?")
}

pub(super) fn format(text: Option<&String>) -> Result<Option<Format>> {
    let Some(text) = text else {
        return Ok(None);
    };
    let format = match text.as_str() {
        "file" | "host_device" | "nbd" => Ok(Format::Raw),
        text => text.parse(),
    };
    format
        .map(Some)
        .map_err(|_| Error::general(ErrorKind::Unsupported, format!("Unknown driver '{text}'")))
}

/// Bytes; P and E are units too.
pub(super) fn size(text: &str) -> Result<u64> {
    let upper = text.to_ascii_uppercase();
    let (digits, scale) = match (upper.strip_suffix('P'), upper.strip_suffix('E')) {
        (Some(digits), _) => (format!("{digits}T"), 1 << 10),
        (_, Some(digits)) => (format!("{digits}T"), 1 << 20),
        _ => (upper, 1),
    };
    let size = digits.parse::<Size>().ok();
    size.and_then(|size| size.0.checked_mul(scale))
        .ok_or_else(|| {
            let message = format!(
                "Invalid image size specified: {text:?}. You may use k, M, G, T, P or E suffixes \
                 for kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes."
            );
            Error::general(ErrorKind::Invalid, message)
        })
}

/// Whether a power cut may take along what was written, by the name of a cache mode. QEMU's convert takes `unsafe` unless it
/// is told another.
pub(super) fn volatile(cache: Option<&str>) -> Result<bool> {
    match cache.unwrap_or("unsafe") {
        "unsafe" => Ok(true),
        "none" | "off" | "writeback" | "writethrough" | "directsync" => Ok(false),
        other => {
            let message = format!("Invalid cache option: {other}");
            Err(Error::general(ErrorKind::Invalid, message))
        }
    }
}

pub(super) fn sizing(text: &str) -> Result<Sizing> {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(more), _) => size(more).map(Sizing::More),
        (_, Some(less)) => size(less).map(Sizing::Less),
        _ => size(text).map(Sizing::To),
    }
}

/// The snapshot that `-l` of convert means.
pub(super) fn snapshot(text: &str) -> String {
    if !text.starts_with("snapshot.") {
        return text.to_owned();
    }
    let options = options(&[text.to_owned()]);
    let of = |key: &str| options.iter().find(|(name, _)| name == key);
    let found = of("snapshot.id").or(of("snapshot.name"));
    found.map_or_else(|| text.to_owned(), |(_, value)| value.clone())
}

/// An image, by its name, by `json:{…}`, or by the options of `--image-opts`.
pub(super) fn image(text: &str, image_opts: bool, secrets: &Secrets) -> Result<Picked> {
    let described = match image_opts {
        true => {
            let options = options(&[text.to_owned()]);
            Described::of_options(
                options
                    .into_iter()
                    .map(|(key, value)| (key, Some(value)))
                    .collect(),
            )?
        }
        false if Described::is_json(text) => Described::of_json(text)?,
        false => Described::at(named(text)?),
    };
    let mut keys = Keys::default();
    for (depth, id) in &described.secrets {
        keys.insert(*depth, secrets.find(id)?);
    }
    Ok(Picked {
        name: described.name,
        format: described.format,
        keys,
        below: described.below,
    })
}

/// What a command line says of an image.
pub(super) struct Picked {
    pub(super) name: Name,
    pub(super) format: Option<Format>,
    pub(super) keys: Keys,
    pub(super) below: Below,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_separated_by_commas() {
        let text = ["a=1,b,c=x,,y".to_owned(), "d=".to_owned()];
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            options(&text),
            [
                pair("a", "1"),
                pair("b", "on"),
                pair("c", "x,y"),
                pair("d", "")
            ]
        );
        assert!(asks_for_help(&["help".to_owned()]));
    }

    #[test]
    fn sizes_and_snapshots() {
        assert_eq!(size("1k").unwrap(), 1024);
        assert_eq!(size("2P").unwrap(), 2 << 50);
        assert_eq!(size("1b").unwrap(), 1);
        assert!(size("12Q").is_err() && size("17E").is_err());
        assert_eq!(sizing("-1M").unwrap(), Sizing::Less(1 << 20));
        assert_eq!(snapshot("snapshot.id=3"), "3");
        assert_eq!(snapshot("monday"), "monday");
    }

    #[test]
    fn cache_modes_say_whether_a_copy_is_durable() {
        assert!(volatile(None).unwrap() && volatile(Some("unsafe")).unwrap());
        assert!(!volatile(Some("writeback")).unwrap() && !volatile(Some("none")).unwrap());
        assert!(volatile(Some("safe")).is_err());
    }

    #[test]
    fn short_names_of_exports() {
        let secrets = Secrets::default();
        let picked = image("nbd:unix:/tmp/s:exportname=x", false, &secrets).unwrap();
        let name = picked.name.to_string();
        assert!(name.contains("/tmp/s"), "{name}");
        let picked = image("driver=qcow2,file.filename=a", true, &secrets).unwrap();
        assert_eq!(picked.name.to_string(), "a");
        assert_eq!(picked.format, Some(Format::Qcow2));
    }
}
