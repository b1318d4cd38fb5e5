//! New keys for an encrypted image.

use weft_block::{Error, ErrorKind, Result, Spawner};

use super::Image;
use super::lane::Lane;
use crate::luks::{Area, Change, Header, SECTOR_BYTES};

/// Bytes that hold a header of keys, in whole blocks of any size in use.
const HEAD: usize = 4096;

impl Image {
    /// Writes a change of keys, which was made to what [`read_encryption`](super::read_encryption) gave. The data stays as
    /// it is, and the image may be in use. A cut at any write locks nobody out.
    ///
    /// # Errors
    /// `ReadOnly`; `Invalid` if the image is not encrypted or the area is that of another; and as writing the file.
    pub async fn change_keys(&self, area: &Area, change: &Change, spawner: &Spawner) -> Result<()> {
        self.core.check_changeable()?;
        self.core.state().check_writable()?;
        let lane = Lane::open(&self.core, spawner)?;
        let _control = self.core.control.lock().await;
        let Some(place) = self.header().extensions.encryption else {
            return Err(not_ours());
        };
        let there = lane.read_file(place.offset, HEAD).await?;
        let len = area.bytes().len() as u64;
        let same_area = len == place.len.next_multiple_of(SECTOR_BYTES as u64)
            && Header::parse(&there)?.has_key_of(area.header());
        if !same_area {
            return Err(not_ours());
        }
        let block = self.core.file.info().logical_block as usize;
        for range in &change.writes {
            let (start, end) = (
                range.start / block * block,
                range.end.next_multiple_of(block),
            );
            let mut bytes = area.bytes()[start..end.min(area.bytes().len())].to_vec();
            bytes.resize(end - start, 0);
            lane.write_file(place.offset + start as u64, &bytes).await?;
            lane.flush_or_fail().await?;
        }
        Ok(())
    }
}

fn not_ours() -> Error {
    let sentence = "the keys are not those of this image";
    Error::new(ErrorKind::Invalid, sentence)
}
