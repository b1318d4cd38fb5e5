//! One machine from its switching on to its end: a reboot makes another.

mod vcpu;
mod wires;

use std::sync::{Arc, Mutex};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_allocator::{AddressAllocator, AllocPolicy};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::acpi;
use crate::boot::{Boot, Entry};
use crate::bus::Bus;
use crate::config::Config;
use crate::console::Screen;
use crate::cpu::{self, HostCpu};
use crate::devices::power::{KeyboardController, Pm1};
use crate::devices::serial::{Interrupt, SerialPort};
use crate::error::{Context, ErrorKind, Result};
use crate::layout::{
    ECAM, ECAM_SIZE, IRQ_COM1, IRQ_SCI, KVM_IDENTITY_MAP, KVM_TSS, PCI_WINDOW, PCI_WINDOW_SIZE,
    PORT_COM1, PORT_I8042, PORT_PCI_ADDRESS, PORT_PM1_EVENT,
};
use crate::memory::{self, GuestRam};
use crate::pci::bus::{Ecam, PciBus, Ports, Window};
use crate::sync::{StopCell, lock};
use crate::timeline::Timeline;
use crate::vhost::Attachment;
use crate::virtio::Device;
use crate::virtio::pci::{MEMORY_BYTES, VirtioPci};

use vcpu::{Board, Cpus};
use wires::{KvmDoorbells, KvmLine, Routes};

pub(crate) use vcpu::Mode;

/// A machine whose CPUs run.
pub(crate) struct Machine {
    cpus: Cpus,
    pm1: Arc<Mutex<Pm1>>,
    serial: Arc<Mutex<SerialPort>>,
    stop: Arc<StopCell>,
    attachments: Vec<Arc<Attachment>>,
}

/// What a machine is made from.
pub(crate) struct Plan<'a> {
    pub(crate) config: &'a Config,
    pub(crate) attachments: &'a [Arc<Attachment>],
    pub(crate) screen: &'a Arc<Screen>,
    pub(crate) timeline: &'a Timeline,
}

impl Machine {
    /// Makes the machine and starts its CPUs. `prepare` runs first in each CPU's thread.
    pub(crate) fn start(
        plan: &Plan<'_>,
        prepare: impl Fn() -> Result<()> + Clone + Send + 'static,
    ) -> Result<Self> {
        let config = plan.config;
        let kvm = Kvm::new().context(
            ErrorKind::Kvm,
            "cannot open /dev/kvm; without it the in-tree VMM does not run (use the QEMU engine)",
        )?;
        let host = HostCpu::probe(&kvm)?;
        let vm = Arc::new(create_vm(&kvm)?);
        plan.timeline.mark("KVM ready");
        let ram = memory::allocate(config.memory_bytes)?;
        give_memory(&vm, &ram)?;
        let rsdp = acpi::write(&ram, config.cpus)?;
        let entry = Boot {
            kernel: &config.kernel,
            initrd: config.initrd.as_deref(),
            cmdline: &config.cmdline,
            memory_bytes: config.memory_bytes,
            rsdp,
        }
        .load(&ram)?;
        cpu::write_tables(&ram, entry)?;
        plan.timeline.mark("kernel loaded");
        let vcpus = create_cpus(&vm, &host, config.cpus, entry)?;
        let parts = assemble(plan, &vm, &ram)?;
        plan.timeline.mark("devices made");
        let stop = parts.board.stop.clone();
        let cpus = Cpus::start(vcpus, &Arc::new(parts.board), prepare)?;
        plan.timeline.mark("kernel entered");
        Ok(Self {
            cpus,
            pm1: parts.pm1,
            serial: parts.serial,
            stop,
            attachments: plan.attachments.to_vec(),
        })
    }

    /// Where the machine's end is told.
    pub(crate) fn stop(&self) -> &Arc<StopCell> {
        &self.stop
    }

    /// The serial port.
    pub(crate) fn serial(&self) -> Arc<Mutex<SerialPort>> {
        self.serial.clone()
    }

    /// Asks the guest to shut down.
    pub(crate) fn press_power_button(&self) {
        lock(&self.pm1).press_power_button();
    }

    /// Stops the CPUs for a while, or lets them go on.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.cpus.set(mode);
    }

    /// What the CPUs do now.
    pub(crate) fn mode(&self) -> Mode {
        self.cpus.mode()
    }

    /// Ends the CPUs, then parts the devices from the guest's rings.
    pub(crate) fn end(&self) {
        self.cpus.end();
        for attachment in &self.attachments {
            attachment.set_listener(None);
            attachment.reset();
        }
    }
}

fn create_vm(kvm: &Kvm) -> Result<VmFd> {
    let refused = |what: &str| format!("KVM refuses {what}");
    let vm = kvm.create_vm().context(ErrorKind::Kvm, refused("a VM"))?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP)
        .context(ErrorKind::Kvm, refused("the identity map's place"))?;
    vm.set_tss_address(KVM_TSS as usize)
        .context(ErrorKind::Kvm, refused("the TSS's place"))?;
    vm.create_irq_chip()
        .context(ErrorKind::Kvm, refused("interrupt controllers"))?;
    // The PIT's speaker port is KVM's as well, so that port 0x61 need not leave the kernel.
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit)
        .context(ErrorKind::Kvm, refused("a timer"))?;
    Ok(vm)
}

#[allow(unsafe_code, reason = "KVM maps memory of this process into the guest")]
fn give_memory(vm: &VmFd, ram: &GuestRam) -> Result<()> {
    for (slot, region) in ram.iter().enumerate() {
        let place = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: The region is a mapping of its whole length, and each CPU's thread holds `ram` by its board until it has
        // let its CPU go; without a CPU nothing reaches the memory through KVM.
        unsafe { vm.set_user_memory_region(place) }
            .context(ErrorKind::Kvm, "KVM refuses the guest's memory")?;
    }
    Ok(())
}

fn create_cpus(vm: &VmFd, host: &HostCpu, count: u32, entry: Entry) -> Result<Vec<VcpuFd>> {
    (0..count)
        .map(|index| {
            let vcpu = vm
                .create_vcpu(u64::from(index))
                .context(ErrorKind::Kvm, format!("KVM refuses CPU {index}"))?;
            let entry = (index == 0).then_some(entry);
            cpu::set_up(&vcpu, host, index, count, entry)?;
            Ok(vcpu)
        })
        .collect()
}

struct Parts {
    board: Board,
    pm1: Arc<Mutex<Pm1>>,
    serial: Arc<Mutex<SerialPort>>,
}

/// Puts all devices on their buses.
fn assemble(plan: &Plan<'_>, vm: &Arc<VmFd>, ram: &Arc<GuestRam>) -> Result<Parts> {
    let stop = Arc::new(StopCell::default());
    let bus = Arc::new(pci_devices(plan, vm, ram)?);
    let line = Arc::new(KvmLine(vm.clone(), IRQ_SCI));
    let pm1 = Arc::new(Mutex::new(Pm1::new(line, stop.clone())));
    let interrupt = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
        .context(ErrorKind::Kvm, "no event for the serial port")?;
    vm.register_irqfd(&interrupt, IRQ_COM1)
        .context(ErrorKind::Kvm, "KVM refuses the serial port's interrupt")?;
    let port = SerialPort::new(Interrupt(interrupt), plan.screen.clone());
    let serial = Arc::new(Mutex::new(port));
    let mut ports = Bus::default();
    let keyboard = KeyboardController::new(stop.clone());
    ports.insert(u64::from(PORT_I8042), 5, Arc::new(Mutex::new(keyboard)));
    ports.insert(u64::from(PORT_COM1), 8, serial.clone());
    ports.insert(u64::from(PORT_PM1_EVENT), 6, pm1.clone());
    let config_ports = Ports::new(bus.clone(), stop.clone());
    ports.insert(
        u64::from(PORT_PCI_ADDRESS),
        8,
        Arc::new(Mutex::new(config_ports)),
    );
    let mut memory = Bus::default();
    memory.insert(
        PCI_WINDOW,
        PCI_WINDOW_SIZE,
        Arc::new(Mutex::new(Window(bus.clone()))),
    );
    memory.insert(ECAM, ECAM_SIZE, Arc::new(Mutex::new(Ecam(bus))));
    Ok(Parts {
        board: Board {
            ports,
            memory,
            stop,
            _ram: ram.clone(),
        },
        pm1,
        serial,
    })
}

fn pci_devices(plan: &Plan<'_>, vm: &Arc<VmFd>, ram: &Arc<GuestRam>) -> Result<PciBus> {
    let routes = Routes::new(vm.clone())?;
    let mut window = AddressAllocator::new(PCI_WINDOW, PCI_WINDOW_SIZE)
        .context(ErrorKind::Config, "no window for PCI devices")?;
    let mut bus = PciBus::new();
    for attachment in plan.attachments {
        let size = u64::from(MEMORY_BYTES);
        let place = window
            .allocate(size, size, AllocPolicy::FirstMatch)
            .context(ErrorKind::Config, "no place for a PCI device's memory")?;
        // One for the configuration, one for each queue.
        let wires = (0..=attachment.queue_count())
            .map(|_| routes.wire())
            .collect::<Result<_>>()?;
        let doorbells = Box::new(KvmDoorbells(vm.clone()));
        let device: Arc<dyn Device> = attachment.clone();
        let function = VirtioPci::new(device, ram.clone(), place.start() as u32, wires, doorbells)
            .context(ErrorKind::Kvm, format!("no event for {}", attachment.name))?;
        let function = Arc::new(Mutex::new(function));
        let told = Arc::downgrade(&function);
        attachment.set_listener(Some(Arc::new(move || {
            if let Some(function) = told.upgrade() {
                lock(&function).config_has_changed();
            }
        })));
        bus.insert(function);
    }
    Ok(bus)
}
