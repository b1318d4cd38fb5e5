//! An NBD server: sockets, and the queues of the devices behind them.
//!
//! A [`Server`] lives on one shard. The connections of all its exports run there, and so do the steps of the devices'
//! queues, so a request crosses no thread. All connections to an export share one queue of its device; a flush on any of
//! them covers the completed writes of all, which is what CAN_MULTI_CONN promises.
//!
//! # Bounds
//! Each client has at most 256 requests under way and begins none while it has 32 MiB of payload under way, or while
//! 256 KiB of replies wait for it to read them. At most 64 clients are in their handshake; when one more comes, the
//! oldest is hung up on. At most [`MAX_CONNECTIONS`] are connected.

mod connection;
mod data_runs;
mod desk;
mod exports;
mod lobby;
mod outbox;
mod perform;

use std::cell::Cell;
use std::rc::Rc;

use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use weft_block::{Error, ErrorKind, Result};
use weft_uring::{Address, Listener, ShardHandle, Stream, Task, spawn, spawner};

use exports::Exports;
pub use exports::{Export, ExportStatus};
use lobby::Lobby;

/// Clients that one server serves at once; more are hung up on. Each may make the server hold some 128 MiB, at worst: what
/// it had begun, what it sends, and the reply that it does not read.
pub const MAX_CONNECTIONS: usize = 256;

/// A running server. It may be moved and shared between threads.
///
/// Dropping it ends it in the background: listeners close at once, clients as with [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct Server {
    addresses: Vec<Address>,
    /// As many as there are callers, for each waits for its answer.
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
enum Order {
    Add(String, Export, oneshot::Sender<Result<()>>),
    Remove(String, oneshot::Sender<Result<()>>),
    Tell(oneshot::Sender<Vec<ExportStatus>>),
    Shutdown(oneshot::Sender<()>),
}

impl Server {
    /// Listens on `addresses` and serves on `shard`, without exports at first.
    ///
    /// # Errors
    /// `Busy` if an address is taken, `Invalid` if it cannot be listened on, `Offline` if the shard has ended.
    pub async fn start(shard: &ShardHandle, addresses: &[Address]) -> Result<Self> {
        let (orders, received) = mpsc::channel(0);
        let wanted = addresses.to_vec();
        let started = shard.run(move || async move { open_house(&wanted, received) });
        let addresses = started.await.map_err(|_| gone())??;
        Ok(Self { addresses, orders })
    }

    /// Where it listens, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Offers `export` as `name`. If it is the only one, it is the default export as well.
    ///
    /// # Errors
    /// `Busy` if the name is taken, `Invalid` if it is longer than 256 bytes, `Unsupported` if the device has blocks of
    /// more than 64 KiB, `Offline` if the server has ended.
    pub async fn add(&self, name: &str, export: Export) -> Result<()> {
        self.order(|answer| Order::Add(name.to_string(), export, answer))
            .await?
    }

    /// Takes an export away. Clients can complete what they had begun and are then hung up on; this waits for the last
    /// of them, but not for more than five seconds. Afterwards the device is not used any more.
    ///
    /// # Errors
    /// `Invalid` if there is no such export, `Offline` if the server has ended.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.order(|answer| Order::Remove(name.to_string(), answer))
            .await?
    }

    /// The exports and who uses them.
    ///
    /// # Errors
    /// `Offline` if the server has ended.
    pub async fn exports(&self) -> Result<Vec<ExportStatus>> {
        self.order(Order::Tell).await
    }

    /// Stops listening, removes all exports and waits as [`remove`](Self::remove) does.
    pub async fn shutdown(self) {
        // If the shard has ended, so has the server.
        let _ = self.order(Order::Shutdown).await;
    }

    async fn order<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        // Each clone has a place of its own, so this fails only when nobody receives any more.
        let mut orders = self.orders.clone();
        orders.try_send(make(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Offline, "the NBD server has ended")
}

/// What the tasks of a server share.
#[derive(Default)]
struct House {
    exports: Exports,
    lobby: Lobby,
    connections: Cell<usize>,
}

/// Opens the doors and begins to serve; where the doors are.
fn open_house(wanted: &[Address], orders: mpsc::Receiver<Order>) -> Result<Vec<Address>> {
    let listeners = wanted.iter().map(listen).collect::<Result<Vec<_>>>()?;
    let addresses = listeners
        .iter()
        .map(|listener| listener.address().clone())
        .collect();
    let house = Rc::new(House::default());
    let doors = listeners
        .into_iter()
        .map(|listener| spawn(accept(Rc::clone(&house), listener)))
        .collect();
    spawn(obey(house, doors, orders)).detach();
    Ok(addresses)
}

fn listen(address: &Address) -> Result<Listener> {
    Listener::bind(address).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::AddrInUse => ErrorKind::Busy,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, format!("cannot listen on {address}")).with_source(error)
    })
}

/// Does what the control side orders, until it orders the end or lets go of the server.
async fn obey(house: Rc<House>, doors: Vec<Task<()>>, mut orders: mpsc::Receiver<Order>) {
    let mut done = None;
    while let Some(order) = orders.next().await {
        // Whoever ordered may have stopped waiting for the answer.
        match order {
            Order::Add(name, export, answer) => {
                let _ = answer.send(house.exports.add(&name, export));
            }
            Order::Remove(name, answer) => {
                let vacated = house.exports.remove(&name);
                spawn(async move {
                    let removed = match vacated {
                        Ok(vacated) => {
                            // Resolves by being dropped.
                            let _ = vacated.await;
                            Ok(())
                        }
                        Err(error) => Err(error),
                    };
                    let _ = answer.send(removed);
                })
                .detach();
            }
            Order::Tell(answer) => {
                let _ = answer.send(house.exports.status());
            }
            Order::Shutdown(answer) => {
                done = Some(answer);
                break;
            }
        }
    }
    doors.into_iter().for_each(Task::cancel);
    house.lobby.close();
    for vacated in house.exports.remove_all() {
        let _ = vacated.await;
    }
    if let Some(done) = done {
        let _ = done.send(());
    }
}

/// Lets clients in for as long as the listener works.
async fn accept(house: Rc<House>, listener: Listener) {
    loop {
        match listener.accept().await {
            Ok(stream) if house.connections.get() < MAX_CONNECTIONS => {
                spawn(serve(Rc::clone(&house), stream)).detach();
            }
            Ok(_) => {
                tracing::warn!("an NBD client was hung up on: {MAX_CONNECTIONS} are connected")
            }
            Err(error) => {
                let address = listener.address();
                tracing::error!(%address, %error, "no more NBD clients are let in");
                return;
            }
        }
    }
}

/// One client from its first byte to its last.
async fn serve(house: Rc<House>, stream: Stream) {
    let _counted = Counted::new(&house);
    let Some((agreed, received)) = house.lobby.receive(&stream, &house.exports).await else {
        return;
    };
    match house.exports.join(&agreed.export.name, &spawner()) {
        Ok(membership) => connection::transmit(stream, membership, &agreed, received).await,
        Err(error) => tracing::warn!("an NBD client was hung up on: {}", error.sentence()),
    }
}

/// A connection that counts for as long as this lives.
struct Counted(Rc<House>);

impl Counted {
    fn new(house: &Rc<House>) -> Self {
        house.connections.set(house.connections.get() + 1);
        Self(Rc::clone(house))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}
