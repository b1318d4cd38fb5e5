//! Images that are made another way: what they hold stays, and a cut leaves the old way or the new one.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, ErrorKind, Info, IoVec, Request, Spawner};
use weft_qcow2::format::{Backing, CompressionType, Header, Version};
use weft_qcow2::{Amendment, Image, OpenOptions, Repair, SnapshotName, read_header};
use weft_sim::{Executor, MemoryDevice, PowerCut, PowerSupply, for_each_seed};

use super::kit::{Form, SIZE, assert_clean};

const VERSION_2: Amendment = Amendment::Version(Version::V2);
const VERSION_3: Amendment = Amendment::Version(Version::V3);

async fn contents(image: &Image, spawner: &Spawner) -> Vec<u8> {
    let queue = image.open(spawner).expect("opens");
    let answer = queue.submit(Request::read(0, IoVec::zeroed(SIZE as usize)));
    let answer = answer.await;
    answer.result.expect("it is read");
    answer.buffer.into_buffer().to_vec()
}

/// Writes here and there, and lets parts read as zeroes, over a backing file and beside it.
async fn fill(image: &Image, random: &mut ChaCha8Rng, spawner: &Spawner) {
    let queue = image.open(spawner).expect("opens");
    for round in 0..12_u8 {
        let start = random.random_range(0..SIZE / 512 - 200) * 512;
        let len = random.random_range(1..200) * 512;
        let request = match round % 3 {
            0 => Request::write_zeroes(start, len, round % 2 == 0),
            _ => Request::write(start, IoVec::copy_of(&vec![round + 1; len as usize])),
        };
        queue.submit(request).await.result.expect("it is done");
    }
}

async fn opened(form: &Form, file: &Arc<dyn BlockDevice>, spawner: &Spawner) -> Image {
    let opened = Image::open(Arc::clone(file), form.open_options(), spawner).await;
    opened.expect("it opens")
}

/// What the disk and, if there is one, the snapshot hold.
async fn all(form: &Form, file: &Arc<dyn BlockDevice>, spawner: &Spawner) -> Vec<Vec<u8>> {
    let image = opened(form, file, spawner).await;
    assert_clean(&image, spawner).await;
    let mut all = vec![contents(&image, spawner).await];
    for entry in image.snapshots(spawner).await.expect("they are told") {
        let options = OpenOptions {
            snapshot: Some(entry.id),
            ..form.open_options()
        };
        let image = Image::open(Arc::clone(file), options, spawner).await;
        all.push(contents(&image.expect("it opens"), spawner).await);
    }
    all
}

/// Ways that an image can have, one after the other; those that it cannot have are refused.
fn ways() -> Vec<Amendment> {
    let mut ways = vec![VERSION_3, Amendment::LazyRefcounts(true)];
    ways.extend([0, 6, 1, 5, 2, 3, 4].map(Amendment::RefcountOrder));
    ways.extend([Amendment::LazyRefcounts(false), VERSION_2, VERSION_3]);
    ways
}

#[test]
fn every_way_and_back_keeps_the_disk_and_its_snapshots() {
    for_each_seed(Form::FORMS, |seed| {
        let form = Form::number(seed);
        let form = match seed % 5 {
            4 => form.encrypted(),
            _ => form,
        };
        let executor = Executor::new(seed);
        executor.block_on(async {
            let spawner = executor.spawner();
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
            let image = form.make(Arc::clone(&file), &spawner).await;
            fill(&image, &mut random, &spawner).await;
            let name = SnapshotName {
                name: "one".into(),
                seconds: 1,
                nanoseconds: 0,
            };
            if seed.is_multiple_of(2) && form.options.refcount_order > 0 {
                let kept = image.create_snapshot(name, &spawner).await;
                kept.expect("it is kept");
                fill(&image, &mut random, &spawner).await;
            }
            image.close(&spawner).await.expect("it closes");
            let before = all(&form, &file, &spawner).await;
            for way in ways() {
                let image = opened(&form, &file, &spawner).await;
                let wanted = way.applied(&image.header());
                match image.amend(&way, &spawner).await {
                    Ok(()) => {
                        let header = read_header(&*file, &spawner).await.expect("it is read");
                        assert_eq!(way.applied(&header).ok(), Some(header), "{way:?}");
                    }
                    Err(error) => {
                        let kinds = [ErrorKind::Invalid, ErrorKind::Unsupported];
                        assert!(kinds.contains(&error.kind()), "{form:?}, {way:?}: {error}");
                        let shared = before.len() > 1;
                        assert!(wanted.is_err() || shared, "{form:?}, {way:?}: {error}");
                    }
                }
                let after = all(&form, &file, &spawner).await;
                assert!(after == before, "{form:?}, {way:?}");
            }
        });
    });
}

#[test]
fn version_2_says_no_zeroes_and_shows_nothing_from_below() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        // Without and with a backing file.
        for number in [1, 29] {
            let form = Form::number(number);
            let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
            let image = form.make(Arc::clone(&file), &spawner).await;
            let queue = image.open(&spawner).expect("opens");
            let zeroes = Request::write_zeroes(4096, SIZE - 8192, true);
            queue.submit(zeroes).await.result.expect("it is done");
            drop(queue);
            image.close(&spawner).await.expect("it closes");
            drop(image);
            let image = opened(&form, &file, &spawner).await;
            let before = contents(&image, &spawner).await;
            image.amend(&VERSION_2, &spawner).await.expect("it can be");
            let after = all(&form, &file, &spawner).await;
            assert!(after == [before], "{form:?}");
            let header = read_header(&*file, &spawner).await.expect("it is read");
            assert_eq!(header.version, Version::V2);
        }
    });
}

#[test]
fn what_version_2_cannot_say_is_refused_by_its_name() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let refused = async |form: Form, snapshot: bool| {
            let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
            let image = form.make(Arc::clone(&file), &spawner).await;
            if snapshot {
                let queue = image.open(&spawner).expect("opens");
                let zeroes = Request::write_zeroes(0, 65536, true);
                queue.submit(zeroes).await.result.expect("it is done");
                let name = SnapshotName {
                    name: "monday".into(),
                    seconds: 1,
                    nanoseconds: 0,
                };
                let kept = image.create_snapshot(name, &spawner).await;
                kept.expect("it is kept");
            }
            image
                .amend(&VERSION_2, &spawner)
                .await
                .unwrap_err()
                .to_string()
        };
        let mut form = Form::number(3);
        form.options.compression = CompressionType::Zstd;
        assert!(refused(form, false).await.contains("zstd"));
        let mut form = Form::number(3);
        form.options.extended_l2 = true;
        assert!(refused(form, false).await.contains("extended L2"));
        let mut form = Form::number(3);
        form.options.refcount_order = 3;
        assert!(refused(form, false).await.contains("16 bits"));
        let said = refused(Form::number(31), true).await;
        assert!(
            said.contains("snapshot monday has clusters of zeroes"),
            "{said}"
        );
    });
}

#[test]
fn who_has_the_image_open_writes_it_no_more() {
    let executor = Executor::new(1);
    executor.block_on(async {
        let spawner = executor.spawner();
        let file: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(0));
        let image = Form::number(3).make(Arc::clone(&file), &spawner).await;
        let queue = image.open(&spawner).expect("opens");
        let way = Amendment::RefcountOrder(6);
        image
            .clone()
            .amend(&way, &spawner)
            .await
            .expect("it can be");
        let write = Request::write(0, IoVec::copy_of(&[1; 65536]));
        let error = queue.submit(write).await.result.unwrap_err();
        assert!(error.to_string().contains("made another way"), "{error}");
    });
}

fn cut(seed: u64) {
    let mut form = Form::number(seed % Form::FORMS);
    form.options.extended_l2 = false;
    form.options.compression = CompressionType::Zlib;
    if let Some(backing) = &mut form.options.backing
        && form.options.cluster_bits > 9
        && seed.is_multiple_of(2)
    {
        // Names behind the first block.
        *backing = Backing {
            path: "b".repeat(700),
            format: Some("raw".into()),
        };
    }
    let supply = PowerSupply::new(seed);
    supply.set_tearing(false);
    let file: Arc<dyn BlockDevice> = Arc::new(PowerCut::new(&supply, Info::new(0, 512)));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut before = Vec::new();
    let mut known: Option<[Header; 2]> = None;
    for round in 0..4 {
        let executor = Executor::new(seed ^ round << 32);
        executor.block_on(async {
            let spawner = executor.spawner();
            if round == 0 {
                let image = form.make(Arc::clone(&file), &spawner).await;
                fill(&image, &mut random, &spawner).await;
                image.close(&spawner).await.expect("it closes");
                drop(image);
                before = contents(&opened(&form, &file, &spawner).await, &spawner).await;
            }
            let image = opened(&form, &file, &spawner).await;
            if let Some([old, new]) = &known {
                let found = said(&image.header());
                assert!(
                    found == said(old) || found == said(new),
                    "{found:?} is neither {old:?} nor {new:?}"
                );
            }
            let report = image.check(Repair::Nothing, &spawner).await;
            let report = report.expect("it is checked");
            assert_eq!(report.corruptions, 0, "{:#?}", report.problems);
            assert!(contents(&image, &spawner).await == before, "{form:?}");
            drop(image);
            supply.cut_after(random.random_range(0..40));
            loop {
                let way = ways()[random.random_range(0..ways().len())].clone();
                let opened = Image::open(Arc::clone(&file), form.open_options(), &spawner);
                let Ok(image) = opened.await else { break };
                let old = image.header();
                let Ok(new) = way.applied(&old) else {
                    continue;
                };
                known = Some([old, new]);
                if image.amend(&way, &spawner).await.is_err() {
                    break;
                }
            }
            assert!(!supply.is_on(), "only the cut ends it");
        });
        supply.power_on();
    }
}

/// What a header says that does not change place.
fn said(header: &Header) -> (Version, u32, u64, Option<Backing>) {
    let bits = header.geometry.refcount_order();
    (header.version, bits, header.compatible, header.backing())
}

#[test]
fn a_cut_leaves_the_old_way_or_the_new_one() {
    for_each_seed(112, cut);
}
