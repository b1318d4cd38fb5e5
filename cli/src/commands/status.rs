//! `weft status`.

use std::time::Duration;

use weft_service::api::{Result, Status};

use crate::client::Client;
use crate::render::{Output, tree};

const WATCH_PERIOD: Duration = Duration::from_secs(1);

pub(super) async fn run(client: &Client, output: &Output, watch: bool) -> Result<()> {
    loop {
        let status: Status = client.get("/v1/status").await?;
        if watch {
            output.clear();
        }
        output.show(&status, tree::status);
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_PERIOD).await;
    }
}
