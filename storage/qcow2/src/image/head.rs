//! Changes of the header that are more than a few numbers.

use std::rc::Rc;

use weft_block::Result;

use super::core::Halfway;
use super::lane::Lane;
use crate::format::Header;

impl Lane {
    /// Changes the header as one: after a cut the image has the old one or the new one. Whoever calls holds the control
    /// lock.
    ///
    /// The first block switches. Where extensions or names lie behind it, they are first written behind the old ones and
    /// switched to, then written to where they belong and switched to again. A cluster without room for both is written
    /// from its end instead; there a cut can leave a wrong name.
    ///
    /// # Errors
    /// `Invalid` if it does not fit a cluster, and as writing; nothing has changed unless it is the first block that could
    /// not be written, after which nothing more is.
    pub(crate) async fn change_header(
        self: &Rc<Self>,
        change: impl FnOnce(&mut Header),
    ) -> Result<()> {
        let _alone = self.core.turns.alone().await;
        let (mut new, block) = {
            let state = self.core.state();
            state.check_writable()?;
            (state.header.clone(), state.head.len())
        };
        change(&mut new);
        let bytes = new.to_bytes()?;
        let cluster = new.geometry.cluster() as usize;
        // Whoever wrote the old one may have put its names anywhere.
        let old = self.read_file(0, cluster).await?;
        let used = old
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        let halfway = Halfway::begin(&self.core);
        let mut end = used;
        let mut changed = false;
        if bytes.len() > block && new.names_move(block) {
            let start = used.max(bytes.len()).next_multiple_of(block);
            if let Ok(aside) = new.to_bytes_from(start) {
                end = aside.len();
                let written = self.write_header(aside, start).await;
                changed = written.is_ok();
                if let Err(error) = written {
                    halfway.over();
                    return Err(error);
                }
            }
        }
        let kept = bytes.len().next_multiple_of(block);
        let written = self.write_header(bytes, block).await;
        changed |= written.is_ok();
        if changed {
            self.core.state().header = new;
        }
        halfway.over();
        match written {
            // It has changed, and stays where it is.
            Err(_) if changed && self.core.state().check_writable().is_ok() => return Ok(()),
            answer => answer?,
        }
        if end > kept {
            // What nobody needs any more; left there, it is read by nobody.
            let zeroes = vec![0; end.next_multiple_of(block) - kept];
            let _ = self.write_file(kept as u64, &zeroes).await;
        }
        Ok(())
    }

    /// Writes what lies from byte `rest` on, and then the first block.
    async fn write_header(&self, mut bytes: Vec<u8>, rest: usize) -> Result<()> {
        let block = self.core.state().head.len();
        bytes.resize(bytes.len().next_multiple_of(block), 0);
        if bytes.len() > rest {
            self.write_file(rest as u64, &bytes[rest..]).await?;
            self.flush_or_fail().await?;
        }
        bytes.truncate(block);
        self.write_first_block(&bytes).await?;
        self.core.state().head = bytes;
        Ok(())
    }

    /// Writes the first block of the file, durably; if that fails, ends all writing, since nobody knows whether it is there.
    pub(crate) async fn write_first_block(&self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.write_file(0, bytes).await {
            let reason = format!("its header could not be written: {}", error.sentence());
            self.core.state().fail(reason);
            return Err(error);
        }
        self.flush_or_fail().await
    }
}
