//! `weft disk`.

use weft_service::api::{Disk, DiskCreate, DiskList, Result};

use super::{Nothing, absolute, disk_argument, disk_arguments};
use crate::args::DiskCommand;
use crate::client::Client;
use crate::render::Output;
use crate::render::tables;

pub(super) async fn run(client: &Client, output: &Output, command: DiskCommand) -> Result<()> {
    match command {
        DiskCommand::Create { path, size } => {
            let request = DiskCreate {
                path: absolute(&path)?,
                size_bytes: size.0,
            };
            let disk: Disk = client.post("/v1/disk", &request).await?;
            output.show(&disk, |disk| format!("{}: {size}, all zeroes\n", disk.path));
        }
        DiskCommand::List => {
            let disks: Vec<Disk> = client.get("/v1/disk").await?;
            output.show(&disks, |disks| tables::disks(disks));
        }
        DiskCommand::Inspect { paths } => {
            let request = DiskList {
                disks: disk_arguments(&paths)?,
            };
            let disks: Vec<Disk> = client.post("/v1/disk/inspect", &request).await?;
            output.show(&disks, |disks| tables::disks(disks));
        }
        DiskCommand::Wipe { path } => {
            let request = DiskList {
                disks: vec![disk_argument(&path)?],
            };
            client.post::<Nothing>("/v1/disk/wipe", &request).await?;
            output.done(&format!("{path} carries no signature now"));
        }
    }
    Ok(())
}
