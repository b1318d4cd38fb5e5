//! Options of an image that is there: its keys, and no others.

use std::time::Duration;

use weft_service::api::{Error, ErrorKind, Result};
use weft_service::storage::images::{self, KeyChange, USUAL_TIME};

use super::args::Amend;
use super::commands::{not_opened, target, unsupported};
use super::secrets::Secrets;
use super::words;

pub(super) async fn run(amend: Amend) -> Result<u8> {
    let (name, how) = target(&amend.common, &amend.filename)?;
    let secrets = Secrets::of(&amend.common.object)?;
    let change = change(&words::options(&amend.options), &secrets)?;
    images::change_keys(&name, how.format, &how.keys, &change, amend.force)
        .await
        .map_err(|error| match error.kind {
            ErrorKind::NotFound => not_opened(&amend.filename, error),
            _ => error,
        })?;
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
