//! Power cuts and full disks in the middle of commands, at every step by number, over simulated files.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_block::{
    BlockDevice, BlockQueue, Completion, Error, ErrorKind, Info, IoVec, LocalBoxFuture, Op,
    Request, Result, Spawner,
};
use weft_qcow2::format::{Backing, CompressionType, Version};
use weft_qcow2::{Amendment, CreateOptions, Fill, Image, OpenOptions, Repair, create, read_header};
use weft_sim::{MemoryDevice, PowerCut, PowerSupply};
use weft_uring::{block_on, spawner};

use super::copy::{Copy, read};
use super::keys::Keys;
use super::name::Name;
use super::open::{Chain, Format, Link};
use super::pack::Pack;
use super::policy::Policy;
use super::{commit, rebase};

/// Bytes of the disks.
const SIZE: u64 = 96 << 10;

/// Steps after which every command here has long ended.
const MOST_STEPS: u64 = 3000;

/// What is done to an image over another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    /// It rests on another image then.
    Rebase,
    /// It rests on nothing then.
    Flatten,
    Commit,
    /// A disk is copied over it.
    Convert,
    /// The same, compressed.
    Pack,
    /// Another image is made where one was.
    Create,
    Resize,
    /// Room is taken for the whole disk, which rests on nothing.
    Preallocate,
    /// It becomes one of version 3.
    Upgrade,
    /// One of version 2, which says no zeroes.
    Downgrade,
    /// Its refcounts get 64 bits.
    Widen,
    /// Or four.
    Narrow,
}

impl Command {
    /// What of the image it makes another way.
    fn amendment(self) -> Option<Amendment> {
        Some(match self {
            Self::Upgrade => Amendment::Version(Version::V3),
            Self::Downgrade => Amendment::Version(Version::V2),
            Self::Widen => Amendment::RefcountOrder(6),
            Self::Narrow => Amendment::RefcountOrder(2),
            _ => return None,
        })
    }
}

const COMMANDS: [Command; 12] = [
    Command::Rebase,
    Command::Flatten,
    Command::Commit,
    Command::Convert,
    Command::Pack,
    Command::Create,
    Command::Resize,
    Command::Preallocate,
    Command::Upgrade,
    Command::Downgrade,
    Command::Widen,
    Command::Narrow,
];

/// Bytes of the disk that are zeroes over the backing file, where the image can say that.
const ZEROES: std::ops::Range<usize> = 44 << 10..56 << 10;

/// The files of a test: the image, the one that it rests on, and another.
#[derive(Clone)]
struct Files {
    top: Arc<dyn BlockDevice>,
    base: Arc<dyn BlockDevice>,
    other: Arc<dyn BlockDevice>,
}

/// A disk of zeroes with three runs of data, other ones for each name.
fn disk(name: u8) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    for run in 0..3_usize {
        let start = ((usize::from(name) * 5 + run * 31) % 86) << 10;
        let mixed =
            (0..9 << 10).map(|at: usize| name ^ (at / 512) as u8 ^ (at * at / 77) as u8 | 1);
        bytes.splice(start..start + (9 << 10), mixed);
    }
    bytes
}

/// What the image holds at first: its own run over what it rests on.
fn expected() -> Vec<u8> {
    let (mut bytes, own) = (disk(1), disk(2));
    bytes[40 << 10..60 << 10].copy_from_slice(&own[40 << 10..60 << 10]);
    bytes
}

fn options(cluster_bits: u32, backing: Option<&str>) -> CreateOptions {
    let mut options = CreateOptions::new(SIZE);
    options.cluster_bits = cluster_bits;
    options.compression = CompressionType::Zstd;
    options.backing = backing.map(|path| Backing {
        path: path.to_owned(),
        format: Some("qcow2".to_owned()),
    });
    options
}

async fn write(device: &dyn BlockDevice, start: u64, bytes: &[u8]) -> Result<()> {
    let queue = device.open(&spawner())?;
    let request = Request::write(start, IoVec::copy_of(bytes));
    queue.submit(request).await.result?;
    queue.submit(Request::flush()).await.result
}

/// Makes the images.
async fn make(files: &Files, command: Command, cluster_bits: u32) {
    for (file, name) in [(&files.base, 1), (&files.other, 3)] {
        let made = create(&**file, &options(cluster_bits, None), &spawner()).await;
        made.expect("it is made");
        let image = Image::open(Arc::clone(file), OpenOptions::default(), &spawner()).await;
        let image = image.expect("it opens");
        write(&image, 0, &disk(name)).await.expect("it is written");
        image.close(&spawner()).await.expect("it closes");
    }
    let backing = (command != Command::Preallocate).then_some("base");
    // With room for it, a name that lies behind the first block.
    let long = "./".repeat(300) + "base";
    let far = command.amendment().is_some() && cluster_bits > 9;
    let backing = backing.map(|near| if far { &long } else { near });
    let mut options = options(cluster_bits, backing);
    if command.amendment().is_some() {
        options.compression = CompressionType::Zlib;
    }
    if command == Command::Upgrade {
        options.version = Version::V2;
    }
    let made = create(&*files.top, &options, &spawner()).await;
    made.expect("it is made");
    let image = open_top(files).await.expect("it opens");
    let whole = expected();
    let own = match backing {
        Some(_) => 40 << 10..60 << 10,
        None => 0..SIZE as usize / 2,
    };
    write(&image, own.start as u64, &whole[own.clone()])
        .await
        .expect("it is written");
    if command == Command::Downgrade {
        let queue = image.open(&spawner()).expect("opens");
        let (start, len) = (ZEROES.start as u64, ZEROES.len() as u64);
        let zeroes = Request::write_zeroes(start, len, true);
        queue.submit(zeroes).await.result.expect("it is done");
    }
    image.close(&spawner()).await.expect("it closes");
}

/// The image, over whichever its header names.
async fn open_top(files: &Files) -> Result<Image> {
    let header = read_header(&*files.top, &spawner()).await?;
    let below = match header.backing_path.as_deref() {
        None => None,
        Some(name) if name.ends_with("base") => Some(&files.base),
        Some("other") => Some(&files.other),
        Some(name) => panic!("it names {name}"),
    };
    let mut options = OpenOptions::default();
    if let Some(file) = below {
        let below = Image::open(Arc::clone(file), OpenOptions::default(), &spawner()).await?;
        options.backing = Some(Arc::new(below));
    }
    Image::open(Arc::clone(&files.top), options, &spawner()).await
}

/// As it is opened by commands, writable.
async fn chain(files: &Files) -> Result<Chain> {
    let mut links: Vec<Link> = Vec::new();
    for (name, file) in [("base", &files.base), ("top", &files.top)] {
        let header = read_header(&**file, &spawner()).await?;
        let options = OpenOptions {
            backing: match header.backing_path {
                Some(_) => links.last().map(|link| Arc::clone(&link.device)),
                None => None,
            },
            ..OpenOptions::default()
        };
        let image = Image::open(Arc::clone(file), options, &spawner()).await?;
        links.push(Link {
            name: Name::Path(name.into()),
            format: Format::Qcow2,
            file: Arc::clone(file),
            header: Some(header),
            data_file: None,
            device: Arc::new(image.clone()),
            image: Some(image),
        });
    }
    links.reverse();
    Ok(Chain { links })
}

fn said(error: crate::api::Error) -> Error {
    Error::new(ErrorKind::Io, error.message)
}

/// Makes the image rest on another, or on nothing.
async fn rest_on(backing: Option<String>, files: &Files, chain: &Chain) -> Result<()> {
    let request = rebase::Rebase {
        image: Name::Path("top".into()),
        format: None,
        backing_format: None,
        unsafely: false,
        policy: Policy::STRICT,
        keys: Keys::default(),
        backing,
    };
    let new = match &request.backing {
        None => None,
        Some(_) => {
            let top = Arc::clone(&files.other);
            Some(
                self::chain(&Files {
                    top,
                    ..files.clone()
                })
                .await?,
            )
        }
    };
    let done = rebase::onto(&request, chain, new.as_ref(), &|_, _| {});
    done.await.map_err(said)
}

/// Does it; a failure is an answer.
async fn run(command: Command, files: &Files, cluster_bits: u32) -> Result<()> {
    let quiet = |_: u64, _: u64| {};
    if command == Command::Create {
        create(&*files.top, &options(cluster_bits, None), &spawner()).await?;
        return Ok(());
    }
    let chain = chain(files).await?;
    let image = chain.image().map_err(said)?.clone();
    let source = MemoryDevice::new(SIZE);
    source.poke(0, &disk(7));
    let source: Arc<dyn BlockDevice> = Arc::new(source);
    match command {
        Command::Rebase | Command::Flatten => {
            let backing = (command == Command::Rebase).then(|| "other".to_owned());
            rest_on(backing, files, &chain).await
        }
        Command::Commit => commit::into(&chain, 1, false, &quiet).await.map_err(said),
        Command::Convert => {
            let copy = Copy {
                from: &source,
                to: &image,
                size: SIZE,
                grain: 4096,
                onto_zeroes: false,
                progress: &quiet,
            };
            copy.run().await?;
            chain.close().await.map_err(said)
        }
        Command::Pack => {
            let pack = Pack {
                from: &source,
                to: &image,
                size: SIZE,
                onto_zeroes: false,
                progress: &quiet,
            };
            pack.run().await?;
            chain.close().await.map_err(said)
        }
        Command::Resize => {
            image.resize(SIZE * 3, &spawner()).await?;
            chain.close().await.map_err(said)
        }
        Command::Preallocate => {
            image.preallocate(0..SIZE, Fill::Room, &spawner()).await?;
            chain.close().await.map_err(said)
        }
        Command::Upgrade | Command::Downgrade | Command::Widen | Command::Narrow => {
            let way = command.amendment().expect("it is one");
            image.amend(&way, &spawner()).await
        }
        Command::Create => unreachable!("it was done"),
    }
}

/// Judges what is there after a command that did not end, or did.
async fn judge(command: Command, files: &Files, ended: bool, what: &str) {
    if command == Command::Create {
        let Ok(image) = open_top(files).await else {
            assert!(!ended, "{what}: it was made");
            return;
        };
        clean(&image, what).await;
        return;
    }
    for file in [&files.base, &files.other] {
        let image = Image::open(Arc::clone(file), OpenOptions::default(), &spawner()).await;
        clean(&image.expect("it opens"), what).await;
    }
    let image = open_top(files)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    clean(&image, what).await;
    let queue = image.open(&spawner()).expect("opens");
    let bytes = read(&*queue, 0, SIZE).await.expect("it is read");
    let mut before = expected();
    if command == Command::Preallocate {
        before[SIZE as usize / 2..].fill(0);
    }
    if command == Command::Downgrade {
        before[ZEROES].fill(0);
    }
    if let Some(way) = command.amendment().filter(|_| ended) {
        let header = image.header();
        let same = way.applied(&header).is_ok_and(|after| after == header);
        assert!(same, "{what}: {header:?}");
    }
    let new = disk(7);
    let grain = 512;
    for (index, part) in bytes.chunks(grain).enumerate() {
        let at = index * grain;
        let old = &before[at..at + grain];
        let fine = match command {
            // What was copied until then is there, or not.
            Command::Convert | Command::Pack if ended => part == &new[at..at + grain],
            Command::Convert | Command::Pack => part == old || part == &new[at..at + grain],
            _ => part == old,
        };
        assert!(fine, "{what}: the disk has changed at {at}");
    }
}

async fn clean(image: &Image, what: &str) {
    let report = image.check(Repair::Nothing, &spawner()).await;
    let report = report.expect("it is checked");
    assert_eq!(report.corruptions, 0, "{what}: {:#?}", report.problems);
}

/// Does each command again and again, each time until one step later, and judges what it leaves.
fn at_every_step(failing: impl Fn(Command, u32, u64) -> bool) {
    for command in COMMANDS {
        for cluster_bits in [9, 12] {
            let steps = (0..MOST_STEPS).find(|step| failing(command, cluster_bits, *step));
            let steps = steps.unwrap_or_else(|| panic!("{command:?} has no end"));
            // Where names lie in the first block, one write of it makes the image another.
            let least = if command == Command::Upgrade { 1 } else { 3 };
            assert!(
                steps >= least,
                "{command:?}: {steps} steps are too few to have seen any"
            );
        }
    }
}

#[test]
fn a_cut_at_any_step_of_a_command_costs_nothing() {
    at_every_step(|command, cluster_bits, step| {
        let supply = PowerSupply::new(step);
        supply.set_tearing(false);
        let file =
            || -> Arc<dyn BlockDevice> { Arc::new(PowerCut::new(&supply, Info::new(0, 512))) };
        let files = Files {
            top: file(),
            base: file(),
            other: file(),
        };
        let ended = block_on(async {
            make(&files, command, cluster_bits).await;
            supply.cut_after(step);
            run(command, &files, cluster_bits).await.is_ok()
        });
        let what = format!("{command:?}, clusters of 2^{cluster_bits}, a cut after {step} steps");
        // What was done must last.
        supply.cut();
        supply.power_on();
        block_on(judge(command, &files, ended, &what));
        ended
    });
}

#[test]
fn a_disk_that_is_full_at_any_step_of_a_command_costs_nothing() {
    at_every_step(|command, cluster_bits, step| {
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let file = || -> Arc<dyn BlockDevice> {
            Arc::new(Full {
                below: MemoryDevice::new(0),
                left: Arc::clone(&left),
            })
        };
        let files = Files {
            top: file(),
            base: file(),
            other: file(),
        };
        block_on(async {
            make(&files, command, cluster_bits).await;
            left.store(step, Ordering::Relaxed);
            let result = run(command, &files, cluster_bits).await;
            left.store(u64::MAX, Ordering::Relaxed);
            let what =
                format!("{command:?}, clusters of 2^{cluster_bits}, full after {step} steps");
            judge(command, &files, result.is_ok(), &what).await;
            result.is_ok()
        })
    });
}

/// A file whose disk is full after so many writes, for good.
struct Full {
    below: MemoryDevice,
    left: Arc<AtomicU64>,
}

/// One step; whether there was room for it.
fn take(left: &AtomicU64) -> Result<()> {
    let one_less = |left: u64| left.checked_sub(1);
    let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    taken
        .map(|_| ())
        .map_err(|_| Error::new(ErrorKind::NoSpace, "the simulated disk is full"))
}

impl BlockDevice for Full {
    fn info(&self) -> Info {
        self.below.info()
    }

    fn open(&self, spawner: &Spawner) -> Result<Box<dyn BlockQueue>> {
        Ok(Box::new(FullQueue {
            below: self.below.open(spawner)?.into(),
            left: Arc::clone(&self.left),
        }))
    }

    fn set_len(&self, size: u64) -> Result<()> {
        if size > self.below.info().size {
            take(&self.left)?;
        }
        self.below.set_len(size)
    }
}

struct FullQueue {
    below: Rc<dyn BlockQueue>,
    left: Arc<AtomicU64>,
}

impl BlockQueue for FullQueue {
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Completion> {
        let is_write = matches!(request.op, Op::Write { .. } | Op::WriteZeroes { .. });
        if is_write && let Err(error) = take(&self.left) {
            let buffer = request.buffer;
            return Box::pin(std::future::ready(Completion {
                result: Err(error),
                buffer,
            }));
        }
        self.below.submit(request)
    }
}
