//! What the tests of images share.

use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};

use futures_channel::oneshot;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, BlockQueue, Completion, LocalBoxFuture, Op, Request, Spawner};
use weft_qcow2::format::{Backing, CompressionType, Version};
use weft_qcow2::luks::{self, Algorithm, Area, IvKind, MasterKey, Mode, Spec, Work};
use weft_qcow2::{CreateOptions, Image, OpenOptions, Repair, create};
use weft_sim::{MemoryDevice, Oracle};

/// Bytes of the disk in most tests.
pub(crate) const SIZE: u64 = 1 << 20;

/// What a backing file holds.
fn base() -> Vec<u8> {
    (0..SIZE / 2)
        .map(|byte| (byte / 512 % 251) as u8 | 1)
        .collect()
}

/// An area of keys that `passphrase` opens, and its key. Made once: it takes a while.
pub(crate) fn keys() -> (Area, Arc<MasterKey>) {
    static KEYS: OnceLock<(Area, Arc<MasterKey>)> = OnceLock::new();
    let made = KEYS.get_or_init(|| {
        let options = luks::CreateOptions {
            spec: Spec::new(Algorithm::Aes128, Mode::Xts, IvKind::Plain64)
                .expect("it goes together"),
            ..luks::CreateOptions::default()
        };
        let (area, key) =
            Area::create(options, b"passphrase", work(), &mut chance(7)).expect("an area is made");
        (area, Arc::new(key))
    });
    made.clone()
}

pub(crate) fn work() -> Work {
    Work::iterations(1000).expect("that is few")
}

/// Numbers from a seed in place of chance.
pub(crate) fn chance(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    move |bytes| random.fill(bytes)
}

/// Finds nothing wrong with an image, not even room that nobody uses.
pub(crate) async fn assert_clean(image: &Image, spawner: &Spawner) {
    let report = image
        .check(Repair::Nothing, spawner)
        .await
        .expect("it is checked");
    assert!(report.is_clean(), "{:#?}", report.problems);
}

/// A form that an image can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) options: CreateOptions,
    /// Whether there is a backing file, of half the size and full of data.
    pub(crate) backed: bool,
}

impl Form {
    /// Each number is another form; they begin again after [`FORMS`](Self::FORMS).
    pub(crate) fn number(number: u64) -> Self {
        let mut options = CreateOptions::new(SIZE);
        options.cluster_bits = [9, 12, 14, 16][(number % 4) as usize];
        let kind = number / 4 % 7;
        match kind {
            1 => options.extended_l2 = true,
            2 => options.version = Version::V2,
            3 => options.refcount_order = 0,
            4 => options.refcount_order = 6,
            5 => options.compression = CompressionType::Zstd,
            6 => options.refcount_order = 2,
            _ => {}
        }
        if options.extended_l2 {
            options.cluster_bits = options.cluster_bits.max(14);
        }
        let backed = number / 28 % 2 == 1;
        if backed {
            options.backing = Some(Backing {
                path: "base".into(),
                format: Some("raw".into()),
            });
        }
        Self { options, backed }
    }

    pub(crate) const FORMS: u64 = 56;

    /// The same with its data encrypted.
    pub(crate) fn encrypted(mut self) -> Self {
        self.options.encryption = Some(keys().0);
        self
    }

    /// What the image reads as where it holds nothing.
    pub(crate) fn backing(&self) -> Option<Arc<dyn BlockDevice>> {
        self.backed.then(|| {
            let memory = MemoryDevice::new(SIZE / 2);
            memory.poke(0, &base());
            Arc::new(memory) as Arc<dyn BlockDevice>
        })
    }

    /// A judge that knows what the image reads as at first.
    pub(crate) fn oracle(&self) -> Oracle {
        let oracle = Oracle::new(512);
        if self.backed {
            oracle.holds(0, &base());
        }
        oracle
    }

    pub(crate) fn open_options(&self) -> OpenOptions {
        OpenOptions {
            backing: self.backing(),
            key: self.options.encryption.is_some().then(|| keys().1),
            ..OpenOptions::default()
        }
    }

    /// Makes an image of this form in `file` and opens it.
    pub(crate) async fn make(&self, file: Arc<dyn BlockDevice>, spawner: &Spawner) -> Image {
        create(&*file, &self.options, spawner)
            .await
            .expect("an image is made");
        Image::open(file, self.open_options(), spawner)
            .await
            .expect("it opens")
    }
}

/// A device that keeps its size, and whose old contents are not zeroes.
pub(crate) struct Fixed(MemoryDevice);

impl Fixed {
    pub(crate) fn new(size: u64) -> Self {
        let memory = MemoryDevice::new(size);
        for sector in 0..size / 512 {
            memory.poke(sector * 512, &[0xa5; 512]);
        }
        Self(memory)
    }
}

impl BlockDevice for Fixed {
    fn info(&self) -> weft_block::Info {
        self.0.info()
    }

    fn open(&self, spawner: &Spawner) -> weft_block::Result<Box<dyn weft_block::BlockQueue>> {
        self.0.open(spawner)
    }
}

/// A device that keeps the first write to a part of it back until it is told to let go.
pub(crate) struct Holding {
    pub(crate) below: MemoryDevice,
    pub(crate) held: Arc<Mutex<Held>>,
}

/// What is kept back.
#[derive(Default)]
pub(crate) struct Held {
    /// The next write that touches this byte.
    pub(crate) at: Option<u64>,
    pub(crate) release: Option<oneshot::Sender<()>>,
}

impl BlockDevice for Holding {
    fn info(&self) -> weft_block::Info {
        self.below.info()
    }

    fn open(&self, spawner: &Spawner) -> weft_block::Result<Box<dyn weft_block::BlockQueue>> {
        Ok(Box::new(HoldingQueue {
            below: self.below.open(spawner)?.into(),
            held: Arc::clone(&self.held),
        }))
    }

    fn set_len(&self, size: u64) -> weft_block::Result<()> {
        self.below.set_len(size)
    }
}

struct HoldingQueue {
    below: Rc<dyn BlockQueue>,
    held: Arc<Mutex<Held>>,
}

impl BlockQueue for HoldingQueue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let mut held = self.held.lock().expect("nobody panics");
        let range = request.offset..request.end();
        let is_write = matches!(request.op, Op::Write { .. });
        if !is_write || !held.at.is_some_and(|at| range.contains(&at)) {
            return self.below.submit(request);
        }
        let (release, released) = oneshot::channel();
        (held.at, held.release) = (None, Some(release));
        let below = Rc::clone(&self.below);
        Box::pin(async move {
            let _ = released.await;
            below.submit(request).await
        })
    }
}
