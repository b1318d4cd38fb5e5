//! Shards: work from other threads, and what happens when they end.
#![allow(clippy::unwrap_used)] // A test says what went wrong by panicking.

use futures_channel::oneshot;
use weft_uring::{Backend, Shard, block_on, sleep};

fn shards() -> impl Iterator<Item = Shard> {
    [Backend::Auto, Backend::Poll]
        .into_iter()
        .map(|backend| Shard::start_with("test-shard", backend).unwrap())
}

#[test]
fn work_runs_on_the_shards_thread() {
    for shard in shards() {
        let ours = std::thread::current().id();
        let handle = shard.handle();
        let answer = handle.run(move || async move {
            let local = std::rc::Rc::new(std::thread::current().id());
            sleep(std::time::Duration::from_millis(1)).await;
            *local
        });
        assert_ne!(block_on(answer).unwrap(), ours);
    }
}

#[test]
fn many_threads_send_at_once() {
    for shard in shards() {
        let threads: Vec<_> = (0..4u64)
            .map(|_| {
                let handle = shard.handle();
                std::thread::spawn(move || {
                    let sum = async {
                        let mut sum = 0;
                        for n in 0..500u64 {
                            sum += handle.run(move || async move { n }).await.unwrap();
                        }
                        sum
                    };
                    block_on(sum)
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 499 * 500 / 2);
        }
    }
}

#[test]
fn a_shard_that_ended_answers_with_an_error() {
    for shard in shards() {
        let handle = shard.handle();
        let waiting = handle.run(std::future::pending::<()>);
        drop(shard);
        assert_eq!(block_on(waiting), Err(oneshot::Canceled));
        assert_eq!(block_on(handle.run(|| async {})), Err(oneshot::Canceled));
    }
}

#[test]
fn a_panic_answers_with_an_error_and_the_shard_lives_on() {
    for shard in shards() {
        let handle = shard.handle();
        let gone = handle.run(|| async { panic!("this request is bad") });
        assert_eq!(block_on(gone), Err(oneshot::Canceled));
        let made = handle.run(|| -> std::future::Ready<()> { panic!("so is its making") });
        assert_eq!(block_on(made), Err(oneshot::Canceled));
        assert_eq!(block_on(handle.run(|| async { 5 })), Ok(5));
    }
}
