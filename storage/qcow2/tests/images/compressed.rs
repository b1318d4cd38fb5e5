//! Compressed writes.

use std::rc::Rc;
use std::sync::Arc;

use futures_channel::oneshot;
use weft_block::{
    BlockDevice, BlockQueue, Completion, ErrorKind, Extent, Info, IoVec, LocalBoxFuture, Op,
    Request, Result, Spawner,
};
use weft_qcow2::{Image, Packed, Packer, SnapshotName};
use weft_sim::{Executor, MemoryDevice, conformance, for_each_seed};

use super::kit::{Form, SIZE, assert_clean};
use super::power::cut;

/// An image that compresses what is written in whole clusters.
struct Packing(Image);

impl BlockDevice for Packing {
    fn info(&self) -> Info {
        self.0.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(PackingQueue {
            image: self.0.clone(),
            packer: Rc::new(self.0.packer(spawner)?),
            queue: BlockDevice::open(&self.0, spawner)?.into(),
            spawner: Rc::clone(spawner),
        }))
    }
}

struct PackingQueue {
    image: Image,
    packer: Rc<Packer>,
    queue: Rc<dyn BlockQueue>,
    spawner: Spawner,
}

impl BlockQueue for PackingQueue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let header = self.image.header();
        let cluster = header.geometry.cluster();
        let whole = (request.offset | request.len).is_multiple_of(cluster) && request.len > 0;
        let valid = request.check(&self.image.info()).is_ok();
        let Op::Write { fua } = request.op else {
            return self.queue.submit(request);
        };
        if !whole || !valid {
            return self.queue.submit(request);
        }
        let bytes = request.buffer.to_buffer();
        let pack = |cluster: &[u8]| Packed::new(header.compression, cluster);
        let clusters: Vec<_> = bytes.chunks(cluster as usize).map(pack).collect();
        let (packer, queue) = (Rc::clone(&self.packer), Rc::clone(&self.queue));
        let (sender, receiver) = oneshot::channel();
        self.spawner.spawn(Box::pin(async move {
            let mut result = packer.write(request.offset, clusters).await;
            if fua && result.is_ok() {
                result = queue.submit(Request::flush()).await.result;
            }
            let completion = Completion {
                result,
                buffer: request.buffer,
            };
            let _ = sender.send(completion);
        }));
        Box::pin(async move { receiver.await.expect("the task ends") })
    }

    fn extents(&self, offset: u64, len: u64) -> LocalBoxFuture<'static, Result<Vec<Extent>>> {
        self.queue.extents(offset, len)
    }
}

/// A form with small clusters, so that many writes are of whole ones.
fn form(seed: u64) -> Form {
    let mut form = Form::number(seed);
    if !form.options.extended_l2 {
        form.options.cluster_bits = [9, 10, 12, 13][(seed % 4) as usize];
    }
    form
}

#[test]
fn every_form_keeps_the_contract_compressed() {
    for_each_seed(Form::FORMS, |seed| {
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let image = form(seed)
                .make(Arc::new(MemoryDevice::new(0)), &spawner)
                .await;
            conformance::check(Arc::new(Packing(image.clone())), &spawner).await;
            image.close(&spawner).await.expect("it closes");
            assert_clean(&image, &spawner).await;
        });
    });
}

#[test]
fn what_was_compressed_and_durable_is_there_after_a_cut() {
    let compressed = std::cell::Cell::new(0);
    for_each_seed(56, |seed| {
        compressed.set(compressed.get() + cut(&form(seed), seed, |image| Arc::new(Packing(image))))
    });
    assert!(compressed.get() > 0, "no cluster was compressed");
}

fn text(number: u64, len: u64) -> Vec<u8> {
    format!("cluster {number} of many, ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(len as usize)
        .collect()
}

#[test]
fn several_clusters_share_one_and_the_last_one_is_used_up() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file = Arc::new(MemoryDevice::new(0));
        let form = Form::number(3);
        let image = form.make(file.clone(), &spawner).await;
        let before = file.info().size;
        let cluster = image.header().geometry.cluster();
        let packer = image.packer(&spawner).expect("it compresses");
        let kind = image.header().compression;
        for number in 0..SIZE / cluster {
            let packed = Packed::new(kind, &text(number, cluster));
            packer
                .write(number * cluster, vec![packed])
                .await
                .expect("it is written");
        }
        image.close(&spawner).await.expect("it closes");
        // 16 clusters of 64 KiB with a block each, and an L2 table.
        assert_eq!(file.info().size - before, 2 * cluster);
        let queue = BlockDevice::open(&image, &spawner).expect("opens");
        let read = queue
            .submit(Request::read(0, IoVec::zeroed(SIZE as usize)))
            .await;
        read.result.expect("it is read");
        let bytes = read.buffer.into_buffer();
        for (number, part) in (0..).zip(bytes.chunks(cluster as usize)) {
            assert!(part == text(number, cluster));
        }
        // All of them go, and so does their cluster.
        let gone = queue.submit(Request::write_zeroes(0, SIZE, true)).await;
        gone.result.expect("they go");
        image.close(&spawner).await.expect("it closes");
        assert_clean(&image, &spawner).await;
        // Somebody else has it now; what is compressed next does not go where the last one ended.
        let plain = Request::write(0, IoVec::copy_of(&text(50, cluster)));
        queue.submit(plain).await.result.expect("it is written");
        let next = Packed::new(kind, &text(7, cluster));
        packer
            .write(cluster, vec![next])
            .await
            .expect("it is written");
        let read = queue
            .submit(Request::read(0, IoVec::zeroed(cluster as usize)))
            .await;
        read.result.expect("it is read");
        assert!(read.buffer.into_buffer()[..] == text(50, cluster));
        image.close(&spawner).await.expect("it closes");
        assert_eq!(file.info().size - before, 3 * cluster);
        assert_clean(&image, &spawner).await;
    });
}

#[test]
fn a_snapshot_keeps_what_was_compressed() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let image = Form::number(2)
            .make(Arc::new(MemoryDevice::new(0)), &spawner)
            .await;
        let cluster = image.header().geometry.cluster();
        let kind = image.header().compression;
        let packer = image.packer(&spawner).expect("it compresses");
        for number in 0..8 {
            packer
                .write(0, vec![Packed::new(kind, &text(number, cluster))])
                .await
                .expect("writes");
            let name = SnapshotName {
                name: format!("s{number}"),
                seconds: 0,
                nanoseconds: 0,
            };
            image
                .create_snapshot(name, &spawner)
                .await
                .expect("it is made");
            let other = Packed::new(kind, &text(100 + number, cluster));
            packer.write(cluster, vec![other]).await.expect("writes");
        }
        image.close(&spawner).await.expect("it closes");
        assert_clean(&image, &spawner).await;
        image
            .apply_snapshot("s3", &spawner)
            .await
            .expect("it is applied");
        let queue = BlockDevice::open(&image, &spawner).expect("opens");
        let read = queue
            .submit(Request::read(0, IoVec::zeroed(2 * cluster as usize)))
            .await;
        read.result.expect("it is read");
        let bytes = read.buffer.into_buffer();
        assert!(bytes[..cluster as usize] == text(3, cluster));
        assert!(bytes[cluster as usize..] == text(102, cluster));
    });
}

#[test]
fn a_bitmap_tells_of_compressed_writes() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let image = Form::number(3)
            .make(Arc::new(MemoryDevice::new(0)), &spawner)
            .await;
        image
            .create_bitmap("monday", 4096, true)
            .expect("it is made");
        let header = image.header();
        let cluster = header.geometry.cluster();
        let packed = Packed::new(header.compression, &text(1, cluster));
        let packer = image.packer(&spawner).expect("it compresses");
        packer
            .write(3 * cluster, vec![packed])
            .await
            .expect("it is written");
        let dirty = image.dirty("monday").expect("it is sound");
        assert_eq!(dirty, std::slice::from_ref(&(3 * cluster..4 * cluster)));
        image.close(&spawner).await.expect("it closes");
        assert_clean(&image, &spawner).await;
    });
}

#[test]
fn what_cannot_be_compressed_is_refused() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file = || Arc::new(MemoryDevice::new(0));
        let image = Form::number(2).encrypted().make(file(), &spawner).await;
        let error = image.packer(&spawner).err().expect("it is encrypted");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let image = Form::number(2).make(file(), &spawner).await;
        let cluster = image.header().geometry.cluster();
        let packer = image.packer(&spawner).expect("it compresses");
        let refused = async |guest, packed| {
            let answer: Result<()> = packer.write(guest, vec![packed]).await;
            answer.expect_err("refused").kind()
        };
        let short = || Packed::Short(vec![1; 10]);
        assert_eq!(refused(512, short()).await, ErrorKind::Misaligned);
        assert_eq!(refused(SIZE, short()).await, ErrorKind::OutOfRange);
        let long = Packed::Short(vec![1; cluster as usize]);
        assert_eq!(refused(0, long).await, ErrorKind::Invalid);
        assert_eq!(
            refused(0, Packed::Plain(vec![1; 512])).await,
            ErrorKind::Invalid
        );
    });
}
