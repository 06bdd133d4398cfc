//! How often messages have failed over their redeliveries (`max_failures`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::FailureCounts;

/// SQS keeps a message for fourteen days at most
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
const RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);

/// Counts of this member, which it also keeps on the disk.
pub struct Failed {
    known: Mutex<HashMap<Arc<str>, u32>>,
    kept: Arc<dyn FailureCounts>,
}

impl Failed {
    /// Blocks on the disk.
    pub fn load(kept: Arc<dyn FailureCounts>) -> anyhow::Result<Failed> {
        let known = kept.load_failures(RETENTION)?;
        let known = known.into_iter().map(|(id, failures)| (Arc::from(id), failures)).collect();
        Ok(Failed { known: Mutex::new(known), kept })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, u32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a message has failed.
    pub fn of(&self, id: &str) -> u32 {
        self.known().get(id).copied().unwrap_or_default()
    }

    /// These have failed, and go back. What cannot be written is remembered as long as this member runs.
    pub async fn add(&self, ids: Vec<Arc<str>>) {
        if ids.is_empty() {
            return;
        }
        let names: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
        ids.into_iter().for_each(|id| *self.known().entry(id).or_default() += 1);
        self.write(move |kept| kept.add_failures(&names)).await;
    }

    /// These are gone.
    pub async fn forget(&self, ids: &[Arc<str>]) {
        let names: Vec<String> = {
            let mut known = self.known();
            ids.iter().filter(|id| known.remove(*id).is_some()).map(|id| id.to_string()).collect()
        };
        if !names.is_empty() {
            self.write(move |kept| kept.forget_failures(&names)).await;
        }
    }

    async fn write(&self, body: impl FnOnce(&dyn FailureCounts) -> anyhow::Result<()> + Send + 'static) {
        let kept = Arc::clone(&self.kept);
        let result = tokio::task::spawn_blocking(move || body(&*kept)).await;
        let result = result.unwrap_or_else(|error| Err(anyhow::anyhow!("{error}")));
        if let Err(error) = result {
            tracing::warn!(error = format!("{error:#}"), "how often messages have failed cannot be kept");
        }
    }
}
