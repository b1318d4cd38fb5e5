use std::sync::Mutex;

use super::*;
use crate::memory;
use crate::pci::msix::testing::Noted as NotedWire;
use crate::sync::lock;
use crate::virtio::testing::Noted;

type Connections = Arc<Mutex<Vec<(u64, bool)>>>;

struct Bells(Connections);

impl Doorbells for Bells {
    fn connect(&self, address: u64, _event: &EventFd) {
        lock(&self.0).push((address, true));
    }
    fn disconnect(&self, address: u64, _event: &EventFd) {
        lock(&self.0).push((address, false));
    }
}

fn function() -> (VirtioPci, Arc<Noted>, Connections) {
    let device = Arc::new(Noted::default());
    let ram = memory::allocate(64 << 20).unwrap();
    let wires = (0..3)
        .map(|_| Box::new(NotedWire::new()) as Box<dyn Wire>)
        .collect();
    let connections = Connections::default();
    let bells = Box::new(Bells(connections.clone()));
    let function = VirtioPci::new(device.clone(), ram, 0xc000_0000, wires, bells).unwrap();
    (function, device, connections)
}

fn word(function: &mut VirtioPci, offset: u16) -> u32 {
    let mut data = [0; 4];
    function.read_config(offset, &mut data);
    u32::from_le_bytes(data)
}

/// The vendor capabilities: type, offset and length of each.
fn structures(function: &mut VirtioPci) -> Vec<(u8, u32, u32)> {
    let mut found = Vec::new();
    let mut at = word(function, 0x34) as u16 & 0xff;
    while at != 0 {
        let head = word(function, at);
        if head & 0xff == 9 {
            let (offset, length) = (word(function, at + 8), word(function, at + 12));
            found.push(((head >> 24) as u8, offset, length));
        }
        at = (head >> 8) as u16 & 0xff;
    }
    found
}

#[test]
fn the_function_is_a_modern_virtio_device() {
    let (mut function, _device, _) = function();
    assert_eq!(word(&mut function, 0), 0x1042_1af4);
    let found = structures(&mut function);
    assert_eq!(
        found,
        [
            (1, 0, 56),
            (2, 0x3000, 8),
            (3, 0x1000, 1),
            (4, 0x2000, 0x1000),
            (5, 0, 0)
        ]
    );
}

#[test]
fn doorbells_follow_the_bar() {
    let (mut function, _device, connections) = function();
    assert_eq!(
        *lock(&connections),
        [(0xc000_3000, true), (0xc000_3004, true)]
    );
    lock(&connections).clear();
    function.write_config(4, &[0, 0]);
    assert_eq!(
        *lock(&connections),
        [(0xc000_3000, false), (0xc000_3004, false)]
    );
    lock(&connections).clear();
    function.write_config(0x10, &0xc800_0000_u32.to_le_bytes());
    assert!(lock(&connections).is_empty());
    function.write_config(4, &[6, 0]);
    assert_eq!(
        *lock(&connections),
        [(0xc800_3000, true), (0xc800_3004, true)]
    );
}

#[test]
fn structures_reach_the_device() {
    let (mut function, device, _) = function();
    let mut data = [0; 2];
    function.read_memory(0x2003, &mut data);
    assert_eq!(data, [4, 4]);
    function.write_memory(0x2020, &[1]);
    assert_eq!(*lock(&device.written), [(0x20, vec![1])]);
    function.read_memory(18, &mut data);
    assert_eq!(data, [2, 0], "two queues");
    function.write_memory(0x3004, &[1, 0]);
    let kick = function.transport.kicks().nth(1).unwrap().clone();
    assert_eq!(kick.read().unwrap(), 1);
}

#[test]
fn a_changed_configuration_shows_once_and_interrupts() {
    let (mut function, _device, _) = function();
    function.write_memory(16, &2_u16.to_le_bytes());
    function.config_has_changed();
    use crate::virtio::transport::Vectors;
    assert_eq!(function.msix.event(2).unwrap().read().unwrap(), 1);
    let mut isr = [0];
    function.read_memory(0x1000, &mut isr);
    assert_eq!(isr, [2]);
    function.read_memory(0x1000, &mut isr);
    assert_eq!(isr, [0]);
}

#[test]
fn configuration_accesses_reach_the_bar() {
    let (mut function, _device, _) = function();
    let at = function.pci_cfg;
    function.write_config(at + 4, &[0]);
    function.write_config(at + 8, &18_u32.to_le_bytes());
    function.write_config(at + 12, &2_u32.to_le_bytes());
    assert_eq!(
        word(&mut function, at + 16) & 0xffff,
        2,
        "the number of queues"
    );
    function.write_config(at + 8, &22_u32.to_le_bytes());
    function.write_config(at + 16, &1_u32.to_le_bytes());
    let mut select = [0; 2];
    function.read_memory(22, &mut select);
    assert_eq!(select, [1, 0]);
}

#[test]
fn hostile_accesses_never_panic() {
    let (mut function, _device, _) = function();
    for value in [0xff, 0x01, 0x80] {
        for offset in 0..256 {
            function.write_config(offset, &[value; 4]);
            function.read_config(offset, &mut [0; 4]);
        }
        for offset in (0..u64::from(MEMORY_BYTES) - 8).step_by(7) {
            for length in [1, 2, 4, 8] {
                function.write_memory(offset, &vec![value; length]);
                function.read_memory(offset, &mut vec![0; length]);
            }
        }
    }
}
