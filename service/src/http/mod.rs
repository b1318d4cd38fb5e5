//! The HTTP API: JSON over the daemon's Unix socket. Paths are named after the commands' nouns and verbs.

mod attach;
mod control;
mod image;
mod lab;
mod network;
mod storage;
mod vpn;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::FromRequest;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::api::{Error, ErrorBody, ErrorKind};
use crate::daemon::Daemon;

/// The API of one daemon.
pub fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .merge(control::routes())
        .merge(storage::routes())
        .merge(image::routes())
        .merge(network::routes())
        .merge(vpn::routes())
        .merge(attach::routes())
        .merge(lab::routes())
        .fallback(unknown)
        .with_state(daemon)
}

async fn unknown(request: axum::extract::Request) -> Failure {
    let what = format!("{} {}", request.method(), request.uri().path());
    Failure(Error::new(
        ErrorKind::NotFound,
        what.clone(),
        format!("the API has no {what}"),
    ))
}

/// The answer of every handler.
type Answer<T> = Result<Json<T>, Failure>;

/// An error as a response: its kind's status, and the document that the program prints.
struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Exists | ErrorKind::Busy | ErrorKind::InUse | ErrorKind::Foreign => {
                StatusCode::CONFLICT
            }
            ErrorKind::Permission => StatusCode::FORBIDDEN,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

/// A request's document; one that cannot be read is answered as every other error is.
struct Body<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(
        request: axum::extract::Request,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(unreadable(&rejection)),
        }
    }
}

fn unreadable(rejection: &JsonRejection) -> Failure {
    Failure(Error::general(
        ErrorKind::Invalid,
        format!("the request: {rejection}"),
    ))
}
