//! `weft image` of images that the daemon has open.

use weft_service::api::{ImageDisk, ImageWanted, Result};

use super::disk_argument;
use crate::args::LiveCommand;
use crate::client::Client;
use crate::render::{Output, images as tables};

pub(super) async fn run(client: &Client, output: &Output, command: LiveCommand) -> Result<()> {
    match command {
        LiveCommand::List => {
            let open: Vec<ImageDisk> = client.get("/v1/image").await?;
            output.show(&open, |open| tables::open(open));
        }
        LiveCommand::Show { disk } => {
            let shown: ImageDisk = client.post("/v1/image/show", &wanted(&disk)?).await?;
            output.show(&shown, tables::open_one);
        }
    }
    Ok(())
}

fn wanted(disk: &str) -> Result<ImageWanted> {
    Ok(ImageWanted {
        disk: disk_argument(disk)?,
    })
}
