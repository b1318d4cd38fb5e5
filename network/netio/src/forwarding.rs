//! Whether the host forwards IPv4.
//!
//! The switch is the whole namespace's: an answer to a guest comes in by whatever link leads out at that moment, so
//! forwarding on the bridge alone would not do. What may pass is decided by each network's rules.

use std::fs;

use crate::{Error, Result};

const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether the namespace of the calling thread forwards.
pub fn is_on() -> Result<bool> {
    let text = fs::read_to_string(SWITCH)
        .map_err(|e| Error::system("reading whether the host forwards IPv4", e))?;
    Ok(text.trim() != "0")
}

/// Turns forwarding on or off.
pub fn set(on: bool) -> Result<()> {
    let (digit, doing) = match on {
        true => ("1", "turning IPv4 forwarding on (net.ipv4.ip_forward)"),
        false => ("0", "turning IPv4 forwarding off (net.ipv4.ip_forward)"),
    };
    fs::write(SWITCH, digit).map_err(|e| Error::system(doing, e))
}
