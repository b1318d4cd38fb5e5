//! The socket that `wg` and its like use.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use weft_netio::local::LocalServer;
use weft_netio::{ErrorKind, InterfaceName, Result};
use weft_vpn::uapi::{DeviceChange, LONGEST_LINE, Reader, Request, describe};
use zeroize::Zeroizing;

use crate::Device;

/// Where `wg` looks for interfaces.
const FOLDER: &str = "/var/run/wireguard";

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const EADDRINUSE: i32 = 98;

/// A tunnel's configuration socket, until this is dropped.
#[derive(Debug)]
pub struct Uapi {
    _server: LocalServer,
}

impl Uapi {
    /// Where the socket of an interface is.
    pub fn path(name: &InterfaceName) -> PathBuf {
        Path::new(FOLDER).join(format!("{name}.sock"))
    }

    /// Listens at [`Uapi::path`]. [`ErrorKind::Busy`] if another program has an interface of this name.
    pub fn listen(name: &InterfaceName, device: &Arc<Device>) -> Result<Self> {
        let device = Arc::downgrade(device);
        let server = LocalServer::listen(&Self::path(name), move |client| serve(client, &device))?;
        Ok(Self { _server: server })
    }

    /// Listens on a socket that somebody else has made for the interface.
    pub fn adopt(
        listener: UnixListener,
        name: &InterfaceName,
        device: &Arc<Device>,
    ) -> Result<Self> {
        let device = Arc::downgrade(device);
        let path = Self::path(name);
        let server = LocalServer::serve_on(listener, &path, move |client| serve(client, &device))?;
        Ok(Self { _server: server })
    }
}

/// Answers a client until it goes, or the tunnel does.
fn serve(client: UnixStream, device: &Weak<Device>) {
    let Ok(mut answers) = client.try_clone() else {
        return;
    };
    let mut lines = BufReader::new(client);
    let mut reader = Reader::new();
    // With room for the longest line it is never moved, and leaves no copy behind.
    let mut line = Zeroizing::new(String::with_capacity(LONGEST_LINE + 1));
    loop {
        line.clear();
        let read = lines
            .by_ref()
            .take(LONGEST_LINE as u64)
            .read_line(&mut line);
        let whole = line.strip_suffix('\n');
        // The end, or a line that makes no sense and has no end either.
        let (Ok(1..), Some(whole)) = (read, whole) else {
            return;
        };
        let Some(request) = reader.line(whole) else {
            continue;
        };
        let Some(device) = device.upgrade() else {
            return;
        };
        let (text, errno) = match request {
            Ok(Request::Get) => (device.describe(), 0),
            Ok(Request::Set(change)) => (Zeroizing::default(), apply(&device, *change)),
            Err(_) => (Zeroizing::default(), -EINVAL),
        };
        drop(device);
        let end = format!("errno={errno}\n\n");
        let answered = answers
            .write_all(text.as_bytes())
            .and_then(|()| answers.write_all(end.as_bytes()));
        if answered.is_err() {
            return;
        }
    }
}

/// What can fail comes first, so that a change is made whole or not at all.
fn apply(device: &Device, change: DeviceChange) -> i32 {
    let outside = || {
        if let Some(mark) = change.fwmark {
            device.set_mark(mark)?;
        }
        change
            .listen_port
            .map_or(Ok(()), |port| device.set_port(port))
    };
    if let Err(e) = outside() {
        tracing::warn!("{}", e.sentence());
        return match e.kind() {
            ErrorKind::Busy => -EADDRINUSE,
            ErrorKind::Denied => -EACCES,
            _ => -EIO,
        };
    }
    device.with(|machine, now, outputs| machine.apply(change, now, outputs));
    0
}

impl Device {
    fn describe(&self) -> Zeroizing<String> {
        let (port, mark) = (self.port(), self.mark());
        self.with(|machine, _, _| describe(machine, port, mark))
    }
}
