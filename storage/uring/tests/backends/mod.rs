//! One test, every backend.

use std::future::Future;

use weft_uring::{Backend, block_on_with};

/// Runs what `make` makes over each backend. Where io_uring is forbidden its run is left out, with a word.
pub(crate) fn on_each<F: Future<Output = ()>>(make: impl Fn(Backend) -> F) {
    for backend in [Backend::Ring, Backend::Poll] {
        if let Err(error) = block_on_with(backend, make(backend)) {
            assert_eq!(backend, Backend::Ring, "poll(2) is always there: {error}");
            eprintln!("left out: no io_uring here ({error})");
        }
    }
}
