//! Where a shard begins that nothing is known of.

use std::collections::{BTreeMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::leases::{Checkpoint, Lease};
use super::stream::ShardInfo;
use crate::config::problem::Problem;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Start {
    Word(Word),
    Timestamp(AtTimestamp),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// At the first record there is.
    TrimHorizon,
    /// At the moment when the pipeline runs for the first time.
    Latest,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AtTimestamp {
    /// At the first record that arrived then or later, as RFC 3339.
    timestamp: String,
}

impl Default for Start {
    fn default() -> Start {
        Start::Word(Word::TrimHorizon)
    }
}

impl Start {
    pub fn check(&self, problems: &mut Vec<Problem>) {
        let Start::Timestamp(AtTimestamp { timestamp }) = self else { return };
        if let Err(error) = timestamp.parse::<jiff::Timestamp>() {
            problems.push(
                Problem::new("/start/timestamp", format!("{timestamp:?} is no time: {error}"))
                    .help("as in \"2026-01-31T00:00:00Z\""),
            );
        }
    }

    /// Leases for shards that have none, parents before children.
    ///
    /// A shard whose parent has one came later, and begins at its first record. One of whose descendants has
    /// one is not read: it ended before everything began. What is latest is a time, so that it is the same
    /// one after a restart and for all members; only shards that take records then are read.
    pub fn leases_for(
        &self,
        stream: &str,
        shards: &[ShardInfo],
        leases: &[Lease],
        now_ms: i64,
    ) -> Vec<Lease> {
        let mut known: HashSet<&str> = leases.iter().map(|lease| &*lease.shard).collect();
        let mut partitions: HashSet<u32> = leases.iter().map(|lease| lease.partition).collect();
        let passed = ancestors(shards, leases);
        let mut new = Vec::new();
        for shard in shards {
            if known.contains(&*shard.id) || passed.contains(&*shard.id) {
                continue;
            }
            let came_later = shard.parents.iter().any(|parent| known.contains(&**parent));
            let checkpoint = match self {
                Start::Word(Word::Latest) if came_later => Checkpoint::TrimHorizon,
                Start::Word(Word::Latest) if !shard.is_open => continue,
                Start::Word(Word::Latest) => Checkpoint::Timestamp { timestamp_ms: now_ms },
                Start::Word(Word::TrimHorizon) => Checkpoint::TrimHorizon,
                Start::Timestamp(AtTimestamp { timestamp }) => Checkpoint::Timestamp {
                    // Checked with the configuration.
                    timestamp_ms: timestamp.parse::<jiff::Timestamp>().unwrap_or_default().as_millisecond(),
                },
            };
            known.insert(&shard.id);
            let partition = free_number(stream, &shard.id, &partitions);
            partitions.insert(partition);
            new.push(Lease {
                shard: shard.id.clone(),
                owner: None,
                counter: 0,
                checkpoint,
                parents: shard.parents.clone(),
                switches: 0,
                hand_over_to: None,
                partition,
            });
        }
        new
    }
}

/// A number made of names, so that whatever is made of positions is the same whichever member reads the shard.
pub fn number(stream: &str, shard: &str) -> u32 {
    crc32fast::hash(format!("{stream}/{shard}").as_bytes())
}

/// Only of two shards with one checksum the second has another number.
fn free_number(stream: &str, shard: &str, taken: &HashSet<u32>) -> u32 {
    let mut number = number(stream, shard);
    while taken.contains(&number) {
        number = number.wrapping_add(1);
    }
    number
}

/// All shards that those with leases came from.
fn ancestors<'s>(shards: &'s [ShardInfo], leases: &[Lease]) -> HashSet<&'s str> {
    let by_id: BTreeMap<&str, &ShardInfo> = shards.iter().map(|shard| (&*shard.id, shard)).collect();
    let mut open: Vec<&ShardInfo> =
        leases.iter().filter_map(|lease| by_id.get(&*lease.shard).copied()).collect();
    let mut all = HashSet::new();
    while let Some(shard) = open.pop() {
        for parent in shard.parents.iter().filter_map(|parent| by_id.get(&**parent).copied()) {
            if all.insert(&*parent.id) {
                open.push(parent);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str], is_open: bool) -> ShardInfo {
        let parents = parents.iter().map(|&parent| parent.to_owned()).collect();
        ShardInfo { id: id.to_owned(), parents, hash_keys: None, is_open }
    }

    /// Ids and where they begin, given those that have leases already.
    fn starts(start: &Start, shards: &[ShardInfo], known: &[&str]) -> Vec<(String, Checkpoint)> {
        let all = Start::default().leases_for("orders", shards, &[], 0);
        let known: Vec<Lease> = all.into_iter().filter(|lease| known.contains(&&*lease.shard)).collect();
        let new = start.leases_for("orders", shards, &known, 17).into_iter();
        new.map(|lease| (lease.shard, lease.checkpoint)).collect()
    }

    /// `a` was split into `b` and `c`, which were merged to `d`; `e` has always been there.
    fn shards() -> Vec<ShardInfo> {
        vec![
            shard("a", &[], false),
            shard("b", &["a"], false),
            shard("c", &["a"], false),
            shard("d", &["b", "c"], true),
            shard("e", &[], true),
        ]
    }

    fn all_at(ids: &[&str], checkpoint: &Checkpoint) -> Vec<(String, Checkpoint)> {
        ids.iter().map(|&id| (id.to_owned(), checkpoint.clone())).collect()
    }

    #[test]
    fn the_first_record_of_each_shard() {
        let all = all_at(&["a", "b", "c", "d", "e"], &Checkpoint::TrimHorizon);
        assert_eq!(starts(&Start::default(), &shards(), &[]), all);
    }

    #[test]
    fn latest_is_a_time_for_shards_that_take_records_then() {
        let latest = Start::Word(Word::Latest);
        let now = Checkpoint::Timestamp { timestamp_ms: 17 };
        assert_eq!(starts(&latest, &shards(), &[]), all_at(&["d", "e"], &now));
        assert_eq!(starts(&latest, &shards(), &["d"]), all_at(&["e"], &now));
    }

    #[test]
    fn p1_what_came_later_is_read_from_its_beginning() {
        let latest = Start::Word(Word::Latest);
        let later = all_at(&["b", "c", "d"], &Checkpoint::TrimHorizon);
        assert_eq!(starts(&latest, &shards(), &["a", "e"]), later, "all of them came while nobody looked");
    }

    #[test]
    fn what_ended_before_the_first_run_is_never_read() {
        assert!(starts(&Start::default(), &shards(), &["d", "e"]).is_empty());
    }

    #[test]
    fn a_time_is_for_all_shards() {
        let start = Start::Timestamp(AtTimestamp { timestamp: "1970-01-01T00:00:01Z".to_owned() });
        let all = all_at(&["a", "b", "c", "d", "e"], &Checkpoint::Timestamp { timestamp_ms: 1000 });
        assert_eq!(starts(&start, &shards(), &[]), all);
    }

    #[test]
    fn p2_a_shard_has_the_same_number_for_all_members() {
        let numbers = |shards: &[ShardInfo]| -> BTreeMap<String, u32> {
            let leases = Start::default().leases_for("orders", shards, &[], 0).into_iter();
            leases.map(|lease| (lease.shard, lease.partition)).collect()
        };
        let (all, last) = (numbers(&shards()), numbers(&shards()[3..]));
        assert_eq!(all.values().collect::<HashSet<_>>().len(), 5);
        assert!(last.iter().all(|(shard, number)| all[shard] == *number));
    }
}
