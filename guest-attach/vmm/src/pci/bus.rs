//! The bus: which function answers, by ECAM, by the configuration ports, or in the memory window.

use std::sync::{Arc, Mutex};

use super::Function;
use super::config::{ConfigSpace, Identity};
use crate::bus::BusDevice;
use crate::config::MAX_DEVICES;
use crate::devices::power::RESET_BIT;
use crate::layout::{PCI_WINDOW, PORT_PCI_ADDRESS, PORT_PCI_DATA, PORT_RESET};
use crate::sync::{Stop, StopCell, lock};

const FUNCTION_BYTES: u64 = 4096;
const SLOT_BYTES: u64 = 8 * FUNCTION_BYTES;

/// The functions by their slot; each is function 0 of its device.
pub(crate) struct PciBus {
    slots: Vec<Arc<Mutex<dyn Function>>>,
}

impl PciBus {
    /// A bus with the host bridge in slot 0.
    pub(crate) fn new() -> Self {
        Self {
            slots: vec![Arc::new(Mutex::new(HostBridge::new()))],
        }
    }

    /// Puts a function into the next slot. There are never more than the configuration allows.
    pub(crate) fn insert(&mut self, function: Arc<Mutex<dyn Function>>) {
        debug_assert!(self.slots.len() <= MAX_DEVICES);
        self.slots.push(function);
    }

    /// Finds the function at `offset` of the bus's configuration space.
    fn function(&self, offset: u64) -> Option<(&Mutex<dyn Function>, u16)> {
        let first_function = offset % SLOT_BYTES < FUNCTION_BYTES;
        let slot = self.slots.get((offset / SLOT_BYTES) as usize)?;
        first_function.then(|| (&**slot, (offset % FUNCTION_BYTES) as u16))
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        match self.function(offset) {
            Some((function, offset)) => lock(function).read_config(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        if let Some((function, offset)) = self.function(offset) {
            lock(function).write_config(offset, data);
        }
    }

    /// Runs `access` on the function whose memory holds `length` bytes at `address`.
    fn with_memory(
        &self,
        address: u64,
        length: usize,
        access: impl FnOnce(&mut dyn Function, u64),
    ) -> bool {
        for slot in &self.slots {
            let mut function = lock(slot);
            if let Some((start, bytes)) = function.memory()
                && let Some(offset) = address.checked_sub(start)
                && offset + length as u64 <= bytes
            {
                access(&mut *function, offset);
                return true;
            }
        }
        false
    }
}

/// The bus's configuration space in memory.
pub(crate) struct Ecam(pub(crate) Arc<PciBus>);

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.write_config(offset, data);
    }
}

/// The window in which the functions' memories lie.
pub(crate) struct Window(pub(crate) Arc<PciBus>);

impl BusDevice for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let found = self
            .0
            .with_memory(PCI_WINDOW + offset, data.len(), |function, offset| {
                function.read_memory(offset, data);
            });
        if !found {
            data.fill(0xff);
        }
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0
            .with_memory(PCI_WINDOW + offset, data.len(), |function, offset| {
                function.write_memory(offset, data);
            });
    }
}

/// The ports 0xcf8 (address) and 0xcfc (data), and the reset register 0xcf9 between them.
pub(crate) struct Ports {
    bus: Arc<PciBus>,
    stop: Arc<StopCell>,
    address: u32,
}

const DATA: u64 = (PORT_PCI_DATA - PORT_PCI_ADDRESS) as u64;
const RESET: u64 = (PORT_RESET - PORT_PCI_ADDRESS) as u64;
const ADDRESS_ENABLE: u32 = 1 << 31;

impl Ports {
    pub(crate) fn new(bus: Arc<PciBus>, stop: Arc<StopCell>) -> Self {
        Self {
            bus,
            stop,
            address: 0,
        }
    }

    /// Where in ECAM's terms the data port at `offset` leads. Bus numbers other than 0 lead to nothing.
    fn target(&self, offset: u64) -> Option<u64> {
        let on_bus_0 = self.address & ADDRESS_ENABLE != 0 && self.address & 0xff_0000 == 0;
        let function = u64::from(self.address >> 8 & 0xff);
        let register = u64::from(self.address & 0xfc) + (offset - DATA);
        on_bus_0.then_some(function * FUNCTION_BYTES + register)
    }
}

impl BusDevice for Ports {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else if offset >= DATA
            && let Some(target) = self.target(offset)
        {
            self.bus.read_config(target, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match *data {
            [a, b, c, d] if offset == 0 => self.address = u32::from_le_bytes([a, b, c, d]),
            [value] if offset == RESET && value & RESET_BIT != 0 => self.stop.set(Stop::Reset),
            _ if offset >= DATA => {
                if let Some(target) = self.target(offset) {
                    self.bus.write_config(target, data);
                }
            }
            _ => {}
        }
    }
}

/// The host bridge: nothing but its identity (that of QEMU's generic PCI Express host bridge, which guests know).
struct HostBridge(ConfigSpace);

impl HostBridge {
    fn new() -> Self {
        Self(ConfigSpace::new(&Identity {
            vendor: 0x1b36,
            device: 0x0008,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            revision: 0,
            class: [6, 0, 0],
        }))
    }
}

impl Function for HostBridge {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }
    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.0.write(offset, data);
    }
    fn memory(&self) -> Option<(u64, u64)> {
        None
    }
    fn read_memory(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn write_memory(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> (Ports, Ecam, Arc<StopCell>) {
        let mut bus = PciBus::new();
        bus.insert(Arc::new(Mutex::new(HostBridge::new())));
        let (bus, stop) = (Arc::new(bus), Arc::new(StopCell::default()));
        (Ports::new(bus.clone(), stop.clone()), Ecam(bus), stop)
    }

    #[test]
    fn both_ways_lead_to_the_same_functions() {
        let (mut ports, mut ecam, _stop) = ports();
        for slot in 0..33_u32 {
            let mut by_port = [0; 4];
            ports.write(0, &(ADDRESS_ENABLE | slot << 11).to_le_bytes());
            ports.read(DATA, &mut by_port);
            let mut by_memory = [0; 4];
            ecam.read(u64::from(slot) * SLOT_BYTES, &mut by_memory);
            let there = slot < 2;
            let expected = if there { 0x0008_1b36 } else { 0xffff_ffff_u32 };
            if slot < 32 {
                assert_eq!(u32::from_le_bytes(by_port), expected, "slot {slot}");
            }
            assert_eq!(u32::from_le_bytes(by_memory), expected, "slot {slot}");
        }
        let mut data = [0; 2];
        ecam.read(FUNCTION_BYTES, &mut data);
        assert_eq!(data, [0xff; 2], "function 1 of the bridge");
        ports.write(0, &(ADDRESS_ENABLE | 1 << 16).to_le_bytes());
        ports.read(DATA, &mut data);
        assert_eq!(data, [0xff; 2], "bus 1");
        ports.write(0, &(ADDRESS_ENABLE | 8).to_le_bytes());
        ports.read(DATA + 2, &mut data);
        assert_eq!(data, [0, 6], "a part of a register");
    }

    #[test]
    fn the_reset_register_resets() {
        let (mut ports, _ecam, stop) = ports();
        ports.write(RESET, &[2]);
        assert!(stop.take().is_none());
        ports.write(RESET, &[6]);
        assert!(matches!(stop.take(), Some(Stop::Reset)));
    }

    #[test]
    fn hostile_accesses_never_panic() {
        let (mut ports, mut ecam, _stop) = ports();
        for address in [
            0,
            u32::MAX,
            ADDRESS_ENABLE | 0xff_ffff,
            ADDRESS_ENABLE | 0xfc,
        ] {
            ports.write(0, &address.to_le_bytes());
            for offset in 0..8 {
                for length in [1, 2, 4] {
                    ports.write(offset, &vec![0xff; length]);
                    ports.read(offset, &mut vec![0; length]);
                }
            }
        }
        for offset in (0..0x10_0000).step_by(255) {
            ecam.write(offset, &[0xff; 8]);
            ecam.read(offset, &mut [0; 8]);
        }
        let mut window = Window(ecam.0.clone());
        window.write(0, &[1]);
        window.read(0, &mut [0]);
    }
}
