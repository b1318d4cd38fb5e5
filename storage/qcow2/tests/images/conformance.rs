//! An image keeps the block contract, whatever its form.

use std::sync::Arc;

use weft_block::{BlockDevice, ErrorKind};
use weft_qcow2::{Image, OpenOptions};
use weft_sim::{Executor, MemoryDevice, conformance, for_each_seed};

use super::kit::Form;

#[test]
fn every_form_keeps_the_contract() {
    for_each_seed(Form::FORMS / 2, |seed| {
        let form = Form::number(seed);
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let file = Arc::new(MemoryDevice::new(0));
            let image = form.make(file, &spawner).await;
            conformance::check(Arc::new(image.clone()), &spawner).await;
            image.close(&spawner).await.expect("it closes");
        });
    });
}

#[test]
fn an_image_on_a_device_of_fixed_size_keeps_the_contract() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file = Arc::new(super::kit::Fixed::new(4 << 20));
        let image = Form::number(1).make(file, &spawner).await;
        conformance::check(Arc::new(image), &spawner).await;
    });
}

#[test]
fn a_read_only_image_refuses_writes() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file = Arc::new(MemoryDevice::new(0));
        let form = Form::number(3);
        drop(form.make(file.clone(), &spawner).await);
        let options = OpenOptions {
            read_only: true,
            ..OpenOptions::default()
        };
        let image = Image::open(file, options, &spawner).await.expect("opens");
        conformance::check_read_only(Arc::new(image), &spawner).await;
    });
}

#[test]
fn an_image_does_not_open_without_what_it_needs() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
        let form = Form::number(28);
        drop(form.make(file.clone(), &spawner).await);
        let opened = Image::open(file.clone(), OpenOptions::default(), &spawner).await;
        let error = opened.err().expect("the backing file is not given");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("base"), "{error}");
        let empty = Arc::new(MemoryDevice::new(1 << 20));
        let opened = Image::open(empty, OpenOptions::default(), &spawner).await;
        assert_eq!(opened.err().expect("no image").kind(), ErrorKind::Invalid);
    });
}
