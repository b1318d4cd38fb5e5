//! KVM's side of interrupts and notifications: GSI routes, irqfd, ioeventfd.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::power::Line;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layout::{FIRST_MSI, IO_APIC_PINS};
use crate::pci::msix::{Message, Wire};
use crate::sync::lock;
use crate::virtio::pci::Doorbells;

/// The interrupt routes of one VM: the two old interrupt controllers, the I/O APIC, and the messages in use.
pub(super) struct Routes {
    vm: Arc<VmFd>,
    messages: Mutex<BTreeMap<u32, Message>>,
    next: Mutex<u32>,
}

impl Routes {
    pub(super) fn new(vm: Arc<VmFd>) -> Result<Arc<Self>> {
        let routes = Self {
            vm,
            messages: Mutex::default(),
            next: Mutex::new(FIRST_MSI),
        };
        routes.publish(&BTreeMap::new())?;
        Ok(Arc::new(routes))
    }

    /// A wire with an eventfd and an interrupt number of its own.
    pub(super) fn wire(self: &Arc<Self>) -> Result<Box<dyn Wire>> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .context(ErrorKind::Kvm, "no event for an interrupt")?;
        let mut next = lock(&self.next);
        let gsi = *next;
        *next += 1;
        Ok(Box::new(MsiWire {
            routes: self.clone(),
            gsi,
            event: Arc::new(event),
            joined: false,
        }))
    }

    fn publish(&self, messages: &BTreeMap<u32, Message>) -> Result<()> {
        let entries: Vec<_> = pins()
            .chain(
                messages
                    .iter()
                    .map(|(&gsi, &message)| message_entry(gsi, message)),
            )
            .collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|error| {
            Error::new(
                ErrorKind::Kvm,
                format!("too many interrupt routes: {error:?}"),
            )
        })?;
        self.vm
            .set_gsi_routing(&table)
            .context(ErrorKind::Kvm, "KVM refuses the interrupt routes")
    }

    fn set(&self, gsi: u32, message: Message) -> Result<()> {
        let mut messages = lock(&self.messages);
        if messages.insert(gsi, message) == Some(message) {
            return Ok(());
        }
        self.publish(&messages)
    }
}

/// What KVM has by itself until routes are set: line N to pin N of the I/O APIC, the first 16 to the 8259s too.
fn pins() -> impl Iterator<Item = kvm_irq_routing_entry> {
    (0..IO_APIC_PINS).flat_map(|line| {
        let old = match line {
            0..8 => Some(pin_entry(line, KVM_IRQCHIP_PIC_MASTER, line)),
            8..16 => Some(pin_entry(line, KVM_IRQCHIP_PIC_SLAVE, line - 8)),
            _ => None,
        };
        old.into_iter()
            .chain([pin_entry(line, KVM_IRQCHIP_IOAPIC, line)])
    })
}

fn pin_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn message_entry(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}

/// An eventfd that KVM turns into a message.
struct MsiWire {
    routes: Arc<Routes>,
    gsi: u32,
    event: Arc<EventFd>,
    joined: bool,
}

impl Wire for MsiWire {
    fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    fn join(&mut self, message: Option<Message>) {
        let vm = &self.routes.vm;
        let result = match message {
            // KVM looks at the eventfd when it takes it, so what was signalled while it was parted interrupts now.
            Some(message) => self.routes.set(self.gsi, message).and_then(|()| {
                if self.joined {
                    return Ok(());
                }
                vm.register_irqfd(&self.event, self.gsi)
                    .context(ErrorKind::Kvm, "KVM refuses an interrupt's eventfd")
            }),
            None => vm
                .unregister_irqfd(&self.event, self.gsi)
                .context(ErrorKind::Kvm, "KVM keeps an interrupt's eventfd"),
        };
        match result {
            Ok(()) => self.joined = message.is_some(),
            // The guest loses this interrupt; it is told to nobody but the log, as a device that fails would be.
            Err(error) => tracing::error!("{}", error.sentence()),
        }
    }
}

/// KVM's ioeventfds.
pub(super) struct KvmDoorbells(pub(super) Arc<VmFd>);

impl Doorbells for KvmDoorbells {
    fn connect(&self, address: u64, event: &EventFd) {
        let address = IoEventAddress::Mmio(address);
        if let Err(error) = self.0.register_ioevent(event, &address, NoDatamatch) {
            // Notifications come as ordinary writes then, which works too.
            tracing::warn!("KVM refuses an ioeventfd: {error}");
        }
    }

    fn disconnect(&self, address: u64, event: &EventFd) {
        let address = IoEventAddress::Mmio(address);
        if let Err(error) = self.0.unregister_ioevent(event, &address, NoDatamatch) {
            tracing::warn!("KVM keeps an ioeventfd: {error}");
        }
    }
}

/// A line of the interrupt controllers.
pub(super) struct KvmLine(pub(super) Arc<VmFd>, pub(super) u32);

impl Line for KvmLine {
    fn set(&self, high: bool) {
        if let Err(error) = self.0.set_irq_line(self.1, high) {
            tracing::error!("KVM refuses a level of interrupt line {}: {error}", self.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_pins() {
        let entries: Vec<_> = pins().collect();
        assert_eq!(entries.len(), 16 + 24);
        let count = |gsi| entries.iter().filter(|entry| entry.gsi == gsi).count();
        assert_eq!((count(4), count(9), count(16), count(23)), (2, 2, 1, 1));
    }
}
