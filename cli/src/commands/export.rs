//! `weft export`.

use weft_service::api::{Export, ExportAdd, Result};

use super::{Nothing, absolute, address_argument, disk_argument};
use crate::args::ExportCommand;
use crate::client::{Client, path};
use crate::render::{Output, tables};

pub(super) async fn run(client: &Client, output: &Output, command: ExportCommand) -> Result<()> {
    match command {
        ExportCommand::Add(args) => {
            let request = ExportAdd {
                disk: disk_argument(&args.disk)?,
                name: args.name,
                nbd: args.nbd.as_deref().map(address_argument).transpose()?,
                vhost: args.vhost.as_deref().map(absolute).transpose()?,
                read_only: args.read_only,
            };
            let export: Export = client.post("/v1/export", &request).await?;
            output.show(&export, |export| format!("{}\n", export.url));
        }
        ExportCommand::List => {
            let exports: Vec<Export> = client.get("/v1/export").await?;
            output.show(&exports, |exports| tables::exports(exports));
        }
        ExportCommand::Remove { name } => {
            client.delete::<Nothing>(&path(["export", &name])).await?;
            output.done(&format!("export {name} is closed"));
        }
    }
    Ok(())
}
