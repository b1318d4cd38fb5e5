//! The board's own devices: the serial port, and what switches the machine off.

pub(crate) mod power;
pub(crate) mod serial;
