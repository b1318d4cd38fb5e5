//! What the in-tree VMM takes from a kernel file and from a guest.

pub(super) fn kernel(bytes: &[u8]) {
    weft_vmm::hostile::kernel(bytes);
}

pub(super) fn virtio_pci(bytes: &[u8]) {
    weft_vmm::hostile::virtio_pci(bytes);
}
