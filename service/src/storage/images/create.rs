//! Making images.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use weft_block::BlockDevice;
use weft_qcow2::format::{Backing, CompressionType, Version};
use weft_qcow2::{CreateOptions, create as create_qcow2};
use weft_uring::{FileDevice, spawner};

use super::failed;
use super::name::Name;
use super::open::{Format, How, open, open_file};
use super::policy::Policy;
use crate::api::{Error, ErrorKind, Result, Size};

/// An image that is to be made.
#[derive(Debug, Clone)]
pub struct Create {
    /// Where.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes of the disk; those of the backing file unless given.
    pub size: Option<u64>,
    /// What it rests on, as the image is to name it.
    pub backing: Option<String>,
    /// The format of that; guessed if not given.
    pub backing_format: Option<Format>,
    /// Options by QEMU's names and values.
    pub options: Vec<(String, String)>,
    /// Whether a file that is there is overwritten.
    pub overwrite: bool,
    /// Whether the backing file is named without a look at it.
    pub unseen_backing: bool,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Formatted {
    /// Its format.
    pub format: Format,
    /// Bytes of the disk.
    pub size: u64,
    /// How a qcow2 image was made.
    pub qcow2: Option<CreateOptions>,
}

/// Makes an image.
///
/// # Errors
/// `Exists`, `Invalid` for options that contradict each other, `Unsupported` for those that are not known here, and as
/// writing. A file that was made for it and came to nothing is taken away again.
pub async fn create(mut request: Create) -> Result<Formatted> {
    let path = request.path.display().to_string();
    let invalid = |message: String| Error::new(ErrorKind::Invalid, &path, message);
    for (key, value) in std::mem::take(&mut request.options) {
        match key.as_str() {
            "size" => request.size = Some(size(&key, &value)?),
            "backing_file" => request.backing = Some(value),
            "backing_fmt" => request.backing_format = Some(format(&value)?),
            _ => request.options.push((key, value)),
        }
    }
    if request.format == Format::Raw && request.backing.is_some() {
        return Err(invalid(format!("{path}: a raw image rests on nothing")));
    }
    let below = match &request.backing {
        Some(backing) => Some(look_below(&request, backing).await?),
        None => None,
    };
    let size = request
        .size
        .or(below.and_then(|(_, size)| size))
        .ok_or_else(|| invalid(format!("{path}: how large is it to be? Say --size")))?;
    match request.format {
        Format::Raw => create_raw(&request, size),
        Format::Qcow2 => {
            let mut options = CreateOptions::new(size);
            options.backing = request.backing.clone().map(|path| Backing {
                path,
                format: below.map(|(format, _)| format.name().to_owned()),
            });
            let unknown = read_options(&request.options, &mut options)?;
            if let Some((key, _)) = unknown.first() {
                return Err(invalid(format!("{path}: there is no option {key}")));
            }
            create_image(&request, options).await
        }
    }
}

/// The format of the backing file, and its size if it was looked at.
async fn look_below(request: &Create, backing: &str) -> Result<(Format, Option<u64>)> {
    if let (true, Some(format)) = (request.unseen_backing, request.backing_format) {
        return Ok((format, None));
    }
    let image = Name::Path(request.path.clone());
    let name = image.named_here(backing)?;
    if name.identity().is_some() && name.identity() == image.identity() {
        let message = format!("{image} cannot rest on itself");
        return Err(Error::new(ErrorKind::Invalid, image.to_string(), message));
    }
    let how = How {
        format: request.backing_format,
        chain: false,
        data: false,
        ..How::to_read(Policy::STRICT)
    };
    let chain = open(&name, &how).await?;
    let size = chain.top().header.as_ref().map(|header| header.size);
    let size = size.unwrap_or_else(|| chain.device().info().size);
    Ok((chain.top().format, Some(size)))
}

fn create_raw(request: &Create, size: u64) -> Result<Formatted> {
    let path = request.path.display().to_string();
    if let Some((key, value)) = request
        .options
        .iter()
        .find(|(key, value)| (key.as_str(), value.as_str()) != ("preallocation", "off"))
    {
        let message = format!("{path}: a raw image is made without {key}={value}");
        return Err(Error::new(ErrorKind::Unsupported, path, message));
    }
    let (file, made) = place(&request.path, request.overwrite)?;
    let size = size.next_multiple_of(512);
    if let Err(error) = file.set_len(size) {
        take_away(&request.path, made);
        return Err(failed(&path)(error));
    }
    Ok(Formatted {
        format: Format::Raw,
        size,
        qcow2: None,
    })
}

async fn create_image(request: &Create, options: CreateOptions) -> Result<Formatted> {
    let path = request.path.display().to_string();
    let data_file = match &options.data_file {
        Some(name) => Some(Name::Path(request.path.clone()).named_here(name)?),
        None => None,
    };
    let (file, made) = place(&request.path, request.overwrite)?;
    let done = async {
        if let Some(name) = &data_file {
            make_data_file(name, options.size).await?;
        }
        let created = create_qcow2(&*file, &options, &spawner()).await;
        created.map_err(failed(&path))
    };
    if let Err(error) = done.await {
        take_away(&request.path, made);
        return Err(error);
    }
    Ok(Formatted {
        format: Format::Qcow2,
        size: options.size.next_multiple_of(512),
        qcow2: Some(options),
    })
}

/// The file that an image is made in, empty, and whether it was not there before.
fn place(path: &Path, overwrite: bool) -> Result<(Arc<dyn BlockDevice>, bool)> {
    let text = path.display().to_string();
    let options = weft_uring::OpenOptions::default();
    if std::fs::symlink_metadata(path).is_err() {
        let made = FileDevice::create_with(path, 0, &options);
        let made = made.map_err(|error| crate::storage::disks::file_failure(&text, &error))?;
        return Ok((Arc::new(made), true));
    }
    if !overwrite {
        let message = format!("{text} exists already and is left alone");
        return Err(Error::new(ErrorKind::Exists, text, message));
    }
    let file = FileDevice::open(path, &options)
        .map_err(|error| crate::storage::disks::file_failure(&text, &error))?;
    if !file.is_block_device() {
        file.set_len(0).map_err(failed(&text))?;
    }
    Ok((Arc::new(file), false))
}

/// A file that was made and came to nothing goes away again.
fn take_away(path: &Path, made: bool) {
    if made {
        // What matters is the first error.
        let _ = std::fs::remove_file(path);
    }
}

/// Sees to it that there is a data file of `size` bytes.
async fn make_data_file(name: &Name, size: u64) -> Result<()> {
    let text = name.to_string();
    let size = size.next_multiple_of(512);
    if let Name::Path(path) = name
        && !path.exists()
    {
        let made = FileDevice::create(path, size);
        made.map_err(|error| crate::storage::disks::file_failure(&text, &error))?;
        return Ok(());
    }
    let file = open_file(name, false, true).await?;
    if file.info().size < size {
        file.set_len(size).map_err(failed(&text))?;
    }
    Ok(())
}

/// Reads QEMU's options into `into`; what it does not know is the answer.
///
/// # Errors
/// `Invalid` for a value that cannot be, `Unsupported` for one that is not known here.
pub fn read_options(
    options: &[(String, String)],
    into: &mut CreateOptions,
) -> Result<Vec<(String, String)>> {
    let mut unknown = Vec::new();
    for (key, value) in options {
        match key.as_str() {
            "compat" => into.version = version(value)?,
            "cluster_size" => into.cluster_bits = log2(key, size(key, value)?)?,
            "refcount_bits" => into.refcount_order = log2(key, size(key, value)?)?,
            "extended_l2" => into.extended_l2 = switch(key, value)?,
            "lazy_refcounts" => into.lazy_refcounts = switch(key, value)?,
            "compression_type" => into.compression = compression(value)?,
            "data_file" => into.data_file = Some(value.clone()),
            "data_file_raw" => into.raw_data_file = switch(key, value)?,
            // Nothing is taken before it is written, and copy-on-write file systems are left to their own.
            "preallocation" if value == "off" => {}
            "nocow" if !switch(key, value)? => {}
            "encryption" if !switch(key, value)? => {}
            "preallocation" | "nocow" | "encryption" => {
                return Err(unsupported(format!("{key}={value} is not done here")));
            }
            key if key.starts_with("encrypt.") => {
                return Err(unsupported(format!(
                    "{key}: images are not encrypted here yet"
                )));
            }
            _ => unknown.push((key.clone(), value.clone())),
        }
    }
    Ok(unknown)
}

fn version(value: &str) -> Result<Version> {
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

fn format(value: &str) -> Result<Format> {
    Format::from_str(value).map_err(unsupported)
}

fn size(key: &str, value: &str) -> Result<u64> {
    let size = Size::from_str(value).map_err(|why| invalid(format!("{key}: {why}")))?;
    Ok(size.0)
}

fn log2(key: &str, value: u64) -> Result<u32> {
    value
        .is_power_of_two()
        .then(|| value.trailing_zeros())
        .ok_or_else(|| invalid(format!("{key} is a power of two, not {value}")))
}

fn switch(key: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(invalid(format!("{key} is on or off, not {value}"))),
    }
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

    fn read(text: &[(&str, &str)]) -> Result<CreateOptions> {
        let mut options = CreateOptions::new(1 << 20);
        let text: Vec<_> = text
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let unknown = read_options(&text, &mut options)?;
        assert!(unknown.is_empty(), "{unknown:?}");
        Ok(options)
    }

    #[test]
    fn options_by_qemus_names() {
        let options = read(&[
            ("compat", "1.1"),
            ("cluster_size", "2M"),
            ("refcount_bits", "1"),
            ("extended_l2", "on"),
            ("compression_type", "zstd"),
            ("preallocation", "off"),
        ])
        .unwrap();
        assert_eq!((options.cluster_bits, options.refcount_order), (21, 0));
        assert!(options.extended_l2 && !options.lazy_refcounts);
        for (key, value) in [
            ("cluster_size", "3K"),
            ("compat", "2"),
            ("extended_l2", "perhaps"),
            ("preallocation", "full"),
        ] {
            assert!(read(&[(key, value)]).is_err(), "{key}={value}");
        }
    }
}
