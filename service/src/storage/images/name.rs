//! What the name of an image means.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use weft_export::nbd::client::Url;

use crate::api::{Error, ErrorKind, Result};

/// Where a file is that a user or an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A file or block device.
    Path(PathBuf),
    /// An export of an NBD server.
    Nbd(Box<Url>),
}

/// What tells files apart, whatever they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage) enum Identity {
    File(u64, u64),
    Nbd(String),
}

impl Name {
    /// What a user means by `text`, seen from the current folder.
    ///
    /// # Errors
    /// `Invalid` for a malformed URL, `Unsupported` for a protocol that is not known here.
    pub fn of(text: &str) -> Result<Self> {
        if Url::is_meant_by(text) && (text.contains("://") || !Path::new(text).exists()) {
            let url = text
                .parse()
                .map_err(|error| Error::from_block(text, &error))?;
            return Ok(Self::Nbd(Box::new(url)));
        }
        if let Some(path) = text.strip_prefix("file:") {
            return Ok(Self::Path(path.into()));
        }
        if text.contains("://") || text.starts_with("json:") {
            let message =
                format!("{text} cannot be opened: paths, nbd:// and nbd+unix:// are known here");
            return Err(Error::new(ErrorKind::Unsupported, text, message));
        }
        Ok(Self::Path(text.into()))
    }

    /// What an image at `self` means by `text`: a relative path begins at the image's folder.
    ///
    /// # Errors
    /// As [`of`](Self::of); `Invalid` for a relative path in an image that is in no folder.
    pub fn named_here(&self, text: &str) -> Result<Self> {
        let there = Self::of(text)?;
        match (self, there) {
            (Self::Path(image), Self::Path(path)) => {
                let folder = image.parent().unwrap_or(Path::new(""));
                Ok(Self::Path(folder.join(path)))
            }
            (Self::Nbd(url), Self::Path(path)) if path.is_relative() => {
                let path = path.display();
                let message = format!("{url} names {path}, but an export is in no folder");
                Err(Error::new(ErrorKind::Invalid, url.to_string(), message))
            }
            (_, there) => Ok(there),
        }
    }

    /// What tells it from other files; nothing if there is no such file.
    pub(in crate::storage) fn identity(&self) -> Option<Identity> {
        match self {
            Self::Path(path) => {
                let metadata = std::fs::metadata(path).ok()?;
                Some(Identity::File(metadata.dev(), metadata.ino()))
            }
            Self::Nbd(url) => Some(Identity::Nbd(url.to_string())),
        }
    }

    /// Whether a file is there; what is behind a URL always is.
    pub(in crate::storage) fn exists(&self) -> bool {
        match self {
            Self::Path(path) => path.exists(),
            Self::Nbd(_) => true,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Nbd(url) => write!(f, "{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_name_begins_at_the_images_folder() {
        let image = Name::of("disks/a.qcow2").unwrap();
        let below = |text: &str| image.named_here(text).unwrap().to_string();
        assert_eq!(below("base.raw"), "disks/base.raw");
        assert_eq!(below("../x"), "disks/../x");
        assert_eq!(below("/abs"), "/abs");
        assert_eq!(below("file:b"), "disks/b");
        assert!(below("nbd://host/x").starts_with("nbd://host"));
        let export = Name::of("nbd://host/x").unwrap();
        assert!(export.named_here("base.raw").is_err());
    }

    #[test]
    fn protocols_that_are_not_known_are_refused() {
        for text in ["http://host/disk", "json:{\"driver\":\"raw\"}", "ssh://h/x"] {
            assert_eq!(Name::of(text).unwrap_err().kind, ErrorKind::Unsupported);
        }
    }
}
