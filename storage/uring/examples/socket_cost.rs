//! What one request over a socket costs its server: processor time of the server's thread per request of 28 bytes that is
//! answered with 16 + 4,096 bytes, as NBD does.
//!
//! `cargo run --release -p weft-uring --example socket_cost [DEPTH]`

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use weft_block::IoVec;
use weft_uring::{Backend, Stream, block_on_with};

const REQUESTS: usize = 30_000;
const REQUEST: usize = 28;
const HEADER: usize = 16;
const BLOCK: usize = 4096;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let depth: usize = std::env::args().nth(1).map_or(Ok(1), |text| text.parse())?;
    for backend in [None, Some(Backend::Ring), Some(Backend::Poll)] {
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            let (ours, theirs) = UnixStream::pair()?;
            let client = std::thread::spawn(move || ask(theirs, depth));
            let before = thread_time()?;
            match backend {
                None => serve_blocking(ours)?,
                Some(backend) => block_on_with(backend, serve(Stream::from_unix(ours)?))??,
            }
            let cost = thread_time()? - before;
            costs.push(cost.as_secs_f64() * 1e6 / REQUESTS as f64);
            client.join().expect("the client does not panic")?;
        }
        costs.sort_by(f64::total_cmp);
        let name = backend.map_or("plain read and write".into(), |known| format!("{known:?}"));
        println!("{name} depth {depth}: {:.2} us", costs[ROUNDS / 2]);
    }
    Ok(())
}

async fn serve(stream: Stream) -> std::io::Result<()> {
    let mut reader = stream.reader(64 * 1024);
    let block = IoVec::zeroed(BLOCK);
    let mut header = vec![0; HEADER];
    while !reader.at_end().await? {
        let mut request = [0; REQUEST];
        reader.read_exact(&mut request).await?;
        let (result, memory) = stream.send((header, block.clone())).await;
        result?;
        header = memory.0;
    }
    Ok(())
}

/// The floor: what a thread of its own pays that does nothing else.
fn serve_blocking(mut stream: UnixStream) -> std::io::Result<()> {
    let (mut request, answer) = ([0; REQUEST], [0; HEADER + BLOCK]);
    while stream.read_exact(&mut request).is_ok() {
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// A client that keeps `depth` requests in flight.
fn ask(mut stream: UnixStream, depth: usize) -> std::io::Result<()> {
    let batch = vec![0; REQUEST * depth];
    let mut answers = vec![0; (HEADER + BLOCK) * depth];
    for _ in 0..REQUESTS / depth {
        stream.write_all(&batch)?;
        stream.read_exact(&mut answers)?;
    }
    Ok(())
}

fn thread_time() -> nix::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
