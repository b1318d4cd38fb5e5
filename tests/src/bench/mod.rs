//! Figures that can be believed on a noisy machine: contestants in turns, medians, CPU time beside throughput.
//!
//! A [`Contest`] runs every contestant once a round, for as many rounds as asked for (`WEFT_BENCH_ROUNDS`, five by
//! default), so that a disturbance hits all alike, and prints a table of medians with the ratio of ours to each rival.
//! What a contestant costs is read by [`cpu_of_process`] or [`cpu_of_this_thread`].

mod contest;
mod cpu;
mod fio;
mod server;

pub use contest::{Contest, Measure, Sample, rounds};
pub use cpu::{
    CpuClock, cpu_of_children, cpu_of_process, cpu_of_this_process, cpu_of_this_thread,
    memory_of_process,
};
pub use fio::{fio, folder, seconds};
pub use server::NbdServer;
