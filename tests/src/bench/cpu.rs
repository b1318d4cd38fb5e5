//! CPU time and memory of processes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

/// User and system time of a process and all its threads, ended ones too, in steps of a clock tick (10 ms).
///
/// # Errors
/// If the process is gone.
pub fn cpu_of_process(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    // The name may hold spaces and parentheses; what follows the last one is plain. utime and stime are fields 14 and
    // 15 of proc(5), the name the second.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel has a clock tick")?;
    Ok(Duration::from_nanos(
        ticks * 1_000_000_000 / u64::try_from(per_second)?,
    ))
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// If the process is gone.
pub fn memory_of_process(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next());
    let kibibytes: u64 = kibibytes.context("a process has a VmRSS line")?.parse()?;
    Ok(kibibytes * 1024)
}

/// CPU time of the calling thread.
///
/// # Errors
/// If the kernel has no such clock.
pub fn cpu_of_this_thread() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// CPU time of all threads of this process.
///
/// # Errors
/// If the kernel has no such clock.
pub fn cpu_of_this_process() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// CPU time of all children that were waited for.
///
/// # Errors
/// Never, on Linux.
pub fn cpu_of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// The CPU time that a process uses from now on.
#[derive(Debug, Clone, Copy)]
pub struct CpuClock {
    pid: u32,
    before: Duration,
}

impl CpuClock {
    /// Starts counting for the process.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let before = cpu_of_process(pid)?;
        Ok(Self { pid, before })
    }

    /// What it has used since the start.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn used(&self) -> Result<Duration> {
        Ok(cpu_of_process(self.pid)?.saturating_sub(self.before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_is_seen() {
        let clock = CpuClock::of(std::process::id()).expect("this process lives");
        let thread = cpu_of_this_thread().expect("the clock is there");
        while cpu_of_this_thread().expect("the clock is there") - thread < Duration::from_millis(50)
        {
        }
        assert!(clock.used().expect("this process lives") >= Duration::from_millis(30));
        assert!(memory_of_process(std::process::id()).expect("this process lives") > 100_000);
    }
}
