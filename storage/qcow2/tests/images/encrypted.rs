//! Images whose data is encrypted.

use std::sync::Arc;

use weft_block::{BlockDevice, ErrorKind, IoVec, Request, Spawner};
use weft_qcow2::luks::{self, Area};
use weft_qcow2::{Image, OpenOptions, Repair, read_encryption};
use weft_sim::{Executor, MemoryDevice, conformance, for_each_seed};

use super::kit::{Form, SIZE, assert_clean, chance, keys, work};

#[test]
fn every_form_keeps_the_contract_encrypted() {
    for_each_seed(Form::FORMS / 2, |seed| {
        let form = Form::number(seed).encrypted();
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let image = form.make(Arc::new(MemoryDevice::new(0)), &spawner).await;
            conformance::check(Arc::new(image.clone()), &spawner).await;
            let report = image.check(Repair::Nothing, &spawner).await;
            let report = report.expect("it is checked");
            assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
        });
    });
}

/// An image of one cluster of text.
async fn with_text(file: &Arc<dyn BlockDevice>, spawner: &Spawner) {
    let form = Form::number(3).encrypted();
    let image = form.make(Arc::clone(file), spawner).await;
    let queue = image.open(spawner).expect("opens");
    let text = IoVec::copy_of(&b"in plain words, ".repeat(256));
    queue
        .submit(Request::write(SIZE / 2, text))
        .await
        .result
        .expect("it is written");
    image.close(spawner).await.expect("it closes");
}

async fn text_of(image: &Image, spawner: &Spawner) -> weft_block::Result<Vec<u8>> {
    let queue = image.open(spawner)?;
    let read = queue
        .submit(Request::read(SIZE / 2, IoVec::zeroed(512)))
        .await;
    read.result?;
    Ok(read.buffer.into_buffer().to_vec())
}

#[test]
fn what_is_written_is_not_in_the_file() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let memory = MemoryDevice::new(0);
        let file: Arc<dyn BlockDevice> = Arc::new(memory.clone());
        with_text(&file, &spawner).await;
        let bytes = memory.peek(0, file.info().size as usize);
        let seen = bytes.windows(8).any(|window| window == b"in plain");
        assert!(!seen);
    });
}

#[test]
fn an_image_opens_with_its_own_key_alone() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
        with_text(&file, &spawner).await;
        let open = async |key| {
            let options = OpenOptions {
                key,
                ..OpenOptions::default()
            };
            Image::open(Arc::clone(&file), options, &spawner).await
        };
        let error = open(None).await.err().expect("it needs a key");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let (_, other) = Area::create(
            luks::CreateOptions::default(),
            b"passphrase",
            work(),
            &mut chance(8),
        )
        .expect("an area is made");
        let error = open(Some(Arc::new(other)))
            .await
            .err()
            .expect("it is another's");
        assert!(error.to_string().contains("not the master key"), "{error}");

        let area = read_encryption(&*file, &spawner).await.expect("it is read");
        let area = area.expect("it is encrypted");
        let unlocked = area.unlock(b"passphrase").expect("it fits");
        let image = open(Some(Arc::new(unlocked.key))).await.expect("it opens");
        let text = text_of(&image, &spawner).await.expect("it is read");
        assert!(text.starts_with(b"in plain words"));
    });
}

#[test]
fn without_its_key_only_tables_are_looked_at() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
        with_text(&file, &spawner).await;
        let options = OpenOptions {
            without_key: true,
            ..OpenOptions::default()
        };
        let image = Image::open(file, options, &spawner).await.expect("opens");
        assert_clean(&image, &spawner).await;
        let error = text_of(&image, &spawner)
            .await
            .expect_err("it is encrypted");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let queue = image.open(&spawner).expect("opens");
        for offset in [0, SIZE / 2] {
            let write = Request::write(offset, IoVec::zeroed(512));
            let error = queue
                .submit(write)
                .await
                .result
                .expect_err("it is encrypted");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
        assert_clean(&image, &spawner).await;
    });
}

#[test]
fn keys_change_under_an_image_in_use() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
        with_text(&file, &spawner).await;
        let form = Form::number(3).encrypted();
        let image = Image::open(Arc::clone(&file), form.open_options(), &spawner).await;
        let image = image.expect("it opens");

        let mut area = keys().0;
        let change = area.change_key(b"passphrase", b"another", work(), &mut chance(2));
        let change = change.expect("there is a free slot");
        image
            .change_keys(&area, &change, &spawner)
            .await
            .expect("they change");
        let there = read_encryption(&*file, &spawner).await.expect("it is read");
        let there = there.expect("it is encrypted");
        assert!(there == area);
        assert!(there.unlock(b"passphrase").is_err());
        assert!(there.unlock(b"another").is_ok());
        let text = text_of(&image, &spawner).await.expect("it is read");
        assert!(text.starts_with(b"in plain words"));

        let options = luks::CreateOptions::default();
        let (stranger, _) = Area::create(options, b"x", work(), &mut chance(9)).expect("made");
        let refused = image.change_keys(&stranger, &change, &spawner).await;
        assert_eq!(refused.expect_err("another's").kind(), ErrorKind::Invalid);
    });
}
