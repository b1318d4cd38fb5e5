//! Reads.

use weft_block::{Buffer, ErrorKind, IoVec, Result};

use super::core::corrupt;
use super::lane::{Lane, read_within};
use super::tables::{Run, Source};
use crate::compress::decompress;

impl Lane {
    /// Reads the disk from `guest` on into `buffer`.
    pub(crate) async fn read(&self, guest: u64, buffer: &IoVec) -> Result<()> {
        let end = guest + buffer.len() as u64;
        let runs = self.step(|state| state.runs(guest..end)).await?;
        let reads = runs.iter().map(|run| {
            let part = buffer.slice((run.guest - guest) as usize, run.len as usize);
            self.read_run(*run, part)
        });
        let answers = futures_util::future::join_all(reads).await;
        answers.into_iter().collect()
    }

    async fn read_run(&self, run: Run, mut part: IoVec) -> Result<()> {
        match run.source {
            Source::Zero => part.fill(0, run.len as usize, 0),
            Source::Data { host, .. } => self.read_data(host, part).await?,
            Source::Backing => self.read_backing(run.guest, part).await?,
            Source::Compressed { cluster, host, len } => {
                let bytes = self.decompressed(host, len).await?;
                let within = (run.guest - cluster) as usize;
                part.copy_in(0, &bytes[within..within + run.len as usize]);
            }
        }
        Ok(())
    }

    /// Reads the data file; what is beyond its end reads as zeroes.
    pub(crate) async fn read_data(&self, host: u64, mut part: IoVec) -> Result<()> {
        self.core.check_unlocked()?;
        let size = self.core.data_size();
        read_within(self.data(), size, host, part.clone()).await?;
        if let Some(cipher) = &self.core.cipher {
            let mut bytes = part.to_buffer();
            cipher.decrypt(host / 512, &mut bytes);
            part.copy_in(0, &bytes);
        }
        Ok(())
    }

    /// Reads the backing file; what is beyond its end reads as zeroes.
    async fn read_backing(&self, guest: u64, mut part: IoVec) -> Result<()> {
        let Some(backing) = self.backing() else {
            part.fill(0, part.len(), 0);
            return Ok(());
        };
        let read = read_within(backing, self.core.backing_size(), guest, part).await;
        read.map_err(|error| error.in_context("the backing file cannot be read"))
    }

    /// The bytes of a compressed cluster.
    pub(crate) async fn decompressed(&self, host: u64, len: u64) -> Result<Buffer> {
        if host + len > self.core.file_size() {
            // The last sector may be cut short; what is missing is no part of the data.
            let over = host + len - self.core.file_size();
            if over >= 512 {
                return Err(corrupt(format!(
                    "compressed data at {host} leaves the file"
                )));
            }
        }
        // The file is read in whole blocks.
        let block = u64::from(self.core.file.info().logical_block);
        let start = host - host % block;
        let end = (host + len).next_multiple_of(block);
        let input = self.read_file(start, (end - start) as usize).await?;
        let mut cluster = Buffer::zeroed(self.core.geometry.cluster() as usize);
        let compression = self.core.compression;
        let within = (host - start) as usize;
        decompress(
            compression,
            &input[within..within + len as usize],
            &mut cluster,
        )
        .map_err(|error| match error.kind() {
            ErrorKind::Corrupt => error.in_context(format!("the compressed cluster at {host}")),
            _ => error,
        })?;
        Ok(cluster)
    }
}
