//! One call: its messages as entries of requests, some at the same time.
//!
//! A request of many entries can fail for some and succeed for others, in any order. So of a *group* (a
//! message group of FIFO, a partition key) at most one entry is unacknowledged at any time, over all
//! requests: what comes behind it is sent when it is acknowledged, or refused for good (P3).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::super::lines::ENCODE_ERROR;
use super::super::{CallError, Outcome, Outcomes, Sink};
use crate::aws::{Failure, Kind};
use crate::codecs::Encoder;
use crate::config::problem::Problem;
use crate::config::units::ByteSize;
use crate::message::MessageRef;

/// Code of a message that the service refuses.
const REFUSED: &str = "refused";

/// Code of a message that names a queue that is not there.
pub const UNKNOWN_QUEUE: &str = "unknown-queue";

/// Entries of a call for each request in flight: so many requests one after the other, so that the last of
/// a call do not wait for each other all the time.
const REQUESTS_IN_TURN: usize = 4;

/// What takes entries: a queue, a topic, a stream.
#[async_trait]
pub trait Destination: Send + Sync + 'static {
    type Entry: Send + Sync + 'static;

    /// Makes an entry of a message that the codec has encoded. Called once a message and call, in order,
    /// before anything of it is sent.
    ///
    /// # Errors
    /// It can never be one.
    fn entry(&self, message: &MessageRef<'_>, body: Vec<u8>) -> Result<Entry<Self::Entry>, Refused>;

    /// Sends entries of one target in one request and returns what became of each, in order; `None` if the
    /// answer does not say. A request that got no answer may have been done.
    async fn send(&self, entries: &[Arc<Self::Entry>]) -> Result<Vec<Option<Result<(), Failure>>>, Trouble>;
}

/// A message as the service takes it.
pub struct Entry<E> {
    pub what: E,
    /// As the service counts them.
    pub bytes: usize,
    /// Entries of the same one are sent one after the other.
    pub group: Option<String>,
    /// Only entries of the same one are sent in one request.
    pub target: Option<Arc<str>>,
}

/// Why a message can never be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: &'static str,
    pub reason: String,
}

impl Refused {
    pub fn new(code: &'static str, reason: impl Into<String>) -> Refused {
        Refused { code, reason: reason.into() }
    }
}

/// Why a request was not done, as far as we know.
#[derive(Debug)]
pub enum Trouble {
    Failure(Failure),
    /// No waiting will help.
    Fatal(String),
}

/// No client can be made.
impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Trouble {
        Trouble::Fatal(format!("{error:#}"))
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Failure(failure)
    }
}

/// How much is sent at once.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Entries of a request.
    pub messages: usize,
    /// Bytes of a request.
    pub bytes: usize,
    /// Requests at the same time.
    pub concurrency: usize,
}

impl Limits {
    /// Messages of a call where the pipeline does not say it.
    pub fn call(self) -> usize {
        self.messages.saturating_mul(self.concurrency).saturating_mul(REQUESTS_IN_TURN)
    }

    /// Adds what is wrong with the keys `max_messages`, `max_bytes` and `concurrency`; `most` are the
    /// service's own limits of a request.
    pub fn check(self, most: (usize, ByteSize), problems: &mut Vec<Problem>) {
        let (most_messages, most_bytes) = most;
        if self.messages == 0 || self.messages > most_messages {
            let message = format!("a request cannot hold {} messages", self.messages);
            problems.push(Problem::new("/max_messages", message).help(format!("1 to {most_messages}")));
        }
        if self.bytes == 0 || self.bytes > most_bytes.as_usize() {
            let message = format!("a request cannot hold {} bytes", self.bytes);
            problems.push(Problem::new("/max_bytes", message).help(format!("up to \"{most_bytes}\"")));
        }
        if self.concurrency == 0 {
            problems.push(Problem::new("/concurrency", "0 is too few").help("at least 1"));
        }
    }
}

/// A sink of requests with many entries.
pub struct Batches<D> {
    destination: Arc<D>,
    codec: Arc<dyn Encoder>,
    limits: Limits,
}

impl<D: Destination> Batches<D> {
    pub fn new(destination: D, codec: Arc<dyn Encoder>, limits: Limits) -> Batches<D> {
        Batches { destination: Arc::new(destination), codec, limits }
    }

    /// Messages of a call as entries; those that can be none get their outcome.
    fn entries(&self, messages: &[MessageRef<'_>]) -> Call<D::Entry> {
        let mut call = Call::new(messages.len(), self.limits);
        for (index, message) in messages.iter().enumerate() {
            let mut body = Vec::new();
            if let Err(error) = self.codec.encode(message, &mut body) {
                let reason = error.to_string();
                call.outcomes[index] = Some(Outcome::Reject { code: ENCODE_ERROR, reason });
                continue;
            }
            match self.destination.entry(message, body) {
                Ok(entry) => call.add(index, entry),
                Err(Refused { code, reason }) => {
                    call.outcomes[index] = Some(Outcome::Reject { code, reason })
                }
            }
        }
        call
    }
}

#[async_trait]
impl<D: Destination> Sink for Batches<D> {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        let mut call = self.entries(messages);
        // Dropped with the call, it gives up what is being sent.
        let mut running = JoinSet::new();
        loop {
            while running.len() < self.limits.concurrency
                && let Some(taken) = call.next_request()
            {
                let destination = Arc::clone(&self.destination);
                let entries = call.entries_at(&taken);
                running.spawn(async move { (taken, destination.send(&entries).await) });
            }
            let Some(done) = running.join_next().await else { break };
            let (taken, answer) =
                done.map_err(|error| CallError::Fatal(format!("a request was given up: {error}")))?;
            call.answered(taken, answer);
        }
        call.summary()
    }
}

/// The state of a call. Messages go by their index in it.
struct Call<E> {
    limits: Limits,
    outcomes: Vec<Option<Outcome>>,
    entries: Vec<Option<Entry<Arc<E>>>>,
    /// Those that may be sent now: without a group, or the first of it.
    ready: BTreeSet<usize>,
    /// Those that wait for the one before them, by group. A group that has one unacknowledged is in it.
    behind: HashMap<String, VecDeque<usize>>,
    /// Parts of requests that were refused, in which the guilty entry is looked for.
    divided: VecDeque<Vec<usize>>,
    /// Why no more requests are made.
    over: Option<CallError>,
}

impl<E> Call<E> {
    fn new(messages: usize, limits: Limits) -> Call<E> {
        Call {
            limits,
            outcomes: vec![None; messages],
            entries: (0..messages).map(|_| None).collect(),
            ready: BTreeSet::new(),
            behind: HashMap::new(),
            divided: VecDeque::new(),
            over: None,
        }
    }

    fn add(&mut self, index: usize, entry: Entry<E>) {
        let Entry { what, bytes, group, target } = entry;
        match group.as_ref().and_then(|group| self.behind.get_mut(group)) {
            Some(behind) => behind.push_back(index),
            None => {
                self.ready.insert(index);
                if let Some(group) = &group {
                    self.behind.insert(group.clone(), VecDeque::new());
                }
            }
        }
        self.entries[index] = Some(Entry { what: Arc::new(what), bytes, group, target });
    }

    /// Takes the entries of the next request; `None` if there is nothing to send now.
    fn next_request(&mut self) -> Option<Vec<usize>> {
        if self.over.is_some() {
            return None;
        }
        if let Some(part) = self.divided.pop_front() {
            return Some(part);
        }
        let first = self.entries[*self.ready.first()?].as_ref();
        let target = first.and_then(|entry| entry.target.clone());
        let (mut taken, mut bytes) = (Vec::new(), 0_usize);
        for &index in &self.ready {
            let Some(entry) = self.entries[index].as_ref().filter(|entry| entry.target == target) else {
                continue;
            };
            bytes += entry.bytes;
            if taken.len() == self.limits.messages || (!taken.is_empty() && bytes > self.limits.bytes) {
                break;
            }
            taken.push(index);
        }
        for index in &taken {
            self.ready.remove(index);
        }
        Some(taken)
    }

    fn entries_at(&self, indexes: &[usize]) -> Vec<Arc<E>> {
        let entry = |&index: &usize| self.entries[index].as_ref().map(|entry| Arc::clone(&entry.what));
        indexes.iter().filter_map(entry).collect()
    }

    fn answered(&mut self, taken: Vec<usize>, answer: Result<Vec<Option<Result<(), Failure>>>, Trouble>) {
        match answer {
            Ok(results) => {
                let mut results = results.into_iter();
                for index in taken {
                    self.settle(index, results.next().flatten());
                }
            }
            Err(Trouble::Failure(failure)) if failure.kind == Kind::Refused => match &taken[..] {
                &[index] => self.settle(index, Some(Err(failure))),
                // P4: until the guilty one stands alone.
                many => {
                    let (first, second) = many.split_at(many.len() / 2);
                    self.divided.extend([first.to_vec(), second.to_vec()]);
                }
            },
            Err(Trouble::Failure(failure)) => self.end(failure.as_call_error()),
            Err(Trouble::Fatal(reason)) => self.end(CallError::Fatal(reason)),
        }
    }

    fn settle(&mut self, index: usize, result: Option<Result<(), Failure>>) {
        let outcome = match result {
            Some(Ok(())) => Outcome::Durable,
            Some(Err(Failure { kind: Kind::Refused, reason, code })) => {
                let code = if code == UNKNOWN_QUEUE { UNKNOWN_QUEUE } else { REFUSED };
                Outcome::Reject { code, reason }
            }
            // Busy, in trouble, or its key is not to be had: no message's fault.
            Some(Err(Failure { reason, .. })) => Outcome::Later { reason, after: None },
            None => {
                Outcome::Retry { reason: "the service did not say what became of it".to_owned(), after: None }
            }
        };
        let is_over = matches!(outcome, Outcome::Durable | Outcome::Reject { .. });
        self.outcomes[index] = Some(outcome);
        let entry = self.entries[index].take();
        // Otherwise those behind it must wait for it.
        if is_over
            && let Some(Entry { group: Some(group), .. }) = entry
            && let Some(next) = self.behind.get_mut(&group).and_then(VecDeque::pop_front)
        {
            self.ready.insert(next);
        }
    }

    /// Makes no more requests. Of several reasons the one is kept for which the wait is the longest.
    fn end(&mut self, why: CallError) {
        let rank = |error: &CallError| match error {
            CallError::Unavailable { retry_after, credentials, .. } => (false, *credentials, *retry_after),
            CallError::Fatal(_) | CallError::Refused { .. } => (true, false, None),
        };
        if self.over.as_ref().is_none_or(|known| rank(known) < rank(&why)) {
            self.over = Some(why);
        }
    }

    fn summary(self) -> Result<Outcomes, CallError> {
        let outcomes = self.outcomes;
        match self.over {
            Some(why) if outcomes.iter().all(Option::is_none) => return Err(why),
            Some(why) => return Ok(Outcomes::Until(outcomes, why)),
            None => {}
        }
        if outcomes.iter().all(|outcome| *outcome == Some(Outcome::Durable)) {
            return Ok(Outcomes::AllDurable);
        }
        let later = || Outcome::Later {
            reason: "not sent, as it stands behind one of the same group that failed".to_owned(),
            after: Some(std::time::Duration::ZERO),
        };
        Ok(Outcomes::Each(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(later)).collect()))
    }
}
