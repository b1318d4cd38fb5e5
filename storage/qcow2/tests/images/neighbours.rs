//! Writes side by side in one cluster leave each other alone.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use weft_block::{BlockDevice, BlockQueue, IoVec, Request, Spawner};
use weft_qcow2::{Image, Place};
use weft_sim::{Executor, MemoryDevice};

use super::kit::{Form, Held, Holding};

/// Bytes of a part of a cluster that has a mapping of its own.
const PART: u64 = 2048;

/// Where the disk's first byte is in the file.
async fn first_place(image: &Image, spawner: &Spawner) -> u64 {
    let parts = image.parts(0, PART, spawner).await.expect("it is read");
    match parts[0].place {
        Place::Data(host) => host,
        ref other => panic!("it is {other:?}"),
    }
}

async fn put(queue: &dyn BlockQueue, offset: u64, value: u8, len: u64) {
    let data = IoVec::copy_of(&vec![value; len as usize]);
    let written = queue.submit(Request::write(offset, data)).await;
    written.result.expect("it is written");
}

/// A write fills empty parts and ends within one that holds data. While it is under way somebody else writes to the rest
/// of that one; a copy of the rest from before would undo it.
#[test]
fn a_write_that_fills_a_cluster_takes_nothing_old_along() {
    let executor = Executor::new(1);
    let held = Arc::new(Mutex::new(Held::default()));
    let file = Arc::new(Holding {
        below: MemoryDevice::new(0),
        held: Arc::clone(&held),
    });
    executor.block_on(async {
        let spawner = executor.spawner();
        let mut form = Form::number(3);
        form.options.extended_l2 = true;
        let image = form.make(file, &spawner).await;
        let queue = image.open(&spawner).expect("opens");
        put(&*queue, 0, 1, PART).await;
        put(&*queue, 4 * PART, 1, PART).await;
        let place = first_place(&image, &spawner).await;
        // From the empty part before the last one into that one, but for its last sector.
        held.lock().expect("nobody panics").at = Some(place + 3 * PART);
        let data = IoVec::copy_of(&vec![2; (2 * PART - 512) as usize]);
        let mut filling = queue.submit(Request::write(3 * PART, data));
        while held.lock().expect("nobody panics").release.is_none() {
            assert!((&mut filling).now_or_never().is_none());
            weft_sim::yield_now().await;
        }
        put(&*queue, 5 * PART - 512, 3, 512).await;
        let release = held.lock().expect("nobody panics").release.take();
        let sent = release.map(|release| release.send(()));
        assert_eq!(sent, Some(Ok(())), "a write is held");
        filling.await.result.expect("it is written");
        let read = Request::read(3 * PART, IoVec::zeroed(2 * PART as usize));
        let bytes = queue.submit(read).await.buffer.to_buffer();
        let (filled, beside) = bytes.split_at((2 * PART - 512) as usize);
        assert!(filled.iter().all(|&byte| byte == 2), "what was written");
        assert!(beside.iter().all(|&byte| byte == 3), "what was beside it");
    });
}
