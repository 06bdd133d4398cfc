//! Who reads what: takes leases, has their shards fetched, hands them over, ends them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, IntGaugeVec};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fetch::{Fetching, Shard};
use super::leases::{Act, Checkpoint, Lease, Table, View, Watch};
use super::ownership::{Ownership, Standing};
use super::starts::Start;
use super::stream::ShardInfo;
use super::troubles::{Backoff, Trouble};

/// How often shards are listed, besides when one has ended.
const LIST_INTERVAL: Duration = Duration::from_secs(60);

/// How often all leases are looked at, at least: so long a lease that was given up lies there, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How often a lease is renewed while one of a dead member expires.
const RENEWALS_PER_DURATION: u32 = 3;

/// A shard that the service does not know may be one that it does not know everywhere yet.
const MISSING_FOR: Duration = Duration::from_secs(60);

/// What the coordinator waits for, in what is told.
const LEASES: &str = "leases";
const SHARDS: &str = "shards";

pub struct Coordinator {
    pub fetching: Arc<Fetching>,
    pub table: Arc<dyn Table>,
    pub ownership: Arc<Ownership>,
    /// The name of this member.
    pub member: Arc<str>,
    pub start: Start,
    /// After which a member without a sign of life has lost its leases.
    pub duration: Duration,
    pub drain_timeout: Duration,
    /// Cancelled once nothing more is read.
    pub stopping: CancellationToken,
    /// Cancelled once everything is committed, or given up.
    pub closing: CancellationToken,
    pub leases: IntGaugeVec,
    pub losses: IntCounterVec,
}

/// What changes while it runs.
struct Running {
    coordinator: Coordinator,
    shards: HashMap<String, ShardInfo>,
    listed: Option<Instant>,
    /// When to list them next.
    list_at: Instant,
    list_backoff: Backoff,
    renewed: Option<Instant>,
    watch: Watch,
    held: HashMap<String, Held>,
    random: StdRng,
    is_stopping: bool,
}

/// A shard that is ours.
struct Held {
    shard: Arc<Shard>,
    leaving: Option<Leaving>,
    /// Ends fetching.
    _fetches: DropGuard,
}

struct Leaving {
    since: Instant,
    /// The member that asked for it.
    to: Option<String>,
}

impl Coordinator {
    /// Runs until it is closed, and gives all leases up then.
    pub async fn run(self) {
        let mut running = Running {
            coordinator: self,
            shards: HashMap::new(),
            listed: None,
            list_at: Instant::now(),
            list_backoff: Backoff::default(),
            renewed: None,
            watch: Watch::default(),
            held: HashMap::new(),
            random: StdRng::from_rng(&mut rand::rng()),
            is_stopping: false,
        };
        running.run().await;
    }

    /// How often all leases are looked at.
    fn interval(&self) -> Duration {
        match self.table.is_shared() {
            true => LOOK_INTERVAL.min(self.duration / RENEWALS_PER_DURATION),
            false => LIST_INTERVAL,
        }
    }
}

impl Running {
    async fn run(&mut self) {
        let (closing, stopping) = (self.coordinator.closing.clone(), self.coordinator.stopping.clone());
        let resharded = Arc::clone(&self.coordinator.fetching.resharded);
        let ownership = Arc::clone(&self.coordinator.ownership);
        let mut backoff = Backoff::default();
        let mut next = Instant::now();
        loop {
            let round = match closing.run_until_cancelled(self.round(next)).await {
                None => break,
                Some(round) => round,
            };
            match round {
                Ok(None) => {}
                Ok(Some(at)) => {
                    next = at;
                    backoff.reset();
                    self.coordinator.fetching.troubles.clear(LEASES);
                }
                Err(Trouble::Stop(error)) => {
                    // Nobody listens if the pipeline ends anyway.
                    let _ = self.coordinator.fetching.queue.send(Err(error));
                    break;
                }
                Err(Trouble::Wait(failure)) => {
                    self.coordinator.fetching.troubles.tell(LEASES, &failure.reason);
                    next = Instant::now() + backoff.next(failure.kind);
                }
            }
            let drained_at = self.held.values().filter_map(|held| held.leaving.as_ref());
            let drained_at = drained_at.map(|leaving| leaving.since + self.coordinator.drain_timeout).min();
            let wake = match drained_at.filter(|_| !self.is_stopping) {
                Some(at) => at.min(next).max(Instant::now()),
                None => next,
            };
            tokio::select! {
                () = closing.cancelled() => break,
                () = stopping.cancelled(), if !self.is_stopping => self.stop(),
                () = ownership.changed.notified() => {}
                () = resharded.notified() => {
                    self.list_at = Instant::now();
                    next = self.list_at;
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        self.close().await;
    }

    /// Does what is due. Returns when all leases are to be looked at again, if they were.
    async fn round(&mut self, next: Instant) -> Result<Option<Instant>, Trouble> {
        let has_finished = self.settle().await?;
        if has_finished {
            self.list_at = Instant::now();
        } else if Instant::now() < next {
            return Ok(None);
        }
        self.look().await?;
        Ok(Some((Instant::now() + self.coordinator.interval()).min(self.list_at)))
    }

    /// Lets go of what is lost, drained or finished. True if something was finished.
    async fn settle(&mut self) -> Result<bool, Trouble> {
        let mut has_finished = false;
        for id in self.held.keys().cloned().collect::<Vec<String>>() {
            let held = &self.held[&id];
            let number = held.shard.number;
            match (self.coordinator.ownership.standing(number), &held.leaving) {
                (Standing::Gone, _) => self.forget(&id, true),
                (Standing::Finished, _) => {
                    self.finish(&id).await?;
                    has_finished = true;
                }
                (Standing::Drained, Some(_)) => self.give_up(&id, true).await?,
                (Standing::Busy, Some(leaving))
                    if !self.is_stopping && leaving.since.elapsed() >= self.coordinator.drain_timeout =>
                {
                    tracing::warn!(
                        shard = id,
                        "a shard did not drain in time; what is in flight of it is delivered twice"
                    );
                    self.give_up(&id, false).await?;
                }
                (Standing::Drained | Standing::Busy, _) => {}
            }
        }
        Ok(has_finished)
    }

    /// Says that everything of a shard is settled. Its children may begin now.
    async fn finish(&mut self, id: &str) -> Result<(), Trouble> {
        let Coordinator { table, member, .. } = &self.coordinator;
        let lost = table.save(&[(id.to_owned(), Checkpoint::ShardEnd)], member).await?;
        if lost.is_empty() {
            table.release(id, member, None).await?;
            tracing::info!(shard = id, "a shard is read to its end");
        }
        self.coordinator.ownership.release(self.held[id].shard.number);
        self.forget(id, !lost.is_empty());
        Ok(())
    }

    /// Gives a lease up, to who asked for it. What is in flight of it is lost.
    async fn give_up(&mut self, id: &str, is_drained: bool) -> Result<(), Trouble> {
        let Coordinator { table, member, ownership, .. } = &self.coordinator;
        let held = &self.held[id];
        let to = held.leaving.as_ref().and_then(|leaving| leaving.to.clone());
        table.release(id, member, to.as_deref()).await?;
        match is_drained {
            true => ownership.release(held.shard.number),
            false => ownership.lose(held.shard.number),
        }
        tracing::info!(shard = id, to, "a shard is given up");
        self.forget(id, false);
        Ok(())
    }

    fn forget(&mut self, id: &str, is_loss: bool) {
        if self.held.remove(id).is_none() {
            return;
        }
        let Coordinator { fetching, leases, losses, .. } = &self.coordinator;
        let labels = [&*fetching.pipeline, fetching.stream.name()];
        if is_loss {
            tracing::warn!(
                shard = id,
                "a shard was lost: this member was away for too long; nothing more of it is committed"
            );
            losses.with_label_values(&labels).inc();
        }
        leases.with_label_values(&labels).set(self.held.len() as i64);
        // It is not there if nothing was fetched.
        let _ = fetching.behind.remove_label_values(&[labels[0], labels[1], id]);
        fetching.troubles.clear(id);
    }

    /// Nothing more is read: what is drained is given up at once.
    fn stop(&mut self) {
        self.is_stopping = true;
        for held in self.held.values_mut() {
            self.coordinator.ownership.leave(held.shard.number);
            held.leaving.get_or_insert_with(|| Leaving { since: Instant::now(), to: None });
        }
    }

    async fn close(&mut self) {
        let Coordinator { table, member, fetching, .. } = &self.coordinator;
        for (id, held) in self.held.drain() {
            self.coordinator.ownership.release(held.shard.number);
            let to = held.leaving.and_then(|leaving| leaving.to);
            if let Err(trouble) = table.release(&id, member, to.as_deref()).await {
                let error = format!("{:#}", trouble.into_error());
                tracing::warn!(shard = id, error, "a lease cannot be given up; it expires");
            }
            fetching.troubles.clear(&id);
        }
        fetching.troubles.clear(LEASES);
        fetching.troubles.clear(SHARDS);
    }

    /// Looks at leases and shards, and does what is to be done about them. Leases come first: they are renewed
    /// also while nothing can be heard of the stream.
    async fn look(&mut self) -> Result<(), Trouble> {
        let mut leases = self.coordinator.table.list().await?;
        self.hear(&leases);
        self.renew().await?;
        if self.is_stopping {
            return Ok(());
        }
        self.list_shards().await?;
        if self.listed.is_none() {
            return Ok(());
        }
        self.pass_over_missing();
        if self.create_leases(&leases).await? {
            leases = self.coordinator.table.list().await?;
        }
        self.watch.look(&leases, Instant::now());
        let held: HashSet<String> = self.held.keys().cloned().collect();
        let acts = View {
            me: &self.coordinator.member,
            leases: &leases,
            watch: &self.watch,
            now: Instant::now(),
            duration: self.coordinator.duration,
            held: &held,
        }
        .plan(&mut self.random);
        for act in acts {
            let Coordinator { table, member, .. } = &self.coordinator;
            match act {
                Act::Adopt(lease) => self.acquire(lease).await?,
                Act::Take(lease) => {
                    if let Some(lease) = table.take(&lease, member).await? {
                        self.acquire(lease).await?;
                    }
                }
                Act::AskFor(lease) => {
                    tracing::info!(shard = lease.shard, of = lease.owner, "asking for a shard");
                    table.ask_for(&lease, member).await?;
                }
            }
        }
        self.clean_up(&leases).await
    }

    /// Asks for the shards if it is time to.
    async fn list_shards(&mut self) -> Result<(), Trouble> {
        if Instant::now() < self.list_at {
            return Ok(());
        }
        let Fetching { stream, troubles, .. } = &*self.coordinator.fetching;
        let delay = match stream.shards().await {
            Ok(shards) => {
                troubles.clear(SHARDS);
                self.shards = shards.into_iter().map(|shard| (shard.id.clone(), shard)).collect();
                self.listed = Some(Instant::now());
                self.list_backoff.reset();
                LIST_INTERVAL
            }
            Err(Trouble::Wait(failure)) => {
                troubles.tell(SHARDS, &failure.reason);
                self.list_backoff.next(failure.kind)
            }
            Err(stop) => return Err(stop),
        };
        self.list_at = Instant::now() + delay;
        Ok(())
    }

    /// True if there are new ones.
    async fn create_leases(&self, leases: &[Lease]) -> Result<bool, Trouble> {
        let mut shards: Vec<ShardInfo> = self.shards.values().cloned().collect();
        shards.sort_by(|one, other| one.id.cmp(&other.id));
        let Coordinator { start, fetching, .. } = &self.coordinator;
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let new = start.leases_for(fetching.stream.name(), &shards, leases, now_ms);
        let is_any = !new.is_empty();
        for lease in new {
            self.coordinator.table.create(lease).await?;
        }
        Ok(is_any)
    }

    /// Hears what others did, and ask for.
    fn hear(&mut self, leases: &[Lease]) {
        let Coordinator { table, member, ownership, .. } = &self.coordinator;
        if !table.is_shared() {
            return;
        }
        for lease in leases {
            let Some(held) = self.held.get_mut(&lease.shard) else { continue };
            if lease.owner.as_deref() != Some(&**member) {
                // Seen, and told, when things are settled next.
                ownership.lose(held.shard.number);
                continue;
            }
            let Some(to) = lease.hand_over_to.as_deref().filter(|&to| to != &**member) else { continue };
            if held.leaving.is_none() {
                tracing::info!(shard = lease.shard, to, "a shard goes to another member; draining");
            }
            ownership.leave(held.shard.number);
            let leaving = held.leaving.get_or_insert_with(|| Leaving { since: Instant::now(), to: None });
            leaving.to = Some(to.to_owned());
            // Maybe nothing of it is in flight.
            ownership.changed.notify_one();
        }
    }

    /// Shows that this member lives.
    async fn renew(&mut self) -> Result<(), Trouble> {
        let Coordinator { table, member, ownership, duration, .. } = &self.coordinator;
        let is_due =
            self.renewed.is_none_or(|renewed| renewed.elapsed() >= *duration / RENEWALS_PER_DURATION);
        if !table.is_shared() || !is_due {
            return Ok(());
        }
        let started = Instant::now();
        let mut renewals = JoinSet::new();
        for id in self.held.keys().cloned() {
            let (table, member) = (Arc::clone(table), Arc::clone(member));
            renewals.spawn(async move { (table.renew(&id, &member).await, id) });
        }
        while let Some(renewed) = renewals.join_next().await {
            let (is_ours, id) = renewed.map_err(|error| Trouble::Stop(error.into()))?;
            if !is_ours? && let Some(held) = self.held.get(&id) {
                ownership.lose(held.shard.number);
            }
        }
        self.renewed = Some(started);
        Ok(())
    }

    /// A shard that is listed no more and that the service does not know either is gone with its records.
    fn pass_over_missing(&self) {
        for Held { shard, .. } in self.held.values() {
            let is_missing = shard.missing_for().is_some_and(|missing| missing >= MISSING_FOR);
            if is_missing && !self.shards.contains_key(&shard.id) {
                tracing::warn!(
                    shard = shard.id,
                    "a shard is no more: what was not read of it in its retention is lost"
                );
                self.coordinator.ownership.end(shard.number, shard.term);
            }
        }
    }

    /// Reads the shard of a lease that is ours.
    async fn acquire(&mut self, lease: Lease) -> Result<(), Trouble> {
        if !self.shards.contains_key(&lease.shard) {
            let before = self.listed;
            self.list_at = Instant::now();
            self.list_shards().await?;
            if self.listed == before {
                // It is adopted the next time.
                return Ok(());
            }
        }
        let Coordinator { ownership, fetching, leases, .. } = &self.coordinator;
        // Where it is lost and not told, it is adopted the next time.
        let Some(term) = ownership.acquire(lease.partition, &lease.shard, &lease.checkpoint) else {
            return Ok(());
        };
        tracing::info!(shard = lease.shard, checkpoint = ?lease.checkpoint, "reading a shard");
        let shard = Arc::new(Shard {
            id: lease.shard.clone(),
            number: lease.partition,
            term,
            hash_keys: self.shards.get(&lease.shard).and_then(|shard| shard.hash_keys),
            missing_since: Mutex::default(),
        });
        let fetches = CancellationToken::new();
        let (token, fetched) =
            (fetches.clone(), Arc::clone(fetching).run(Arc::clone(&shard), lease.checkpoint));
        tokio::spawn(async move { token.run_until_cancelled(fetched).await });
        self.held.insert(lease.shard, Held { shard, leaving: None, _fetches: fetches.drop_guard() });
        let labels = [&*fetching.pipeline, fetching.stream.name()];
        leases.with_label_values(&labels).set(self.held.len() as i64);
        Ok(())
    }

    /// Removes leases of shards that are read to their end and are no more.
    async fn clean_up(&self, leases: &[Lease]) -> Result<(), Trouble> {
        let is_listed_now = self.listed.is_some_and(|listed| listed.elapsed() < self.coordinator.interval());
        if !is_listed_now || self.shards.is_empty() {
            return Ok(());
        }
        let is_gone = |lease: &&Lease| {
            let is_parent = |other: &Lease| !other.is_ended() && other.parents.contains(&lease.shard);
            lease.is_ended() && !self.shards.contains_key(&lease.shard) && !leases.iter().any(is_parent)
        };
        for lease in leases.iter().filter(is_gone) {
            self.coordinator.table.delete(lease).await?;
        }
        Ok(())
    }
}
