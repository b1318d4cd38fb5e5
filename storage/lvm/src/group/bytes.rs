//! Any bytes of a device, whatever its block size.

use weft_block::{BlockQueue, Buffer, Error, ErrorKind, Info, IoVec, Request, Result, Spawner};

use super::Disk;

/// Bytes in one request.
const MAX_REQUEST: u64 = 1 << 20;

/// A disk opened for metadata.
pub(super) struct Bytes {
    name: String,
    queue: Box<dyn BlockQueue>,
    info: Info,
}

impl Bytes {
    pub(super) fn open(disk: &Disk, spawner: &Spawner) -> Result<Self> {
        let name = disk.name.clone();
        let queue = disk
            .device
            .open(spawner)
            .map_err(|error| error.in_context(format!("{name} cannot be opened")))?;
        Ok(Self {
            name,
            queue,
            info: disk.device.info(),
        })
    }

    /// Bytes of the device.
    pub(super) fn size(&self) -> u64 {
        self.info.size
    }

    /// Bytes that are written as one.
    pub(super) fn block(&self) -> u64 {
        u64::from(self.info.logical_block)
    }

    /// Reads `len` bytes, or as many as the device has there.
    pub(super) async fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let end = offset.saturating_add(len).min(self.size());
        let mut bytes = Vec::new();
        let mut at = offset;
        while at < end {
            let part = (end - at).min(MAX_REQUEST);
            bytes.extend_from_slice(&self.read_part(at, part).await?);
            at += part;
        }
        Ok(bytes)
    }

    /// Writes `bytes`; blocks that they cover in part are read first.
    pub(super) async fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        for (index, part) in bytes.chunks(MAX_REQUEST as usize).enumerate() {
            let at = offset + index as u64 * MAX_REQUEST;
            let (start, len) = self.whole_blocks(at, part.len() as u64);
            let mut buffer = match (start, len) == (at, part.len() as u64) {
                true => Buffer::zeroed(part.len()),
                false => self
                    .submit(Request::read(start, IoVec::zeroed(len as usize)), "read")
                    .await?
                    .into_buffer(),
            };
            let place = (at - start) as usize;
            buffer[place..place + part.len()].copy_from_slice(part);
            self.submit(Request::write(start, buffer.into()), "written")
                .await?;
        }
        Ok(())
    }

    /// Writes a vector without a copy, if it is whole blocks.
    pub(super) async fn write_vector(&self, offset: u64, vector: IoVec) -> Result<()> {
        let len = vector.len() as u64;
        if self.whole_blocks(offset, len) != (offset, len) {
            return self.write(offset, &vector.to_buffer()).await;
        }
        let mut at = 0;
        while at < len {
            let part = (len - at).min(MAX_REQUEST);
            let piece = vector.slice(at as usize, part as usize);
            self.submit(Request::write(offset + at, piece), "written")
                .await?;
            at += part;
        }
        Ok(())
    }

    /// Zeroes a range of whole blocks.
    pub(super) async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.submit(Request::write_zeroes(offset, len, false), "written")
            .await?;
        Ok(())
    }

    pub(super) async fn flush(&self) -> Result<()> {
        self.submit(Request::flush(), "flushed").await?;
        Ok(())
    }

    async fn read_part(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let (start, whole) = self.whole_blocks(offset, len);
        let buffer = self
            .submit(Request::read(start, IoVec::zeroed(whole as usize)), "read")
            .await?;
        let place = (offset - start) as usize;
        let mut bytes = vec![0; len as usize];
        buffer.copy_out(place, &mut bytes);
        Ok(bytes)
    }

    fn whole_blocks(&self, offset: u64, len: u64) -> (u64, u64) {
        let block = self.block();
        let start = offset / block * block;
        (start, (offset + len).next_multiple_of(block) - start)
    }

    async fn submit(&self, request: Request, verb: &str) -> Result<IoVec> {
        let completion = self.queue.submit(request).await;
        match completion.result {
            Ok(()) => Ok(completion.buffer),
            Err(error) => {
                let name = &self.name;
                Err(error.in_context(format!("the metadata of {name} cannot be {verb}")))
            }
        }
    }
}

/// Refuses a disk that is read-only.
pub(super) fn check_writable(disk: &Disk) -> Result<()> {
    if disk.device.info().read_only {
        let name = &disk.name;
        return Err(Error::new(
            ErrorKind::ReadOnly,
            format!("{name} is read-only"),
        ));
    }
    Ok(())
}
