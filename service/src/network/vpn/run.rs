//! WireGuard tunnels as programs of their own, which `wg` and `wg-quick` administer.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use weft_netio::link::Links;
use weft_netio::{InterfaceName, inherited};
use weft_tunnel::{Device, Tun, Uapi, entropy};
use weft_vpn::{DEFAULT_MTU, PrivateKey, Tunnel};
use zeroize::Zeroizing;

use crate::api::{Error, ErrorKind, Result};
use crate::network::from_netio;

/// Writes a new private key to `file`, which must not exist and is open to its owner alone, and returns the public key.
///
/// # Errors
/// `Exists` if the file is there, `Io` if it cannot be written.
pub fn generate_key(file: &Path) -> Result<String> {
    let name = file.display().to_string();
    let mut bytes = Zeroizing::new([0; 32]);
    entropy().fill(&mut *bytes);
    let key = PrivateKey::new(*bytes);
    let text = key.expose_base64();
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| {
            opened.write_all(text.as_bytes())?;
            opened.write_all(b"\n")
        })
        .map_err(|e| Error::from_io(&name, &format!("the key cannot be written to {name}"), &e))?;
    Ok(key.public().to_string())
}

/// Makes the interface `name`, without key and peers, and serves it until it is taken away or the program is told to
/// end. `ready` is called once its configuration socket answers.
///
/// As `wg-quick` expects of such programs, `WG_TUN_FD` and `WG_UAPI_FD` name a device and a socket that were opened
/// before.
///
/// # Errors
/// `Invalid` for a name that is none, `Exists` or `Busy` if an interface has it, `Permission` without the right to make one.
pub fn run(name: &str, ready: impl FnOnce()) -> Result<()> {
    let failed = |e: weft_netio::Error| from_netio(name, &e);
    let interface = InterfaceName::new(name).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::general(ErrorKind::Io, format!("a tunnel cannot start: {e}")))?;
    let tun = match inherited::descriptor("WG_TUN_FD").map_err(failed)? {
        Some(fd) => Tun::adopt(fd),
        None => Tun::create(&interface),
    }
    .map_err(failed)?;
    let interface = tun.name().clone();
    let socket = inherited::descriptor("WG_UAPI_FD").map_err(failed)?;
    runtime
        .block_on(async {
            let links = Links::open()?;
            links.set_mtu(&interface, DEFAULT_MTU as u32).await
        })
        .map_err(failed)?;
    let machine = Tunnel::new(entropy());
    let device = Device::start(machine, Box::new(tun), 0).map_err(failed)?;
    let device = Arc::new(device);
    let _uapi = match socket {
        Some(socket) => Uapi::adopt(UnixListener::from(socket), &interface, &device),
        None => Uapi::listen(&interface, &device),
    }
    .map_err(failed)?;
    ready();
    runtime.block_on(end(device));
    // What still waits for the device is not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// Waits until the device is taken away or the program is told to end.
async fn end(device: Arc<Device>) {
    let gone = tokio::task::spawn_blocking(move || device.wait_until_gone());
    let signals = [
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ];
    let [Ok(mut terminate), Ok(mut interrupt)] = signals else {
        let _ = gone.await;
        return;
    };
    tokio::select! {
        _ = gone => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
