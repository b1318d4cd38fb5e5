//! Machines that answer datagrams on a link, run: DHCP now, DNS and others later.
//!
//! [`LinkSocket`] is a port of a link; [`serve`] drives a [`DatagramMachine`] on it until it is told to stop.

mod socket;
#[allow(unsafe_code)] // A room of unsafe: the address of a packet socket.
mod sys;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use weft_wire::machine::{DatagramMachine, Output, Received, Transmit};

pub use socket::LinkSocket;

use crate::Result;

/// Datagrams that are handled before their changes are stored together and their answers sent.
const BATCH: usize = 64;
/// The longest that a timer sleeps, so that a clock which is set meanwhile is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The largest datagram that is taken.
const LARGEST_DATAGRAM: usize = 2048;

/// Runs `machine` on `socket` until `shutdown` is done.
///
/// The changes of up to 64 datagrams are given to `store` at once, and only when it has made them durable are the
/// answers sent. If it fails, the answers are dropped: the clients ask again. The machine is locked only while it
/// decides, so others may look at it meanwhile.
///
/// Ends with [`crate::ErrorKind::NotFound`] when the link is gone.
pub async fn serve<M, S, F, E>(
    socket: &LinkSocket,
    machine: &Mutex<M>,
    mut store: S,
    shutdown: impl Future<Output = ()>,
) -> Result<()>
where
    M: DatagramMachine,
    S: FnMut(Vec<M::Change>) -> F,
    F: Future<Output = std::result::Result<(), E>>,
    E: std::fmt::Display,
{
    let lock = || machine.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    tokio::pin!(shutdown);
    loop {
        let timeout = lock().poll_timeout();
        let mut outputs = Vec::new();
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            gone = socket.gone() => return Err(gone),
            readable = socket.readable() => {
                readable?;
                for _ in 0..BATCH {
                    let Some(received) = socket.try_receive(&mut buffer)? else { break };
                    let datagram = Received {
                        source: received.source,
                        destination: received.destination,
                        payload: &buffer[..received.length],
                    };
                    lock().handle(datagram, SystemTime::now(), &mut outputs);
                }
            }
            () = sleep_until(timeout) => lock().handle_timeout(SystemTime::now(), &mut outputs),
        }
        let (changes, answers) = split(outputs);
        if !changes.is_empty()
            && let Err(e) = store(changes).await
        {
            tracing::error!(link = %socket.link(), "answers are dropped, for changes cannot be stored: {e}");
            continue;
        }
        for answer in &answers {
            socket.transmit(answer)?;
        }
    }
}

fn split<C>(outputs: Vec<Output<C>>) -> (Vec<C>, Vec<Transmit>) {
    let (mut changes, mut answers) = (Vec::new(), Vec::new());
    for output in outputs {
        match output {
            Output::Store(change) => changes.push(change),
            Output::Send(transmit) => answers.push(transmit),
        }
    }
    (changes, answers)
}

async fn sleep_until(at: Option<SystemTime>) {
    let Some(at) = at else {
        return std::future::pending().await;
    };
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
}
