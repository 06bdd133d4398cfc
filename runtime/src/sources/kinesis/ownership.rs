//! Which shards are ours, how far they are handed over and settled.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::leases::Checkpoint;
use crate::message::Position;

/// Shared by those who fetch, reader, committer and coordinator.
pub struct Ownership {
    state: Mutex<State>,
    /// Something was committed, ended or lost.
    pub changed: Notify,
    /// Something was lost, for the reader.
    pub lost: Notify,
}

#[derive(Default)]
struct State {
    /// Those that are ours, by the numbers that positions name them by.
    owned: HashMap<u32, Progress>,
    /// Ids of all that were ever ours.
    names: HashMap<u32, Arc<str>>,
    /// What the pipeline is to be told that it is lost.
    lost: Vec<u32>,
    /// How often a shard became ours.
    terms: u64,
}

/// Of a shard since it became ours, in numbers of its records, which begin with 1.
struct Progress {
    shard: Arc<str>,
    /// Which time it is that it is ours: what was fetched another time is not handed over.
    term: u64,
    /// The record after which it is read, until that is passed.
    resumed_at: Option<(String, u64)>,
    /// Of the record that is read next.
    next: u64,
    /// The last record that the pipeline was given.
    handed_over: u64,
    committed: u64,
    /// Nothing more of it is handed over.
    is_leaving: bool,
    /// Everything of it was handed over.
    is_ended: bool,
    /// Sequence numbers of what was handed over and is not committed.
    marks: VecDeque<Mark>,
}

struct Mark {
    /// Number of its first user record.
    first: u64,
    sequence_number: String,
}

/// A record of the stream about to be handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Number of its first user record.
    pub first: u64,
    /// So many of its user records were settled before.
    pub skip: usize,
}

/// How a shard stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Something of it is in flight, or will be.
    Busy,
    /// Everything that was handed over is committed.
    Drained,
    /// The same, and there is nothing more.
    Finished,
    /// It is not ours.
    Gone,
}

impl Ownership {
    pub fn new() -> Ownership {
        Ownership { state: Mutex::default(), changed: Notify::new(), lost: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is ours now, from this checkpoint on. Returns the term; `None` as long as the pipeline does not know
    /// yet that it lost it.
    pub fn acquire(&self, number: u32, shard: &str, checkpoint: &Checkpoint) -> Option<u64> {
        let mut state = self.state();
        if state.lost.contains(&number) {
            return None;
        }
        state.terms += 1;
        let (term, shard) = (state.terms, Arc::<str>::from(shard));
        let (resumed_at, committed) = match checkpoint {
            Checkpoint::Record { sequence_number, subsequence_number, record } => {
                (Some((sequence_number.clone(), *subsequence_number)), *record)
            }
            _ => (None, 0),
        };
        state.names.insert(number, Arc::clone(&shard));
        let progress = Progress {
            shard,
            term,
            resumed_at,
            next: committed + 1,
            handed_over: committed,
            committed,
            is_leaving: false,
            is_ended: false,
            marks: VecDeque::new(),
        };
        state.owned.insert(number, progress);
        Some(term)
    }

    /// A record with so many user records comes next. `None` if the shard is not read any more.
    pub fn open(&self, number: u32, term: u64, sequence_number: &str, count: usize) -> Option<Opened> {
        let mut state = self.state();
        let progress = state.read_of(number, term)?;
        let opened = match progress.resumed_at.take() {
            Some((resumed_at, last)) if resumed_at == sequence_number => {
                let first = (progress.next - 1).saturating_sub(last).max(1);
                Opened { first, skip: usize::try_from(last).unwrap_or(usize::MAX).saturating_add(1) }
            }
            _ => Opened { first: progress.next, skip: 0 },
        };
        progress.next = opened.first + count as u64;
        progress.marks.push_back(Mark { first: opened.first, sequence_number: sequence_number.to_owned() });
        Some(opened)
    }

    /// The pipeline is given the user record with this number. False if the shard is not read any more.
    pub fn hand_over(&self, number: u32, term: u64, record: u64) -> bool {
        let mut state = self.state();
        let Some(progress) = state.read_of(number, term) else { return false };
        progress.handed_over = record;
        true
    }

    /// Everything of it was handed over.
    pub fn end(&self, number: u32, term: u64) {
        if let Some(progress) = self.state().read_of(number, term) {
            progress.is_ended = true;
            self.changed.notify_one();
        }
    }

    /// From now on nothing more of it is handed over.
    pub fn leave(&self, number: u32) {
        if let Some(progress) = self.state().owned.get_mut(&number) {
            progress.is_leaving = true;
        }
    }

    pub fn standing(&self, number: u32) -> Standing {
        match self.state().owned.get(&number) {
            None => Standing::Gone,
            Some(progress) if progress.committed < progress.handed_over => Standing::Busy,
            Some(progress) if progress.is_ended => Standing::Finished,
            Some(_) => Standing::Drained,
        }
    }

    /// What is to be saved for these positions: of shards that are ours, and further than what is committed.
    pub fn to_commit(&self, positions: &[Position]) -> Vec<Settled> {
        let state = self.state();
        let settled = positions.iter().filter_map(|position| {
            let progress = state.owned.get(&position.partition)?;
            let record = position.offset;
            if record <= progress.committed || record > progress.handed_over {
                return None;
            }
            let behind = progress.marks.partition_point(|mark| mark.first <= record);
            let mark = progress.marks.get(behind.checked_sub(1)?)?;
            let checkpoint = Checkpoint::Record {
                sequence_number: mark.sequence_number.clone(),
                subsequence_number: record - mark.first,
                record,
            };
            Some(Settled {
                position: *position,
                term: progress.term,
                shard: progress.shard.to_string(),
                checkpoint,
            })
        });
        settled.collect()
    }

    pub fn committed(&self, settled: &Settled) {
        let mut state = self.state();
        let of_term = |progress: &&mut Progress| progress.term == settled.term;
        let Some(progress) = state.owned.get_mut(&settled.position.partition).filter(of_term) else { return };
        progress.committed = settled.position.offset;
        // The mark of a record that is not all settled stays.
        while progress.marks.get(1).is_some_and(|next| next.first <= progress.committed + 1) {
            progress.marks.pop_front();
        }
        self.changed.notify_one();
    }

    /// It is not ours any more, and something of it is in flight or may be.
    pub fn lose(&self, number: u32) {
        let mut state = self.state();
        if state.owned.remove(&number).is_some() {
            state.lost.push(number);
            self.lost.notify_one();
            self.changed.notify_one();
        }
    }

    /// It is not ours any more, and nothing of it is in flight.
    pub fn release(&self, number: u32) {
        self.state().owned.remove(&number);
    }

    /// What the pipeline is to be told that it is lost.
    pub fn take_lost(&self) -> Vec<u32> {
        let mut state = self.state();
        if state.lost.is_empty() {
            return Vec::new();
        }
        self.changed.notify_one();
        std::mem::take(&mut state.lost)
    }

    /// A position in words.
    pub fn describe(&self, stream: &str, position: Position) -> String {
        match self.state().names.get(&position.partition) {
            Some(shard) => format!("{stream}/{shard} record {}", position.record),
            None => format!("{stream} shard number {} record {}", position.partition, position.record),
        }
    }
}

impl State {
    fn read_of(&mut self, number: u32, term: u64) -> Option<&mut Progress> {
        self.owned.get_mut(&number).filter(|progress| progress.term == term && !progress.is_leaving)
    }
}

/// How far a shard is settled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    position: Position,
    term: u64,
    pub shard: String,
    pub checkpoint: Checkpoint,
}

impl Settled {
    pub fn number(&self) -> u32 {
        self.position.partition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: u32 = 7;

    fn at(offset: u64) -> Position {
        Position { partition: SHARD, offset, record: offset }
    }

    /// A shard of which records with so many user records each are handed over: `s0`, `s1` and so on.
    fn handed_over(checkpoint: &Checkpoint, counts: &[usize]) -> (Ownership, u64) {
        let ownership = Ownership::new();
        let term = ownership.acquire(SHARD, "shard", checkpoint).unwrap();
        for (index, count) in counts.iter().enumerate() {
            let opened = ownership.open(SHARD, term, &format!("s{index}"), *count).unwrap();
            for user_record in opened.skip..*count {
                assert!(ownership.hand_over(SHARD, term, opened.first + user_record as u64));
            }
        }
        (ownership, term)
    }

    fn record(sequence_number: &str, subsequence_number: u64, record: u64) -> Checkpoint {
        Checkpoint::Record { sequence_number: sequence_number.to_owned(), subsequence_number, record }
    }

    fn checkpoints(ownership: &Ownership, offset: u64) -> Vec<Checkpoint> {
        let settled = ownership.to_commit(&[at(offset)]);
        for settled in &settled {
            ownership.committed(settled);
        }
        settled.into_iter().map(|settled| settled.checkpoint).collect()
    }

    #[test]
    fn p1_a_position_is_the_record_it_came_from() {
        let (ownership, _) = handed_over(&Checkpoint::TrimHorizon, &[1, 3, 1, 2]);
        for (offset, expected) in [
            (1, record("s0", 0, 1)),
            (3, record("s1", 1, 3)),
            (4, record("s1", 2, 4)),
            (6, record("s3", 0, 6)),
        ] {
            assert_eq!(checkpoints(&ownership, offset), [expected]);
        }
        assert!(checkpoints(&ownership, 4).is_empty(), "nothing goes back");
        assert!(checkpoints(&ownership, 8).is_empty(), "nothing that was not handed over");
        assert_eq!(ownership.standing(SHARD), Standing::Busy);
        assert_eq!(checkpoints(&ownership, 7), [record("s3", 1, 7)]);
        assert_eq!(ownership.standing(SHARD), Standing::Drained);
    }

    #[test]
    fn p2_a_record_has_the_same_number_when_it_is_read_again() {
        let (ownership, term) = handed_over(&record("s0", 1, 42), &[3, 1]);
        let settled = ownership.to_commit(&[at(43)]);
        assert_eq!(settled[0].checkpoint, record("s0", 2, 43));
        assert_eq!(ownership.open(SHARD, term, "s2", 1), Some(Opened { first: 45, skip: 0 }));
        let (ownership, term) = handed_over(&record("trimmed", 1, 42), &[]);
        assert_eq!(ownership.open(SHARD, term, "s0", 3), Some(Opened { first: 43, skip: 0 }));
    }

    #[test]
    fn p1_of_a_shard_that_is_not_ours_nothing_is_committed() {
        let (ownership, term) = handed_over(&Checkpoint::TrimHorizon, &[1, 1]);
        let settled = ownership.to_commit(&[at(1)]);
        ownership.lose(SHARD);
        assert!(ownership.to_commit(&[at(2)]).is_empty());
        assert!(!ownership.hand_over(SHARD, term, 3));
        assert_eq!(ownership.acquire(SHARD, "shard", &Checkpoint::TrimHorizon), None, "not told yet");
        assert_eq!(ownership.take_lost(), [SHARD]);
        let again = ownership.acquire(SHARD, "shard", &Checkpoint::TrimHorizon).unwrap();
        assert_eq!(ownership.open(SHARD, term, "s2", 1), None, "it was fetched before");
        ownership.committed(&settled[0]);
        assert!(ownership.open(SHARD, again, "s0", 1).is_some());
        assert!(ownership.hand_over(SHARD, again, 1));
        assert_eq!(ownership.standing(SHARD), Standing::Busy, "that was of another term");
    }

    #[test]
    fn p3_a_shard_is_finished_once_everything_of_it_is_committed() {
        let (ownership, term) = handed_over(&Checkpoint::TrimHorizon, &[2]);
        ownership.end(SHARD, term);
        assert_eq!(ownership.standing(SHARD), Standing::Busy);
        checkpoints(&ownership, 2);
        assert_eq!(ownership.standing(SHARD), Standing::Finished);
        assert_eq!(ownership.describe("orders", at(2)), "orders/shard record 2");
    }

    #[test]
    fn p3_what_leaves_is_drained_and_no_more_is_handed_over() {
        let (ownership, term) = handed_over(&Checkpoint::TrimHorizon, &[1]);
        ownership.leave(SHARD);
        assert_eq!(ownership.open(SHARD, term, "s1", 1), None);
        assert_eq!(ownership.standing(SHARD), Standing::Busy);
        checkpoints(&ownership, 1);
        assert_eq!(ownership.standing(SHARD), Standing::Drained);
    }
}
