//! The model of virtio-net.
