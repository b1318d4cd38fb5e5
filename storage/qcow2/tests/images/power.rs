//! What a power cut leaves.

use std::sync::Arc;

use weft_block::{BlockDevice, Info};
use weft_qcow2::{Image, Repair};
use weft_sim::{Executor, PowerCut, PowerSupply, Workload, for_each_seed};

use super::kit::Form;

/// Writes to an image, as `used` makes a device of it, until the power goes, three times, and judges what is there each
/// time. Tells how many compressed clusters were found.
pub(crate) fn cut(form: &Form, seed: u64, used: impl Fn(Image) -> Arc<dyn BlockDevice>) -> u64 {
    let supply = PowerSupply::new(seed);
    supply.set_tearing(false);
    let file = PowerCut::new(&supply, Info::new(0, 512));
    let oracle = form.oracle();
    let mut compressed = 0;
    for round in 0..3 {
        let executor = Executor::new(seed ^ round << 32);
        executor.block_on(async {
            let spawner = executor.spawner();
            let below: Arc<dyn BlockDevice> = Arc::new(file.clone());
            let image = match round {
                0 => form.make(below, &spawner).await,
                _ => Image::open(below, form.open_options(), &spawner)
                    .await
                    .expect("it opens"),
            };
            let report = image
                .check(Repair::Nothing, &spawner)
                .await
                .expect("it is checked");
            assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
            compressed += report.compressed_clusters;
            let device = oracle.watch(used(image));
            if round > 0 {
                let queue = device.open(&spawner).expect("opens");
                oracle.verify(&*queue).await;
            }
            supply.cut_after(seed.wrapping_mul(0x9e37_79b9).rotate_left(7) % 400);
            let mut load = Workload::new(seed ^ round, 300);
            load.max_blocks = 300;
            load.run(&*device, &spawner).await.expect("queues open");
        });
        oracle.power_cut();
        supply.power_on();
        oracle.assert_honest();
    }
    compressed
}

fn plain(image: Image) -> Arc<dyn BlockDevice> {
    Arc::new(image)
}

#[test]
fn what_was_durable_is_there_after_a_cut() {
    for_each_seed(112, |seed| {
        cut(&Form::number(seed), seed, plain);
    });
}

#[test]
fn what_was_encrypted_and_durable_is_there_after_a_cut() {
    for_each_seed(24, |seed| {
        cut(&Form::number(seed * 5).encrypted(), seed, plain);
    });
}
