//! RAID-5 parity on one thread, against ISA-L (`xor_gen`).

use std::ffi::{c_int, c_void};
use std::time::Instant;

use anyhow::{Result, ensure};
use weft_block::Buffer;
use weft_tests::bench::{Contest, Measure, Sample, cpu_of_this_thread};

#[path = "parity/isal.rs"]
#[allow(unsafe_code)] // A room of unsafe: a C library found at run time.
mod isal;

/// Parity made in one turn, so that a turn takes some tenths of a second.
const WORK: u64 = 6 << 30;

/// Rows of blocks, touched one after the other: as many as `total` bytes hold.
struct Rows {
    rows: Vec<Row>,
    block: usize,
    sources: usize,
}

struct Row {
    sources: Vec<Buffer>,
    parity: Buffer,
}

impl Rows {
    fn new(sources: usize, block: usize, total: usize) -> Self {
        let count = (total / (block * (sources + 1))).max(1);
        let row = |number: usize| Row {
            sources: (0..sources)
                .map(|index| {
                    let seed = (number * sources + index) as u64;
                    Buffer::copy_of(&weft_tests::data::bytes(seed, block))
                })
                .collect(),
            parity: Buffer::zeroed(block),
        };
        Self {
            rows: (0..count).map(row).collect(),
            block,
            sources,
        }
    }

    /// Goes over the rows until the work is done.
    fn turn(&mut self, mut make: impl FnMut(&mut Row)) -> Result<Sample> {
        let bytes_of_row = (self.block * self.sources) as u64;
        let wanted = WORK / bytes_of_row;
        let (started, cpu) = (Instant::now(), cpu_of_this_thread()?);
        let mut done = 0;
        while done < wanted {
            for row in &mut self.rows {
                make(row);
                done += 1;
            }
        }
        Ok(Sample {
            operations: done,
            bytes: done * bytes_of_row,
            elapsed: started.elapsed(),
            cpu: cpu_of_this_thread()? - cpu,
        })
    }
}

fn ours(row: &mut Row) {
    let sources: Vec<&[u8]> = row.sources.iter().map(|source| &source[..]).collect();
    weft_raid::parity::xor(&mut row.parity, &sources);
}

/// Both must make the same parity before either is timed.
fn agree(rival: &isal::XorGen) -> Result<()> {
    let mut rows = Rows::new(8, 64 << 10, 0);
    let row = &mut rows.rows[0];
    ours(row);
    let own = row.parity.to_vec();
    row.parity.fill(0);
    rival.run(&mut row.sources, &mut row.parity);
    ensure!(own == row.parity[..], "the two disagree");
    Ok(())
}

fn main() -> Result<()> {
    let rival = isal::XorGen::load();
    if let Some(rival) = &rival {
        agree(rival)?;
    }
    println!(
        "RAID-5 parity, GB of data a second on one thread; ours runs on {}\n",
        weft_raid::parity::engine()
    );
    let cases = [
        (2, 64 << 10, 256 << 10, "2+1, 64 KiB blocks, in cache"),
        (8, 16 << 10, 256 << 10, "8+1, 16 KiB blocks, in cache"),
        (2, 512 << 10, 512 << 20, "2+1, 512 KiB blocks, in memory"),
        (8, 512 << 10, 512 << 20, "8+1, 512 KiB blocks, in memory"),
    ];
    for (sources, block, total, title) in cases {
        let rows = std::cell::RefCell::new(Rows::new(sources, block, total));
        let mut contest = Contest::new(
            title,
            &[Measure::GigabytesPerSecond, Measure::CpuPerGigabyte],
        );
        contest.add("weft", || rows.borrow_mut().turn(ours));
        match &rival {
            Some(rival) => contest.add("ISA-L xor_gen", || {
                rows.borrow_mut()
                    .turn(|row| rival.run(&mut row.sources, &mut row.parity))
            }),
            None => contest.note_missing("ISA-L xor_gen"),
        }
        println!("{}", contest.run()?);
    }
    Ok(())
}
