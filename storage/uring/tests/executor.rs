//! The executor: tasks, wakers, timers, cancellation, panics, pollers.
#![allow(clippy::unwrap_used)] // A test says what went wrong by panicking.

mod backends;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use backends::on_each;
use futures_channel::oneshot;
use futures_util::FutureExt;
use weft_uring::{Found, Glance, panics, poller, sleep, spawn, spawner, yield_now};

#[test]
fn tasks_take_turns_and_give_their_output() {
    on_each(|_| async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..3)
            .map(|name| {
                let log = log.clone();
                spawn(async move {
                    for _ in 0..3 {
                        log.borrow_mut().push(name);
                        yield_now().await;
                    }
                    name * 10
                })
            })
            .collect();
        let mut outputs = Vec::new();
        for task in tasks {
            outputs.push(task.await);
        }
        assert_eq!(outputs, [0, 10, 20]);
        assert_eq!(*log.borrow(), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    });
}

#[test]
fn sleeps_end_in_order_and_not_early() {
    on_each(|_| async {
        let start = Instant::now();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [30, 10, 20]
            .into_iter()
            .map(|milliseconds| {
                let order = order.clone();
                spawn(async move {
                    sleep(Duration::from_millis(milliseconds)).await;
                    assert!(start.elapsed() >= Duration::from_millis(milliseconds));
                    order.borrow_mut().push(milliseconds);
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.borrow(), [10, 20, 30]);
    });
}

#[test]
fn other_threads_wake_tasks() {
    on_each(|_| async {
        for _ in 0..100 {
            let (sender, receiver) = oneshot::channel();
            let thread = std::thread::spawn(move || sender.send(7).unwrap());
            let waiting = spawn(receiver);
            assert_eq!(waiting.await.unwrap(), 7);
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_task_that_yields_for_ever_starves_neither_timers_nor_threads() {
    on_each(|_| async {
        let busy = spawn(async {
            loop {
                yield_now().await;
            }
        });
        sleep(Duration::from_millis(5)).await;
        let (sender, receiver) = oneshot::channel();
        let thread = std::thread::spawn(move || sender.send(()).unwrap());
        receiver.await.unwrap();
        thread.join().unwrap();
        busy.cancel();
    });
}

#[test]
fn a_root_future_that_yields_for_ever_does_not_hold_back_submissions() {
    on_each(|_| async {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let ready = Rc::new(Cell::new(false));
        let seen = ready.clone();
        let waiting = spawn(async move {
            weft_uring::readable(&ours).await.unwrap();
            seen.set(true);
        });
        std::io::Write::write_all(&mut &theirs, b"x").unwrap();
        while !ready.get() {
            yield_now().await;
        }
        waiting.await;
    });
}

/// Sets its flag when it is dropped.
struct Flag(Rc<Cell<bool>>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn cancelling_drops_the_future_at_once() {
    on_each(|_| async {
        let dropped = Rc::new(Cell::new(false));
        let flag = Flag(dropped.clone());
        let task = spawn(async move {
            let _flag = flag;
            std::future::pending::<()>().await;
        });
        yield_now().await;
        assert!(!dropped.get());
        task.cancel();
        assert!(dropped.get());
    });
}

#[test]
fn a_detached_task_runs_on_and_ends_with_the_executor() {
    let dropped = Rc::new(Cell::new(false));
    on_each(|_| {
        dropped.set(false);
        let flag = Flag(dropped.clone());
        async move {
            let ran = Rc::new(Cell::new(false));
            let seen = ran.clone();
            spawn(async move {
                let _flag = flag;
                seen.set(true);
                std::future::pending::<()>().await;
            })
            .detach();
            yield_now().await;
            assert!(ran.get());
        }
    });
    assert!(dropped.get());
}

#[test]
fn a_panic_reaches_whoever_awaits_the_task_and_nobody_else() {
    on_each(|_| async {
        let task = spawn(async { panic!("out of cheese") });
        let raised = std::panic::AssertUnwindSafe(task).catch_unwind().await;
        let payload = raised.unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"out of cheese"));
        spawner().spawn(Box::pin(async { panic!("unheard") }));
        yield_now().await;
        yield_now().await;
        assert_eq!(panics(), 2);
        assert_eq!(spawn(async { 3 }).await, 3);
    });
}

#[test]
fn pollers_are_asked_while_hot_and_once_more_before_sleep() {
    on_each(|_| async {
        let glances = Rc::new(RefCell::new(Vec::new()));
        let log = glances.clone();
        let poller = poller(move |glance| {
            log.borrow_mut().push(glance);
            Found::Nothing
        });
        sleep(Duration::from_millis(2)).await;
        assert!(glances.borrow().is_empty(), "a poller starts cold");
        poller.heat();
        sleep(Duration::from_millis(5)).await;
        let seen = glances.borrow().clone();
        assert_eq!(
            seen.iter()
                .filter(|&&glance| glance == Glance::Park)
                .count(),
            1
        );
        assert_eq!(seen.last(), Some(&Glance::Park));
        assert!(seen.len() > 1);
        sleep(Duration::from_millis(2)).await;
        assert_eq!(glances.borrow().len(), seen.len(), "parked is cold");
    });
}

#[test]
fn work_that_a_poller_finds_runs_without_a_wake_up() {
    on_each(|_| async {
        let (sender, receiver) = oneshot::channel();
        let mut sender = Some(sender);
        let mut looks = 0;
        let poller = poller(move |_| {
            looks += 1;
            if looks < 3 {
                return Found::Nothing;
            }
            if let Some(sender) = sender.take() {
                sender.send(()).unwrap();
            }
            Found::Work
        });
        poller.heat();
        receiver.await.unwrap();
    });
}

#[test]
fn an_idle_executor_uses_no_processor_time() {
    on_each(|_| async {
        let before = thread_time();
        sleep(Duration::from_millis(200)).await;
        let used = thread_time() - before;
        assert!(used < Duration::from_millis(50), "{used:?} of 200 ms");
    });
}

fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

#[test]
#[should_panic(expected = "an executor runs on this thread already")]
fn executors_do_not_nest() {
    weft_uring::block_on(async { weft_uring::block_on(async {}) });
}
