//! What takes a stranger's bytes, for fuzzers: without KVM, without a back end, without a system beside.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vmm_sys_util::eventfd::EventFd;

use crate::boot;
use crate::memory;
use crate::pci::Function;
use crate::pci::msix::{Message, Wire};
use crate::sync::lock;
use crate::virtio::pci::{Doorbells, MEMORY_BYTES, VirtioPci};
use crate::virtio::{Activation, Device, F_VERSION_1};

const MEMORY: u64 = 64 << 20;

/// Loads a kernel file with these bytes.
pub fn kernel(bytes: &[u8]) {
    let (Ok(fd), Ok(ram)) = (
        memfd_create(c"kernel", MFdFlags::MFD_CLOEXEC),
        memory::allocate(MEMORY),
    ) else {
        return;
    };
    let mut file = File::from(fd);
    if file.write_all(bytes).and_then(|()| file.rewind()).is_ok() {
        let _ = boot::load_image(&ram, Path::new("kernel"), &mut file, MEMORY);
    }
}

/// The longest access.
const ACCESS: usize = 8;

/// A guest's accesses of a virtio device on the PCI bus. Each is a byte that says what (bit 0: write; bit 1: memory, not
/// configuration; bits 2 to 4: the length less one), two bytes of offset, and for a write the data.
///
/// # Panics
/// If the device is started with rings that do not lie in the guest's memory.
pub fn virtio_pci(bytes: &[u8]) {
    let (Ok(ram), Ok(wires)) = (
        memory::allocate(MEMORY),
        (0..3)
            .map(|_| Deaf::boxed())
            .collect::<std::io::Result<_>>(),
    ) else {
        return;
    };
    let device = Arc::new(Idle::default());
    let Ok(mut function) =
        VirtioPci::new(device.clone(), ram, 0xc000_0000, wires, Box::new(Silent))
    else {
        return;
    };
    let mut input = bytes;
    while let Some((&[what, low, high], rest)) = input.split_first_chunk::<3>() {
        let length = usize::from(what >> 2 & 7) + 1;
        let offset = u16::from_le_bytes([low, high]);
        let in_memory = u64::from(offset).min(u64::from(MEMORY_BYTES) - ACCESS as u64);
        let in_config = offset % 4096;
        input = rest;
        let mut data = [0; ACCESS];
        if what & 1 == 0 {
            match what & 2 {
                0 => function.read_config(in_config, &mut data[..length]),
                _ => function.read_memory(in_memory, &mut data[..length]),
            }
            continue;
        }
        let given = length.min(input.len());
        data[..given].copy_from_slice(&input[..given]);
        input = &input[given..];
        match what & 2 {
            0 => function.write_config(in_config, &data[..length]),
            _ => function.write_memory(in_memory, &data[..length]),
        }
    }
}

/// An eventfd whose interrupts go nowhere.
struct Deaf(Arc<EventFd>);

impl Deaf {
    fn boxed() -> std::io::Result<Box<dyn Wire>> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Box::new(Self(Arc::new(event))))
    }
}

impl Wire for Deaf {
    fn event(&self) -> &Arc<EventFd> {
        &self.0
    }
    fn join(&mut self, _message: Option<Message>) {}
}

struct Silent;

impl Doorbells for Silent {
    fn connect(&self, _address: u64, _event: &EventFd) {}
    fn disconnect(&self, _address: u64, _event: &EventFd) {}
}

/// A disk that does nothing but to look at what it is started with.
#[derive(Default)]
struct Idle(Mutex<Option<Activation>>);

impl Device for Idle {
    fn kind(&self) -> u16 {
        2
    }
    fn features(&self) -> u64 {
        F_VERSION_1 | 1 << 9
    }
    fn queue_count(&self) -> u16 {
        2
    }
    fn config_generation(&self) -> u8 {
        0
    }
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn write_config(&self, _offset: u64, _data: &[u8]) {}
    fn activate(&self, activation: Activation) {
        for queue in &activation.queues {
            assert!(queue.ring.is_valid(&activation.ram), "{:?}", queue.ring);
        }
        *lock(&self.0) = Some(activation);
    }
    fn reset(&self) {
        *lock(&self.0) = None;
    }
    fn is_idle(&self) -> bool {
        lock(&self.0).is_none()
    }
}
