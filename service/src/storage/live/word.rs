//! The word for an image that serves as a disk: `qcow2:DISK`, and which files it may name.

use std::fmt;
use std::str::FromStr;

use crate::api::{Error, ErrorKind, Result};

const PREFIX: &str = "qcow2:";
const ANY: &str = "any";

/// `qcow2:DISK[,allow=FILE]…[,key-file=FILE]…`: the image in DISK, which may name files beside it, or those, or `any`, and is
/// opened by the passphrases in files if it is encrypted. A comma in a name is written twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageWord {
    /// The DISK that holds the image.
    pub inner: String,
    /// The files that the image may name, if none but these.
    pub allow: Vec<String>,
    /// Whether it may name any.
    pub allow_any: bool,
    /// The files that hold passphrases of it and of what it rests on.
    pub key_files: Vec<String>,
}

impl ImageWord {
    /// Whether `text` is meant as such a word.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// The image in `inner`, which may name what lies beside it.
    pub fn of(inner: &str) -> Self {
        Self {
            inner: inner.to_owned(),
            allow: Vec::new(),
            allow_any: false,
            key_files: Vec::new(),
        }
    }

    /// The word by which the image is known, whatever it may name.
    pub fn key(&self) -> String {
        format!("{PREFIX}{}", twice(&self.inner))
    }

    /// The same with other names for the disks in it.
    ///
    /// # Errors
    /// As `rename`.
    pub fn map(self, mut rename: impl FnMut(&str) -> Result<String>) -> Result<Self> {
        let inner = rename(&self.inner)?;
        let mut all = |files: &[String]| files.iter().map(|file| rename(file)).collect();
        let (allow, key_files): (Result<_>, Result<_>) = (all(&self.allow), all(&self.key_files));
        Ok(Self {
            inner,
            allow: allow?,
            key_files: key_files?,
            ..self
        })
    }
}

impl FromStr for ImageWord {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, text, message);
        let Some(rest) = text.strip_prefix(PREFIX) else {
            return Err(invalid(format!(
                "{text} is no image: write {PREFIX}{text} for the image in it"
            )));
        };
        let mut parts = parts(rest).into_iter();
        let mut word = Self::of(&parts.next().unwrap_or_default());
        if word.inner.is_empty() {
            return Err(invalid(format!("{text} names no disk after {PREFIX}")));
        }
        for part in parts {
            match part.split_once('=') {
                Some(("allow", ANY)) => word.allow_any = true,
                Some(("allow", file)) if !file.is_empty() => word.allow.push(file.to_owned()),
                Some(("key-file", file)) if !file.is_empty() => {
                    word.key_files.push(file.to_owned())
                }
                _ => {
                    return Err(invalid(format!(
                        "{text}: {part:?} is no option; there are allow=FILE and key-file=FILE, and a comma in a name is written twice"
                    )));
                }
            }
        }
        Ok(word)
    }
}

impl fmt::Display for ImageWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())?;
        for file in &self.allow {
            write!(f, ",allow={}", twice(file))?;
        }
        if self.allow_any {
            write!(f, ",allow={ANY}")?;
        }
        for file in &self.key_files {
            write!(f, ",key-file={}", twice(file))?;
        }
        Ok(())
    }
}

fn twice(name: &str) -> String {
    name.replace(',', ",,")
}

/// The parts between single commas.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        let Some(part) = parts.last_mut() else { break };
        match letter {
            ',' if rest.next_if_eq(&',').is_some() => part.push(','),
            ',' => parts.push(String::new()),
            letter => part.push(letter),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_names_a_disk_and_what_it_may_name() {
        let word: ImageWord = "qcow2:/a/b,,c.qcow2,allow=/x,allow=vg/base"
            .parse()
            .unwrap();
        assert_eq!(word.inner, "/a/b,c.qcow2");
        assert_eq!(word.allow, ["/x", "vg/base"]);
        assert_eq!(word.key(), "qcow2:/a/b,,c.qcow2");
        assert_eq!(word.to_string().parse::<ImageWord>().unwrap(), word);
        let secret: ImageWord = "qcow2:/a,key-file=/k,,1,allow=/b,key-file=/l=2"
            .parse()
            .unwrap();
        assert_eq!(secret.key_files, ["/k,1", "/l=2"]);
        assert_eq!(secret.key(), "qcow2:/a");
        let there = secret.clone().map(|file| Ok(format!("/at{file}"))).unwrap();
        let text = "qcow2:/at/a,allow=/at/b,key-file=/at/k,,1,key-file=/at/l=2";
        assert_eq!(there.to_string(), text);
        let any: ImageWord = "qcow2:nbd://h:1/x,allow=any".parse().unwrap();
        assert!(any.allow_any && any.allow.is_empty());
        let deep: ImageWord = "qcow2:qcow2:vg/lv".parse().unwrap();
        assert_eq!(deep.inner, "qcow2:vg/lv");
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
        for wrong in [
            "qcow2:",
            "qcow2:,allow=/x",
            "qcow2:/a,b",
            "qcow2:/a,allow=",
            "qcow2:/a,key-file=",
            "qcow2:/a,key-file",
            "/a",
        ] {
            let error = wrong.parse::<ImageWord>().unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{wrong}");
        }
    }
}
