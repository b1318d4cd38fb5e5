//! QEMU as an engine: the same machine over the same vhost-user sockets.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use weft_vmm::Config;

use weft_wire::MacAddress;

/// The program.
const PROGRAM: &str = "qemu-system-x86_64";

/// Seconds between QEMU's attempts to reach a vhost-user socket that closed (its shortest).
const RECONNECT_SECONDS: u32 = 1;

const QMP_LIMIT: Duration = Duration::from_secs(5);

/// The command that starts `machine`, with KVM if `kvm`, otherwise translating. The control socket speaks QMP.
pub fn command(machine: &Config, kvm: bool) -> Command {
    let mut command = Command::new(PROGRAM);
    base(&mut command, machine, kvm);
    sockets(&mut command, machine);
    devices(&mut command, machine, kvm);
    command
}

fn base(command: &mut Command, machine: &Config, kvm: bool) {
    let mut arg = |name: &str, value: String| {
        command.arg(name).arg(value);
    };
    let (accelerator, cpu) = if kvm {
        ("kvm", "host")
    } else {
        ("tcg,thread=multi", "max")
    };
    let memory = machine.memory_bytes;
    arg("-name", format!("guest={}", escape(machine.name.as_ref())));
    arg(
        "-machine",
        "q35,memory-backend=ram,usb=off,vmport=off,smbus=off".to_owned(),
    );
    arg("-accel", accelerator.to_owned());
    arg("-cpu", cpu.to_owned());
    arg("-smp", machine.cpus.to_string());
    arg("-m", format!("size={memory}b"));
    arg(
        "-object",
        format!("memory-backend-memfd,id=ram,size={memory},share=on"),
    );
    arg("-kernel", machine.kernel.display().to_string());
    if let Some(initrd) = &machine.initrd {
        arg("-initrd", initrd.display().to_string());
    }
    let mut cmdline = machine.cmdline.clone();
    if !kvm {
        // On a busy host a translated guest finds its timer late and panics; KVM guests skip this check by themselves.
        cmdline.push_str(" no_timer_check");
    }
    arg("-append", cmdline);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-device", "virtio-rng-pci"]);
    command.args([
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]);
}

/// The serial console and the control socket.
fn sockets(command: &mut Command, machine: &Config) {
    let console = &machine.console;
    if let Some(socket) = &console.socket {
        let log = console
            .log
            .as_deref()
            .map_or(String::new(), |log| format!(",logfile={}", escape(log)));
        let socket = escape(socket);
        command.arg("-chardev");
        command.arg(format!(
            "socket,id=console,path={socket},server=on,wait=off{log}"
        ));
        command.args(["-serial", "chardev:console"]);
    }
    if let Some(control) = &machine.control {
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", escape(control)));
    }
}

/// Disks and NICs, each a vhost-user front end.
fn devices(command: &mut Command, machine: &Config, kvm: bool) {
    // Without KVM, QEMU 7.2 dies of unmasking a vector of a vhost-user NIC: it reaches for KVM's routes all the same.
    let vectors = if kvm { "" } else { ",vectors=0" };
    let mut arg = |name: &str, value: String| {
        command.arg(name).arg(value);
    };
    for (number, disk) in machine.disks.iter().enumerate() {
        let socket = escape(&disk.socket);
        arg(
            "-chardev",
            format!("socket,id=disk{number},path={socket},reconnect={RECONNECT_SECONDS}"),
        );
        let queues = machine.cpus;
        arg(
            "-device",
            format!("vhost-user-blk-pci,chardev=disk{number},num-queues={queues}"),
        );
    }
    for (number, nic) in machine.nics.iter().enumerate() {
        let socket = escape(&nic.socket);
        arg(
            "-chardev",
            format!("socket,id=nic{number},path={socket},reconnect={RECONNECT_SECONDS}"),
        );
        arg(
            "-netdev",
            format!("vhost-user,id=net{number},chardev=nic{number}"),
        );
        let mac = nic.mac.map_or(String::new(), |mac| {
            format!(",mac={}", MacAddress::from(mac))
        });
        arg(
            "-device",
            format!("virtio-net-pci,netdev=net{number}{mac},romfile={vectors}"),
        );
    }
}

/// QEMU's option values end at a comma; two stand for one.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Presses the power button.
///
/// # Errors
/// If QEMU does not answer.
pub async fn press_power_button(control: &Path) -> std::io::Result<()> {
    let talk = async {
        let stream = UnixStream::connect(control).await?;
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        lines.next_line().await?;
        for request in ["qmp_capabilities", "system_powerdown"] {
            write
                .write_all(format!("{{\"execute\":\"{request}\"}}\n").as_bytes())
                .await?;
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("{\"return\"") {
                    break;
                }
            }
        }
        Ok(())
    };
    tokio::time::timeout(QMP_LIMIT, talk)
        .await
        .unwrap_or_else(|_| {
            Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "QEMU does not answer",
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_vmm::{Console, Disk, Nic};

    #[test]
    fn disks_and_nics_become_vhost_user_devices() {
        let machine = Config {
            name: "web".into(),
            cpus: 2,
            memory_bytes: 256 << 20,
            kernel: "/boot/vmlinuz".into(),
            initrd: None,
            cmdline: "console=ttyS0 quiet".into(),
            disks: vec![Disk {
                name: "d".into(),
                socket: "/run/a,b.sock".into(),
                queues: 0,
            }],
            nics: vec![Nic {
                name: "n".into(),
                socket: "/run/n.sock".into(),
                mac: Some([0x52, 0x54, 0, 1, 2, 3]),
            }],
            console: Console::default(),
            control: Some("/run/q.sock".into()),
            report: None,
            sandbox: true,
        };
        let command = command(&machine, false);
        let text: Vec<String> = command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        let text = text.join(" ");
        for part in [
            "memory-backend-memfd,id=ram,size=268435456,share=on",
            "socket,id=disk0,path=/run/a,,b.sock,reconnect=1",
            "vhost-user-blk-pci,chardev=disk0,num-queues=2",
            "virtio-net-pci,netdev=net0,mac=52:54:00:01:02:03",
            "-append console=ttyS0 quiet",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("-initrd"));
    }
}
