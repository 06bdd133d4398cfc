//! What the source waits for, told in readiness and log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::aws::{Failure, Kind};
use crate::config::Retry;
use crate::observe::waits::Waits;
use crate::pipeline::retry::unavailable_delay;

/// Why something could not be done.
#[derive(Debug)]
pub enum Trouble {
    /// It may get better.
    Wait(Failure),
    /// No waiting helps.
    Stop(anyhow::Error),
}

impl Trouble {
    /// Of something that is no service: a disk.
    pub fn of_disk(error: &anyhow::Error) -> Trouble {
        Trouble::Wait(Failure { kind: Kind::Unavailable, code: String::new(), reason: format!("{error:#}") })
    }

    pub fn into_error(self) -> anyhow::Error {
        match self {
            Trouble::Wait(failure) => anyhow::anyhow!(failure.reason),
            Trouble::Stop(error) => error,
        }
    }
}

/// When something is tried again.
#[derive(Default)]
pub struct Backoff {
    tries: u32,
}

/// A service that throttles does so for a second at least.
const THROTTLED_FOR: Duration = Duration::from_secs(1);

impl Backoff {
    pub fn next(&mut self, kind: Kind) -> Duration {
        let retry = Retry { base_delay: crate::config::units::Interval::millis(250), ..Retry::default() };
        let tries = match kind {
            // Each try counts with those who watch for break-ins.
            Kind::Credentials => u32::MAX,
            _ => self.tries,
        };
        self.tries = self.tries.saturating_add(1);
        unavailable_delay(&retry, tries, (kind == Kind::Throttled).then_some(THROTTLED_FOR))
    }

    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// Whether it has failed more than once.
    pub fn goes_on(&self) -> bool {
        self.tries > 1
    }
}

/// The part of the pipeline that waits, in readiness and log.
const PART: &str = "source";

/// How often the log says so of one thing, at most.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// What is waited for, by what it is about.
pub struct Troubles {
    pipeline: String,
    waits: Arc<Waits>,
    known: Mutex<BTreeMap<String, Known>>,
}

struct Known {
    reason: String,
    logged: Instant,
}

impl Troubles {
    pub fn new(pipeline: &str, waits: &Arc<Waits>) -> Troubles {
        Troubles { pipeline: pipeline.to_owned(), waits: Arc::clone(waits), known: Mutex::default() }
    }

    pub fn tell(&self, about: &str, reason: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let logged = known.get(about).map(|known| known.logged);
        let is_news = logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if is_news {
            tracing::warn!(pipeline = %self.pipeline, reason, "the source waits");
        }
        let logged = logged.filter(|_| !is_news).unwrap_or_else(Instant::now);
        known.insert(about.to_owned(), Known { reason: reason.to_owned(), logged });
        self.show(&known);
    }

    pub fn clear(&self, about: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.remove(about).is_some() {
            self.show(&known);
            if known.is_empty() {
                tracing::info!(pipeline = %self.pipeline, "the source reads");
            }
        }
    }

    fn show(&self, known: &BTreeMap<String, Known>) {
        match known.values().next() {
            Some(first) => self.waits.set(PART, first.reason.clone()),
            None => self.waits.clear(PART),
        }
    }
}
