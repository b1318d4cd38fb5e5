//! PCI: one bus with a host bridge and up to 31 devices, reached by ECAM and by the ports 0xcf8 and 0xcfc.

pub(crate) mod bus;
pub(crate) mod config;
pub(crate) mod msix;

/// A function on the bus. Configuration offsets are below 4096, BAR offsets below the BAR's size.
pub(crate) trait Function: Send {
    /// Reads configuration space.
    fn read_config(&mut self, offset: u16, data: &mut [u8]);
    /// Writes configuration space.
    fn write_config(&mut self, offset: u16, data: &[u8]);
    /// Where the function's memory lies now, start and length, if it answers at all.
    fn memory(&self) -> Option<(u64, u64)>;
    /// Reads the function's memory.
    fn read_memory(&mut self, offset: u64, data: &mut [u8]);
    /// Writes the function's memory.
    fn write_memory(&mut self, offset: u64, data: &[u8]);
}
