//! An image takes over what it has from below, under load, and does without it then.

use std::sync::Arc;

use weft_block::{BlockDevice, Info, IoVec, Request};
use weft_qcow2::{Image, OpenOptions, Zeroes};
use weft_sim::{Executor, MemoryDevice, Oracle, PowerCut, PowerSupply, Workload, for_each_seed};

use super::kit::{Form, SIZE, assert_clean};

#[test]
fn a_filled_image_reads_the_same_without_what_it_rested_on() {
    for_each_seed(2 * Form::FORMS, |seed| {
        let executor = Executor::new(seed);
        let supply = PowerSupply::new(seed);
        let file: Arc<dyn BlockDevice> = Arc::new(PowerCut::new(&supply, Info::new(0, 512)));
        let form = Form::number(seed);
        if !form.backed {
            return;
        }
        executor.block_on(async {
            let spawner = executor.spawner();
            let image = form.make(Arc::clone(&file), &spawner).await;
            let oracle = form.oracle();
            let device = oracle.watch(Arc::new(image.clone()));
            let load = Workload::new(seed, 120);
            let (user, running) = (Arc::clone(&device), executor.spawner());
            let used = executor.spawn(async move { load.run(&*user, &running).await });
            let step = 4096 << (seed % 5);
            for start in (0..SIZE).step_by(step as usize) {
                image
                    .fill(start..start + step, Zeroes::Absent, &spawner)
                    .await
                    .unwrap();
            }
            assert_eq!(used.await.unwrap().failed, 0);
            // A second time there is nothing to do.
            let again = image.fill(0..SIZE, Zeroes::Absent, &spawner).await;
            assert_eq!(again.unwrap(), 0);
            image.set_backing(None, &spawner).await.unwrap();
            image.close(&spawner).await.unwrap();
            drop((device, image));
            let options = OpenOptions {
                backing: None,
                ..form.open_options()
            };
            let image = Image::open(file, options, &spawner).await.unwrap();
            let queue = oracle
                .watch(Arc::new(image.clone()))
                .open(&spawner)
                .unwrap();
            let read = Request::read(0, IoVec::zeroed(SIZE as usize));
            queue.submit(read).await.result.unwrap();
            oracle.assert_honest();
            drop(queue);
            assert_clean(&image, &spawner).await;
        });
    });
}

/// What read as zeroes reads as zeroes over another backing file too, which holds something everywhere.
#[test]
fn a_filled_image_reads_the_same_over_another_one() {
    for_each_seed(2 * Form::FORMS, |seed| {
        let executor = Executor::new(seed);
        let supply = PowerSupply::new(seed);
        let file: Arc<dyn BlockDevice> = Arc::new(PowerCut::new(&supply, Info::new(0, 512)));
        let form = Form::number(seed);
        if !form.backed {
            return;
        }
        executor.block_on(async {
            let spawner = executor.spawner();
            // As large as the disk, and empty in its middle.
            let below = MemoryDevice::new(SIZE);
            let held = vec![0x77; SIZE as usize / 4];
            below.poke(0, &held);
            below.poke(3 * SIZE / 4, &held);
            let over = |device: MemoryDevice| OpenOptions {
                backing: Some(Arc::new(device)),
                ..form.open_options()
            };
            drop(form.make(Arc::clone(&file), &spawner).await);
            let opened = Image::open(Arc::clone(&file), over(below), &spawner).await;
            let image = opened.unwrap();
            let oracle = Oracle::new(512);
            oracle.holds(0, &held);
            oracle.holds(3 * SIZE / 4, &held);
            let device = oracle.watch(Arc::new(image.clone()));
            let load = Workload::new(seed, 60);
            let (user, running) = (Arc::clone(&device), executor.spawner());
            let used = executor.spawn(async move { load.run(&*user, &running).await });
            for start in (0..SIZE).step_by(16 << 10) {
                let range = start..start + (16 << 10);
                image.fill(range, Zeroes::Own, &spawner).await.unwrap();
            }
            assert_eq!(used.await.unwrap().failed, 0);
            image.close(&spawner).await.unwrap();
            drop((device, image));
            let other = MemoryDevice::new(SIZE);
            other.poke(0, &vec![0xa5; SIZE as usize]);
            let image = Image::open(file, over(other), &spawner).await.unwrap();
            let queue = oracle
                .watch(Arc::new(image.clone()))
                .open(&spawner)
                .unwrap();
            let read = Request::read(0, IoVec::zeroed(SIZE as usize));
            queue.submit(read).await.result.unwrap();
            oracle.assert_honest();
            drop(queue);
            assert_clean(&image, &spawner).await;
        });
    });
}
