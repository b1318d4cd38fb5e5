//! `weft up`, `weft down` and `weft plan`.

use std::path::Path;

use weft_service::api::{Action, Error, Event, LabRequest, Plan, Result};

use super::{Nothing, absolute};
use crate::client::Client;
use crate::render::Output;

pub(super) async fn up(client: &Client, output: &Output, file: &Path) -> Result<()> {
    carry_out(client, output, file, "/v1/lab/up").await
}

/// Takes a lab away, and then the daemon that a command started, if it has nothing left to serve.
pub(super) async fn down(client: &Client, output: &Output, file: &Path) -> Result<()> {
    carry_out(client, output, file, "/v1/lab/down").await?;
    let stopped: bool = client.post("/v1/daemon/stop-if-idle", &()).await?;
    if stopped {
        client.wait_until_gone().await?;
    }
    Ok(())
}

pub(super) async fn plan(client: &Client, output: &Output, file: &Path) -> Result<()> {
    let plan: Plan = client.post("/v1/lab/plan", &request(file)?).await?;
    output.show(&plan, |plan| {
        let mut text = String::new();
        for change in &plan.changes {
            text.push_str(&format!(
                "{:7} {:6} {}  ({})\n",
                change.action.word(),
                change.noun,
                change.name,
                change.detail
            ));
        }
        let changes = plan
            .changes
            .iter()
            .filter(|change| change.action != Action::Keep)
            .count();
        text.push_str(&format!(
            "{changes} of {} objects change\n",
            plan.changes.len()
        ));
        text
    });
    Ok(())
}

fn request(file: &Path) -> Result<LabRequest> {
    let path = absolute(file)?;
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::from_io(&path, &format!("{path} cannot be read"), &error))?;
    Ok(LabRequest { path, text })
}

async fn carry_out(client: &Client, output: &Output, file: &Path, path: &str) -> Result<()> {
    let mut end: Option<Result<Plan>> = None;
    let show = |event| match event {
        Event::Begin { change } => output.begin(&change),
        Event::Done { change, note } => output.end(&change, &note),
        Event::Note { text } => output.say(&text),
        Event::Finished { plan } => end = Some(Ok(plan)),
        Event::Failed { error } => end = Some(Err(error)),
    };
    client.stream(path, &request(file)?, show).await?;
    match end {
        Some(Ok(plan)) => {
            output.json(&plan);
            Ok(())
        }
        Some(Err(error)) => Err(error),
        None => client.get::<Nothing>("/v1/daemon").await.and_then(|_| {
            Err(Error::general(
                weft_service::api::ErrorKind::Unavailable,
                "the daemon stopped in the middle; run the command again",
            ))
        }),
    }
}
