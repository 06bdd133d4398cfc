//! Leases of a single member: how far shards are read, in the data folder.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::leases::{Checkpoint, Lease, Table};
use super::troubles::Trouble;
use crate::store::Checkpoints;

/// What stands in a checkpoint of the data folder, under `stream/shard`.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    checkpoint: Checkpoint,
    partition: u32,
    parents: Vec<String>,
}

pub struct Local {
    stream: String,
    checkpoints: Arc<dyn Checkpoints>,
    leases: Mutex<BTreeMap<String, Lease>>,
}

impl Local {
    /// With what was saved. Blocks on the disk.
    pub fn load(stream: &str, checkpoints: Arc<dyn Checkpoints>) -> anyhow::Result<Local> {
        let mut leases = BTreeMap::new();
        for (name, value) in checkpoints.load().context("cannot read how far shards are read")? {
            let of_ours = name.strip_prefix(stream).and_then(|rest| rest.strip_prefix('/'));
            let saved = of_ours.and_then(|shard| Some((shard, serde_json::from_value::<Saved>(value).ok()?)));
            let (shard, saved) = saved.with_context(|| {
                format!("the data folder has a checkpoint {name:?} of another source; give this pipeline a folder of its own")
            })?;
            let lease = Lease {
                shard: shard.to_owned(),
                owner: None,
                counter: 0,
                checkpoint: saved.checkpoint,
                parents: saved.parents,
                switches: 0,
                hand_over_to: None,
                partition: saved.partition,
            };
            leases.insert(shard.to_owned(), lease);
        }
        Ok(Local { stream: stream.to_owned(), checkpoints, leases: Mutex::new(leases) })
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Lease>) -> T) -> T {
        change(&mut self.leases.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Saves leases, then remembers them.
    async fn keep(&self, leases: Vec<Lease>) -> Result<(), Trouble> {
        let saved: Vec<(String, serde_json::Value)> = leases
            .iter()
            .map(|lease| {
                let (checkpoint, parents) = (lease.checkpoint.clone(), lease.parents.clone());
                let saved = Saved { checkpoint, partition: lease.partition, parents };
                let saved = serde_json::to_value(saved).context("a checkpoint as JSON")?;
                Ok((format!("{}/{}", self.stream, lease.shard), saved))
            })
            .collect::<anyhow::Result<_>>()
            .map_err(Trouble::Stop)?;
        let checkpoints = Arc::clone(&self.checkpoints);
        let done = tokio::task::spawn_blocking(move || checkpoints.save(&saved)).await;
        done.context("saving a checkpoint")
            .and_then(|done| done)
            .map_err(|error| Trouble::of_disk(&error))?;
        self.change(|all| all.extend(leases.into_iter().map(|lease| (lease.shard.clone(), lease))));
        Ok(())
    }
}

#[async_trait]
impl Table for Local {
    fn is_shared(&self) -> bool {
        false
    }

    async fn list(&self) -> Result<Vec<Lease>, Trouble> {
        Ok(self.change(|leases| leases.values().cloned().collect()))
    }

    async fn create(&self, lease: Lease) -> Result<(), Trouble> {
        self.keep(vec![lease]).await
    }

    async fn delete(&self, _: &Lease) -> Result<(), Trouble> {
        Ok(())
    }

    async fn take(&self, lease: &Lease, member: &str) -> Result<Option<Lease>, Trouble> {
        Ok(self.change(|leases| {
            let lease = leases.get_mut(&lease.shard)?;
            lease.owner = Some(member.to_owned());
            Some(lease.clone())
        }))
    }

    async fn ask_for(&self, _: &Lease, _: &str) -> Result<(), Trouble> {
        Ok(())
    }

    async fn renew(&self, _: &str, _: &str) -> Result<bool, Trouble> {
        Ok(true)
    }

    async fn save(&self, checkpoints: &[(String, Checkpoint)], _: &str) -> Result<Vec<String>, Trouble> {
        let leases = self.change(|leases| {
            let with = |(shard, checkpoint): &(String, Checkpoint)| {
                Some(Lease { checkpoint: checkpoint.clone(), ..leases.get(shard)?.clone() })
            };
            checkpoints.iter().filter_map(with).collect()
        });
        self.keep(leases).await?;
        Ok(Vec::new())
    }

    async fn release(&self, shard: &str, _: &str, _: Option<&str>) -> Result<(), Trouble> {
        self.change(|leases| {
            if let Some(lease) = leases.get_mut(shard) {
                lease.owner = None;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::MemoryCheckpoints;
    use super::*;

    #[tokio::test]
    async fn p2_what_was_saved_is_there_after_a_restart() {
        let checkpoints: Arc<MemoryCheckpoints> = Arc::default();
        let load = |stream: &str| Local::load(stream, Arc::clone(&checkpoints) as Arc<dyn Checkpoints>);
        let table = load("orders").unwrap();
        let lease = Lease {
            shard: "shard-1".to_owned(),
            owner: None,
            counter: 0,
            checkpoint: Checkpoint::TrimHorizon,
            parents: vec!["shard-0".to_owned()],
            switches: 0,
            hand_over_to: None,
            partition: 17,
        };
        table.create(lease.clone()).await.unwrap();
        table.take(&lease, "me").await.unwrap().unwrap();
        assert_eq!(load("orders").unwrap().list().await.unwrap(), std::slice::from_ref(&lease));
        let checkpoint =
            Checkpoint::Record { sequence_number: "9".repeat(56), subsequence_number: 2, record: 5 };
        for checkpoint in [checkpoint, Checkpoint::Timestamp { timestamp_ms: 7 }, Checkpoint::ShardEnd] {
            table.save(&[("shard-1".to_owned(), checkpoint.clone())], "me").await.unwrap();
            let expected = Lease { checkpoint, ..lease.clone() };
            assert_eq!(load("orders").unwrap().list().await.unwrap(), [expected]);
        }
        assert!(load("order").is_err(), "of another stream");
    }
}
