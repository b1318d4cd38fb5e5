//! The parity of RAID-5 and of RAID-6 on one thread, against ISA-L (`xor_gen` and `pq_gen`).

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
    parities: Vec<Buffer>,
}

/// How many data blocks and parities, bytes of a block, bytes of all rows, and what the table calls it.
type Case = (usize, usize, usize, usize, &'static str);

const CASES: [Case; 8] = [
    (
        2,
        1,
        64 << 10,
        256 << 10,
        "RAID-5, 2+1, 64 KiB blocks, in cache",
    ),
    (
        8,
        1,
        16 << 10,
        256 << 10,
        "RAID-5, 8+1, 16 KiB blocks, in cache",
    ),
    (
        2,
        1,
        512 << 10,
        512 << 20,
        "RAID-5, 2+1, 512 KiB blocks, in memory",
    ),
    (
        8,
        1,
        512 << 10,
        512 << 20,
        "RAID-5, 8+1, 512 KiB blocks, in memory",
    ),
    (
        8,
        2,
        4 << 10,
        40 << 10,
        "RAID-6, 8+2, 4 KiB blocks, in cache",
    ),
    (
        8,
        2,
        64 << 10,
        640 << 10,
        "RAID-6, 8+2, 64 KiB blocks, in cache",
    ),
    (
        8,
        2,
        64 << 10,
        512 << 20,
        "RAID-6, 8+2, 64 KiB blocks, in memory",
    ),
    (
        8,
        2,
        512 << 10,
        512 << 20,
        "RAID-6, 8+2, 512 KiB blocks, in memory",
    ),
];

impl Rows {
    fn new((sources, parities, block, total, _): Case) -> Self {
        let count = (total / (block * (sources + parities))).max(1);
        let row = |number: usize| Row {
            sources: (0..sources)
                .map(|index| {
                    let seed = (number * sources + index) as u64;
                    Buffer::copy_of(&weft_tests::data::bytes(seed, block))
                })
                .collect(),
            parities: (0..parities).map(|_| Buffer::zeroed(block)).collect(),
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
    match &mut row.parities[..] {
        [p] => weft_raid::parity::xor(p, &sources),
        [p, q] => weft_raid::parity::syndrome(p, q, &sources),
        _ => unreachable!("a row has one parity or two"),
    }
}

/// Both must make the same parities before either is timed.
fn agree(rival: &isal::Isal, rows: &mut Rows) -> Result<()> {
    let row = &mut rows.rows[0];
    ours(row);
    let own: Vec<Vec<u8>> = row.parities.iter().map(|parity| parity.to_vec()).collect();
    row.parities.iter_mut().for_each(|parity| parity.fill(0));
    rival.run(&mut row.sources, &mut row.parities);
    let same = |(own, their): (&Vec<u8>, &Buffer)| own[..] == their[..];
    ensure!(own.iter().zip(&row.parities).all(same), "the two disagree");
    Ok(())
}

fn main() -> Result<()> {
    let rival = isal::Isal::load();
    println!(
        "Parity, GB of data a second on one thread; ours runs on {}\n",
        weft_raid::parity::engine()
    );
    for case in CASES {
        let rows = std::cell::RefCell::new(Rows::new(case));
        let measures = [Measure::GigabytesPerSecond, Measure::CpuPerGigabyte];
        let mut contest = Contest::new(case.4, &measures);
        contest.add("weft", || rows.borrow_mut().turn(ours));
        match &rival {
            Some(rival) => {
                agree(rival, &mut rows.borrow_mut())?;
                contest.add("ISA-L", || {
                    let run = |row: &mut Row| rival.run(&mut row.sources, &mut row.parities);
                    rows.borrow_mut().turn(run)
                });
            }
            None => contest.note_missing("ISA-L"),
        }
        println!("{}", contest.run()?);
    }
    Ok(())
}
