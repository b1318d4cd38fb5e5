//! Options of an image that is there: its keys, and what else can become another way.

use std::time::Duration;

use weft_service::api::{Error, ErrorKind, Result};
use weft_service::storage::images::{self, KeyChange, USUAL_TIME};

use super::args::Amend;
use super::commands::{OPTIONS_OF_AMEND, help_lines, not_opened, target, unsupported};
use super::secrets::Secrets;
use super::words;
use crate::render::print;

pub(super) async fn run(amend: Amend) -> Result<u8> {
    if words::asks_for_help(&amend.options) {
        let lines = help_lines(OPTIONS_OF_AMEND);
        print(format!("Amend options for 'qcow2':\n{lines}").as_bytes());
        return Ok(0);
    }
    let filename = amend.filename.as_deref().ok_or_else(|| {
        let message = "Expecting one image file name";
        Error::general(ErrorKind::Invalid, message)
    })?;
    let (name, how) = target(&amend.common, filename)?;
    let told = |error: Error| match error.kind {
        ErrorKind::NotFound => not_opened(filename, error),
        _ => error,
    };
    let options = words::options(&amend.options);
    let (keys, others): (Vec<_>, Vec<_>) = options
        .into_iter()
        .partition(|(key, _)| key.starts_with("encrypt."));
    let amendments = images::read_amendments(&others, true)?;
    if let Some((key, _)) = amendments.unknown.first() {
        let message = match key.as_str() {
            "backing_file" | "backing_fmt" => {
                "Cannot amend the backing file: rebase does that".to_owned()
            }
            _ => format!("Invalid parameter '{key}'"),
        };
        return Err(Error::general(ErrorKind::Invalid, message));
    }
    if !amendments.is_empty() {
        images::amend(&name, &how, &amendments)
            .await
            .map_err(told)?;
    }
    if !keys.is_empty() {
        let change = change(&keys, &Secrets::of(&amend.common.object)?)?;
        images::change_keys(&name, how.format, &how.keys, &change, amend.force)
            .await
            .map_err(told)?;
    }
    Ok(0)
}

fn change(options: &[(String, String)], secrets: &Secrets) -> Result<KeyChange> {
    let invalid = |message: &str| Error::general(ErrorKind::Invalid, message);
    let (mut state, mut old, mut new, mut slot) = (None, None, None, None);
    let mut time = USUAL_TIME;
    for (key, value) in options {
        match key.as_str() {
            "encrypt.format" if value == "luks" => {}
            "encrypt.state" => state = Some(value.as_str()),
            "encrypt.old-secret" => old = Some(secrets.find(value)?),
            "encrypt.new-secret" => new = Some(secrets.find(value)?),
            "encrypt.keyslot" => {
                slot = Some(
                    value
                        .parse()
                        .map_err(|_| invalid("encrypt.keyslot is a number"))?,
                )
            }
            "encrypt.iter-time" => {
                let number = value.parse();
                let number = number.map_err(|_| invalid("encrypt.iter-time is a number"))?;
                time = Duration::from_millis(number);
            }
            _ => {
                return Err(unsupported(&format!(
                    "{key} of an image is not changed here"
                )));
            }
        }
    }
    match (state, old, new, slot) {
        (Some("active"), None, Some(new), slot) => Ok(KeyChange::Add { new, slot, time }),
        (Some("active"), ..) => Err(invalid(
            "encrypt.state=active needs encrypt.new-secret, and no old one",
        )),
        (Some("inactive"), Some(old), None, None) => Ok(KeyChange::Remove(old)),
        (Some("inactive"), None, None, Some(slot)) => Ok(KeyChange::Erase(slot)),
        (Some("inactive"), ..) => Err(invalid(
            "encrypt.state=inactive needs encrypt.old-secret or encrypt.keyslot",
        )),
        (Some(_), ..) => Err(invalid("encrypt.state is active or inactive")),
        (None, ..) => Err(invalid("Parameter 'encrypt.state' is missing")),
    }
}
