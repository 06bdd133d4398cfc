//! Leases: who reads a shard, and how far it is read. What is decided by them is decided here, of what a
//! table holds and a clock says, so that it can be tried without either.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::troubles::Trouble;

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The id of the shard.
    pub shard: String,
    /// The member that reads it.
    pub owner: Option<String>,
    /// Grows with everything that the owner writes: one that does not grow is of a dead owner.
    pub counter: u64,
    pub checkpoint: Checkpoint,
    pub parents: Vec<String>,
    /// Changes of the owner since something was committed.
    pub switches: u64,
    /// A member that asked for it.
    pub hand_over_to: Option<String>,
    /// What positions say for the shard.
    pub partition: u32,
}

/// How far a shard is read and settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "kebab-case")]
pub enum Checkpoint {
    /// Not at all: it begins at the first record there is.
    TrimHorizon,
    /// Not at all: it begins at the first record of this time, milliseconds since 1970-01-01T00:00:00Z, or later.
    Timestamp { timestamp_ms: i64 },
    /// Up to this record.
    Record {
        sequence_number: String,
        /// Number of the user record in an aggregated one, from 0; 0 of a plain one.
        subsequence_number: u64,
        /// Number of the record in what was read of the shard, from 1.
        record: u64,
    },
    /// To its end.
    ShardEnd,
}

/// Where leases are kept. A member writes only to leases that it has; what it asks for is conditional, and
/// refused if it has the lease no more.
#[async_trait]
pub trait Table: Send + Sync {
    /// Whether there may be other members.
    fn is_shared(&self) -> bool;

    /// All leases, as they are now.
    async fn list(&self) -> Result<Vec<Lease>, Trouble>;

    /// Adds one. One that is there stays as it is.
    async fn create(&self, lease: Lease) -> Result<(), Trouble>;

    /// Removes one of a shard that is no more.
    async fn delete(&self, lease: &Lease) -> Result<(), Trouble>;

    /// Makes one of this member's that has not changed since it was listed. `None` if it has.
    async fn take(&self, lease: &Lease, member: &str) -> Result<Option<Lease>, Trouble>;

    /// Asks the owner to hand it over, unless somebody has asked for it already.
    async fn ask_for(&self, lease: &Lease, member: &str) -> Result<(), Trouble>;

    /// Shows that this member lives. False if it does not have the lease any more.
    async fn renew(&self, shard: &str, member: &str) -> Result<bool, Trouble>;

    /// Saves how far shards are settled, durably, and returns those that this member has not any more.
    async fn save(&self, checkpoints: &[(String, Checkpoint)], member: &str) -> Result<Vec<String>, Trouble>;

    /// Gives one up, to another member or to whoever comes first.
    async fn release(&self, shard: &str, member: &str, to: Option<&str>) -> Result<(), Trouble>;
}

impl Lease {
    pub fn is_ended(&self) -> bool {
        self.checkpoint == Checkpoint::ShardEnd
    }
}

/// When leases changed, by this member's own clock: those of others may differ.
#[derive(Default)]
pub struct Watch {
    seen: HashMap<String, (Option<String>, u64, Instant)>,
}

impl Watch {
    pub fn look(&mut self, leases: &[Lease], now: Instant) {
        let mut seen = HashMap::with_capacity(leases.len());
        for lease in leases {
            let was = self.seen.remove(&lease.shard);
            let same = was.filter(|(owner, counter, _)| *owner == lease.owner && *counter == lease.counter);
            let since = same.map_or(now, |(.., since)| since);
            seen.insert(lease.shard.clone(), (lease.owner.clone(), lease.counter, since));
        }
        self.seen = seen;
    }

    /// Whether its owner has shown no sign of life for so long.
    fn is_expired(&self, lease: &Lease, now: Instant, duration: Duration) -> bool {
        self.seen.get(&lease.shard).is_some_and(|(.., since)| now.duration_since(*since) > duration)
    }
}

/// What a member does about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nobody has it, or its owner is dead.
    Take(Lease),
    /// It was handed over to this member.
    Adopt(Lease),
    /// Its owner has more than its share.
    AskFor(Lease),
}

/// What a member looks at.
pub struct View<'a> {
    pub me: &'a str,
    pub leases: &'a [Lease],
    pub watch: &'a Watch,
    pub now: Instant,
    /// After which an owner without a sign of life is dead.
    pub duration: Duration,
    /// Shards that this member reads.
    pub held: &'a HashSet<String>,
}

impl View<'_> {
    /// Leases that can be read: not ended, and nothing before them is to be read. A parent without a lease
    /// ended before it was to be read, or is no more.
    fn readable(&self) -> Vec<&Lease> {
        let open: HashSet<&str> =
            self.leases.iter().filter(|lease| !lease.is_ended()).map(|lease| &*lease.shard).collect();
        let is_readable = |lease: &&Lease| {
            !lease.is_ended() && !lease.parents.iter().any(|parent| open.contains(&**parent))
        };
        self.leases.iter().filter(is_readable).collect()
    }

    fn is_free(&self, lease: &Lease) -> bool {
        match &lease.owner {
            None => true,
            Some(owner) => owner != self.me && self.watch.is_expired(lease, self.now, self.duration),
        }
    }

    /// Who has it, or will have it.
    fn owner_to_be<'l>(&self, lease: &'l Lease) -> Option<&'l str> {
        if self.is_free(lease) { None } else { lease.hand_over_to.as_deref().or(lease.owner.as_deref()) }
    }

    /// What this member is to do. Each wants its share of the leases; it takes those that are free first, and
    /// asks the one with the most for more only if that brings the two closer together.
    pub fn plan(&self, random: &mut impl Rng) -> Vec<Act> {
        let mut leases = self.readable();
        leases.shuffle(random);
        let mut loads: HashMap<&str, usize> = HashMap::from([(self.me, 0)]);
        for owner in leases.iter().filter_map(|lease| self.owner_to_be(lease)) {
            *loads.entry(owner).or_default() += 1;
        }
        let (mine, share) = (loads[self.me], leases.len().div_ceil(loads.len()));
        let is_handed_over =
            |lease: &&&Lease| lease.owner.as_deref() == Some(self.me) && !self.held.contains(&lease.shard);
        let mut acts: Vec<Act> =
            leases.iter().filter(is_handed_over).map(|&lease| Act::Adopt(lease.clone())).collect();
        let free: Vec<&Lease> = leases.iter().filter(|lease| self.is_free(lease)).copied().collect();
        let wanted = share.saturating_sub(mine);
        if !free.is_empty() {
            acts.extend(free.into_iter().take(wanted).map(|lease| Act::Take(lease.clone())));
            return acts;
        }
        // Of two with the same load the same one is chosen always: it does not matter which.
        let others = loads.iter().filter(|(owner, _)| **owner != self.me);
        let Some((&richest, &load)) = others.max_by_key(|&(owner, load)| (*load, *owner)) else {
            return acts;
        };
        if load >= mine + 2 {
            let count = load.saturating_sub(share).min(wanted).max(1);
            let can_be_asked_for =
                |lease: &&&Lease| lease.owner.as_deref() == Some(richest) && lease.hand_over_to.is_none();
            acts.extend(
                leases.iter().filter(can_be_asked_for).take(count).map(|&lease| Act::AskFor(lease.clone())),
            );
        }
        acts
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
