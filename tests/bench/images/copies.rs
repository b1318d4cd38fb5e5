//! Copies of a disk that is half empty, beside `qemu-img convert`, each by a process of its own: plain, and compressed.
//!
//! By itself qemu-img leaves a copy to the page cache, and so does `weft-qemu-img`: that is the first contest, and the one
//! of compression. `weft image convert` waits until it is on the medium, as `qemu-img convert -t writeback` does: that is
//! the second.
//!
//! `WEFT_BENCH_COPY_MIB` says how large the disk is (10,240, which takes half of that three times).

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use weft_block::{BlockDevice, IoVec, Request};
use weft_service::storage::images::{self, Bitmaps, Convert, Format, How, Name, Policy};
use weft_tests::bench::{Contest, Measure, Sample, cpu_of_children};
use weft_tests::{missing_programs, run};
use weft_uring::{block_on, spawner};

const RIVAL: &str = "qemu-img";

const MEASURES: [Measure; 2] = [Measure::GigabytesPerSecond, Measure::CpuPerGigabyte];

/// Bytes of the disk.
fn size() -> Result<u64> {
    let mebibytes = match std::env::var("WEFT_BENCH_COPY_MIB") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("WEFT_BENCH_COPY_MIB={text} is not a number"))?,
        Err(_) => 10_240_u64,
    };
    Ok(mebibytes << 20)
}

/// Both copy the same image, in turns.
pub(crate) fn contests(folder: &Path) -> Result<()> {
    let (source, size) = (folder.join("source.qcow2"), size()?);
    let target = folder.join("target.qcow2");
    block_on(half_full(&source, size))?;
    for (title, kind) in [
        ("convert, half sparse", Kind::Plain),
        ("convert, half sparse, on the medium", Kind::Durable),
        ("convert -c, zstd, half sparse", Kind::Zstd),
    ] {
        let title = format!("{title}, {} MiB", size >> 20);
        let mut contest = Contest::new(&title, &MEASURES);
        for name in ["weft", RIVAL] {
            if name == RIVAL && !missing_programs(&[RIVAL]).is_empty() {
                contest.note_missing(name);
                continue;
            }
            let (source, target) = (&source, &target);
            contest.add(name, move || turn(name, source, target, kind, size));
        }
        println!("{}", contest.run()?);
        let _ = std::fs::remove_file(&target);
    }
    Ok(std::fs::remove_file(source)?)
}

/// What kind of copy is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Durable,
    Zstd,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Plain, Self::Durable, Self::Zstd];

    fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Durable => "durable",
            Self::Zstd => "zstd",
        }
    }

    fn of(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.word() == word);
        found.with_context(|| format!("there is no kind {word} of copies"))
    }
}

fn turn(name: &str, source: &Path, target: &Path, kind: Kind, size: u64) -> Result<Sample> {
    let _ = std::fs::remove_file(target);
    let (from, to) = (source.display().to_string(), target.display().to_string());
    let (cpu, begun) = (cpu_of_children()?, Instant::now());
    if name == RIVAL {
        let mut line = vec!["convert", "-W", "-f", "qcow2", "-O", "qcow2"];
        match kind {
            Kind::Plain => {}
            Kind::Durable => line.extend(["-t", "writeback"]),
            Kind::Zstd => line.extend(["-c", "-m", "2", "-o", "compression_type=zstd"]),
        }
        line.extend([from.as_str(), to.as_str()]);
        run(RIVAL, line)?;
    } else {
        let how = kind.word();
        let program = std::env::current_exe()?;
        run(
            &program.display().to_string(),
            ["copy", from.as_str(), to.as_str(), how],
        )?;
    }
    Ok(Sample {
        operations: 1,
        bytes: size,
        elapsed: begun.elapsed(),
        cpu: cpu_of_children()?.saturating_sub(cpu),
    })
}

/// What `weft-qemu-img convert` does, and durable `weft image convert`.
pub(crate) fn copy(source: &str, target: &str, how: &str) -> Result<()> {
    let kind = Kind::of(how)?;
    let compress = kind == Kind::Zstd;
    let request = Convert {
        from: vec![(Name::of(source)?, How::to_read(Policy::STRICT))],
        to: Name::of(target)?,
        format: Some(Format::Qcow2),
        options: match compress {
            true => vec![("compression_type".to_owned(), "zstd".to_owned())],
            false => Vec::new(),
        },
        backing: None,
        key: None,
        onto: false,
        onto_zeroes: false,
        overwrite: false,
        compress,
        sparse: images::SPARSE,
        salvage: false,
        bitmaps: Bitmaps::None,
        volatile: kind != Kind::Durable,
    };
    block_on(images::convert(request, &|_, _| {}))?;
    Ok(())
}

/// A disk with data in every other MiB: half of each cluster is chance, half of it text that is easily made short.
async fn half_full(path: &Path, size: u64) -> Result<()> {
    let image = super::make(path, size).await?;
    let queue = image.open(&spawner())?;
    for (number, offset) in (0..size).step_by(2 << 20).enumerate() {
        let mut bytes = weft_tests::data::bytes(number as u64 + 1, 1 << 20);
        for half in bytes.chunks_mut(64 << 10) {
            let text = b"a line of a log that says what many lines say\n"
                .iter()
                .cycle();
            half.iter_mut()
                .skip(32 << 10)
                .zip(text)
                .for_each(|(byte, letter)| *byte = *letter);
        }
        let write = Request::write(offset, IoVec::copy_of(&bytes));
        queue.submit(write).await.result?;
    }
    drop(queue);
    Arc::new(image).close(&spawner()).await?;
    Ok(())
}
