//! `--object secret`: passphrases by their names, and options that name them.

use std::collections::BTreeMap;
use std::path::Path;

use weft_service::api::{Error, ErrorKind, Result};
use weft_service::storage::images::Passphrase;

use super::words;

/// The passphrases of a command line.
#[derive(Debug, Default)]
pub(super) struct Secrets(BTreeMap<String, Passphrase>);

impl Secrets {
    /// What `--object` says. Passphrases belong into files: what stands on a command line (`data=`) everybody on the
    /// machine can read, and is taken because QEMU takes it.
    pub(super) fn of(objects: &[String]) -> Result<Self> {
        let mut secrets = BTreeMap::new();
        for object in objects {
            let (id, secret) = secret(object)?;
            if secrets.insert(id.clone(), secret).is_some() {
                return Err(invalid(format!("attempt to add duplicate property '{id}'")));
            }
        }
        Ok(Self(secrets))
    }

    pub(super) fn find(&self, id: &str) -> Result<Passphrase> {
        let found = self.0.get(id).cloned();
        found.ok_or_else(|| invalid(format!("No secret with id '{id}'")))
    }

    /// Takes the passphrase of a new image out of its options.
    pub(super) fn taken_from(
        &self,
        options: &mut Vec<(String, String)>,
    ) -> Result<Option<Passphrase>> {
        let is_it = |(key, _): &(String, String)| key == "encrypt.key-secret";
        let Some(at) = options.iter().position(is_it) else {
            return Ok(None);
        };
        let (_, id) = options.remove(at);
        self.find(&id).map(Some)
    }
}

fn secret(object: &str) -> Result<(String, Passphrase)> {
    let mut parts = words::options(&[object.to_owned()]).into_iter();
    let kind = parts.next();
    let is_secret = matches!(
        kind.as_ref()
            .map(|(key, value)| (key.as_str(), value.as_str())),
        Some(("secret", "on") | ("qom-type", "secret"))
    );
    if !is_secret {
        let message = format!("--object {object}: secrets are known here, and nothing else");
        return Err(Error::general(ErrorKind::Unsupported, message));
    }
    let (mut id, mut bytes, mut base64) = (None, None, false);
    for (key, value) in parts {
        match key.as_str() {
            "id" => id = Some(value),
            "data" => bytes = Some(Passphrase::of(value.into_bytes())),
            "file" => bytes = Some(Passphrase::read(Path::new(&value))?),
            "format" => base64 = value == "base64",
            _ => {
                let message = format!("--object secret: {key} is not known here");
                return Err(Error::general(ErrorKind::Unsupported, message));
            }
        }
    }
    let id = id.ok_or_else(|| invalid("Parameter 'id' is missing".to_owned()))?;
    let bytes = bytes.ok_or_else(|| invalid("Must provide 'file' or 'data'".to_owned()))?;
    match base64 {
        true => Ok((id, decoded(&bytes)?)),
        false => Ok((id, bytes)),
    }
}

/// What stands there in base64 (RFC 4648), with white space anywhere.
fn decoded(text: &Passphrase) -> Result<Passphrase> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    let mut padding = 0;
    for letter in text
        .bytes()
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
    {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return Err(invalid("a secret is not in base64".to_owned())),
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
        if padding > 0 {
            return Err(invalid(
                "a secret in base64 goes on after its end".to_owned(),
            ));
        }
    }
    Ok(Passphrase::of(bytes))
}

fn invalid(message: String) -> Error {
    Error::general(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k");
        std::fs::write(&file, "c2Vj\ncmV0\n").unwrap();
        let objects = [
            "secret,id=a,data=one,,two".to_owned(),
            format!("secret,id=b,format=base64,file={}", file.display()),
            format!("qom-type=secret,id=c,file={}", file.display()),
        ];
        let secrets = Secrets::of(&objects).unwrap();
        let bytes = |id: &str| secrets.find(id).unwrap().bytes().to_vec();
        assert_eq!(bytes("a"), b"one,two");
        assert_eq!(bytes("b"), b"secret");
        assert_eq!(bytes("c"), b"c2Vj\ncmV0\n");
        assert!(secrets.find("d").is_err());
        for wrong in [
            "secret,id=a",
            "secret,data=x",
            "secret,id=a,data=x,keyid=b",
            "secret,id=a,data=?,format=base64",
            "throttle-group,id=a",
        ] {
            assert!(Secrets::of(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
