//! Contests and their tables.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// What one turn of a contestant did, and what it took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Operations done.
    pub operations: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Wall-clock time.
    pub elapsed: Duration,
    /// CPU time of what is measured (of a server, not of its client).
    pub cpu: Duration,
}

/// A column of the table: how a sample becomes a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// 10^9 bytes a second; more is better.
    GigabytesPerSecond,
    /// 1,000 operations a second; more is better.
    KiloOperationsPerSecond,
    /// Microseconds of CPU an operation; less is better.
    CpuPerOperation,
    /// Seconds of CPU for 10^9 bytes; less is better.
    CpuPerGigabyte,
}

impl Measure {
    fn heading(self) -> &'static str {
        match self {
            Self::GigabytesPerSecond => "GB/s",
            Self::KiloOperationsPerSecond => "k op/s",
            Self::CpuPerOperation => "CPU us/op",
            Self::CpuPerGigabyte => "CPU s/GB",
        }
    }

    #[allow(clippy::cast_precision_loss)] // Figures of a table.
    fn figure(self, sample: &Sample) -> f64 {
        let (operations, bytes) = (sample.operations as f64, sample.bytes as f64);
        let (elapsed, cpu) = (sample.elapsed.as_secs_f64(), sample.cpu.as_secs_f64());
        match self {
            Self::GigabytesPerSecond => bytes / elapsed / 1e9,
            Self::KiloOperationsPerSecond => operations / elapsed / 1e3,
            Self::CpuPerOperation => cpu / operations * 1e6,
            Self::CpuPerGigabyte => cpu / bytes * 1e9,
        }
    }

    fn less_is_better(self) -> bool {
        matches!(self, Self::CpuPerOperation | Self::CpuPerGigabyte)
    }
}

type Turn<'a> = Box<dyn FnMut() -> Result<Sample> + 'a>;

struct Contestant<'a> {
    name: String,
    turn: Turn<'a>,
    samples: Vec<Sample>,
}

/// One line of work, done by us and by rivals in turns.
pub struct Contest<'a> {
    title: String,
    measures: Vec<Measure>,
    contestants: Vec<Contestant<'a>>,
    missing: Vec<String>,
}

impl<'a> Contest<'a> {
    /// A contest that is told in `measures`.
    pub fn new(title: &str, measures: &[Measure]) -> Self {
        Self {
            title: title.into(),
            measures: measures.into(),
            contestants: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Adds a contestant; the first is ours, and the ratios are ours to the others'.
    pub fn add(&mut self, name: &str, turn: impl FnMut() -> Result<Sample> + 'a) {
        self.contestants.push(Contestant {
            name: name.into(),
            turn: Box::new(turn),
            samples: Vec::new(),
        });
    }

    /// Says in the table that a rival is not installed.
    pub fn note_missing(&mut self, name: &str) {
        self.missing.push(name.into());
    }

    /// Runs all rounds, after one turn of each that does not count, and gives the table.
    ///
    /// # Errors
    /// If a contestant fails.
    pub fn run(mut self) -> Result<String> {
        for round in 0..=rounds()? {
            for contestant in &mut self.contestants {
                let sample = (contestant.turn)()
                    .with_context(|| format!("the turn of {}", contestant.name))?;
                if round > 0 {
                    contestant.samples.push(sample);
                }
            }
        }
        Ok(self.table())
    }

    fn table(&self) -> String {
        let width = self
            .contestants
            .iter()
            .map(|one| one.name.len())
            .max()
            .unwrap_or(0)
            .max(12);
        let mut text = format!("{}\n  {:width$}", self.title, "");
        for measure in &self.measures {
            text.push_str(&format!("{:>12} {:>7}", measure.heading(), "ratio"));
        }
        text.push('\n');
        let Some(ours) = self.contestants.first() else {
            return text;
        };
        for contestant in &self.contestants {
            text.push_str(&format!("  {:width$}", contestant.name));
            for &measure in &self.measures {
                let (own, their) = (median(measure, ours), median(measure, contestant));
                let ratio = if std::ptr::eq(ours, contestant) || their == 0.0 {
                    "-".into()
                } else {
                    format!("{:.2}x", own / their)
                };
                text.push_str(&format!("{their:>12.3} {ratio:>7}"));
            }
            text.push('\n');
        }
        for name in &self.missing {
            text.push_str(&format!(
                "  {name:width$}  not installed (scripts/install-deps bench)\n"
            ));
        }
        let cheap = self.measures.iter().any(|measure| measure.less_is_better());
        let note = if cheap {
            "; of CPU, less is better"
        } else {
            ""
        };
        text.push_str(&format!("  ratio: ours to theirs{note}\n"));
        text
    }
}

fn median(measure: Measure, contestant: &Contestant<'_>) -> f64 {
    let mut figures: Vec<f64> = contestant
        .samples
        .iter()
        .map(|sample| measure.figure(sample))
        .collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How many rounds count: five, unless `WEFT_BENCH_ROUNDS` says otherwise.
///
/// # Errors
/// If it says nothing sensible.
pub fn rounds() -> Result<u32> {
    let rounds = match std::env::var("WEFT_BENCH_ROUNDS") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("WEFT_BENCH_ROUNDS={text} is not a number"))?,
        Err(_) => 5,
    };
    if rounds == 0 {
        bail!("a contest of no rounds has no median");
    }
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_missing_rivals_are_told() {
        let mut contest = Contest::new(
            "copy",
            &[Measure::GigabytesPerSecond, Measure::CpuPerOperation],
        );
        let sample = |millis| Sample {
            operations: 1_000,
            bytes: 1_000_000_000,
            elapsed: Duration::from_millis(millis),
            cpu: Duration::from_millis(millis),
        };
        let mut turns = [900, 100, 500, 100, 100, 900].into_iter().cycle();
        contest.add("weft", move || Ok(sample(turns.next().unwrap_or(1))));
        contest.add("rival", move || Ok(sample(50)));
        contest.note_missing("another");
        let table = contest.run().expect("no contestant fails");
        let line = |name: &str| {
            table
                .lines()
                .find(|line| line.trim().starts_with(name))
                .unwrap_or_default()
        };
        assert!(line("weft").contains("10.000"), "{table}");
        assert!(line("rival").contains("20.000   0.50x"), "{table}");
        assert!(line("rival").contains("50.000   2.00x"), "{table}");
        assert!(line("another").contains("not installed"), "{table}");
    }
}
