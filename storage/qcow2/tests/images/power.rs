//! What a power cut leaves.

use std::sync::Arc;

use weft_block::{BlockDevice, Info};
use weft_qcow2::{Image, Repair};
use weft_sim::{Executor, PowerCut, PowerSupply, Workload, for_each_seed};

use super::kit::Form;

/// Writes to an image until the power goes, three times, and judges what is there each time.
fn cut(form: &Form, seed: u64) {
    let supply = PowerSupply::new(seed);
    supply.set_tearing(false);
    let file = PowerCut::new(&supply, Info::new(0, 512));
    let oracle = form.oracle();
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
            let device = oracle.watch(Arc::new(image.clone()));
            let report = image
                .check(Repair::Nothing, &spawner)
                .await
                .expect("it is checked");
            assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
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
}

#[test]
fn what_was_durable_is_there_after_a_cut() {
    for_each_seed(112, |seed| cut(&Form::number(seed), seed));
}

#[test]
fn what_was_encrypted_and_durable_is_there_after_a_cut() {
    for_each_seed(24, |seed| cut(&Form::number(seed * 5).encrypted(), seed));
}
