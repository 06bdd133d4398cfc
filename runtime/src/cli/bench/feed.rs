//! A source in memory that gives messages as fast as they are taken, or each when it is due, and
//! notes when they are settled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hdrhistogram::Histogram;

use crate::config::problem::Problem;
use crate::message::{Batch, Position};
use crate::sources::{
    CommitKind, Committer, OpenSource, Progress, Read, ReadBatch, ReadLimit, Reader, Replay, SettledAs,
    SettledRow, SourceConfig, SourceContext, SourceTraits,
};

/// A timer of the runtime may be late by so much; the rest is slept without it.
const TIMER: Duration = Duration::from_millis(2);
/// Where a pipeline does not keep up, the source ends after so many times the time.
const PATIENCE: u32 = 3;
/// Latencies are kept in microseconds, up to an hour, with three digits.
const HIGHEST: u64 = 3_600_000_000;
const DIGITS: u8 = 3;

/// When messages are given.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As fast as they are taken, for so long.
    Flat(Duration),
    /// So many a second, for so long.
    Rate(f64, Duration),
}

impl Pace {
    /// When a message is due, from the start. With a rate that does not depend on when the ones
    /// before it were taken (an open loop).
    fn due(self, message: u64) -> Duration {
        match self {
            Pace::Flat(_) => Duration::ZERO,
            Pace::Rate(rate, _) => Duration::from_secs_f64(message as f64 / rate),
        }
    }

    /// Messages that are due after so long, all of them in the end.
    fn due_after(self, elapsed: Duration) -> u64 {
        match self {
            Pace::Flat(time) if elapsed >= time => 0,
            Pace::Flat(_) => u64::MAX,
            Pace::Rate(rate, time) => {
                (elapsed.min(time).as_secs_f64() * rate).floor() as u64 + u64::from(elapsed < time)
            }
        }
    }
}

/// What became of the messages.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Microseconds from when a message was due to when it was settled.
    pub latencies: Histogram<u64>,
    pub delivered: u64,
    pub filtered: u64,
    pub dead_lettered: u64,
    /// Messages that were due, and not taken when the source ended.
    pub not_taken: u64,
    /// From the first read to the last message.
    pub time: Duration,
}

impl Tally {
    pub fn settled(&self) -> u64 {
        self.delivered + self.filtered + self.dead_lettered
    }
}

#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    messages: Batch,
    pace: Pace,
    started: Mutex<Option<Instant>>,
    tally: Mutex<Tally>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    pub fn new(messages: Batch, pace: Pace) -> anyhow::Result<Feed> {
        let latencies = Histogram::new_with_bounds(1, HIGHEST, DIGITS)?;
        let tally = Tally {
            latencies,
            delivered: 0,
            filtered: 0,
            dead_lettered: 0,
            not_taken: 0,
            time: Duration::ZERO,
        };
        Ok(Feed(Arc::new(Inner { messages, pace, started: Mutex::default(), tally: Mutex::new(tally) })))
    }

    pub fn tally(&self) -> Tally {
        lock(&self.0.tally).clone()
    }

    /// Since the first read.
    fn elapsed(&self) -> Duration {
        lock(&self.0.started).get_or_insert_with(Instant::now).elapsed()
    }

    fn note(&self, message: u64, elapsed: Duration, tally: &mut Tally) {
        let latency = elapsed.saturating_sub(self.0.pace.due(message));
        tally.latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(HIGHEST));
    }
}

impl SourceConfig for Feed {
    fn check(&self, _context: &SourceContext, _problems: &mut Vec<Problem>) {}

    fn traits(&self) -> SourceTraits {
        SourceTraits { replay: Replay::Yes, unordered: None, partitions: None }
    }

    fn open(self: Box<Self>, _context: SourceContext) -> anyhow::Result<OpenSource> {
        Ok(OpenSource {
            name: "bench".to_owned(),
            reader: Box::new(Paced { feed: (*self).clone(), next: 0 }),
            committer: Box::new(Settled(*self)),
            describe: Arc::new(|position| format!("message {}", position.offset)),
        })
    }
}

struct Paced {
    feed: Feed,
    next: u64,
}

#[async_trait]
impl Reader for Paced {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        let Inner { messages, pace, .. } = &*self.feed.0;
        let pace = *pace;
        let due = loop {
            let elapsed = self.feed.elapsed();
            let due = pace.due_after(elapsed);
            if let Pace::Rate(_, time) = pace
                && elapsed > time * PATIENCE
            {
                let mut tally = lock(&self.feed.0.tally);
                for message in self.next..due {
                    self.feed.note(message, elapsed, &mut tally);
                    tally.not_taken += 1;
                }
                return Ok(Read::End);
            }
            if due > self.next {
                break due - self.next;
            }
            match pace {
                Pace::Rate(_, time) if elapsed < time => {
                    let wait = pace.due(self.next).min(time).saturating_sub(elapsed);
                    match wait.checked_sub(TIMER) {
                        Some(most) if !most.is_zero() => tokio::time::sleep(most).await,
                        _ => tokio::task::block_in_place(|| std::thread::sleep(wait)),
                    }
                }
                _ => return Ok(Read::End),
            }
        };
        let count = usize::try_from(due).unwrap_or(usize::MAX).min(limit.rows);
        let mut rows = Vec::with_capacity(count);
        let mut bytes = 0;
        for index in 0..count {
            let number = self.next + index as u64;
            let mut row = messages.rows()[(number % messages.len() as u64) as usize];
            bytes += row.payload.len() as usize;
            if index > 0 && bytes > limit.bytes {
                break;
            }
            row.claim_row = index as u32;
            row.position = Position { offset: number, record: number + 1, ..row.position };
            rows.push(row);
        }
        self.next += rows.len() as u64;
        Ok(Read::Batch(ReadBatch { batch: messages.with_rows(rows), ..ReadBatch::default() }))
    }

    fn progress(&self) -> Option<Progress> {
        None
    }
}

/// It is told of each message by itself, so that the latency of one does not depend on others.
struct Settled(Feed);

#[async_trait]
impl Committer for Settled {
    fn kind(&self) -> CommitKind {
        CommitKind::Each
    }

    async fn each(&mut self, settled: Vec<SettledRow>) -> anyhow::Result<()> {
        let elapsed = self.0.elapsed();
        let mut tally = lock(&self.0.0.tally);
        for SettledRow { position, outcome, .. } in settled {
            self.0.note(position.offset, elapsed, &mut tally);
            match outcome {
                SettledAs::Delivered => tally.delivered += 1,
                SettledAs::Filtered => tally.filtered += 1,
                SettledAs::DeadLettered(_) => tally.dead_lettered += 1,
                SettledAs::Returned => tally.not_taken += 1,
            }
        }
        tally.time = elapsed;
        Ok(())
    }
}
