//! The storage edge: the only crate of storage that makes system calls.
//!
//! One OS thread, one [executor](block_on), one wait. Everything that a thread of weft waits for (a disk, a socket, a
//! guest's kick, a timer, another thread) arrives through a single `io_uring_enter`, and what its tasks ask for in one
//! turn goes down in that same call. Where the kernel refuses io_uring, `poll(2)` takes its place and files are read
//! and written synchronously: the same programs run, and the same tests pass.
//!
//! # What an executor promises
//!
//! 1. **One thread.** Tasks need not be `Send` and never move. Wakers may be used from any thread.
//! 2. **No idle cost.** With nothing to do the thread sleeps in the kernel and uses no CPU, unless a
//!    [poller](fn@poller) is hot, and then for at most [`SPIN_LIMIT`].
//! 3. **Fairness.** Every ready task is polled once a turn, and completions are collected between turns, so a task that
//!    yields for ever starves nobody.
//! 4. **Nothing is lost in silence.** A panic ends its task alone: it is logged, counted, and raised again in whoever
//!    awaits the [`Task`]. A request to a [`Shard`] that is gone is answered with an error.
//!
//! # What an operation promises
//!
//! Memory that the kernel may touch belongs to the operation in flight, together with whatever keeps it alive. Dropping
//! a future gives up the answer and nothing else: a disk request runs to its end, a wait for a socket is cancelled, and
//! the memory is freed after the kernel has answered. An executor that ends cancels what can be cancelled and waits for
//! the rest before its memory goes away.
//!
//! # What a file device promises
//!
//! [`FileDevice`] keeps the block contract over a regular file or a block device. While it lives it holds a lock that
//! every other opener sees as [`ErrorKind::Busy`](weft_block::ErrorKind::Busy), in this process too, and QEMU as its own;
//! the kernel drops the lock with the process, however that ends. A device is `Send + Sync`; each thread opens its own queue.
//!
//! # What this crate refuses
//!
//! It knows no format and no protocol, starts no thread but those it is asked for, and never reads a clock
//! on behalf of a layer above except through [`sleep`].

mod executor;
mod file;
mod offload;
mod reactor;
mod shard;
#[allow(unsafe_code)] // A room of unsafe: memory that is a file.
mod shared;
mod socket;
#[allow(unsafe_code)] // A room of unsafe: system calls that nix does not wrap.
mod sys;

pub use executor::{
    Found, Glance, Poller, SPIN_LIMIT, Sleep, Task, block_on, block_on_with, panics, poller, sleep,
    sleep_until, spawn, spawner,
};
pub use file::{Direct, Engine, FileDevice, OpenOptions};
pub use reactor::{Backend, readable, writable};
pub use shard::{Shard, ShardHandle};
pub use shared::SharedWords;
pub use socket::{Address, Listener, Memory, ParseAddressError, Reader, Stream};
pub use weft_block::yield_now;
