//! Persistent bitmaps: they tell of every write since, or that they cannot be believed.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, Info, IoVec, Request, Spawner};
use weft_qcow2::format::{CompressionType, Version};
use weft_qcow2::{Image, Repair};
use weft_sim::{Executor, MemoryDevice, PowerCut, PowerSupply, for_each_seed};

use super::kit::{Form, SIZE, assert_clean};

async fn open(file: &Arc<dyn BlockDevice>, form: &Form, spawner: &Spawner) -> Image {
    let opened = Image::open(Arc::clone(file), form.open_options(), spawner).await;
    let image = opened.expect("it opens");
    let report = image
        .check(Repair::Nothing, spawner)
        .await
        .expect("it is checked");
    assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
    image
}

async fn write(image: &Image, offset: u64, len: u64, spawner: &Spawner) -> bool {
    let Ok(queue) = image.open(spawner) else {
        return false;
    };
    let data = IoVec::copy_of(&vec![9; len as usize]);
    queue
        .submit(Request::write(offset, data))
        .await
        .result
        .is_ok()
}

fn assert_dirty(image: &Image, name: &str, part: std::ops::Range<u64>) {
    assert_eq!(
        image.dirty(name).expect("sound"),
        std::slice::from_ref(&part)
    );
}

#[test]
fn a_bitmap_is_kept_over_a_close_and_lost_without_one() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
        let form = Form::number(3);
        let image = form.make(Arc::clone(&file), &spawner).await;
        image.create_bitmap("monday", 4096, true).expect("made");
        image.create_bitmap("still", 65536, false).expect("made");
        assert!(image.create_bitmap("monday", 4096, true).is_err());
        assert!(image.create_bitmap("odd", 4097, true).is_err());
        assert!(write(&image, 8192, 512, &spawner).await);
        image.close(&spawner).await.expect("closes");

        let image = open(&file, &form, &spawner).await;
        assert_dirty(&image, "monday", 8192..12288);
        assert_eq!(image.dirty("still").expect("sound"), []);
        assert!(write(&image, 0, 512, &spawner).await);
        image
            .clear_bitmap("monday", &spawner)
            .await
            .expect("cleared");
        assert!(write(&image, SIZE - 512, 512, &spawner).await);
        image
            .merge_bitmap("still", std::slice::from_ref(&(0..1)), &spawner)
            .await
            .expect("merged");
        image
            .set_recording("still", true, &spawner)
            .await
            .expect("set");
        image.close(&spawner).await.expect("closes");

        let image = open(&file, &form, &spawner).await;
        assert_dirty(&image, "monday", SIZE - 4096..SIZE);
        assert_dirty(&image, "still", 0..65536);
        assert!(write(&image, 0, 512, &spawner).await);
        drop(image);

        // Nobody wrote them back.
        let image = open(&file, &form, &spawner).await;
        assert!(image.dirty("monday").is_err() && image.bitmaps()[0].inconsistent);
        image.remove_bitmap("monday").expect("removed");
        image.remove_bitmap("still").expect("removed");
        image.close(&spawner).await.expect("closes");
        let image = open(&file, &form, &spawner).await;
        assert!(image.bitmaps().is_empty());
        assert_clean(&image, &spawner).await;
    });
}

/// What a bitmap may have missed is the end of backups that rely on it.
fn cut(seed: u64) {
    let mut form = Form::number(seed);
    if form.options.version == Version::V2 {
        form.options.version = Version::V3;
        form.options.compression = CompressionType::Zlib;
    }
    let supply = PowerSupply::new(seed);
    supply.set_tearing(false);
    let file: Arc<dyn BlockDevice> = Arc::new(PowerCut::new(&supply, Info::new(0, 512)));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Granules of 4 KiB that were written since the bitmap was made, as far as the disk may hold it.
    let mut written = vec![false; (SIZE / 4096) as usize];
    let mut made = false;
    for round in 0..4 {
        let executor = Executor::new(seed ^ round << 32);
        executor.block_on(async {
            let spawner = executor.spawner();
            if round == 0 {
                let image = form.make(Arc::clone(&file), &spawner).await;
                image.close(&spawner).await.expect("closes");
            }
            supply.cut_after(random.random_range(0..200));
            while supply.is_on() {
                let opened = Image::open(Arc::clone(&file), form.open_options(), &spawner).await;
                let Ok(image) = opened else { break };
                judge(&image, &written, made);
                if image.bitmaps().iter().all(|bitmap| bitmap.inconsistent) {
                    let _ = image.remove_bitmap("b");
                    image.create_bitmap("b", 4096, true).expect("made");
                    written.fill(false);
                    made = true;
                }
                for _ in 0..random.random_range(0..6) {
                    let start = random.random_range(0..SIZE / 512);
                    let len = random.random_range(1..=(SIZE / 512 - start).min(100));
                    let granules = (start / 8) as usize..(start + len).div_ceil(8) as usize;
                    if write(&image, start * 512, len * 512, &spawner).await {
                        written[granules].fill(true);
                    }
                }
                let _ = image.close(&spawner).await;
            }
        });
        supply.power_on();
        let executor = Executor::new(seed);
        executor.block_on(async {
            let image = open(&file, &form, &executor.spawner()).await;
            judge(&image, &written, made);
        });
    }
}

/// A bitmap that can be believed tells of every write.
fn judge(image: &Image, written: &[bool], made: bool) {
    let Ok(dirty) = image.dirty("b") else {
        return;
    };
    assert!(made, "nobody made it");
    for (granule, _) in written.iter().enumerate().filter(|(_, written)| **written) {
        let at = granule as u64 * 4096;
        let told = dirty.iter().any(|part| part.contains(&at));
        assert!(told, "the write at {at} is not told");
    }
}

#[test]
fn after_a_cut_a_bitmap_tells_all_or_is_not_believed() {
    for_each_seed(56, cut);
}
