//! QEMU's options of a new image: their names and what they mean.

use std::str::FromStr;
use std::time::Duration;

use weft_qcow2::CreateOptions;
use weft_qcow2::format::{CompressionType, Version};
use weft_qcow2::luks::{self, Algorithm, Hash, IvKind, Mode, Spec};

use super::keys::USUAL_TIME;
use crate::api::{Error, ErrorKind, Result, Size};

/// What options say of a new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The image as the engine makes it; its encryption is made of a passphrase first.
    pub image: CreateOptions,
    /// Whether and how it is encrypted.
    pub encryption: Option<EncryptOptions>,
    /// What of its room is taken at once.
    pub preallocation: Preallocation,
    /// Options that are not known.
    pub unknown: Vec<(String, String)>,
}

/// How an image is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncryptOptions {
    /// Cipher and hash.
    pub luks: luks::CreateOptions,
    /// How long each guess of a passphrase is to take.
    pub time: Duration,
}

impl Default for EncryptOptions {
    fn default() -> Self {
        Self {
            luks: luks::CreateOptions::default(),
            time: USUAL_TIME,
        }
    }
}

/// What of a disk's room is taken before anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// Each part has its place in the file, which takes no room of its file system yet.
    Metadata,
    /// The file system's room is taken too.
    Falloc,
    /// And zeroes are written there.
    Full,
}

impl FromStr for Preallocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "metadata" => Ok(Self::Metadata),
            "falloc" => Ok(Self::Falloc),
            "full" => Ok(Self::Full),
            _ => Err(format!(
                "preallocation is off, metadata, falloc or full, not {text}"
            )),
        }
    }
}

/// Reads QEMU's options of a disk of `size` bytes.
///
/// # Errors
/// `Invalid` for a value that cannot be, `Unsupported` for one that is not known here.
pub fn read_options(options: &[(String, String)], size: u64) -> Result<Options> {
    let mut read = Options {
        image: CreateOptions::new(size),
        encryption: None,
        preallocation: Preallocation::Off,
        unknown: Vec::new(),
    };
    let mut encryption = Vec::new();
    for (key, value) in options {
        let image = &mut read.image;
        match key.as_str() {
            "compat" => image.version = version(value)?,
            "cluster_size" => image.cluster_bits = log2(key, bytes(key, value)?)?,
            "refcount_bits" => image.refcount_order = log2(key, bytes(key, value)?)?,
            "extended_l2" => image.extended_l2 = switch(key, value)?,
            "lazy_refcounts" => image.lazy_refcounts = switch(key, value)?,
            "compression_type" => image.compression = compression(value)?,
            "data_file" => image.data_file = Some(value.clone()),
            "data_file_raw" => image.raw_data_file = switch(key, value)?,
            "preallocation" => read.preallocation = value.parse().map_err(invalid)?,
            // Copy-on-write file systems are left to their own.
            "nocow" if !switch(key, value)? => {}
            "encryption" if !switch(key, value)? => {}
            "nocow" | "encryption" => {
                return Err(unsupported(format!("{key}={value} is not done here")));
            }
            _ => match key.strip_prefix("encrypt.") {
                Some(key) => encryption.push((key, value.as_str())),
                None => read.unknown.push((key.clone(), value.clone())),
            },
        }
    }
    if !encryption.is_empty() {
        read.encryption = Some(encryption_of(&encryption)?);
    }
    Ok(read)
}

fn encryption_of(options: &[(&str, &str)]) -> Result<EncryptOptions> {
    let (mut algorithm, mut mode, mut iv) = (Algorithm::Aes256, Mode::Xts, "plain64");
    let mut read = EncryptOptions::default();
    let mut is_luks = false;
    for (key, value) in options {
        match *key {
            "format" if *value == "luks" => is_luks = true,
            "format" => {
                return Err(unsupported(format!(
                    "encrypt.format={value}: images are encrypted with luks, and in no other way"
                )));
            }
            "cipher-alg" => algorithm = cipher(value)?,
            "cipher-mode" => {
                mode = match *value {
                    "xts" => Mode::Xts,
                    "cbc" => Mode::Cbc,
                    _ => return Err(unknown(key, value)),
                }
            }
            "ivgen-alg" => iv = value,
            "ivgen-hash-alg" if *value == "sha256" => {}
            "hash-alg" => {
                read.luks.hash = Hash::of_name(value).ok_or_else(|| unknown(key, value))?;
            }
            "iter-time" => {
                let time = value.parse().map_err(|_| unknown(key, value))?;
                read.time = Duration::from_millis(time);
            }
            _ => return Err(unknown(key, value)),
        }
    }
    if !is_luks {
        return Err(invalid("encrypt.format=luks is missing".to_owned()));
    }
    let iv = match iv {
        "plain" => IvKind::Plain,
        "plain64" => IvKind::Plain64,
        "essiv" => IvKind::EssivSha256,
        _ => return Err(unknown("ivgen-alg", iv)),
    };
    read.luks.spec = Spec::new(algorithm, mode, iv).map_err(|error| invalid(error.to_string()))?;
    Ok(read)
}

fn cipher(value: &str) -> Result<Algorithm> {
    Ok(match value {
        "aes-128" => Algorithm::Aes128,
        "aes-192" => Algorithm::Aes192,
        "aes-256" => Algorithm::Aes256,
        "serpent-128" => Algorithm::Serpent128,
        "serpent-192" => Algorithm::Serpent192,
        "serpent-256" => Algorithm::Serpent256,
        "twofish-128" => Algorithm::Twofish128,
        "twofish-192" => Algorithm::Twofish192,
        "twofish-256" => Algorithm::Twofish256,
        "cast5-128" => Algorithm::Cast5,
        _ => return Err(unknown("cipher-alg", value)),
    })
}

fn unknown(key: &str, value: &str) -> Error {
    unsupported(format!("encrypt.{key}={value} is not known here"))
}

pub(super) fn version(value: &str) -> Result<Version> {
    match value {
        "0.10" | "v2" => Ok(Version::V2),
        "1.1" | "v3" => Ok(Version::V3),
        _ => Err(invalid(format!("compat is 0.10 or 1.1, not {value}"))),
    }
}

fn compression(value: &str) -> Result<CompressionType> {
    match value {
        "zlib" => Ok(CompressionType::Zlib),
        "zstd" => Ok(CompressionType::Zstd),
        _ => Err(invalid(format!(
            "compression_type is zlib or zstd, not {value}"
        ))),
    }
}

pub(super) fn bytes(key: &str, value: &str) -> Result<u64> {
    let size = Size::from_str(value).map_err(|why| invalid(format!("{key}: {why}")))?;
    Ok(size.0)
}

pub(super) fn log2(key: &str, value: u64) -> Result<u32> {
    value
        .is_power_of_two()
        .then(|| value.trailing_zeros())
        .ok_or_else(|| invalid(format!("{key} is a power of two, not {value}")))
}

pub(super) fn switch(key: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(invalid(format!("{key} is on or off, not {value}"))),
    }
}

pub(super) fn invalid(message: String) -> Error {
    Error::general(ErrorKind::Invalid, message)
}

pub(super) fn unsupported(message: String) -> Error {
    Error::general(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[(&str, &str)]) -> Result<Options> {
        let text: Vec<_> = text
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let read = read_options(&text, 1 << 20)?;
        assert!(read.unknown.is_empty(), "{:?}", read.unknown);
        Ok(read)
    }

    #[test]
    fn options_by_qemus_names() {
        let options = read(&[
            ("compat", "1.1"),
            ("cluster_size", "2M"),
            ("refcount_bits", "1"),
            ("extended_l2", "on"),
            ("compression_type", "zstd"),
            ("preallocation", "falloc"),
        ])
        .unwrap();
        let image = &options.image;
        assert_eq!((image.cluster_bits, image.refcount_order), (21, 0));
        assert!(image.extended_l2 && !image.lazy_refcounts);
        assert_eq!(options.preallocation, Preallocation::Falloc);
        for (key, value) in [
            ("cluster_size", "3K"),
            ("compat", "2"),
            ("extended_l2", "perhaps"),
            ("preallocation", "some"),
            ("encrypt.format", "aes"),
            ("encrypt.cipher-alg", "aes-256"),
        ] {
            assert!(read(&[(key, value)]).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn ciphers_by_qemus_names() {
        let options = read(&[
            ("encrypt.format", "luks"),
            ("encrypt.cipher-alg", "serpent-128"),
            ("encrypt.cipher-mode", "cbc"),
            ("encrypt.ivgen-alg", "essiv"),
            ("encrypt.ivgen-hash-alg", "sha256"),
            ("encrypt.hash-alg", "sha1"),
            ("encrypt.iter-time", "10"),
        ])
        .unwrap();
        let encryption = options.encryption.unwrap();
        let spec = Spec::new(Algorithm::Serpent128, Mode::Cbc, IvKind::EssivSha256).unwrap();
        assert_eq!(
            (encryption.luks.spec, encryption.luks.hash),
            (spec, Hash::Sha1)
        );
        assert_eq!(encryption.time, Duration::from_millis(10));
    }
}
