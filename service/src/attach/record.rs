//! A machine as it is remembered.

use serde::{Deserialize, Serialize};
use weft_vmm as vmm;
use weft_wire::MacAddress;

use super::process::Process;
use crate::api::{Engine, VmRun};
use crate::paths::Paths;

/// What the store keeps of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// What was asked for.
    pub run: VmRun,
    /// The engine that it came to.
    pub engine: Engine,
    /// Why.
    pub engine_reason: String,
    /// Its process, once it was started.
    pub process: Option<Process>,
}

impl MachineRecord {
    /// The hardware addresses of its NICs.
    pub fn macs(&self) -> Vec<MacAddress> {
        (0..self.run.nets.len())
            .map(|number| mac_address(&self.run.name, number))
            .collect()
    }

    /// The machine as its engine sees it: files, sockets and numbers.
    pub fn config(&self, paths: &Paths) -> vmm::Config {
        let run = &self.run;
        let folder = paths.machine(&run.name);
        let disks = run
            .disks
            .iter()
            .enumerate()
            .map(|(number, name)| vmm::Disk {
                name: name.clone(),
                socket: folder.join(format!("disk{number}.sock")),
                queues: 0,
            });
        let nics = run
            .nets
            .iter()
            .zip(self.macs())
            .enumerate()
            .map(|(number, (net, mac))| vmm::Nic {
                name: format!("{net}-{number}"),
                socket: folder.join(format!("nic{number}.sock")),
                mac: Some(mac.octets()),
            });
        vmm::Config {
            name: run.name.clone(),
            cpus: run.cpus,
            memory_bytes: run.memory_bytes,
            kernel: run.kernel.clone().into(),
            initrd: run.initrd.clone().map(Into::into),
            cmdline: with_console(&run.cmdline),
            disks: disks.collect(),
            nics: nics.collect(),
            console: vmm::Console {
                socket: Some(folder.join("console.sock")),
                log: Some(folder.join("console.log")),
                ..vmm::Console::default()
            },
            control: Some(folder.join("control.sock")),
            report: Some(folder.join("report.json")),
            sandbox: true,
        }
    }
}

/// The command line, with the serial console that `weft vm console` shows unless it names another.
fn with_console(cmdline: &str) -> String {
    if cmdline
        .split_ascii_whitespace()
        .any(|word| word.starts_with("console="))
    {
        return cmdline.to_owned();
    }
    format!("console=ttyS0 {cmdline}").trim_end().to_owned()
}

/// The hardware address of NIC `number` of machine `name`: the same at every start, so that the guest keeps its lease.
fn mac_address(name: &str, number: usize) -> MacAddress {
    MacAddress::derived(&format!("weft-vm:{name}/{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_stable_and_its_own() {
        assert_eq!(mac_address("web", 0), mac_address("web", 0));
        assert_ne!(mac_address("web", 0), mac_address("web", 1));
    }

    #[test]
    fn a_console_is_added_where_none_is_named() {
        assert_eq!(with_console("quiet"), "console=ttyS0 quiet");
        assert_eq!(with_console(""), "console=ttyS0");
        assert_eq!(with_console("console=hvc0"), "console=hvc0");
    }
}
