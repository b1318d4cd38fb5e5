//! `image-peers ENGINE IMAGE`: other people's qcow2 engines do to an image what standard input says, a line each:
//!
//!     write FILL START LEN      zero START LEN      discard START LEN
//!     resize SIZE               flush               read FILE
//!
//! in bytes. `discard` reads as zeroes afterwards, `read` copies the disk into a new file. At the end all is flushed. What
//! an engine cannot do is an error, and status 1.

mod imago;
mod qcow2_rs;

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// What is done to an image.
enum Act {
    Write { fill: u8, start: u64, len: u64 },
    Zero { start: u64, len: u64 },
    Discard { start: u64, len: u64 },
    Resize(u64),
    Flush,
    Read(String),
}

/// An image that is open.
trait Engine {
    fn size(&self) -> u64;
    fn read(&mut self, start: u64, bytes: &mut [u8]) -> Result<()>;
    fn write(&mut self, start: u64, bytes: &[u8]) -> Result<()>;
    fn zero(&mut self, start: u64, len: u64) -> Result<()>;
    fn discard(&mut self, start: u64, len: u64) -> Result<()>;
    fn resize(&mut self, size: u64) -> Result<()>;
    /// Makes all that was done durable.
    fn flush(&mut self) -> Result<()>;
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image-peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let [engine, image] = words else {
        bail!("usage: image-peers imago|qcow2-rs IMAGE <SCRIPT");
    };
    let mut script = String::new();
    std::io::stdin().read_to_string(&mut script)?;
    let acts: Vec<Act> = script.lines().map(parse).collect::<Result<_>>()?;
    let image = Path::new(image);
    let mut engine: Box<dyn Engine> = match engine.as_str() {
        "imago" => Box::new(imago::Open::new(image)?),
        "qcow2-rs" => Box::new(qcow2_rs::Open::new(image)?),
        other => bail!("there is no engine {other}"),
    };
    for (act, line) in acts.into_iter().zip(script.lines()) {
        perform(&mut *engine, act).with_context(|| line.to_owned())?;
    }
    engine.flush()
}

fn perform(engine: &mut dyn Engine, act: Act) -> Result<()> {
    match act {
        Act::Write { fill, start, len } => engine.write(start, &vec![fill; usize::try_from(len)?]),
        Act::Zero { start, len } => engine.zero(start, len),
        Act::Discard { start, len } => engine.discard(start, len),
        Act::Resize(size) => engine.resize(size),
        Act::Flush => engine.flush(),
        Act::Read(path) => {
            let mut disk = Vec::new();
            while (disk.len() as u64) < engine.size() {
                let at = disk.len() as u64;
                let mut piece = vec![0; usize::try_from(PIECE.min(engine.size() - at))?];
                engine.read(at, &mut piece)?;
                disk.extend_from_slice(&piece);
            }
            Ok(std::fs::write(path, disk)?)
        }
    }
}

fn parse(line: &str) -> Result<Act> {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    let number = |at: usize| -> Result<u64> {
        let word = words
            .get(at)
            .with_context(|| format!("{line:?} is cut short"))?;
        word.parse().with_context(|| format!("in {line:?}"))
    };
    Ok(match words[0] {
        "write" => Act::Write {
            fill: u8::try_from(number(1)?)?,
            start: number(2)?,
            len: number(3)?,
        },
        "zero" => Act::Zero {
            start: number(1)?,
            len: number(2)?,
        },
        "discard" => Act::Discard {
            start: number(1)?,
            len: number(2)?,
        },
        "resize" => Act::Resize(number(1)?),
        "flush" => Act::Flush,
        "read" => Act::Read(line["read".len()..].trim_start().to_owned()),
        _ => bail!("{line:?} is not known"),
    })
}
