//! `weft vm`.

use weft_service::api::{Machine, Result, Stop, VmRun};

use super::{Nothing, absolute, console, disk_arguments};
use crate::args::{VmCommand, VmRunArgs};
use crate::client::{Client, path};
use crate::render::{Output, details, tables};

pub(super) async fn run(client: &Client, output: &Output, command: VmCommand) -> Result<()> {
    match command {
        VmCommand::Run(args) => {
            let machine: Machine = client.post("/v1/vm", &request(args)?).await?;
            output.show(&machine, details::machine);
        }
        VmCommand::List => {
            let machines: Vec<Machine> = client.get("/v1/vm").await?;
            output.show(&machines, |machines| tables::machines(machines));
        }
        VmCommand::Show { name } => {
            let machine: Machine = client.get(&path(["vm", &name])).await?;
            output.show(&machine, details::machine);
        }
        VmCommand::Console { name, log } => {
            let machine: Machine = client.get(&path(["vm", &name])).await?;
            console::run(&machine, log).await?;
        }
        VmCommand::Stop { name, timeout } => {
            let request = Stop { seconds: timeout };
            client
                .post::<Nothing>(&path(["vm", &name, "stop"]), &request)
                .await?;
            output.done(&format!("machine {name} has powered off"));
        }
        VmCommand::Kill { name } => {
            client
                .post::<Nothing>(&path(["vm", &name, "kill"]), &())
                .await?;
            output.done(&format!("machine {name} is ended"));
        }
        VmCommand::Remove { name } => {
            client.delete::<Nothing>(&path(["vm", &name])).await?;
            output.done(&format!("machine {name} is forgotten"));
        }
    }
    Ok(())
}

fn request(args: VmRunArgs) -> Result<VmRun> {
    Ok(VmRun {
        name: args.name,
        kernel: absolute(&args.kernel)?,
        initrd: args.initrd.as_deref().map(absolute).transpose()?,
        cmdline: args.cmdline,
        cpus: args.cpus,
        memory_bytes: args.memory.0,
        disks: disk_arguments(&args.disks)?,
        nets: args.nets,
        engine: args.engine.into(),
    })
}
