//! imago, by an author of QEMU's own engine.

use std::path::Path;

use anyhow::Result;
use imago::file::File;
use imago::format::PreallocateMode;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

use super::Engine;

pub(crate) struct Open(FormatAccess<File>);

impl Open {
    pub(crate) fn new(image: &Path) -> Result<Self> {
        let builder = Qcow2::<File>::builder_path(image).write(true);
        let opened = builder.open(PermissiveImplicitOpenGate::default())?;
        Ok(Self(FormatAccess::new(opened)))
    }
}

impl Engine for Open {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&mut self, start: u64, bytes: &mut [u8]) -> Result<()> {
        Ok(self.0.read(bytes, start)?)
    }

    fn write(&mut self, start: u64, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write(bytes, start)?)
    }

    fn zero(&mut self, start: u64, len: u64) -> Result<()> {
        Ok(self.0.write_zeroes(start, len)?)
    }

    fn discard(&mut self, start: u64, len: u64) -> Result<()> {
        Ok(self.0.discard_to_zero(start, len)?)
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        Ok(self.0.resize(size, PreallocateMode::Zero)?)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()?;
        Ok(self.0.sync()?)
    }
}
