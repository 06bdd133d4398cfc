//! P2: whatever fails around it, and whenever the pipeline stops, the built-in `deduplicate` lets
//! one copy of each message through, or all of them are dead letters.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::*;
use crate::config::Strategy;
use crate::config::units::Interval;
use crate::dead_letters::DeadLetter;
use crate::message::{Batch, BatchBuilder, Message, MessageRef, Position};
use crate::plugin::{
    Fate, FateVerdict, Grants, Limits, Passage, PluginCode, PluginIdentity, PluginScope, PluginSpec,
    Processed, Reload, StateSpace, test_engine,
};
use crate::sinks::{CallError, Outcome, Outcomes};
use crate::sources::{CommitKind, Committer, Read, ReadBatch, ReadLimit, Reader};
use crate::store::DataFolder;

/// Message n has the idempotency key `ids[n]`.
struct Source {
    ids: Arc<Vec<u8>>,
    next: u64,
    random: StdRng,
}

#[async_trait]
impl Reader for Source {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        let count = self.ids.len() as u64;
        if self.next == count {
            return Ok(Read::End);
        }
        let end = count.min(self.next + self.random.random_range(1..=limit.rows as u64));
        let mut builder = BatchBuilder::new();
        for number in self.next..end {
            let message = Message {
                payload: Some(number.to_string().into_bytes()),
                headers: vec![(b"id".to_vec(), self.ids[number as usize].to_string().into_bytes())],
                ..Message::default()
            };
            builder.push_message(&message, Position { partition: 0, offset: number + 1, record: 0 });
        }
        self.next = end;
        Ok(Read::Batch(ReadBatch { batch: builder.finish(), ..ReadBatch::default() }))
    }
}

struct Committed(Arc<AtomicU64>);

#[async_trait]
impl Committer for Committed {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn up_to(&mut self, positions: &[Position]) -> anyhow::Result<()> {
        self.0.store(positions[0].offset, Relaxed);
        Ok(())
    }
}

type Numbers = Arc<Mutex<Vec<u64>>>;

fn number(message: &MessageRef<'_>) -> u64 {
    std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap()
}

struct MoodySink {
    log: Numbers,
    random: StdRng,
}

#[async_trait]
impl Sink for MoodySink {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        if self.random.random_range(0..5) == 0 {
            return Err(CallError::Unavailable {
                reason: "down".into(),
                retry_after: None,
                credentials: false,
            });
        }
        let outcome = |message: &MessageRef<'_>| match self.random.random_range(0..8) {
            0 => Outcome::Retry { reason: "try again".into(), after: None },
            1 => Outcome::Reject { code: "refused", reason: "never".into() },
            _ => {
                self.log.lock().unwrap().push(number(message));
                Outcome::Durable
            }
        };
        Ok(Outcomes::Each(messages.iter().map(outcome).collect()))
    }
}

/// Comes after `deduplicate`: rejects some, and asks for some again.
struct MoodyStep {
    identity: PluginIdentity,
    random: StdRng,
}

impl Step for MoodyStep {
    fn identity(&self) -> &PluginIdentity {
        &self.identity
    }

    fn process(&mut self, mut batch: Batch, _: &Passage) -> anyhow::Result<Processed> {
        let mut processed = Processed::default();
        let mut rows = Vec::new();
        for (parent, row) in (0..).zip(batch.take_rows()) {
            let (code, reason) = (String::from("mood"), String::from("bad"));
            match self.random.random_range(0..8) {
                0 => processed.fates.push(Fate { parent, row, verdict: FateVerdict::Retry { code, reason } }),
                1 => processed.fates.push(Fate {
                    parent,
                    row,
                    verdict: FateVerdict::Rejected { code, reason },
                }),
                _ => {
                    rows.push(row);
                    processed.parents.push(parent);
                }
            }
        }
        batch.set_rows(rows);
        processed.batch = batch;
        Ok(processed)
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}

#[derive(Clone, Default)]
struct Letters(Arc<Mutex<Vec<DeadLetter>>>);

#[async_trait]
impl DeadLetterWriter for Letters {
    async fn write(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        self.0.lock().unwrap().extend_from_slice(letters);
        Ok(())
    }
}

struct World {
    folder: tempfile::TempDir,
    ids: Arc<Vec<u8>>,
    committed: Arc<AtomicU64>,
    sinks: [Numbers; 2],
    letters: Letters,
}

fn deduplicate() -> crate::plugin::Plugin {
    let spec = PluginSpec {
        step: "deduplicate".into(),
        code: PluginCode::BuiltIn("deduplicate".into()),
        config: json!({ "by": { "header": "id" } }),
        limits: Limits { timeout: Interval::secs(20), ..Limits::default() },
        grants: Grants {
            state: BTreeMap::from([("deduplicate".to_owned(), StateSpace::default())]),
            ..Grants::default()
        },
        sha256: None,
        reload: Reload::default(),
        shadow: None,
    };
    test_engine().check(&spec).unwrap_or_else(|error| panic!("{error}"))
}

impl World {
    /// One life of the process: parts that go on where the last left off.
    fn parts(&self, seed: u64, lanes: usize) -> Parts {
        let folder = DataFolder::open(self.folder.path(), "test").unwrap();
        let states = States::of(&folder);
        states.open(["deduplicate"].into_iter()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let plugin = deduplicate();
        let identity = |step: &str| PluginIdentity {
            name: step.to_owned(),
            step: step.to_owned(),
            version: String::new(),
            sha256: String::new(),
        };
        let lane = |lane: usize| -> Vec<Box<dyn Step>> {
            let scope = PluginScope {
                pipeline: "test".into(),
                source: "numbers".into(),
                metrics: metrics.plugin("test", "deduplicate"),
                states: Arc::clone(&states),
                determined: None,
            };
            let random = StdRng::seed_from_u64(seed ^ (lane as u64 + 10));
            let first = plugin.instantiate(scope).unwrap();
            vec![Box::new(first), Box::new(MoodyStep { identity: identity("moody"), random })]
        };
        let sink = |index: usize| SinkPart {
            name: format!("sink-{index}"),
            common: SinkCommon::default(),
            traits: SinkTraits { partial_failures: true, ..SinkTraits::with_batch(20) },
            sink: Box::new(MoodySink {
                log: Arc::clone(&self.sinks[index]),
                random: StdRng::seed_from_u64(seed ^ index as u64),
            }),
        };
        Parts {
            name: "test".into(),
            ordering: Ordering::None,
            retry: Retry {
                strategy: Strategy::Jittered,
                base_delay: Interval::millis(1),
                max_delay: Interval::millis(4),
                max_attempts: 3,
            },
            settings: Settings { shutdown_timeout: Interval::millis(1), ..Settings::default() },
            dead_letters: DeadLettersCommon::default(),
            source: OpenSource {
                name: "numbers".into(),
                reader: Box::new(Source {
                    ids: Arc::clone(&self.ids),
                    next: self.committed.load(Relaxed),
                    random: StdRng::seed_from_u64(seed),
                }),
                committer: Box::new(Committed(Arc::clone(&self.committed))),
                describe: Arc::new(|position| format!("number {}", position.offset - 1)),
            },
            source_kind: "numbers",
            rows: 16,
            sinks: vec![sink(0), sink(1)],
            natives: Vec::new(),
            lanes: (0..lanes).map(lane).collect(),
            writer: Box::new(self.letters.clone()),
            states,
            positions_last: true,
            letters: None,
            budget: Arc::new(Budget::new(1 << 20)),
            waits: Arc::default(),
            transactions: None,
            tracer: None,
            metrics,
        }
    }

    /// Runs until the end of the source or until it is stopped; true at the end.
    fn live(&self, seed: u64, lanes: usize, stop_after: Option<Duration>) {
        let parts = self.parts(seed, lanes);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let snapshot = runtime.block_on(async {
            let stop = CancellationToken::new();
            let running = start(parts, stop.clone());
            let shared = Arc::clone(&running.shared);
            if let Some(after) = stop_after {
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    stop.cancel();
                });
            }
            let ended = tokio::time::timeout(Duration::from_secs(60), running.wait()).await;
            ended.unwrap_or_else(|_| {
                panic!("it does not end: {:?} {:?}", shared.ledger.snapshot(), shared.waits)
            })
        });
        let snapshot = snapshot.expect("it does not fail");
        assert!(snapshot.books.balance() && snapshot.books.in_flight == 0, "{snapshot:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn p2_of_the_copies_of_a_message_never_all_are_gone(
        seed in any::<u64>(),
        ids in proptest::collection::vec(0u8..20, 1..200),
        lanes in 1usize..4,
        stops in proptest::collection::vec(0u64..30, 0..4),
    ) {
        let world = World {
            folder: tempfile::tempdir().unwrap(),
            ids: Arc::new(ids),
            committed: Arc::default(),
            sinks: Default::default(),
            letters: Letters::default(),
        };
        for (life, after) in stops.iter().enumerate() {
            world.live(seed.wrapping_add(life as u64), lanes, Some(Duration::from_millis(*after)));
        }
        world.live(seed.wrapping_add(1000), lanes, None);

        prop_assert_eq!(world.committed.load(Relaxed), world.ids.len() as u64);
        let letters = world.letters.0.lock().unwrap();
        for (index, log) in world.sinks.iter().enumerate() {
            let mut delivered: HashMap<u8, usize> = HashMap::new();
            for &number in log.lock().unwrap().iter() {
                *delivered.entry(world.ids[number as usize]).or_default() += 1;
            }
            let name = format!("sink-{index}");
            for (number, id) in world.ids.iter().enumerate() {
                // For this sink, or before it was known for which.
                let is_dead = letters.iter().any(|letter| {
                    letter.position.offset == number as u64 + 1
                        && (letter.sinks.is_empty() || letter.sinks.contains(&name))
                });
                let copies = delivered.get(id).copied().unwrap_or_default();
                let partly = letters.iter().any(|letter| {
                    world.ids[letter.position.offset as usize - 1] == *id && letter.sinks.contains(&name)
                });
                prop_assert!(
                    is_dead || copies > 0 || partly,
                    "number {} of id {} is gone for {}: {:?}", number, id, name, letters
                );
                if stops.is_empty() {
                    prop_assert!(copies <= 1, "id {} came {} times to {}", id, copies, name);
                }
            }
        }
    }
}
