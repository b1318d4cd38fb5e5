//! A backend's life: it listens, serves one front end after the other, obeys its owner, and ends.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_util::{FutureExt, StreamExt, select_biased};
use weft_uring::{ShardHandle, sleep, spawn};

use crate::Error;
use crate::channel::Channel;
use crate::device::Device;
use crate::session::Session;
use crate::socket::Socket;
use crate::statistics::{Counters, Statistics};

/// What an owner may have asked for and not got yet.
const COMMANDS: usize = 8;
/// How long to wait before a socket that could not accept is asked again (out of descriptors, mostly).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What an owner asks of a backend.
enum Command {
    /// Look at the device again, and tell the front end if it changed.
    Refresh(oneshot::Sender<bool>),
    /// Finish what is in flight, and end.
    Stop(oneshot::Sender<()>),
}

/// A backend that serves a socket, as its owner holds it. It may be used from any thread and any executor.
///
/// Dropping it ends the backend as [`stop`](Self::stop) does, without waiting for the end.
#[derive(Debug)]
#[must_use = "a backend ends when this is dropped"]
pub struct Served {
    socket: PathBuf,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
}

impl Served {
    /// Where front ends connect.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the backend did so far.
    pub fn statistics(&self) -> Statistics {
        self.counters.read()
    }

    /// Says that the device below changed (it was resized, a link went up or down). If that shows in the
    /// configuration space, which is the answer, the front end is told, and tells its guest.
    pub async fn refresh(&self) -> bool {
        let (sender, answer) = oneshot::channel();
        self.order(Command::Refresh(sender)) && answer.await.unwrap_or(false)
    }

    /// Takes no more requests, finishes those in flight, closes the connection and removes the socket's file.
    /// A front end that reconnects later, to a successor at the same place, goes on where it was.
    pub async fn stop(self) {
        let (sender, stopped) = oneshot::channel();
        if self.order(Command::Stop(sender)) {
            // An error says that the shard ended before, and the backend with it.
            let _ = stopped.await;
        }
    }

    /// Whether the backend is still there to obey. Each order comes from a sender of its own, and the channel has
    /// room for one of each.
    fn order(&self, command: Command) -> bool {
        self.commands.clone().try_send(command).is_ok()
    }
}

/// Serves what `make` makes, on `shard`.
pub(crate) async fn serve<D: Device>(
    shard: &ShardHandle,
    socket: PathBuf,
    make: impl FnOnce(Arc<Counters>) -> Result<D, Error> + Send + 'static,
) -> Result<Served, Error> {
    let started = shard.run(move || async move { serve_here(socket, make) });
    started.await.map_err(|_| Error::ShardGone)?
}

/// Serves what `make` makes, on the calling thread's executor.
pub(crate) fn serve_here<D: Device>(
    socket: PathBuf,
    make: impl FnOnce(Arc<Counters>) -> Result<D, Error>,
) -> Result<Served, Error> {
    let counters = Arc::<Counters>::default();
    let device = Rc::new(make(counters.clone())?);
    let listening = Socket::bind(&socket)?;
    let (commands, orders) = mpsc::channel(COMMANDS);
    let server = Server {
        socket: listening,
        device,
        counters: counters.clone(),
        orders,
    };
    spawn(server.run()).detach();
    Ok(Served {
        socket,
        commands,
        counters,
    })
}

struct Server<D> {
    socket: Socket,
    device: Rc<D>,
    counters: Arc<Counters>,
    orders: mpsc::Receiver<Command>,
}

/// Why a wait ended without what was waited for: the backend is to end, and who is to be told.
struct Ending(Option<oneshot::Sender<()>>);

impl<D: Device> Server<D> {
    async fn run(mut self) {
        let ending = loop {
            let channel = match self.connection().await {
                Ok(channel) => channel,
                Err(ending) => break ending,
            };
            self.counters.connections.add(1);
            self.counters.connected.store(true, Ordering::Relaxed);
            let mut session = Session::new(self.device.clone(), self.counters.clone());
            let ended = self.converse(&mut session, &channel).await;
            session.close().await;
            self.counters.connected.store(false, Ordering::Relaxed);
            if let Err(ending) = ended {
                break ending;
            }
        };
        drop(self.socket);
        if let Some(teller) = ending.0 {
            let _ = teller.send(());
        }
    }

    /// The next front end.
    async fn connection(&mut self) -> Result<Channel, Ending> {
        loop {
            let accepted = select_biased! {
                order = self.orders.next() => {
                    match order {
                        Some(Command::Refresh(answer)) => {
                            let _ = answer.send(self.device.refresh());
                            continue;
                        }
                        Some(Command::Stop(teller)) => return Err(Ending(Some(teller))),
                        None => return Err(Ending(None)),
                    }
                }
                accepted = self.socket.accept().fuse() => accepted,
            };
            match accepted.and_then(Channel::new) {
                Ok(channel) => return Ok(channel),
                Err(error) => {
                    tracing::warn!(%error, "a front end could not be accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Serves a front end until it goes, is thrown out, or the backend is to end.
    async fn converse(
        &mut self,
        session: &mut Session<D>,
        channel: &Channel,
    ) -> Result<(), Ending> {
        loop {
            // A message may arrive in parts, so its wait lives through the owner's commands.
            let mut receiving = std::pin::pin!(channel.receive().fuse());
            let received = loop {
                select_biased! {
                    received = receiving => break received,
                    order = self.orders.next() => match order {
                        Some(Command::Refresh(answer)) => {
                            let changed = self.device.refresh();
                            if changed {
                                session.announce_config().await;
                            }
                            let _ = answer.send(changed);
                        }
                        Some(Command::Stop(teller)) => return Err(Ending(Some(teller))),
                        None => return Err(Ending(None)),
                    },
                }
            };
            let served = match received {
                Ok(None) => return Ok(()),
                Ok(Some(message)) => session.serve(channel, message).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                let socket = self.socket.path().display().to_string();
                tracing::warn!(socket, %error, "a front end was disconnected");
                return Ok(());
            }
        }
    }
}
