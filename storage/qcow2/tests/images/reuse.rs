//! Freed clusters are used again only when nobody can reach them any more.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use weft_block::{BlockDevice, IoVec, Request};
use weft_sim::{Delays, Executor, MemoryDevice, Mix, Slow, Workload, for_each_seed};

use super::kit::{Form, Held, Holding, assert_clean};

/// The cluster of a write that is under way is freed: the next one to be taken is another, as long as it is.
#[test]
fn a_write_under_way_never_lands_in_somebody_elses_cluster() {
    let executor = Executor::new(1);
    let held = Arc::new(Mutex::new(Held::default()));
    let below = MemoryDevice::new(0);
    let file = Arc::new(Holding {
        below: below.clone(),
        held: Arc::clone(&held),
    });
    executor.block_on(async {
        let spawner = executor.spawner();
        let form = Form::number(1);
        let cluster = 1u64 << form.options.cluster_bits;
        let image = form.make(file, &spawner).await;
        let queue = image.open(&spawner).expect("opens");
        let write = |place: u64, value| {
            let data = IoVec::copy_of(&vec![value; cluster as usize]);
            queue.submit(Request::write(place * cluster, data))
        };
        write(0, 1).await.result.expect("written");
        queue
            .submit(Request::flush())
            .await
            .result
            .expect("flushed");
        let place = (0..below.info().size / cluster)
            .find(|place| {
                below.peek(place * cluster, cluster as usize) == vec![1; cluster as usize]
            })
            .expect("it is somewhere");
        held.lock().expect("nobody panics").at = Some(place * cluster);
        let mut under_way = write(0, 2);
        assert!((&mut under_way).now_or_never().is_none());
        let discard = Request::discard(0, cluster);
        queue.submit(discard).await.result.expect("discarded");
        queue
            .submit(Request::flush())
            .await
            .result
            .expect("flushed");
        for _ in 0..100 {
            weft_sim::yield_now().await;
        }
        for place in 1..8 {
            write(place, 3).await.result.expect("written");
        }
        let release = held.lock().expect("nobody panics").release.take();
        release
            .expect("a write is held")
            .send(())
            .expect("it is waited for");
        under_way.await.result.expect("written");
        for place in 1..8 {
            let read = Request::read(place * cluster, IoVec::zeroed(cluster as usize));
            let bytes = queue.submit(read).await.buffer.to_buffer();
            assert!(
                bytes.iter().all(|&byte| byte == 3),
                "cluster {place} was overwritten"
            );
        }
    });
}

#[test]
fn a_slow_request_never_meets_who_got_its_cluster_next() {
    for_each_seed(24, |seed| {
        // Small clusters, so that many are freed; every second time over a backing file.
        let form = Form::number(seed % 2 * 28 + seed / 2 % 4);
        let executor = Executor::new(seed);
        let memory = Arc::new(MemoryDevice::new(0));
        let delays = Delays::up_to(Duration::from_millis(20));
        let file = Arc::new(Slow::new(memory, &executor.clock(), seed, delays));
        let oracle = form.oracle();
        executor.block_on(async {
            let spawner = executor.spawner();
            let image = form.make(file, &spawner).await;
            let mut load = Workload::new(seed, 600);
            load.depth = 12;
            load.max_blocks = 40;
            load.region = 0..128 << 10;
            load.mix = Mix {
                discard: 25,
                flush: 15,
                ..Mix::default()
            };
            let device = oracle.watch(Arc::new(image.clone()));
            load.run(&*device, &spawner).await.expect("queues open");
            image.close(&spawner).await.expect("closes");
            assert_clean(&image, &spawner).await;
        });
        oracle.assert_honest();
    });
}
