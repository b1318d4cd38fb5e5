//! Which of the files that an image names may be opened.

use std::path::Path;

use super::name::Name;
use crate::api::{Error, ErrorKind, Result};

/// The files that images may make us open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// None.
    Nothing,
    /// Those in the folder of the image that the user has named, and below; links that lead out of it are followed
    /// nowhere, and URLs are not among them.
    Beside,
    /// These, and no others.
    These(Vec<Name>),
    /// Any. For images of one's own.
    Everything,
}

/// What images may make us do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The files that may be opened.
    pub allow: Allow,
    /// Whether the format of a backing file may be guessed where the image does not tell it.
    pub guess: bool,
}

impl Policy {
    /// For who looks at one image's own tables: it gets nothing by naming it.
    pub const STRICT: Self = Self {
        allow: Allow::Nothing,
        guess: false,
    };

    /// For a user's commands: what lies beside the image is the user's.
    pub const BESIDE: Self = Self {
        allow: Allow::Beside,
        guess: false,
    };

    /// As QEMU's programs do: every name is followed and every format guessed.
    pub const TRUSTING: Self = Self {
        allow: Allow::Everything,
        guess: true,
    };

    /// Whether `file`, which the image `by` names, may be opened for the user who has named `first`.
    ///
    /// # Errors
    /// `Permission`.
    pub(super) fn check(&self, first: &Name, by: &str, file: &Name) -> Result<()> {
        // A file that is not there is better told as that; it tells a stranger nothing.
        if self.allows(first, file) || (self.allow != Allow::Nothing && !file.exists()) {
            return Ok(());
        }
        let where_else = match self.allow {
            Allow::Beside => ", which lies elsewhere",
            _ => ", which was not allowed",
        };
        let message = format!(
            "{by} names the file {file}{where_else}: if it is meant, say so with --allow-backing {file}"
        );
        Err(Error::new(ErrorKind::Permission, by, message))
    }

    /// Whether it allows `file` to who has named `first`.
    pub(in crate::storage) fn allows(&self, first: &Name, file: &Name) -> bool {
        match &self.allow {
            Allow::Nothing => false,
            Allow::Everything => true,
            Allow::These(names) => names.iter().any(|name| is_same(name, file)),
            Allow::Beside => is_beside(first, file),
        }
    }
}

fn is_same(one: &Name, other: &Name) -> bool {
    one == other
        || one
            .identity()
            .is_some_and(|one| other.identity() == Some(one))
}

/// Whether `file` is really in the folder of `first` or below.
fn is_beside(first: &Name, file: &Name) -> bool {
    let (Name::Path(first), Name::Path(file)) = (first, file) else {
        return false;
    };
    let folder = first
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    match (folder.canonicalize(), file.canonicalize()) {
        (Ok(folder), Ok(file)) => file.starts_with(folder),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_is_allowed_and_what_leads_away_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let at = |name: &str| Name::Path(folder.path().join(name));
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for name in ["image", "base", "sub/deep"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        let check = |policy: &Policy, name: &Name| policy.check(&at("image"), "image", name);
        for name in ["base", "sub/deep", "sub/../base"] {
            check(&Policy::BESIDE, &at(name)).unwrap();
            assert!(check(&Policy::STRICT, &at(name)).is_err(), "{name}");
        }
        let away = Name::Path(outside.path().into());
        for name in [&at("link"), &away, &Name::of("nbd://host/x").unwrap()] {
            let error = check(&Policy::BESIDE, name).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Permission);
            assert!(error.message.contains("--allow-backing"), "{error}");
        }
        let named = Policy {
            allow: Allow::These(vec![away]),
            guess: false,
        };
        check(&named, &at("link")).unwrap();
        assert!(check(&named, &at("base")).is_err(), "the list is all");
    }
}
