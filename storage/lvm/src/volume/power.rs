//! A striped volume over disks that lose their power, under the oracle.

use std::sync::Arc;

use weft_block::{BlockDevice, Info};
use weft_sim::{Executor, Oracle, PowerCut, PowerSupply, Workload, for_each_seed};

use super::tests::{SIZE, group, mixed, volume};
use super::{Map, Volume};

#[test]
fn flushes_reach_every_disk() {
    let group = group(3);
    for_each_seed(24, |seed| {
        let (executor, supply) = (Executor::new(seed), PowerSupply::new(seed));
        let disk = || Arc::new(PowerCut::new(&supply, Info::new(SIZE, 512)));
        let disks = [disk(), disk(), disk()];
        let devices = disks.map(|disk| Some(disk as Arc<dyn BlockDevice>));
        let map = Map::new(&group, &volume(mixed()), &devices).expect("a map");
        let oracle = Oracle::new(512);
        let device = oracle.watch(Arc::new(Volume::new(map)));
        for round in 0..2 {
            let mut workload = Workload::new(seed ^ (round << 40), 80);
            // Across the chunks of a stripe and from segment to segment.
            workload.region = 2 << 16..20 << 16;
            workload.max_blocks = 100;
            supply.cut_after(seed % 60);
            let spawner = executor.spawner();
            let load = workload.run(&*device, &spawner);
            executor.block_on(load).expect("queues open");
            supply.cut();
            executor.run_until_idle();
            oracle.power_cut();
            supply.power_on();
            let queue = device.open(&spawner).expect("power is on");
            executor.block_on(oracle.verify(&*queue));
        }
        oracle.assert_honest();
    });
}
