//! Images that options describe: QEMU's `json:{…}` in place of a name, and dotted options as `file.filename=` and
//! `backing.file.filename=`, which are the same thing flat.
//!
//! A `json:` name may stand in an image of a stranger. What comes out is a [`Name`] like any other, and no more is opened
//! than the policy allows of names.

use std::collections::BTreeMap;

use serde_json::Value;

use super::name::Name;
use super::open::Format;
use crate::api::{Error, ErrorKind, Result};

/// Bytes of a `json:` name at most; images name others in 1023.
const MAX_TEXT: usize = 64 << 10;

/// Options that one image is described by, with what it rests on.
const MAX_OPTIONS: usize = 256;

/// Images that are described over each other.
const MAX_DEPTH: usize = 32;

const JSON: &str = "json:";

/// Options that change nothing here.
const WITHOUT_MEANING: &[&str] = &["auto-read-only", "node-name"];

/// What is said of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Where it is.
    pub name: Name,
    /// Its format, if that is said.
    pub format: Option<Format>,
    /// What it rests on.
    pub below: Below,
    /// The ids of secrets that open the images of its chain, with their depths.
    pub secrets: Vec<(usize, String)>,
}

/// What an image rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Below {
    /// What it says itself.
    #[default]
    AsItSays,
    /// Nothing, whatever it says.
    Nothing,
    /// This, whatever it says.
    This(Box<Described>),
}

impl Described {
    /// Whether a text is not a name, but describes an image.
    pub fn is_json(text: &str) -> bool {
        text.starts_with(JSON)
    }

    /// The image of that name, of which nothing is said.
    pub fn at(name: Name) -> Self {
        Self {
            name,
            format: None,
            below: Below::AsItSays,
            secrets: Vec::new(),
        }
    }

    /// What an image at `image` means by `text`: a name, which may be relative to the image's folder, or `json:{…}`, whose
    /// paths are relative to the current folder, as QEMU has it.
    ///
    /// # Errors
    /// As [`of_json`](Self::of_json), and for what only a user can say.
    pub(super) fn by_image(image: &Name, text: &str) -> Result<Self> {
        if !Self::is_json(text) {
            return image.named_here(text).map(Self::at);
        }
        let described = Self::of_json(text)?;
        if !described.secrets.is_empty() {
            return Err(unsupported(
                "an image cannot name the secrets that open another".into(),
            ));
        }
        Ok(described)
    }

    /// What a text that begins with `json:` describes.
    ///
    /// # Errors
    /// `Invalid` if it is malformed or has no end, `Unsupported` for what is not known here, by its name.
    pub fn of_json(text: &str) -> Result<Self> {
        if text.len() > MAX_TEXT {
            let message = format!("a json: name has at most {MAX_TEXT} bytes");
            return Err(invalid(message));
        }
        let text = text.strip_prefix(JSON).unwrap_or(text);
        let value: Value = serde_json::from_str(text)
            .map_err(|error| invalid(format!("the json: name is malformed: {error}")))?;
        if !value.is_object() {
            return Err(invalid("a json: name describes an object".into()));
        }
        let mut options = Vec::new();
        flatten(String::new(), value, &mut options)?;
        Self::of_options(options)
    }

    /// What dotted options describe.
    ///
    /// # Errors
    /// As [`of_json`](Self::of_json).
    pub fn of_options(options: Vec<(String, Option<String>)>) -> Result<Self> {
        if options.len() > MAX_OPTIONS {
            return Err(too_many());
        }
        let mut secrets = Vec::new();
        let node = Node::of(options, 0, &mut secrets)?;
        let name = node
            .name
            .ok_or_else(|| invalid("file.filename= is missing: which image is meant?".into()))?;
        Ok(Self {
            name,
            format: node.format,
            below: node.below,
            secrets,
        })
    }
}

/// Nested objects and lists as dotted options.
fn flatten(key: String, value: Value, into: &mut Vec<(String, Option<String>)>) -> Result<()> {
    let under = |part: &str| match key.is_empty() {
        true => part.to_owned(),
        false => format!("{key}.{part}"),
    };
    let text = match value {
        Value::Object(members) => {
            for (part, value) in members {
                flatten(under(&part), value, into)?;
            }
            return Ok(());
        }
        Value::Array(items) => {
            for (index, value) in items.into_iter().enumerate() {
                flatten(under(&index.to_string()), value, into)?;
            }
            return Ok(());
        }
        Value::Null => None,
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text),
    };
    if into.len() >= MAX_OPTIONS {
        return Err(too_many());
    }
    into.push((key, text));
    Ok(())
}

/// An image that need not have a name: what it rests on may say it itself.
struct Node {
    name: Option<Name>,
    format: Option<Format>,
    below: Below,
}

impl Node {
    fn of(
        options: Vec<(String, Option<String>)>,
        depth: usize,
        secrets: &mut Vec<(usize, String)>,
    ) -> Result<Self> {
        if depth > MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} images are described over each other");
            return Err(invalid(message));
        }
        let (mut here, mut under, mut nothing) = (BTreeMap::new(), Vec::new(), false);
        for (key, value) in options {
            match (key.strip_prefix("backing."), value) {
                (Some(rest), value) => under.push((rest.to_owned(), value)),
                (None, None) if key == "backing" => nothing = true,
                (None, Some(text)) if key == "backing" && text.is_empty() => nothing = true,
                (None, Some(text)) => drop(here.insert(key, text)),
                (None, None) => return Err(invalid(format!("{key} cannot be null"))),
            }
        }
        let mut node = Self::without_below(here, depth, secrets)?;
        if !under.is_empty() {
            let below = Self::of(under, depth + 1, secrets)?;
            node.below = match (below.name, below.below) {
                _ if nothing => return Err(invalid("backing is null and something".into())),
                (None, Below::AsItSays) => Below::AsItSays,
                (None, _) => {
                    let message = "what lies under a backing file is said without its name";
                    return Err(unsupported(message.into()));
                }
                (Some(name), deeper) => Below::This(Box::new(Described {
                    name,
                    format: below.format,
                    below: deeper,
                    secrets: Vec::new(),
                })),
            };
        } else if nothing {
            node.below = Below::Nothing;
        }
        if node.format == Some(Format::Raw) && matches!(node.below, Below::This(_)) {
            return Err(invalid("a raw image rests on nothing".into()));
        }
        Ok(node)
    }

    /// All but what it rests on.
    fn without_below(
        mut options: BTreeMap<String, String>,
        depth: usize,
        secrets: &mut Vec<(usize, String)>,
    ) -> Result<Self> {
        let driver = options.remove("driver");
        let (format, prefix) = match driver.as_deref() {
            None => (None, "file."),
            Some("qcow2") => (Some(Format::Qcow2), "file."),
            Some("raw") => (Some(Format::Raw), "file."),
            Some("file" | "host_device" | "nbd") => (Some(Format::Raw), ""),
            Some(other) => return Err(unsupported(format!("Unknown driver '{other}'"))),
        };
        if let Some(id) = options.remove("encrypt.key-secret") {
            secrets.push((depth, id));
        }
        let mut take = |key: &str| options.remove(&format!("{prefix}{key}"));
        let protocol = match prefix {
            "" => driver,
            _ => take("driver"),
        };
        for key in WITHOUT_MEANING {
            take(key);
        }
        let name = place(protocol.as_deref(), &mut take)?;
        let name = match (name, options.remove("filename")) {
            (None, Some(text)) => Some(named(&text)?),
            (name, None) => name,
            (Some(_), Some(_)) => return Err(invalid("two files are named for one image".into())),
        };
        for key in WITHOUT_MEANING {
            options.remove(*key);
        }
        options.retain(|key, value| {
            let plain = [("encrypt.format", "luks"), ("read-only", "off")];
            !plain.contains(&(key.as_str(), value.as_str()))
        });
        match options.into_iter().next() {
            Some((key, value)) => Err(unsupported(format!("{key}={value} is not known here"))),
            None => Ok(Self {
                name,
                format,
                below: Below::AsItSays,
            }),
        }
    }
}

/// Where the bytes of an image are.
fn place(
    protocol: Option<&str>,
    take: &mut impl FnMut(&str) -> Option<String>,
) -> Result<Option<Name>> {
    match protocol {
        None => take("filename").map(|text| named(&text)).transpose(),
        // Not a URL, whatever it looks like.
        Some("file" | "host_device") => Ok(take("filename").map(|text| Name::Path(text.into()))),
        Some("nbd") => export(take).map(Some),
        Some(other) => Err(unsupported(format!("Unknown driver '{other}'"))),
    }
}

/// The export that options of QEMU's nbd driver mean.
fn export(take: &mut impl FnMut(&str) -> Option<String>) -> Result<Name> {
    let missing = |key: &str| invalid(format!("{key}= of an NBD server is missing"));
    let export = encoded(&take("export").unwrap_or_default());
    let kind = take("server.type");
    let prefix = if kind.is_some() { "server." } else { "" };
    let path = take(&format!("{prefix}path"));
    match (kind.as_deref(), path) {
        (Some("unix") | None, Some(path)) => {
            Name::of(&format!("nbd+unix:///{export}?socket={}", encoded(&path)))
        }
        (Some("inet") | None, None) => {
            let host = take(&format!("{prefix}host")).ok_or_else(|| missing("server.host"))?;
            let port = take(&format!("{prefix}port")).unwrap_or_else(|| "10809".into());
            let host = match host.contains(':') {
                true => format!("[{host}]"),
                false => encoded(&host),
            };
            Name::of(&format!("nbd://{host}:{}/{export}", encoded(&port)))
        }
        (Some("unix"), None) => Err(missing("server.path")),
        (Some(other), _) => Err(unsupported(format!(
            "server.type={other} is not known here"
        ))),
    }
}

/// A text as a part of a URL.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// What is meant by a name as QEMU's programs take it: its short names of NBD exports are URLs too.
///
/// # Errors
/// As [`Name::of`].
pub fn named(text: &str) -> Result<Name> {
    let Some(rest) = text
        .strip_prefix("nbd:")
        .filter(|rest| !rest.starts_with("//"))
    else {
        return Name::of(text);
    };
    let (place, export) = match rest.split_once(":exportname=") {
        Some((place, export)) => (place, export),
        None => (rest, ""),
    };
    match place.strip_prefix("unix:") {
        Some(path) => Name::of(&format!("nbd+unix:///{export}?socket={path}")),
        None => Name::of(&format!("nbd://{place}/{export}")),
    }
}

fn too_many() -> Error {
    invalid(format!(
        "an image is described by more than {MAX_OPTIONS} options"
    ))
}

fn invalid(message: String) -> Error {
    Error::general(ErrorKind::Invalid, message)
}

fn unsupported(message: String) -> Error {
    Error::general(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Described> {
        Described::of_json(&format!("json:{text}"))
    }

    #[test]
    fn nested_and_flat_are_the_same() {
        let nested = json(
            r#"{"driver":"qcow2","file":{"driver":"file","filename":"a"},
                "backing":{"driver":"raw","file":{"driver":"nbd","server":{"type":"unix","path":"/s,k"},"export":"x y"}}}"#,
        );
        let nested = nested.unwrap();
        let flat = [
            ("driver", "qcow2"),
            ("file.driver", "file"),
            ("file.filename", "a"),
            ("backing.driver", "raw"),
            ("backing.file.driver", "nbd"),
            ("backing.file.server.type", "unix"),
            ("backing.file.server.path", "/s,k"),
            ("backing.file.export", "x y"),
        ];
        let flat = flat.map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
        assert_eq!(Described::of_options(flat.into()).unwrap(), nested);
        assert_eq!(nested.name.to_string(), "a");
        let Below::This(below) = nested.below else {
            panic!("it rests on something");
        };
        let export = below.name.to_string();
        assert!(
            export.contains("x%20y") || export.contains("x y"),
            "{export}"
        );
        assert_eq!(below.format, Some(Format::Raw));
    }

    #[test]
    fn what_an_image_rests_on_may_be_nothing_or_what_it_says() {
        let below = |text: &str| json(text).unwrap().below;
        let nothing = r#"{"driver":"qcow2","file.filename":"a","backing":null}"#;
        assert_eq!(below(nothing), Below::Nothing);
        let said =
            r#"{"file.filename":"a","backing":{"driver":"qcow2","encrypt":{"key-secret":"s"}}}"#;
        assert_eq!(below(said), Below::AsItSays);
        assert_eq!(json(said).unwrap().secrets, [(1, "s".to_owned())]);
        let image = Name::of("b").unwrap();
        let text = format!("json:{said}");
        assert!(Described::by_image(&image, &text).is_err(), "whose secret?");
    }

    #[test]
    fn a_path_is_no_url_where_a_file_is_meant() {
        let described = json(r#"{"driver":"file","filename":"nbd://host/x"}"#).unwrap();
        assert_eq!(described.name, Name::Path("nbd://host/x".into()));
        assert_eq!(described.format, Some(Format::Raw));
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        for (text, word) in [
            (r#"{"driver":"vmdk","file.filename":"a"}"#, "vmdk"),
            (
                r#"{"driver":"raw","offset":512,"file.filename":"a"}"#,
                "offset",
            ),
            (r#"{"driver":"qcow2","file":"node"}"#, "file=node"),
            (r#"{"driver":"qcow2","file":{"driver":"https"}}"#, "https"),
            (
                r#"{"driver":"raw","file.filename":"a","backing":{"filename":"b"}}"#,
                "raw",
            ),
            (r#"{"driver":"qcow2"}"#, "file.filename"),
            (
                r#"{"file.filename":"a","backing":{"backing":null}}"#,
                "without its name",
            ),
            (
                r#"{"driver":"nbd","server":{"type":"unix"}}"#,
                "server.path",
            ),
            (r#"["a"]"#, "object"),
            ("{", "malformed"),
        ] {
            let said = json(text).unwrap_err().to_string();
            assert!(said.contains(word), "{text}: {said}");
        }
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let long = format!(r#"{{"filename":"{}"}}"#, "x".repeat(MAX_TEXT));
        assert!(json(&long).is_err());
        let many: Vec<String> = (0..300).map(|key| format!(r#""k{key}":1"#)).collect();
        assert!(json(&format!("{{{}}}", many.join(","))).is_err());
        let deep = vec![("backing.".repeat(5000) + "driver", Some("raw".to_owned()))];
        assert!(Described::of_options(deep).is_err());
        assert!(json(&"[".repeat(5000)).is_err());
    }
}
