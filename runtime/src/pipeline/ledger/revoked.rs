//! What is not committed after all: partitions that went to somebody else, transactions that were
//! aborted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{Claim, FeedId, Ledger, State};
use crate::message::{Position, Row};

impl Ledger {
    /// The number of the claim that is opened next.
    pub fn next_claim(&self) -> u64 {
        self.state().next_claim()
    }

    /// Whether there is anything of any feed that is not committed.
    pub fn has_claims(&self) -> bool {
        self.state().feeds.iter().any(|feed| feed.claims > 0)
    }

    /// Messages in flight of all claims below this number.
    pub fn in_flight_below(&self, boundary: u64) -> u64 {
        let state = self.state();
        let live =
            state.claims_below(boundary).filter(|claim| claim.unsettled > 0).flat_map(|claim| &claim.live);
        live.map(|&live| u64::from(live)).sum()
    }

    /// The last position of each partition in the claims below this number that is not committed yet.
    pub fn positions_below(&self, feed: FeedId, boundary: u64) -> Vec<Position> {
        let state = self.state();
        let mut highest: BTreeMap<u32, Position> = BTreeMap::new();
        for claim in state.claims_below(boundary).filter(|claim| claim.feed == feed.0) {
            let rows = claim.original.rows().iter().zip(&claim.outcomes);
            for (row, _) in rows.filter(|(_, outcome)| !outcome.committed) {
                highest.insert(row.position.partition, row.position);
            }
        }
        highest.into_values().collect()
    }

    /// Gives back everything in flight: from now on it is abandoned wherever it is, nothing of it is
    /// committed, and of this feed nothing is taken until [`Ledger::rewound`]. Returns the number
    /// below which all claims are revoked.
    pub fn revoke_all(&self, feed: FeedId) -> u64 {
        let mut state = self.state();
        state.feeds[feed.0].rewinding = true;
        state.forfeit(feed, |_| true);
        let revoked = state.next_claim();
        self.revoked_below.store(revoked, Ordering::Release);
        revoked
    }

    /// What is read of the feed from now on is taken again.
    pub fn rewound(&self, feed: FeedId) {
        self.state().feeds[feed.0].rewinding = false;
    }

    /// Whether the feed goes back, and nothing of it is taken meanwhile.
    pub fn is_rewinding(&self, feed: FeedId) -> bool {
        self.state().feeds[feed.0].rewinding
    }

    /// Whether the messages of this claim are to be abandoned.
    pub fn is_revoked(&self, claim: u64) -> bool {
        claim < self.revoked_below.load(Ordering::Acquire)
    }

    /// Nothing that was read of these partitions until now is committed any more: they belong to
    /// somebody else. What of it is in flight goes on to its end.
    pub fn forfeit(&self, feed: FeedId, partitions: &[u32]) {
        let mut state = self.state();
        state.forfeit(feed, |row| partitions.contains(&row.position.partition));
        state.forget_finished_claims();
    }
}

impl State {
    fn claims_below(&self, boundary: u64) -> impl Iterator<Item = &Claim> {
        let below = boundary.saturating_sub(self.first_claim);
        self.claims.iter().take(usize::try_from(below).unwrap_or(usize::MAX)).flatten()
    }

    /// Nothing of these rows is committed any more.
    fn forfeit(&mut self, feed: FeedId, is_lost: impl Fn(&Row) -> bool) {
        for claim in self.claims.iter_mut().flatten().filter(|claim| claim.feed == feed.0) {
            for (row, outcome) in claim.original.rows().iter().zip(&mut claim.outcomes) {
                outcome.committed |= is_lost(row);
            }
        }
    }
}
