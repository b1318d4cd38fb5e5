//! Talking to the daemon: HTTP over its Unix socket. A daemon that does not answer is started.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use weft_service::api::{Error, ErrorBody, ErrorKind, Event, Result};
use weft_service::paths::Paths;

/// How long a daemon may take until it answers: it assembles arrays and groups first.
const START_LIMIT: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(10);

/// What stands for something else in a path, or may.
const OTHERS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The path of the API that these segments make. A name is one segment whatever is in it, and leads nowhere else.
pub(crate) fn path<const N: usize>(segments: [&str; N]) -> String {
    let encoded = segments.map(|segment| utf8_percent_encode(segment, OTHERS).to_string());
    format!("/v1/{}", encoded.join("/"))
}

/// A daemon that answers.
pub(crate) struct Client {
    paths: Paths,
}

impl Client {
    /// The daemon of this environment, started if none answers.
    pub(crate) async fn connect() -> Result<Self> {
        let client = Self {
            paths: Paths::from_environment()?,
        };
        if !client.is_answered().await {
            client.start_daemon().await?;
        }
        Ok(client)
    }

    /// The daemon of this environment if one answers.
    pub(crate) async fn find() -> Result<Option<Self>> {
        let client = Self {
            paths: Paths::from_environment()?,
        };
        Ok(client.is_answered().await.then_some(client))
    }

    /// Whether a daemon answers. A connection alone says nothing: the socket of a daemon that was killed takes them
    /// until the kernel has ended its last thread and request.
    async fn is_answered(&self) -> bool {
        let answer = self.send(Method::GET, "/v1/daemon", &()).await;
        answer.is_ok_and(|response| response.status().is_success())
    }

    async fn dial(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(&self.paths.socket).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, &()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.call(Method::POST, path, body).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::DELETE, path, &()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let response = self.send(method, path, body).await?;
        let failed = !response.status().is_success();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(|error| broken(&error))?
            .to_bytes();
        if failed {
            return Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
                Ok(body) => body.error,
                Err(_) => broken(&String::from_utf8_lossy(&bytes)),
            });
        }
        serde_json::from_slice(&bytes).map_err(|error| broken(&error))
    }

    /// Posts and hands each line of the answer to `each` as it arrives.
    pub(crate) async fn stream(
        &self,
        path: &str,
        body: &impl Serialize,
        mut each: impl FnMut(Event),
    ) -> Result<()> {
        let mut incoming = self.send(Method::POST, path, body).await?.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| broken(&error))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                each(serde_json::from_slice(&line).map_err(|error| broken(&error))?);
            }
        }
        if pending.is_empty() {
            return Ok(());
        }
        Err(match serde_json::from_slice::<ErrorBody>(&pending) {
            Ok(body) => body.error,
            Err(error) => broken(&error),
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>> {
        if path.ends_with('/') || path.contains("//") {
            return Err(Error::general(ErrorKind::Invalid, "a name cannot be empty"));
        }
        let stream = self.dial().await.map_err(|error| broken(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        tokio::spawn(connection);
        let body = serde_json::to_vec(body).expect("requests are plain data");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "weft")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Error::general(ErrorKind::Invalid, format!("{path}: {error}")))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))
    }

    async fn start_daemon(&self) -> Result<()> {
        self.paths.make()?;
        let log = self.paths.log();
        let name = log.display().to_string();
        let cannot = |error| Error::from_io(&name, "the daemon cannot be started", &error);
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(&log)
            .map_err(cannot)?;
        let before = file.seek(SeekFrom::End(0)).map_err(cannot)?;
        let program = std::env::current_exe().map_err(cannot)?;
        let mut child = Command::new(program)
            .args(["daemon", "--auto"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(cannot)?;
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            if self.is_answered().await {
                return Ok(());
            }
            if ended(&mut child) {
                // Another command may have started one in the same moment: then that one answers.
                tokio::time::sleep(START_POLL).await;
                if self.is_answered().await {
                    return Ok(());
                }
                return Err(why_not_started(&log, before));
            }
            tokio::time::sleep(START_POLL).await;
        }
        let seconds = START_LIMIT.as_secs();
        Err(Error::general(
            ErrorKind::Unavailable,
            format!("the daemon did not answer within {seconds} s; its log is {name}"),
        ))
    }

    /// Waits until the daemon has ended: its disks are closed and its lock is free then.
    pub(crate) async fn wait_until_gone(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while self.paths.is_served() {
            if Instant::now() > deadline {
                return Err(Error::general(
                    ErrorKind::Unavailable,
                    "the daemon was asked to stop and still runs",
                ));
            }
            tokio::time::sleep(START_POLL).await;
        }
        Ok(())
    }
}

fn ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

fn why_not_started(log: &std::path::Path, before: u64) -> Error {
    let mut said = String::new();
    if let Ok(mut file) = File::open(log) {
        let _ = file.seek(SeekFrom::Start(before));
        let _ = file.read_to_string(&mut said);
    }
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    let reason = last.map_or("it said nothing", |line| line.trim_start_matches("weft: "));
    Error::general(
        ErrorKind::Unavailable,
        format!("the daemon cannot start: {reason}"),
    )
}

fn broken(error: &impl std::fmt::Display) -> Error {
    Error::general(
        ErrorKind::Unavailable,
        format!("the daemon's answer broke off ({error}); ask again, or see `weft status`"),
    )
}
