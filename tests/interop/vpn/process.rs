//! A tunnel as a process, for the Linux guest: `tunnel-process NAME` makes the interface and serves it until it is gone.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use weft_netio::InterfaceName;
use weft_tunnel::{Device, Tun, Uapi, entropy};
use weft_vpn::Tunnel;

fn main() -> Result<()> {
    let name = std::env::args().nth(1).context("the interface's name")?;
    let name = InterfaceName::new(&name)?;
    let device = Device::start(Tunnel::new(entropy()), Box::new(Tun::create(&name)?), 0)?;
    let device = Arc::new(device);
    let _uapi = Uapi::listen(&name, &device)?;
    device.wait_until_gone();
    Ok(())
}
