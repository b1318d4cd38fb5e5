//! The platform VMM: KVM, boot, virtio-pci; its disks and NICs are vhost-user front ends.
