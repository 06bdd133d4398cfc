//! Measuring two things in turns.

use std::time::{Duration, Instant};

const ROUNDS: usize = 21;

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

    /// Measures the time that each takes for `messages`.
    pub fn pair(
        &mut self,
        name: &str,
        messages: usize,
        mut measured: impl FnMut(),
        mut control: impl FnMut(),
    ) {
        let timed = |run: &mut dyn FnMut()| {
            let start = Instant::now();
            run();
            start.elapsed()
        };
        self.pair_timed(name, ROUNDS, messages, || timed(&mut measured), || timed(&mut control));
    }

    /// As [`Bench::pair`], with times that each of them took itself.
    pub fn pair_timed(
        &mut self,
        name: &str,
        rounds: usize,
        messages: usize,
        mut measured: impl FnMut() -> Duration,
        mut control: impl FnMut() -> Duration,
    ) {
        if !self.wants(name) {
            return;
        }
        // The first round warms caches and sizes of calls.
        measured();
        control();
        let mut times: Vec<(f64, f64)> = Vec::new();
        for _ in 0..rounds {
            let nanos = |time: Duration| time.as_nanos() as f64 / messages as f64;
            times.push((nanos(measured()), nanos(control())));
        }
        let ratios = spread(times.iter().map(|(measured, control)| measured / control));
        let measured = spread(times.iter().map(|&(measured, _)| measured));
        let control = spread(times.iter().map(|&(_, control)| control));
        println!(
            "{name:<52} ratio {:.2} ({:.2}-{:.2})   {:.0} ns and {:.0} ns a message",
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
