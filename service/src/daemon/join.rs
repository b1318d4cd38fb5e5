//! Where the families meet: disks and ports become exports and machines.

use futures_util::future::BoxFuture;

use super::Daemon;
use crate::api::{
    DiskUse, Error, ErrorKind, Export, ExportAdd, ImageDisk, ImageOverlay, Machine, NetStretch,
    Network, Port, PortAdd, Result, VmRun,
};
use crate::attach::backends;
use crate::attach::record::MachineRecord;
use crate::storage::disks::{self, Access, Renames};
use crate::storage::exports;

fn vm(name: &str) -> DiskUse {
    DiskUse {
        noun: "vm".to_owned(),
        name: name.to_owned(),
    }
}

/// The name of a machine's port in a network.
fn port_name(machine: &str, number: usize) -> String {
    format!("{machine}-{number}")
}

impl Renames for Daemon {
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // A machine that knows the new word beside an export that reads what it was is well; the reverse is not.
            self.attach.rename_disk(from, to).await?;
            self.exports.rename_disk(from, to).await
        })
    }
}

impl Daemon {
    /// All exports.
    pub async fn exports(&self) -> Vec<Export> {
        self.exports.list().await
    }

    /// Offers a disk to others.
    ///
    /// # Errors
    /// `Exists`, `InUse`, `NotFound`, or what keeps the address from being served.
    pub async fn add_export(&self, request: &ExportAdd) -> Result<Export> {
        let _words = self.words.read().await;
        let name = exports::name_of(request)?;
        if self.exports.has(&name).await {
            return Err(Error::exists("export", &name));
        }
        let user = exports::user(&name);
        let access = exports::access(request);
        let served = self
            .storage
            .take(&request.disk, user.clone(), access)
            .await?;
        let added = self.exports.add(request, served).await;
        if added.is_err() {
            self.storage.release(&user).await;
        }
        added
    }

    /// Closes an export.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove_export(&self, name: &str) -> Result<()> {
        self.exports.remove(name).await?;
        self.storage.release(&exports::user(name)).await;
        Ok(())
    }

    /// Makes a new image the top of one that is in use. The disk has another word then, which exports and machines learn.
    ///
    /// # Errors
    /// As [`overlay_image`](crate::storage::Storage::overlay_image).
    pub async fn overlay_image(&self, request: &ImageOverlay) -> Result<ImageDisk> {
        let _words = self.words.write().await;
        let ImageOverlay {
            disk,
            path,
            options,
        } = request;
        self.storage.overlay_image(disk, path, options, self).await
    }

    /// Ends jobs of images that have come to their end, for as long as the daemon lives.
    pub(super) async fn finish_image_jobs(&self) {
        loop {
            self.storage.image_job_ended().await;
            let _words = self.words.write().await;
            for disk in self.storage.finish_image_jobs(self).await {
                // What has taken a disk's place may be larger.
                self.attach.notify_resize(&disk).await;
            }
        }
    }

    pub(super) async fn restore_exports(&self) {
        let records = self.exports.records().unwrap_or_else(|error| {
            tracing::error!(error = error.message, "exports cannot be brought back");
            Vec::new()
        });
        for record in records {
            if let Err(error) = self.add_export(&record).await {
                tracing::error!(
                    disk = record.disk,
                    error = error.message,
                    "export not restored"
                );
            }
        }
    }

    /// Joins a network to the bridge of another host, through a tunnel.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `Invalid`, or what the kernel refuses.
    pub async fn stretch(&self, net: &str, request: &NetStretch) -> Result<Network> {
        let vpn = self.tunnels.show(&request.vpn).await?;
        self.network.stretch(net, request, &vpn).await
    }

    /// Adds a port to a network: a TAP link, served as vhost-user-net if asked for.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, or what keeps the link from being made.
    pub async fn add_port(&self, net: &str, request: &PortAdd) -> Result<Port> {
        self.network.add_port(net, request).await
    }

    /// Takes a port away.
    ///
    /// # Errors
    /// `NotFound`, or `InUse` if a machine has it.
    pub async fn remove_port(&self, net: &str, port: &str) -> Result<()> {
        self.network.remove_port(net, port).await
    }

    /// All machines, with the addresses that they were leased.
    pub async fn machines(&self) -> Vec<Machine> {
        let mut machines = self.attach.list().await;
        if machines.is_empty() {
            return machines;
        }
        let leases = self.network.leases().await;
        for machine in &mut machines {
            let own = leases
                .iter()
                .filter(|lease| machine.macs.contains(&lease.mac));
            machine.addresses = own.map(|lease| lease.address.clone()).collect();
        }
        machines
    }

    /// One machine.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn machine(&self, name: &str) -> Result<Machine> {
        let mut machines = self.machines().await;
        let place = machines.iter().position(|machine| machine.name == name);
        place
            .map(|place| machines.swap_remove(place))
            .ok_or_else(|| Error::not_found("machine", name))
    }

    /// Starts a machine.
    ///
    /// # Errors
    /// Whatever cannot be: nothing of it is left then.
    pub async fn run_machine(&self, run: &VmRun) -> Result<Machine> {
        self.clear_stopped(&run.name).await?;
        let record = self.attach.prepare(run).await?;
        let started = async {
            self.plug_in(record).await?;
            self.attach.launch(&run.name).await
        };
        if let Err(error) = started.await {
            self.unplug(&run.name).await?;
            return Err(error);
        }
        self.machine(&run.name).await
    }

    /// A machine that has stopped makes room for a new one of its name.
    async fn clear_stopped(&self, name: &str) -> Result<()> {
        match self.attach.remove(name).await {
            Ok(()) => self.unplug(name).await,
            Err(error) if error.kind == ErrorKind::InUse => Err(Error::exists("machine", name)),
            Err(_) => Ok(()),
        }
    }

    /// Takes a machine's disks and ports and serves them on its sockets.
    async fn plug_in(&self, record: MachineRecord) -> Result<()> {
        let _words = self.words.read().await;
        let run = record.run.clone();
        let queues = u16::try_from(run.cpus).unwrap_or(u16::MAX);
        let mut ports = Vec::new();
        for disk in &run.disks {
            let served = self
                .storage
                .take(disk, vm(&run.name), Access::Exclusive)
                .await?;
            let serial = disks::last_part(disk);
            ports.push(backends::Port::Disk {
                served,
                serial,
                queues,
                read_only: false,
            });
        }
        for (number, net) in run.nets.iter().enumerate() {
            let port = port_name(&run.name, number);
            let open = self.network.open_port(net, &port, &run.name).await?;
            ports.push(backends::Port::Nic(open));
        }
        self.attach.serve(record, ports).await
    }

    /// Gives back all that a machine has, whatever is there of it.
    async fn unplug(&self, name: &str) -> Result<()> {
        let forgotten = self.attach.forget(name).await;
        self.network.close_ports_of(name).await;
        self.storage.release(&vm(name)).await;
        forgotten
    }

    /// Forgets a machine that has stopped.
    ///
    /// # Errors
    /// `NotFound`, or `InUse` if it runs.
    pub async fn remove_machine(&self, name: &str) -> Result<()> {
        self.attach.remove(name).await?;
        self.unplug(name).await
    }

    /// Serves the machines again that run on from an earlier daemon; those that have ended stay as stopped.
    pub(super) async fn restore_machines(&self) {
        let records = self.attach.records().unwrap_or_else(|error| {
            tracing::error!(error = error.message, "machines cannot be brought back");
            Vec::new()
        });
        for record in records {
            let name = record.run.name.clone();
            let runs = record.process.is_some_and(|process| process.is_alive());
            let back = match runs {
                true => self.plug_in(record.clone()).await,
                false => Ok(()),
            };
            if let Err(error) = &back {
                let error = &error.message;
                tracing::error!(
                    machine = name,
                    error,
                    "its disks and NICs are not served again"
                );
            }
            // It stays known all the same: a machine that runs must not be started a second time.
            if (!runs || back.is_err())
                && let Err(error) = self.attach.serve(record, Vec::new()).await
            {
                tracing::error!(machine = name, error = error.message, "machine forgotten");
            }
        }
    }
}
