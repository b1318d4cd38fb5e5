//! Changes of all tables that nobody waits for any more: the image is the old or the new one, or takes no more writes.

use std::sync::Arc;

use futures_util::FutureExt;
use weft_block::{BlockDevice, ErrorKind, Info, IoVec, Request};
use weft_qcow2::{Image, SnapshotName};
use weft_sim::{Executor, PowerCut, PowerSupply, for_each_seed};

use super::kit::{Form, assert_clean};

#[test]
fn a_snapshot_given_up_halfway_costs_no_data() {
    let ended = std::cell::Cell::new(0);
    for_each_seed(60, |seed| {
        let executor = Executor::new(seed);
        let supply = PowerSupply::new(seed);
        let file: Arc<dyn BlockDevice> = Arc::new(PowerCut::new(&supply, Info::new(0, 512)));
        executor.block_on(async {
            let spawner = executor.spawner();
            let form = Form::number(2);
            let image = form.make(Arc::clone(&file), &spawner).await;
            let queue = image.open(&spawner).expect("opens");
            let write = |value| Request::write(0, IoVec::copy_of(&[value; 65536]));
            queue.submit(write(1)).await.result.expect("written");
            let flush = queue.submit(Request::flush()).await;
            flush.result.expect("flushed");
            let name = SnapshotName {
                name: "s".into(),
                seconds: 0,
                nanoseconds: 0,
            };
            let mut making = Box::pin(image.create_snapshot(name, &spawner));
            for _ in 0..seed {
                if (&mut making).now_or_never().is_some() {
                    break;
                }
                weft_sim::yield_now().await;
            }
            drop(making);
            let written = queue.submit(write(2)).await.result;
            let flushed = match &written {
                Ok(()) => queue.submit(Request::flush()).await.result,
                Err(_) => Ok(()),
            };
            let value = match written.and(flushed) {
                Ok(()) => 2,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io);
                    ended.set(ended.get() + 1);
                    1
                }
            };
            drop((queue, image));
            let opened = Image::open(file, form.open_options(), &spawner).await;
            let image = opened.expect("it opens");
            if value == 2 {
                image.close(&spawner).await.expect("it closes");
            }
            let report = image
                .check(weft_qcow2::Repair::All, &spawner)
                .await
                .expect("checked");
            assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
            assert_clean(&image, &spawner).await;
            let queue = image.open(&spawner).expect("opens");
            let read = queue.submit(Request::read(0, IoVec::zeroed(65536))).await;
            assert!(
                read.buffer.to_buffer()[..] == [value; 65536],
                "it holds {value}"
            );
        });
    });
    assert!(ended.get() > 5, "some were given up halfway");
}
