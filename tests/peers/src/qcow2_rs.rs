//! qcow2-rs, which reads and writes and does nothing else.

use std::path::Path;

use anyhow::{Result, bail};
use futures::executor::block_on;
use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::error::Qcow2Error;
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::sync_io::Qcow2IoSync;
use qcow2_rs::utils::qcow2_setup_dev_sync;

use super::Engine;

pub(crate) struct Open(Qcow2Dev<Qcow2IoSync>);

impl Open {
    pub(crate) fn new(image: &Path) -> Result<Self> {
        let params = Qcow2DevParams::new(9, None, None, false, false);
        let device = qcow2_setup_dev_sync(image, &params).map_err(said)?;
        block_on(device.qcow2_prep_io()).map_err(said)?;
        Ok(Self(device))
    }
}

impl Engine for Open {
    fn size(&self) -> u64 {
        self.0.info.virtual_size()
    }

    fn read(&mut self, start: u64, bytes: &mut [u8]) -> Result<()> {
        let mut buffer = Qcow2IoBuf::<u8>::new(bytes.len());
        let read = block_on(self.0.read_at(&mut buffer, start)).map_err(said)?;
        if read != bytes.len() {
            bail!("{read} bytes of {} were read at {start}", bytes.len());
        }
        bytes.copy_from_slice(&buffer);
        Ok(())
    }

    fn write(&mut self, start: u64, bytes: &[u8]) -> Result<()> {
        let mut buffer = Qcow2IoBuf::<u8>::new(bytes.len());
        buffer.copy_from_slice(bytes);
        block_on(self.0.write_at(&buffer, start)).map_err(said)
    }

    fn zero(&mut self, _: u64, _: u64) -> Result<()> {
        bail!("qcow2-rs 0.1.6 writes no zeroes")
    }

    fn discard(&mut self, _: u64, _: u64) -> Result<()> {
        bail!("qcow2-rs 0.1.6 discards nothing")
    }

    fn resize(&mut self, _: u64) -> Result<()> {
        bail!("qcow2-rs 0.1.6 resizes nothing")
    }

    fn flush(&mut self) -> Result<()> {
        block_on(self.0.flush_meta()).map_err(said)?;
        let end = usize::try_from(self.size())?;
        block_on(self.0.fsync_range(0, end)).map_err(said)
    }
}

fn said(error: Qcow2Error) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}
