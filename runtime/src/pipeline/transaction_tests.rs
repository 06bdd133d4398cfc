//! Pipelines with transactions, in memory: everything that can fail fails by a seed, and in the end each
//! message is there once, in order.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::tests::{NumberStep, number};
use super::*;
use crate::codecs;
use crate::config::units::Interval;
use crate::config::{Settings, Strategy};
use crate::dead_letters::filter::Filter;
use crate::dead_letters::replay::{self, ReplayContext};
use crate::dead_letters::store::DeadLetterStore;
use crate::dead_letters::testing::letter;
use crate::dead_letters::{Attach, DeadLetter};
use crate::message::{BatchBuilder, Message, MessageRef, Position};
use crate::sinks::{CallError, Outcome, Outcomes};
use crate::sources::{CommitKind, Committer, Read, ReadBatch, ReadLimit, Reader};
use crate::store::DataFolder;
use crate::transactions::TransactionError;

const PARTITIONS: u64 = 3;

/// Before the offsets of the topic: those of dead letters that are replayed.
const FIRST_OFFSET: u64 = 1_000_000;

/// What is refused before it goes out, and what the brokers refuse.
fn is_too_large(number: u64) -> bool {
    number % 29 == 1
}

fn is_refused(number: u64) -> bool {
    number % 37 == 2
}

/// The brokers.
#[derive(Default)]
struct Cluster {
    /// Of each sink, and of the dead letters behind them.
    topics: Vec<Vec<u64>>,
    /// What the open transaction has written, if one is open.
    open: Option<Vec<(usize, u64)>>,
    /// Positions in the open transaction count in the numbers of messages.
    committed: BTreeMap<u32, u64>,
    /// The open transaction cannot be committed any more.
    is_spoiled: bool,
    /// The source does not end before that.
    is_replaying: bool,
    aborted: u32,
    random: Option<StdRng>,
    /// Whatever can fail does, in so many of a thousand cases.
    failures: u32,
}

impl Cluster {
    fn fails(&mut self) -> bool {
        let failures = self.failures;
        self.random.as_mut().is_some_and(|random| random.random_range(0..1000) < failures)
    }

    fn write(&mut self, topic: usize, number: u64) -> Result<(), CallError> {
        let down = |reason: &str| CallError::Unavailable {
            reason: reason.to_owned(),
            retry_after: None,
            credentials: false,
        };
        if self.fails() {
            self.is_spoiled = true;
            return Err(down("a broker is gone"));
        }
        let open = self.open.as_mut().ok_or_else(|| down("no transaction is open"))?;
        open.push((topic, number));
        Ok(())
    }

    fn next(&self, count: u64) -> u64 {
        (0..count).find(|number| !self.is_committed(*number)).unwrap_or(count)
    }

    fn is_committed(&self, number: u64) -> bool {
        self.committed
            .get(&((number % PARTITIONS) as u32))
            .is_some_and(|behind| FIRST_OFFSET + number < *behind)
    }
}

type Shared = Arc<Mutex<Cluster>>;

struct Topic {
    cluster: Shared,
    count: u64,
    next: u64,
    rewound: mpsc::UnboundedReceiver<()>,
    random: StdRng,
}

#[async_trait]
impl Reader for Topic {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        loop {
            if self.rewound.try_recv().is_ok() {
                self.next = self.cluster.lock().unwrap().next(self.count);
                return Ok(Read::Rewound);
            }
            if self.next < self.count {
                break;
            }
            {
                let cluster = self.cluster.lock().unwrap();
                if cluster.next(self.count) == self.count && !cluster.is_replaying {
                    return Ok(Read::End);
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut builder = BatchBuilder::new();
        let rows = self.random.random_range(1..=limit.rows as u64);
        while (builder.len() as u64) < rows && self.next < self.count {
            let number = self.next;
            self.next += 1;
            if self.cluster.lock().unwrap().is_committed(number) {
                continue;
            }
            let payload = Some(number.to_string().into_bytes());
            let message = Message { payload, ..Message::default() };
            let offset = FIRST_OFFSET + number + 1;
            let position = Position { partition: (number % PARTITIONS) as u32, offset, record: number };
            builder.push_message(&message, position);
        }
        Ok(Read::Batch(ReadBatch { batch: builder.finish(), ..ReadBatch::default() }))
    }
}

struct Member {
    cluster: Shared,
    rewind: mpsc::UnboundedSender<()>,
}

#[async_trait]
impl Committer for Member {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn commit_in(
        &mut self,
        _: &dyn Transactions,
        positions: &[Position],
    ) -> Result<(), TransactionError> {
        let mut cluster = self.cluster.lock().unwrap();
        if cluster.is_spoiled || cluster.fails() {
            return Err(TransactionError::Failed("it was spoiled".to_owned()));
        }
        let written = cluster.open.take().expect("a transaction that is committed is open");
        for (topic, number) in written {
            cluster.topics[topic].push(number);
        }
        for position in positions {
            let before = cluster.committed.insert(position.partition, position.offset);
            assert!(before.is_none_or(|before| before < position.offset), "a position that falls");
        }
        Ok(())
    }

    async fn rewind(&mut self) -> anyhow::Result<()> {
        Ok(self.rewind.send(())?)
    }
}

struct Producer(Shared);

#[async_trait]
impl Transactions for Producer {
    async fn begin(&self) -> Result<(), TransactionError> {
        let mut cluster = self.0.lock().unwrap();
        if cluster.fails() {
            return Err(TransactionError::Failed("not now".to_owned()));
        }
        assert!(cluster.open.replace(Vec::new()).is_none(), "two transactions at once");
        cluster.is_spoiled = false;
        Ok(())
    }

    async fn abort(&self) -> Result<(), TransactionError> {
        let mut cluster = self.0.lock().unwrap();
        cluster.open = None;
        cluster.aborted += 1;
        if cluster.fails() {
            return Err(TransactionError::Failed("the broker did not answer".to_owned()));
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

struct Writes {
    cluster: Shared,
    topic: usize,
}

#[async_trait]
impl Sink for Writes {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        tokio::task::yield_now().await;
        let mut outcomes = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let number = number(message);
            if is_too_large(number) {
                outcomes.push(Outcome::Reject { code: "too-large", reason: "too large".to_owned() });
                continue;
            }
            let mut cluster = self.cluster.lock().unwrap();
            if is_refused(number) {
                cluster.is_spoiled = true;
                return Err(CallError::Refused {
                    message: index,
                    code: "refused",
                    reason: "never".to_owned(),
                });
            }
            cluster.write(self.topic, number)?;
            outcomes.push(Outcome::Durable);
        }
        Ok(Outcomes::Each(outcomes))
    }
}

struct Letters(Writes);

#[async_trait]
impl DeadLetterWriter for Letters {
    async fn write(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        for letter in letters {
            let number = str::from_utf8(letter.message.payload.as_deref().unwrap()).unwrap().parse().unwrap();
            self.0.cluster.lock().unwrap().write(self.0.topic, number)?;
        }
        Ok(())
    }
}

fn parts(cluster: &Shared, seed: u64, count: u64, lanes: usize, sinks: usize) -> Parts {
    let writes = |topic| Writes { cluster: Arc::clone(cluster), topic };
    let (rewind, rewound) = mpsc::unbounded_channel();
    let sink = |number: usize| SinkPart {
        name: format!("sink-{number}"),
        common: SinkCommon::default(),
        traits: SinkTraits::with_batch(20),
        sink: Box::new(writes(number)),
    };
    let step = |_| vec![Box::new(NumberStep::new("numbers", 0)) as Box<dyn Step>];
    let delay = Interval::millis(1);
    Parts {
        name: "test".into(),
        ordering: Ordering::Partition,
        retry: Retry { strategy: Strategy::Fixed, base_delay: delay, max_delay: delay, max_attempts: 3 },
        settings: Settings::default(),
        dead_letters: DeadLettersCommon::default(),
        source: OpenSource {
            name: "numbers".into(),
            reader: Box::new(Topic {
                cluster: Arc::clone(cluster),
                count,
                next: 0,
                rewound,
                random: StdRng::seed_from_u64(seed),
            }),
            committer: Box::new(Member { cluster: Arc::clone(cluster), rewind }),
            describe: Arc::new(|position| format!("number {}", position.record)),
        },
        source_kind: "numbers",
        rows: 16,
        sinks: (0..sinks).map(sink).collect(),
        natives: Vec::new(),
        lanes: (0..lanes).map(step).collect(),
        writer: Box::new(Letters(writes(sinks))),
        states: States::in_memory(),
        positions_last: true,
        letters: None,
        budget: Arc::new(Budget::new(16 << 10)),
        waits: Arc::default(),
        transactions: Some((Arc::new(Producer(Arc::clone(cluster))), Duration::from_millis(2))),
        tracer: None,
        metrics: Arc::new(Metrics::new()),
    }
}

/// Replays dead letters with these numbers beside the source; what became of them.
async fn replay_beside(
    cluster: &Shared,
    running: &Running,
    numbers: std::ops::Range<u64>,
) -> replay::Summary {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::open(folder.path(), "test").unwrap();
    let store = DeadLetterStore::new(&data, Duration::from_secs(3600));
    let letters: Vec<DeadLetter> = numbers
        .map(|number| {
            let position =
                Position { partition: (number % PARTITIONS) as u32, offset: number, record: number };
            let message = Message { payload: Some(number.to_string().into_bytes()), ..Message::default() };
            DeadLetter { position, message, sinks: Vec::new(), ..letter(number) }
        })
        .collect();
    store.insert(&letters).unwrap();
    let sinks = running.shared.sink_names.clone();
    let context = ReplayContext { sinks, codec: codecs::tests::decoder("raw", "{}").unwrap() };
    let all = Filter::default();
    let summary = replay::replay(&store, &context, &all, false, |source| {
        let (attach, (done, end)) = (running.attach.clone(), oneshot::channel());
        async move {
            attach.send(Attach { source, done }).await.expect("it runs");
            end.await?
        }
    });
    let summary = summary.await.unwrap();
    // Those that failed again are in the cluster.
    assert_eq!(store.depth().unwrap(), 0);
    cluster.lock().unwrap().is_replaying = false;
    summary
}

/// `make soak` runs more.
fn cases() -> u32 {
    if std::env::var_os("MILLSTREAM_SOAK").is_some() { 3000 } else { 60 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 50, ..ProptestConfig::default() })]
    #[test]
    fn p2_p3_each_message_is_there_once_and_in_order_whatever_fails(
        seed in any::<u64>(), count in 1u64..300, lanes in 1usize..4, sinks in 1usize..3, failures in 0u32..12,
    ) {
        let cluster = Shared::default();
        {
            let mut cluster = cluster.lock().unwrap();
            cluster.topics = vec![Vec::new(); sinks + 1];
            cluster.random = Some(StdRng::seed_from_u64(seed));
            cluster.failures = failures;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let snapshot = runtime.block_on(async {
            let running = start(parts(&cluster, seed, count, lanes, sinks), CancellationToken::new());
            tokio::time::timeout(Duration::from_secs(120), running.wait()).await.expect("it hangs").unwrap()
        });
        prop_assert!(snapshot.books.balance(), "{:?}", snapshot.books);
        prop_assert_eq!(snapshot.books.in_flight, 0);
        let cluster = cluster.lock().unwrap();
        let passes = |number: &u64| !matches!(number % 11, 3 | 5);
        let fails = |number: u64| is_too_large(number) || is_refused(number);
        for topic in &cluster.topics[..sinks] {
            for partition in 0..PARTITIONS {
                let expected: Vec<u64> = (0..count)
                    .filter(|number| passes(number) && number % PARTITIONS == partition && !fails(*number))
                    .flat_map(|number| vec![number; if number % 11 == 7 { 2 } else { 1 }])
                    .collect();
                let there: Vec<u64> =
                    topic.iter().copied().filter(|number| number % PARTITIONS == partition).collect();
                prop_assert_eq!(there, expected);
            }
        }
        let dead: BTreeSet<u64> = cluster.topics[sinks].iter().copied().collect();
        let expected: BTreeSet<u64> =
            (0..count).filter(|&number| number % 11 == 5 || (number % 11 != 3 && fails(number))).collect();
        prop_assert_eq!(&dead, &expected);
        let once = (0..count).filter(|number| number % 11 == 5).count();
        prop_assert_eq!(cluster.topics[sinks].iter().filter(|&&number| number % 11 == 5).count(), once);
    }

    #[test]
    fn p2_replays_beside_are_there_once_whatever_fails(
        seed in any::<u64>(), count in 0u64..100, replays in 1u64..100, lanes in 1usize..3, failures in 0u32..12,
    ) {
        let cluster = Shared::default();
        {
            let mut cluster = cluster.lock().unwrap();
            cluster.topics = vec![Vec::new(); 2];
            cluster.random = Some(StdRng::seed_from_u64(seed));
            cluster.failures = failures;
            cluster.is_replaying = true;
        }
        let first = 1000;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (snapshot, summary) = runtime.block_on(async {
            let running = start(parts(&cluster, seed, count, lanes, 1), CancellationToken::new());
            let both = async {
                let summary = replay_beside(&cluster, &running, first..first + replays).await;
                (running.wait().await.unwrap(), summary)
            };
            tokio::time::timeout(Duration::from_secs(60), both).await.expect("it hangs")
        });
        prop_assert!(snapshot.books.balance(), "{:?}", snapshot.books);
        let fails = |number: u64| number % 11 == 5 || (number % 11 != 3 && (is_too_large(number) || is_refused(number)));
        let of = |test: &dyn Fn(u64) -> bool| (first..first + replays).filter(|number| test(*number)).count() as u64;
        prop_assert_eq!(summary.returned, 0);
        prop_assert_eq!(summary.filtered, of(&|number| number % 11 == 3));
        prop_assert_eq!(summary.dead_lettered, of(&fails));
        prop_assert_eq!(summary.delivered, replays - summary.filtered - summary.dead_lettered);
        let cluster = cluster.lock().unwrap();
        let mut there: Vec<u64> = cluster.topics[0].iter().copied().filter(|number| *number >= first).collect();
        there.sort_unstable();
        let expected: Vec<u64> = (first..first + replays)
            .filter(|&number| number % 11 != 3 && !fails(number))
            .flat_map(|number| vec![number; if number % 11 == 7 { 2 } else { 1 }])
            .collect();
        prop_assert_eq!(there, expected);
    }
}
