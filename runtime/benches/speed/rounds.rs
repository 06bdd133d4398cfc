//! Measuring two things in turns.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What a time is of.
#[derive(Clone, Copy)]
pub enum Clock {
    /// This thread on a processor: what waits for others to leave it does not count.
    Thread,
    /// All threads of this process on processors.
    Process,
    /// The clock on the wall.
    Wall,
}

impl Clock {
    /// The time that `run` takes.
    pub fn time(self, run: impl FnOnce()) -> Duration {
        let clock = match self {
            Clock::Thread => ClockId::ThreadCPUTime,
            Clock::Process => ClockId::ProcessCPUTime,
            Clock::Wall => {
                let start = Instant::now();
                run();
                return start.elapsed();
            }
        };
        let now = || {
            let now = clock_gettime(clock);
            Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
        };
        let start = now();
        run();
        now() - start
    }
}

pub struct Bench {
    /// Words of which a name must hold one; none for all.
    wanted: Vec<String>,
}

impl Bench {
    pub fn from_arguments() -> Bench {
        // `cargo bench` adds `--bench`.
        Bench { wanted: std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect() }
    }

    pub fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|word| name.contains(word.as_str()))
    }

    /// Measures both, round by round, and prints the medians: of the time that each takes for one of
    /// `count` times `unit`, and of their ratio.
    pub fn pair(
        &self,
        name: &str,
        rounds: usize,
        (count, unit): (usize, &str),
        mut measured: impl FnMut() -> Duration,
        mut control: impl FnMut() -> Duration,
    ) {
        if !self.wants(name) {
            return;
        }
        // The first round fills caches and finds the size of calls.
        measured();
        control();
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        let times: Vec<(f64, f64)> = (0..rounds).map(|_| (micros(measured()), micros(control()))).collect();
        let ratios = spread(times.iter().map(|(measured, control)| measured / control));
        let measured = spread(times.iter().map(|&(measured, _)| measured));
        let control = spread(times.iter().map(|&(_, control)| control));
        println!(
            "{name:<60} ratio {:.2} ({:.2}-{:.2}): {:.3} and {:.3} microseconds a {unit}",
            ratios.median, ratios.lowest, ratios.highest, measured.median, control.median
        );
    }
}

struct Spread {
    lowest: f64,
    median: f64,
    highest: f64,
}

fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    Spread { lowest: values[0], median: values[values.len() / 2], highest: values[values.len() - 1] }
}
