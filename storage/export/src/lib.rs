//! Exports of block devices: NBD.
