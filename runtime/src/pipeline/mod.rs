//! The journey of a message: the only code that can settle one.
//!
//! In the order of the journey:
//! - [`ingest`]: reads, opens a claim in the ledger, gives each message to the lane of its order
//! - [`lane`]: takes batches through a [`chain`]: the [`native`] steps, then the plugins
//! - [`deliver`]: writes to a sink, again and again if need be
//! - [`desk`]: gives up what cannot be delivered
//! - [`followers`]: what was dropped because of a message in flight
//! - [`commit`]: tells the source what is settled
//!
//! With `delivery = "exactly-once"` [`transaction`] takes the place of `commit`.
//!
//! and what they share: [`ledger`] (P1, P2, P11), [`budget`] (P6), [`retry`], [`status`]. New plugins
//! come to the lanes by [`swap`]; [`reload`] makes them. [`shadow`] runs candidates beside them.
//! [`traced`] is about the spans that messages leave.

pub mod assemble;
pub mod budget;
pub mod chain;
pub mod commit;
pub mod deliver;
pub mod desk;
pub mod followers;
pub mod ingest;
pub mod lane;
pub mod ledger;
pub mod native;
pub mod reload;
pub mod retry;
pub mod shadow;
pub mod status;
pub mod swap;
pub mod traced;
pub mod transaction;

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{DeadLettersCommon, Ordering, Retry, Settings, SinkCommon};
use crate::dead_letters::{Attach, DeadLetterWriter, Letters};
use crate::message::{Row, SinkSet};
use crate::observe::metrics::Metrics;
use crate::observe::waits::Waits;
use crate::sinks::{Sink, SinkTraits};
use crate::sources::OpenSource;
use crate::state::States;
use crate::traces::Tracer;
use crate::transactions::Transactions;

use budget::Budget;
use chain::Chain;
use commit::Commit;
use deliver::{Delivery, Parcel};
use desk::{Desk, DeskDoor, Origin};
use followers::Followers;
use ingest::{Feeder, Ingest, SharedProgress};
use lane::{Lane, Step};
use ledger::{FeedId, Ledger, Snapshot};
use native::Natives;
use status::PipelineMetrics;
use swap::Mailbox;
use transaction::{Ends, Gate, Transactor};

/// Everything a pipeline is made of, opened and ready.
pub struct Parts {
    pub name: String,
    pub ordering: Ordering,
    pub retry: Retry,
    pub settings: Settings,
    pub dead_letters: DeadLettersCommon,
    pub source: OpenSource,
    /// Its `type`.
    pub source_kind: &'static str,
    /// Messages read at once, at most.
    pub rows: usize,
    pub sinks: Vec<SinkPart>,
    /// What each lane does in front of the plugins.
    pub natives: Natives,
    /// The plugins of each lane; at least one lane.
    pub lanes: Vec<Vec<Box<dyn Step>>>,
    pub writer: Box<dyn DeadLetterWriter>,
    /// Of the plugins.
    pub states: Arc<States>,
    /// A position of the source never stands for another message, not even after a restart.
    pub positions_last: bool,
    /// Where `millstream dlq` finds the dead letters, if it does.
    pub letters: Option<Letters>,
    pub budget: Arc<Budget>,
    /// What it waits for, where the source tells it.
    pub waits: Arc<Waits>,
    /// In whose transactions the sinks write, and how long one is open while messages come.
    pub transactions: Option<(Arc<dyn Transactions>, Duration)>,
    /// Traces messages, if the pipeline says so.
    pub tracer: Option<Tracer>,
    pub metrics: Arc<Metrics>,
}

pub struct SinkPart {
    pub name: String,
    pub common: SinkCommon,
    pub traits: SinkTraits,
    pub sink: Box<dyn Sink>,
}

/// What all tasks of a pipeline share.
pub struct Shared {
    pub name: String,
    pub retry: Retry,
    pub ledger: Arc<Ledger>,
    pub budget: Arc<Budget>,
    pub waits: Arc<Waits>,
    pub metrics: PipelineMetrics,
    pub states: Arc<States>,
    /// See [`Parts::positions_last`].
    pub positions_last: bool,
    /// Where writing waits for its transaction, if there are transactions.
    pub gate: Option<Arc<Gate>>,
    pub tracer: Option<Tracer>,
    sink_names: Vec<String>,
    /// The `route` of each sink.
    routes: Vec<Option<String>>,
    sinks_without_route: SinkSet,
    hasher: foldhash::quality::RandomState,
    next_order: AtomicU64,
}

impl Shared {
    fn key_order(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn partition_order(&self, feed: FeedId, row: &Row) -> u64 {
        self.hasher.hash_one((feed, row.position.partition))
    }

    /// An order that no other message has.
    fn no_order(&self) -> u64 {
        self.next_order.fetch_add(1, Relaxed)
    }

    /// Names of the sinks that a message may go to, empty if it may go to all.
    fn names_of(&self, set: SinkSet) -> Vec<String> {
        let within = |name: &(usize, &String)| set.contains(name.0);
        let names: Vec<String> =
            self.sink_names.iter().enumerate().filter(within).map(|(_, name)| name.clone()).collect();
        if names.len() == self.sink_names.len() { Vec::new() } else { names }
    }
}

/// A pipeline that runs.
pub struct Running {
    pub shared: Arc<Shared>,
    pub progress: Arc<SharedProgress>,
    /// Replays to be read beside the source.
    pub attach: mpsc::Sender<Attach>,
    /// Where each lane takes new plugins from.
    pub mailboxes: Vec<Arc<Mailbox>>,
    end: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Waits until the source has ended, or `stop` was told, and everything is settled and
    /// committed, or until the pipeline has failed. Returns the accounts.
    pub async fn wait(self) -> anyhow::Result<Snapshot> {
        drop(self.attach);
        self.end.await??;
        Ok(self.shared.ledger.snapshot())
    }
}

/// The first failure of a pipeline. It ends everything at once: what is in flight is given back.
#[derive(Clone, Default)]
struct Failure {
    failed: CancellationToken,
    first: Arc<Mutex<Option<anyhow::Error>>>,
}

impl Failure {
    fn set(&self, error: anyhow::Error) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.cancel();
    }

    fn take(&self) -> Option<anyhow::Error> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Starts a pipeline. `stop` ends it as SIGTERM does (P8).
pub fn start(mut parts: Parts, stop: CancellationToken) -> Running {
    let ledger = Ledger::new(parts.sinks.len(), Arc::clone(&parts.budget));
    let sink_names: Vec<String> = parts.sinks.iter().map(|sink| sink.name.clone()).collect();
    let routes: Vec<Option<String>> = parts.sinks.iter().map(|sink| sink.common.route.clone()).collect();
    let without_route = routes.iter().enumerate().filter(|(_, route)| route.is_none());
    let sinks_without_route = without_route.fold(SinkSet::NONE, |set, (sink, _)| set.with(sink));
    let metrics = PipelineMetrics::new(
        &parts.metrics,
        &parts.name,
        &parts.source.name,
        &sink_names,
        parts.settings.type_header.clone(),
    );
    let shared = Arc::new(Shared {
        name: parts.name.clone(),
        retry: parts.retry.clone(),
        ledger,
        budget: Arc::clone(&parts.budget),
        waits: Arc::clone(&parts.waits),
        metrics,
        states: Arc::clone(&parts.states),
        positions_last: parts.positions_last,
        gate: parts.transactions.as_ref().map(|_| Arc::default()),
        tracer: parts.tracer.take(),
        sink_names,
        routes,
        sinks_without_route,
        hasher: foldhash::quality::RandomState::default(),
        next_order: AtomicU64::new(0),
    });
    parts.metrics.watch(Arc::downgrade(&shared));
    let progress = Arc::new(SharedProgress::default());
    let (attach, attached) = mpsc::channel(1);
    let mailboxes: Vec<Arc<Mailbox>> =
        parts.lanes.iter().map(|_| Arc::new(Mailbox::new(Arc::clone(&shared.budget)))).collect();
    let supervisor =
        Supervisor::new(Arc::clone(&shared), parts, &mailboxes, Arc::clone(&progress), attached, stop);
    Running { shared, progress, attach, mailboxes, end: tokio::spawn(supervisor.run()) }
}

/// Who tells a source what is settled.
enum Commits {
    Positions(Commit),
    Transactions(Transactor),
}

/// Runs the tasks of a pipeline and ends them in order.
struct Supervisor {
    shared: Arc<Shared>,
    stop: CancellationToken,
    /// Ends the lanes at once, with what they hold.
    kill: CancellationToken,
    failure: Failure,
    shutdown_timeout: std::time::Duration,
    /// When `stop` was seen.
    stopped_at: Arc<OnceLock<Instant>>,
    rows: usize,
    lanes: Vec<mpsc::Sender<Parcel>>,
    door: Option<DeskDoor>,
    attached: mpsc::Receiver<Attach>,
    /// Readers: the source, and replays.
    readers: JoinSet<()>,
    /// Lanes, sinks, the desk.
    workers: JoinSet<()>,
    /// They end when everything of their feed is settled.
    commits: JoinSet<()>,
}

impl Supervisor {
    fn new(
        shared: Arc<Shared>,
        parts: Parts,
        mailboxes: &[Arc<Mailbox>],
        progress: Arc<SharedProgress>,
        attached: mpsc::Receiver<Attach>,
        stop: CancellationToken,
    ) -> Supervisor {
        let (door, desk) = Desk::new(Arc::clone(&shared), parts.writer, &parts.dead_letters, parts.letters);
        let mut supervisor = Supervisor {
            shared: Arc::clone(&shared),
            stop,
            kill: CancellationToken::new(),
            failure: Failure::default(),
            shutdown_timeout: parts.settings.shutdown_timeout.0,
            stopped_at: Arc::default(),
            rows: parts.rows,
            lanes: Vec::new(),
            door: Some(door.clone()),
            attached,
            readers: JoinSet::new(),
            workers: JoinSet::new(),
            commits: JoinSet::new(),
        };
        supervisor.work(desk.run());
        let (followers_door, followers) = Followers::new(door.clone());
        supervisor.work(followers.run());
        let mut sinks = Vec::new();
        for (number, SinkPart { name, common, traits, sink }) in parts.sinks.into_iter().enumerate() {
            let (sender, parcels) = mpsc::channel(deliver::QUEUE);
            sinks.push(sender);
            let shared = Arc::clone(&shared);
            let delivery = Delivery::new(shared, name, number, sink, common, traits, parcels, door.clone());
            supervisor.work(delivery.run());
        }
        for (number, (steps, mailbox)) in parts.lanes.into_iter().zip(mailboxes).enumerate() {
            let (sender, batches) = mpsc::channel(lane::QUEUE);
            supervisor.lanes.push(sender);
            let (shared, mailbox) = (Arc::clone(&shared), Arc::clone(mailbox));
            let (sinks, door, followers) = (sinks.clone(), door.clone(), followers_door.clone());
            let natives = parts.natives.iter().map(|native| (native.name(), native.start())).collect();
            let chain = Chain::new(natives, steps);
            let lane = Lane::new(shared, chain, mailbox, batches, sinks, door, followers);
            supervisor.lane(number, lane);
        }
        let source_metrics = &parts.metrics.kafka_transactions;
        let transactions = parts.transactions.map(|(transactions, interval)| {
            let ended = |result| source_metrics.with_label_values(&[shared.name.as_str(), result]);
            Ends { transactions, interval, committed: ended("committed"), aborted: ended("aborted") }
        });
        supervisor.feed(parts.source, parts.ordering, progress, transactions, None);
        supervisor
    }

    /// Runs a worker; its error is the pipeline's.
    fn work(&mut self, worker: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let failure = self.failure.clone();
        self.workers.spawn(async move {
            if let Err(error) = worker.await {
                failure.set(error);
            }
        });
    }

    /// Runs a lane on a thread of its own, since plugin calls block it.
    fn lane(&mut self, number: usize, lane: Lane) {
        let (ended, end) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let kill = self.kill.clone();
        let thread = std::thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
            let result = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = kill.cancelled() => Ok(()),
                    result = lane.run() => result,
                }
            });
            // Nobody listens if the pipeline has failed already.
            let _ = ended.send(result);
        });
        self.work(async move {
            thread.map_err(|error| anyhow::anyhow!("cannot start a thread for a lane: {error}"))?;
            end.await.unwrap_or_else(|_| Err(anyhow::anyhow!("lane {number} panicked; see the log")))
        });
    }

    /// Reads a source, and commits what is settled of it.
    fn feed(
        &mut self,
        source: OpenSource,
        ordering: Ordering,
        progress: Arc<SharedProgress>,
        transactions: Option<Ends>,
        done: Option<oneshot::Sender<anyhow::Result<()>>>,
    ) {
        let Some(door) = self.door.clone() else { return };
        let OpenSource { name, reader, committer, describe } = source;
        self.shared.budget.reserve(reader.reserved());
        let (feed, changed) = self.shared.ledger.add_feed(&name, committer.kind());
        let name: Arc<str> = name.into();
        let ingest = Ingest {
            reader,
            feeder: Feeder {
                shared: Arc::clone(&self.shared),
                feed,
                origin: Origin { source: Arc::clone(&name), describe },
                lanes: self.lanes.clone(),
                desk: door,
                ordering,
                next_lane: 0,
            },
            progress,
            rows: self.rows,
        };
        let shared = Arc::clone(&self.shared);
        let ended = CancellationToken::new();
        let commit = match (transactions, self.shared.gate.clone()) {
            (Some(ends), Some(gate)) => {
                Commits::Transactions(Transactor::new(shared, gate, ends, feed, committer, ended.clone()))
            }
            _ => Commits::Positions(Commit { shared, feed, source: name, committer, changed }),
        };
        let (stop, failure, has_ended) = (self.stop.clone(), self.failure.clone(), ended.clone());
        let reader = self.shared.gate.as_ref().map(Gate::reader);
        self.readers.spawn(async move {
            // Also when this task panics, or is dropped: what was read before can be committed.
            let _ended = (has_ended.drop_guard(), reader);
            if let Err(error) = ingest.run(stop).await {
                failure.set(error);
            }
        });
        let failure = self.failure.clone();
        self.commits.spawn(async move {
            let result = match commit {
                Commits::Positions(commit) => commit.run(ended).await,
                Commits::Transactions(transactor) => transactor.run().await,
            };
            match (result, done) {
                // The one who asked for a replay has gone: its end is in the log all the same.
                (Ok(()), Some(done)) => drop(done.send(Ok(()))),
                (Ok(()), None) => {}
                (Err(error), _) => failure.set(error),
            }
        });
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let finished = self.run_to_the_end().await;
        if !finished {
            // P8: what is in flight is given back, booked as returned, and never committed.
            self.shared.ledger.give_up();
            self.kill.cancel();
            self.readers.abort_all();
            self.workers.abort_all();
            self.lanes.clear();
            self.door = None;
            while self.workers.join_next().await.is_some() {}
            while self.readers.join_next().await.is_some() {}
            if let Some(leak) = self.shared.ledger.leak() {
                self.failure.set(anyhow::anyhow!("{leak}; they will be read again at the next start"));
            }
            if !self.failure.failed.is_cancelled() {
                while self.commits.join_next().await.is_some() {}
            }
        }
        self.close_tracer().await;
        match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Exports the last spans, within the deadline of a stop (P8).
    async fn close_tracer(&self) {
        let Some(tracer) = &self.shared.tracer else { return };
        let patience = match self.stopped_at.get() {
            Some(stopped_at) => self.shutdown_timeout.saturating_sub(stopped_at.elapsed()),
            None => tracer.timeout(),
        };
        tracer.close(patience).await;
    }

    /// Runs until everything is settled and committed: true. False if the deadline of a stop has
    /// passed or the pipeline has failed.
    async fn run_to_the_end(&mut self) -> bool {
        let failed = self.failure.failed.clone();
        let leaked = self.shared.ledger.leaked().clone();
        let stop = self.stop.clone();
        let shutdown_timeout = self.shutdown_timeout;
        let stopped_at = Arc::clone(&self.stopped_at);
        let deadline = async move {
            stop.cancelled().await;
            stopped_at.get_or_init(Instant::now);
            tokio::time::sleep(shutdown_timeout).await;
        };
        tokio::pin!(deadline);
        // Front to back: the readers end, then the lanes, the sinks and the desk have nothing more
        // to come, then everything is settled and the commits end.
        while !(self.readers.is_empty() && self.workers.is_empty() && self.commits.is_empty()) {
            tokio::select! {
                biased;
                () = failed.cancelled() => return false,
                () = leaked.cancelled() => return false,
                () = &mut deadline => {
                    tracing::warn!(pipeline = %self.shared.name, "the deadline of the stop has passed; what is in flight is given back to the source");
                    return false;
                }
                attach = self.attached.recv(), if !self.lanes.is_empty() && !self.attached.is_closed() => {
                    if let Some(Attach { source, done }) = attach {
                        self.feed(source, Ordering::None, Arc::default(), None, Some(done));
                    }
                }
                ended = self.readers.join_next(), if !self.readers.is_empty() => self.joined(ended),
                ended = self.workers.join_next(), if !self.workers.is_empty() => self.joined(ended),
                ended = self.commits.join_next(), if !self.commits.is_empty() => self.joined(ended),
            }
            if self.readers.is_empty() {
                self.attached.close();
                self.lanes.clear();
                self.door = None;
            }
        }
        // The last one may have ended by failing.
        !failed.is_cancelled() && !leaked.is_cancelled()
    }

    /// A panic in a task is the pipeline's failure: what it held was given back or leaked.
    fn joined(&self, ended: Option<Result<(), tokio::task::JoinError>>) {
        if let Some(Err(error)) = ended
            && !error.is_cancelled()
        {
            self.failure.set(anyhow::anyhow!("a part of the pipeline panicked: {error}"));
        }
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;

#[cfg(test)]
mod deduplicate_tests;

#[cfg(test)]
mod transaction_tests;
