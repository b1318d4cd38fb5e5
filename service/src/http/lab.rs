//! `up`, `down` and `plan`. The first two answer with a line of JSON for each event.

use std::path::Path;
use std::sync::Arc;

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::{Answer, Body, Failure};
use crate::api::{Event, LabRequest, Plan};
use crate::daemon::Daemon;
use crate::lab::Lab;

/// Events that wait for a slow reader before the work waits too.
const EVENT_BACKLOG: usize = 64;

pub(super) fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/lab/plan", post(plan))
        .route("/v1/lab/up", post(up))
        .route("/v1/lab/down", post(down))
}

fn parse(request: &LabRequest) -> Result<Lab, Failure> {
    Ok(Lab::parse(Path::new(&request.path), &request.text)?)
}

async fn plan(State(daemon): State<Arc<Daemon>>, Body(request): Body<LabRequest>) -> Answer<Plan> {
    let lab = parse(&request)?;
    Ok(Json(daemon.plan_up(&lab).await?))
}

async fn up(
    State(daemon): State<Arc<Daemon>>,
    Body(request): Body<LabRequest>,
) -> Result<Response, Failure> {
    let lab = parse(&request)?;
    Ok(streamed(
        |events| async move { daemon.up(&lab, &events).await },
    ))
}

async fn down(
    State(daemon): State<Arc<Daemon>>,
    Body(request): Body<LabRequest>,
) -> Result<Response, Failure> {
    let lab = parse(&request)?;
    Ok(streamed(|events| async move {
        daemon.down(&lab, &events).await
    }))
}

/// Runs `work` to its end, whether or not anybody reads, and sends what it tells.
fn streamed<W, F>(work: W) -> Response
where
    W: FnOnce(mpsc::Sender<Event>) -> F,
    F: Future<Output = Result<Plan, crate::api::Error>> + Send + 'static,
{
    let (events, told) = mpsc::channel(EVENT_BACKLOG);
    let work = work(events.clone());
    tokio::spawn(async move {
        let last = match work.await {
            Ok(plan) => Event::Finished { plan },
            Err(error) => Event::Failed { error },
        };
        let _ = events.send(last).await;
    });
    let lines = futures_util::stream::unfold(told, |mut told| async {
        let event = told.recv().await?;
        let mut line = serde_json::to_vec(&event).expect("events are plain data");
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), told))
    });
    Response::new(HttpBody::from_stream(lines.boxed()))
}
