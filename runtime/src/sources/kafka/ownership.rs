//! Which partitions are ours, how far they are read and committed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;

use super::partition_name;
use crate::message::Position;
use crate::store::Checkpoints;

/// Shared by the thread that polls and the committer.
pub struct Ownership {
    state: Mutex<State>,
    checkpoints: Arc<dyn Checkpoints>,
}

#[derive(Default)]
struct State {
    /// By number, as positions name them.
    names: HashMap<u32, (Arc<str>, i32)>,
    numbers: HashMap<(Arc<str>, i32), u32>,
    /// Those that are ours.
    owned: HashMap<u32, Progress>,
    /// How often partitions went away with messages in flight.
    losses: u64,
}

/// Of a partition since it was assigned; offsets of the message that comes next.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Behind the last message that the pipeline was given.
    handed_over: i64,
    committed: i64,
}

/// What the numbers of partitions are kept under in the checkpoints.
const NUMBER: &str = "number";

impl Ownership {
    /// With the numbers that partitions had before: positions mean the same after a restart.
    pub fn load(checkpoints: Arc<dyn Checkpoints>) -> anyhow::Result<Ownership> {
        let mut state = State::default();
        for (name, value) in checkpoints.load().context("cannot read the numbers of partitions")? {
            let of_ours = name.rsplit_once('/').and_then(|(topic, partition)| {
                let number = u32::try_from(value.get(NUMBER)?.as_u64()?).ok()?;
                Some((number, Arc::from(topic), partition.parse().ok()?))
            });
            let (number, topic, partition) = of_ours.with_context(|| {
                format!("the data folder has a checkpoint {name:?} of another source; give this pipeline a folder of its own")
            })?;
            state.insert(number, topic, partition);
        }
        Ok(Ownership { state: Mutex::new(state), checkpoints })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are ours now, and read from these offsets. Blocks on the disk where one is new.
    pub fn assign(&self, starts: &TopicPartitionList) -> anyhow::Result<()> {
        let mut fresh = Vec::new();
        let mut state = self.state();
        for element in starts.elements() {
            let (topic, partition) = (Arc::<str>::from(element.topic()), element.partition());
            let number = state.find(&topic, partition).unwrap_or_else(|| {
                let name = partition_name(&topic, partition);
                let number = state.free_number(&name);
                fresh.push((name, json!({ NUMBER: number })));
                state.insert(number, topic, partition);
                number
            });
            let start = element.offset().to_raw().unwrap_or_default();
            state.owned.insert(number, Progress { handed_over: start, committed: start });
        }
        drop(state);
        if !fresh.is_empty() {
            self.checkpoints.save(&fresh).context("cannot save the numbers of partitions")?;
        }
        Ok(())
    }

    /// These are not ours any more; with messages in flight that is a loss. Returns their numbers.
    pub fn release(&self, partitions: &TopicPartitionList, with_messages_in_flight: bool) -> Vec<u32> {
        let mut state = self.state();
        state.losses += u64::from(with_messages_in_flight);
        let numbers = state.numbers_of(partitions);
        state.owned.retain(|number, _| !numbers.contains(number));
        numbers
    }

    /// How often partitions went away with messages in flight.
    pub fn losses(&self) -> u64 {
        self.state().losses
    }

    /// The number of a partition that is ours.
    pub fn number(&self, topic: &str, partition: i32) -> Option<u32> {
        self.state().find_owned(topic, partition).map(|(number, _)| number)
    }

    /// The pipeline is given everything up to these offsets.
    pub fn hand_over(&self, behind: impl Iterator<Item = (u32, i64)>) {
        let mut state = self.state();
        for (number, offset) in behind {
            if let Some(progress) = state.owned.get_mut(&number) {
                progress.handed_over = offset;
            }
        }
    }

    /// Whether everything that the pipeline was given of these is committed.
    pub fn is_drained(&self, partitions: &TopicPartitionList) -> bool {
        let state = self.state();
        let numbers = state.numbers_of(partitions);
        let owned = |number: &u32| state.owned.get(number);
        numbers.iter().filter_map(owned).all(|progress| progress.committed >= progress.handed_over)
    }

    /// What is to be committed for these positions: of partitions that are ours, and further than
    /// what is committed.
    pub fn to_commit(&self, positions: &[Position]) -> TopicPartitionList {
        let state = self.state();
        let mut offsets = TopicPartitionList::new();
        for position in positions {
            let offset = position.offset as i64;
            let is_ours = state.owned.get(&position.partition).is_some_and(|owned| owned.committed < offset);
            if is_ours && let Some((topic, partition)) = state.names.get(&position.partition) {
                // It fails only for an offset that is none.
                let _ = offsets.add_partition_offset(topic, *partition, Offset::Offset(offset));
            }
        }
        offsets
    }

    pub fn committed(&self, offsets: &TopicPartitionList) {
        let mut state = self.state();
        for element in offsets.elements() {
            let owned = state.find_owned(element.topic(), element.partition());
            if let (Some((_, progress)), Some(offset)) = (owned, element.offset().to_raw()) {
                progress.committed = progress.committed.max(offset);
            }
        }
    }

    /// Where a partition that is ours goes on after a restart.
    pub fn committed_of(&self, topic: &str, partition: i32) -> Option<i64> {
        self.state().find_owned(topic, partition).map(|(_, progress)| progress.committed)
    }

    /// A position in words.
    pub fn describe(&self, position: Position) -> String {
        let state = self.state();
        match state.names.get(&position.partition) {
            Some((topic, partition)) => {
                format!("{} offset {}", partition_name(topic, *partition), position.record.saturating_sub(1))
            }
            None => format!("partition number {} offset {}", position.partition, position.record),
        }
    }
}

impl State {
    fn insert(&mut self, number: u32, topic: Arc<str>, partition: i32) {
        self.names.insert(number, (Arc::clone(&topic), partition));
        self.numbers.insert((topic, partition), number);
    }

    /// A number made of the name, so that all members of a group have the same one for a partition: ids of
    /// events are made of it. Only of two names with one checksum the second has another.
    fn free_number(&self, name: &str) -> u32 {
        let mut number = crc32fast::hash(name.as_bytes());
        while self.names.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        number
    }

    fn numbers_of(&self, partitions: &TopicPartitionList) -> Vec<u32> {
        let elements = partitions.elements();
        elements.iter().filter_map(|element| self.find(element.topic(), element.partition())).collect()
    }

    fn find(&self, topic: &str, partition: i32) -> Option<u32> {
        self.numbers.get(&(Arc::from(topic), partition)).copied()
    }

    fn find_owned(&mut self, topic: &str, partition: i32) -> Option<(u32, &mut Progress)> {
        let number = self.find(topic, partition)?;
        Some((number, self.owned.get_mut(&number)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::MemoryCheckpoints;
    use super::*;

    fn list(of: &[(&str, i32, i64)]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for &(topic, partition, offset) in of {
            list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        }
        list
    }

    fn at(partition: u32, offset: u64) -> Position {
        Position { partition, offset, record: offset }
    }

    fn number(ownership: &Ownership, topic: &str, partition: i32) -> u32 {
        ownership.number(topic, partition).unwrap()
    }

    #[test]
    fn p2_positions_mean_the_same_after_a_restart() {
        let checkpoints: Arc<MemoryCheckpoints> = Arc::default();
        let ownership = Ownership::load(Arc::clone(&checkpoints) as Arc<dyn Checkpoints>).unwrap();
        ownership.assign(&list(&[("b", 3, 0), ("a", 0, 0)])).unwrap();
        ownership.assign(&list(&[("a/b", 1, 7)])).unwrap();
        let again = Ownership::load(checkpoints as Arc<dyn Checkpoints>).unwrap();
        again.assign(&list(&[("a", 0, 0), ("b", 3, 0), ("a/b", 1, 7)])).unwrap();
        for (topic, partition) in [("b", 3), ("a", 0), ("a/b", 1)] {
            assert_eq!(number(&again, topic, partition), number(&ownership, topic, partition), "{topic}");
        }
        assert_eq!(again.describe(at(number(&again, "a/b", 1), 8)), "a/b/1 offset 7");
    }

    #[test]
    fn p2_a_partition_has_the_same_number_in_all_members() {
        let [one, other] = [(); 2].map(|()| Ownership::load(Arc::<MemoryCheckpoints>::default()).unwrap());
        one.assign(&list(&[("a", 0, 0), ("a", 1, 0), ("a", 2, 0)])).unwrap();
        other.assign(&list(&[("b", 7, 0), ("a", 2, 0)])).unwrap();
        assert_eq!(number(&one, "a", 2), number(&other, "a", 2));
        assert_ne!(number(&one, "a", 1), number(&one, "a", 2));
    }

    #[test]
    fn p2_what_has_a_number_keeps_it_and_nobody_else_gets_it() {
        let checkpoints: Arc<MemoryCheckpoints> = Arc::default();
        let taken = crc32fast::hash(b"a/0");
        checkpoints.save(&[("old/5".to_owned(), json!({ NUMBER: taken }))]).unwrap();
        let ownership = Ownership::load(checkpoints as Arc<dyn Checkpoints>).unwrap();
        ownership.assign(&list(&[("a", 0, 0), ("old", 5, 0)])).unwrap();
        assert_eq!(number(&ownership, "old", 5), taken);
        assert_eq!(number(&ownership, "a", 0), taken.wrapping_add(1));
    }

    #[test]
    fn p1_of_a_partition_that_is_not_ours_nothing_is_committed() {
        let ownership = Ownership::load(Arc::<MemoryCheckpoints>::default()).unwrap();
        ownership.assign(&list(&[("a", 0, 5), ("a", 1, 5)])).unwrap();
        let [zero, one] = [0, 1].map(|partition| number(&ownership, "a", partition));
        ownership.hand_over([(zero, 9), (one, 9)].into_iter());
        assert!(!ownership.is_drained(&list(&[("a", 0, 0)])));
        let offsets = ownership.to_commit(&[at(zero, 9), at(one, 7)]);
        assert_eq!(offsets.count(), 2);
        ownership.committed(&offsets);
        assert!(ownership.is_drained(&list(&[("a", 0, 0)])));
        assert!(!ownership.is_drained(&list(&[("a", 0, 0), ("a", 1, 0)])));
        assert_eq!(ownership.to_commit(&[at(zero, 9), at(one, 6)]).count(), 0, "nothing goes back");
        assert_eq!(ownership.release(&list(&[("a", 1, 0)]), false), [one]);
        assert_eq!(ownership.to_commit(&[at(one, 9)]).count(), 0);
    }
}
