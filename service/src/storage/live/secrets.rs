//! Keys of encrypted images that serve as disks: from files that the disk's word names, and nowhere else.

use std::path::Path;
use std::sync::Arc;

use weft_block::BlockDevice;
use weft_qcow2::luks::{Area, MasterKey};
use weft_qcow2::read_encryption;
use weft_uring::{ShardHandle, spawner};

use super::ImageWord;
use super::open::on;
use crate::api::{Error, ErrorKind, Result};
use crate::storage::images::{EncryptOptions, Keys, Passphrase, new_area};

/// The passphrases in the files that a word names.
fn passphrases(word: &ImageWord) -> Result<Vec<Passphrase>> {
    let files = word.key_files.iter();
    files
        .map(|file| Passphrase::read_own(Path::new(file)))
        .collect()
}

/// The key of the encrypted image in `file`, which is `disk`, by what `word` names.
///
/// # Errors
/// `Invalid` without a passphrase that opens it, `Permission` if others can read one, and as reading them.
pub(super) async fn key_of(
    word: &ImageWord,
    disk: &str,
    file: Arc<dyn BlockDevice>,
    home: &ShardHandle,
) -> Result<Option<Arc<MasterKey>>> {
    let read = move || async move { read_encryption(&*file, &spawner()).await };
    let Some(area) = on(home, disk, read).await? else {
        return Ok(None);
    };
    if word.key_files.is_empty() {
        let message = format!(
            "{disk} is encrypted, and no key was given: write the disk as {word},key-file=FILE, where FILE holds its passphrase"
        );
        return Err(Error::new(ErrorKind::Invalid, disk, message));
    }
    let (keys, name) = (Keys::anywhere(passphrases(word)?), disk.to_owned());
    let key = apart(disk, move || keys.open(&name, &area)).await?;
    Ok(Some(Arc::new(key)))
}

/// What a new image is encrypted with that is to be opened by what `word` names.
///
/// # Errors
/// As above.
pub(super) async fn new_key(
    word: &ImageWord,
    options: EncryptOptions,
) -> Result<(Area, Arc<MasterKey>)> {
    let disk = &word.inner;
    let Some(first) = passphrases(word)?.into_iter().next() else {
        let message = format!("{disk} is to be encrypted, and no key file was named");
        return Err(Error::new(ErrorKind::Invalid, disk, message));
    };
    let EncryptOptions { luks, time } = options;
    let (area, key) = apart(disk, move || new_area(luks, time, &first)).await?;
    Ok((area, Arc::new(key)))
}

/// A passphrase is seconds of work by design: no thread that serves anybody does it.
async fn apart<T: Send + 'static>(
    disk: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Io, disk, format!("{disk}: {error}")))?
}
