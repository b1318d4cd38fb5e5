//! What gives a machine its disks and NICs: vhost-user back ends on the stacks' shards.

use std::path::Path;

use weft_vhost_user::{BlkBackend, BlkOptions, BlkServe, NetBackend, Served};

use crate::api::{Error, ErrorKind, Result};
use crate::network::port::OpenPort;
use crate::storage::disks;

/// What is to be given.
pub enum Port {
    /// A disk.
    Disk {
        /// The device and its shard.
        served: disks::Served,
        /// What the guest reads as its serial number.
        serial: String,
        /// How many queues the guest may use.
        queues: u16,
        /// Whether writes are refused.
        read_only: bool,
    },
    /// A port of a network.
    Nic(OpenPort),
}

/// A socket that is served.
pub struct Backend {
    served: Served,
}

impl Backend {
    /// Serves `port` on `socket`.
    ///
    /// # Errors
    /// `Io` or `Busy`, naming the socket.
    pub async fn serve(port: Port, socket: &Path) -> Result<Self> {
        let started = match port {
            Port::Disk {
                served,
                serial,
                queues,
                read_only,
            } => {
                let model = BlkOptions {
                    serial,
                    queues,
                    read_only,
                    ..BlkOptions::default()
                };
                let options = BlkServe {
                    model,
                    ..BlkServe::default()
                };
                BlkBackend::serve(&served.home, socket, served.device, options).await
            }
            Port::Nic(port) => {
                let (home, options) = (port.home.clone(), port.options());
                NetBackend::serve(&home, socket, options, move || Ok(port.into_ports())).await
            }
        };
        let served = started.map_err(|error| {
            let name = socket.display().to_string();
            let message = format!("the socket {name} cannot be served: {error}");
            Error::new(ErrorKind::Io, name, message)
        })?;
        Ok(Self { served })
    }

    /// Finishes what is in flight and closes the socket.
    pub async fn close(self) {
        self.served.stop().await;
    }

    /// Looks at the device's size again and tells the guest.
    pub async fn notify_resize(&self) {
        self.served.refresh().await;
    }
}
