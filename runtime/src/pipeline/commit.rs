//! Committing: moves the source forward over what is settled (P1).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::ledger::FeedId;
use super::retry::unavailable_delay;
use crate::sources::{CommitKind, Committer, SettledRow};
use crate::state::{Ending, Ticket};

/// How often a log's position is committed, at most: a commit is fsynced, and what is not yet
/// committed is what a crash reads again.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

pub struct Commit {
    pub shared: Arc<Shared>,
    pub feed: FeedId,
    pub source: Arc<str>,
    pub committer: Box<dyn Committer>,
    pub changed: Arc<Notify>,
}

impl Commit {
    /// Runs until the reader has `ended` and everything it read is settled; then closes the source.
    pub async fn run(mut self, ended: CancellationToken) -> anyhow::Result<()> {
        while !(ended.is_cancelled() && self.shared.ledger.is_settled(self.feed)) {
            tokio::select! {
                () = ended.cancelled(), if !ended.is_cancelled() => {}
                () = self.changed.notified() => {}
            }
            self.commit().await?;
            if self.committer.kind() == CommitKind::UpTo {
                tokio::select! {
                    () = ended.cancelled(), if !ended.is_cancelled() => {}
                    () = tokio::time::sleep(COMMIT_INTERVAL) => {}
                }
            }
        }
        self.commit().await?;
        self.committer.close().await.map_err(|error| error.context(format!("closing source {}", self.source)))
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        for latency in self.shared.ledger.take_latencies(self.feed) {
            self.shared.metrics.latency.observe(latency.as_secs_f64());
        }
        let committable = self.shared.ledger.take_committable(self.feed);
        if committable.is_empty() {
            return Ok(());
        }
        keep_state(&self.shared, &committable.ended).await?;
        if !committable.rows.is_empty() {
            let rows: Vec<SettledRow> = committable.rows;
            return self.committer.each(rows).await.map_err(|error| self.context(error));
        }
        if committable.positions.is_empty() {
            return Ok(());
        }
        let mut tries = 0;
        // A position that could not be saved is still right: it is saved again until it is.
        while let Err(error) = self.committer.up_to(&committable.positions).await {
            wait(&self.shared, &error, &mut tries, "the source's position cannot be committed").await;
        }
        if tries > 0 {
            self.shared.waits.clear("commit");
        }
        Ok(())
    }

    fn context(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(format!("committing to source {}", self.source))
    }
}

/// Makes final what plugins wrote for these messages, and durable: before the source is told, or
/// a crash in between would forget it (P1).
async fn keep_state(shared: &Shared, ended: &[(Ticket, Ending)]) -> anyhow::Result<()> {
    for &(ticket, ending) in ended {
        shared.states.settle(ticket, ending);
    }
    let mut tries = 0;
    while shared.states.is_dirty() {
        let states = Arc::clone(&shared.states);
        if let Err(error) = tokio::task::spawn_blocking(move || states.flush()).await? {
            wait(shared, &error, &mut tries, "the state of plugins cannot be written").await;
        }
    }
    if tries > 0 {
        shared.waits.clear("commit");
    }
    Ok(())
}

async fn wait(shared: &Shared, error: &anyhow::Error, tries: &mut u32, what: &str) {
    let delay = unavailable_delay(&shared.retry, *tries, None);
    tracing::warn!(pipeline = %shared.name, error = format!("{error:#}"), ?delay, "{what}");
    shared.waits.set("commit", format!("{error:#}"));
    *tries = tries.saturating_add(1);
    tokio::time::sleep(delay).await;
}
