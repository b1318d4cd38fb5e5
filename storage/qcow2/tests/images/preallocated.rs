//! Room that is taken before anything is written.

use std::sync::Arc;

use weft_block::{BlockDevice, ErrorKind, Info, IoVec, Request, Spawner};
use weft_qcow2::format::Version;
use weft_qcow2::{Fill, Image, Place, Repair};
use weft_sim::{Executor, MemoryDevice, PowerCut, PowerSupply, conformance, for_each_seed};

use super::kit::{Form, SIZE, assert_clean};

const FILLS: [Fill; 3] = [Fill::Nothing, Fill::Room, Fill::Zeroes];

/// Forms of which entries can say that room is taken and reads as before.
fn form(number: u64) -> Option<Form> {
    let plain = Form::number(number);
    if plain.backed && !plain.options.extended_l2 {
        return None;
    }
    let later = plain.options.version != Version::V2;
    Some(if number.is_multiple_of(3) && later {
        plain.encrypted()
    } else {
        plain
    })
}

async fn contents(image: &Image, spawner: &Spawner) -> Vec<u8> {
    let queue = image.open(spawner).expect("opens");
    let read = queue.submit(Request::read(0, IoVec::zeroed(SIZE as usize)));
    let answer = read.await;
    answer.result.expect("it is read");
    answer.buffer.into_buffer().to_vec()
}

#[test]
fn a_disk_with_its_room_reads_as_before_and_keeps_the_contract() {
    for_each_seed(Form::FORMS, |seed| {
        let Some(form) = form(seed) else { return };
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let image = form.make(Arc::new(MemoryDevice::new(0)), &spawner).await;
            let before = contents(&image, &spawner).await;
            let fill = FILLS[seed as usize % 3];
            // In two pieces, the second over a part of the first.
            for range in [0..SIZE / 3, SIZE / 4..u64::MAX] {
                image
                    .preallocate(range, fill, &spawner)
                    .await
                    .expect("there is room");
            }
            assert!(contents(&image, &spawner).await == before, "{form:?}");
            let parts = image.parts(0, SIZE, &spawner).await.expect("they are told");
            let placed = |place: Place| {
                matches!(
                    place,
                    Place::Data(_) | Place::Zero(Some(_)) | Place::Absent(Some(_))
                )
            };
            assert!(parts.iter().all(|part| placed(part.place)), "{parts:?}");
            assert_clean(&image, &spawner).await;
            conformance::check(Arc::new(image.clone()), &spawner).await;
            image.close(&spawner).await.expect("it closes");
            assert_clean(&image, &spawner).await;
        });
    });
}

/// Clusters that were in use before are zeroes when they become room.
#[test]
fn room_that_was_used_before_reads_as_zeroes() {
    let executor = Executor::new(3);
    executor.block_on(async {
        let spawner = executor.spawner();
        let form = Form::number(0);
        for fill in FILLS {
            let image = form.make(Arc::new(MemoryDevice::new(0)), &spawner).await;
            let queue = image.open(&spawner).expect("opens");
            let write = Request::write(0, IoVec::copy_of(&[7; 64 << 10]));
            queue.submit(write).await.result.expect("it is written");
            queue
                .submit(Request::flush())
                .await
                .result
                .expect("flushed");
            let discard = Request::write_zeroes(0, 64 << 10, true);
            queue
                .submit(discard)
                .await
                .result
                .expect("it is given back");
            queue
                .submit(Request::flush())
                .await
                .result
                .expect("flushed");
            image
                .preallocate(0..SIZE, fill, &spawner)
                .await
                .expect("there is room");
            assert!(
                contents(&image, &spawner)
                    .await
                    .iter()
                    .all(|byte| *byte == 0),
                "{fill:?}"
            );
        }
    });
}

#[test]
fn a_cut_while_room_is_taken_leaves_a_whole_image() {
    for_each_seed(112, |seed| {
        let Some(form) = form(seed) else { return };
        let supply = PowerSupply::new(seed);
        supply.set_tearing(false);
        let file = PowerCut::new(&supply, Info::new(0, 512));
        let below: Arc<dyn BlockDevice> = Arc::new(file);
        let made = |executor: &Executor| executor.spawner();
        let executor = Executor::new(seed);
        let before = executor.block_on(async {
            let spawner = made(&executor);
            let image = form.make(Arc::clone(&below), &spawner).await;
            let before = contents(&image, &spawner).await;
            image.close(&spawner).await.expect("it closes");
            supply.cut_after(seed.wrapping_mul(0x9e37_79b9).rotate_left(7) % 60);
            let fill = FILLS[seed as usize % 3];
            // It may end before the power does.
            let _ = image.preallocate(0..SIZE, fill, &spawner).await;
            before
        });
        supply.power_on();
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = made(&executor);
            let image = Image::open(below, form.open_options(), &spawner).await;
            let image = image.expect("it opens");
            let report = image.check(Repair::Nothing, &spawner).await;
            let report = report.expect("it is checked");
            assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
            assert!(contents(&image, &spawner).await == before, "{form:?}");
        });
    });
}

#[test]
fn what_no_entry_can_say_is_refused() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let mut old = Form::number(8);
        assert_eq!(old.options.version, Version::V2);
        old = old.encrypted();
        for form in [Form::number(28), old] {
            let image = form.make(Arc::new(MemoryDevice::new(0)), &spawner).await;
            let taken = image.preallocate(0..SIZE, Fill::Nothing, &spawner).await;
            let error = taken.expect_err("it cannot be said");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
    });
}
