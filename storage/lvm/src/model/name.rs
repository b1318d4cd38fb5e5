//! Which names LVM2 accepts.

use weft_block::{Error, ErrorKind, Result};

/// Characters in a name.
const MAX_NAME: usize = 127;

/// LVM2 keeps these to itself.
const RESERVED_STARTS: [&str; 2] = ["snapshot", "pvmove"];
const RESERVED_PARTS: [&str; 13] = [
    "_cdata", "_cmeta", "_corig", "_imeta", "_iorig", "_mimage", "_mlog", "_pmspare", "_rimage",
    "_rmeta", "_tdata", "_tmeta", "_vdata",
];

/// Refuses a name that a volume group cannot have.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub fn check_vg_name(name: &str) -> Result<()> {
    check_characters("volume group", name)
}

/// Refuses a name that a new logical volume cannot have.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub fn check_lv_name(name: &str) -> Result<()> {
    check_characters("logical volume", name)?;
    let reserved = RESERVED_STARTS.iter().any(|start| name.starts_with(start))
        || RESERVED_PARTS.iter().any(|part| name.contains(part));
    if reserved {
        return Err(invalid(
            "logical volume",
            name,
            "is a name that LVM2 keeps for its own parts",
        ));
    }
    Ok(())
}

fn check_characters(what: &str, name: &str) -> Result<()> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.-+".contains(letter);
    let problem = if name.is_empty() || name.len() > MAX_NAME {
        "must have 1 to 127 characters"
    } else if !name.chars().all(allowed) {
        "may hold letters, digits and _ . - + only"
    } else if name.starts_with('-') || name == "." || name == ".." {
        "may be neither \".\" nor \"..\" nor start with a hyphen"
    } else {
        return Ok(());
    };
    Err(invalid(what, name, problem))
}

fn invalid(what: &str, name: &str, problem: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("the {what} name {name:?} {problem}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_lvm2() {
        for name in ["a", "vm-disk_1.2+x", "0"] {
            assert!(check_lv_name(name).is_ok(), "{name}");
        }
        let long = "a".repeat(128);
        for name in [
            "",
            "-a",
            ".",
            "..",
            "a/b",
            "a b",
            "ä",
            &long,
            "snapshot1",
            "x_rimage_0",
            "pvmove0",
        ] {
            assert!(check_lv_name(name).is_err(), "{name}");
        }
        assert!(check_vg_name("snapshot1").is_ok());
    }
}
