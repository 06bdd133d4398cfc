//! Whole pipelines in memory: a source, plugins and sinks that fail by a seed.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::{Just, ProptestConfig, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::native::{NativeSpec, NativeStep, Verdict};
use super::*;
use crate::config::units::Interval;
use crate::config::{OnUnavailable, Strategy};
use crate::dead_letters::{DeadLetter, Stage};
use crate::message::{Batch, BatchBuilder, Message, MessageRef, Position};
use crate::plugin::{Fate, FateVerdict, Passage, PluginIdentity, Processed};
use crate::sinks::{CallError, Outcome, Outcomes};
use crate::sources::{CommitKind, Committer, Read, ReadBatch, ReadLimit, Reader};

/// `count` messages over `partitions` partitions and `keys` keys, each payload its number.
struct NumberSource {
    next: u64,
    count: u64,
    keys: u64,
    random: StdRng,
    endless: bool,
}

const PARTITIONS: u64 = 3;

fn key_of(number: u64, keys: u64) -> String {
    format!("key-{}", number % keys)
}

#[async_trait]
impl Reader for NumberSource {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        if self.next == self.count {
            return if self.endless { std::future::pending().await } else { Ok(Read::End) };
        }
        let mut builder = BatchBuilder::new();
        for number in self.next..self.count.min(self.next + self.random.random_range(1..=limit.rows as u64)) {
            let key = key_of(number, self.keys);
            let message = Message {
                payload: Some(number.to_string().into_bytes()),
                key: (number % 5 > 0).then(|| key.into_bytes()),
                ..Message::default()
            };
            // All of a key are in one partition, as in a log.
            let partition = (number % self.keys % PARTITIONS) as u32;
            builder.push_message(&message, Position { partition, offset: number, record: 0 });
            self.next = number + 1;
        }
        Ok(Read::Batch(ReadBatch { batch: builder.finish(), ..ReadBatch::default() }))
    }
}

type Log<T> = Arc<Mutex<Vec<T>>>;

struct NumberCommitter(Arc<Mutex<HashMap<u32, u64>>>);

#[async_trait]
impl Committer for NumberCommitter {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn up_to(&mut self, positions: &[Position]) -> anyhow::Result<()> {
        for position in positions {
            let before = self.0.lock().unwrap().insert(position.partition, position.offset);
            anyhow::ensure!(before.is_none_or(|before| before < position.offset), "a position that falls");
        }
        Ok(())
    }
}

/// How a sink of the tests behaves.
#[derive(Clone, Copy, Debug)]
struct Temper {
    /// One outcome a message, or one for the whole call.
    partial: bool,
    /// Of a hundred.
    retries: u32,
    rejects: u32,
    /// Before a call, and in the middle of one.
    outages: u32,
}

struct LogSink {
    log: Log<u64>,
    temper: Temper,
    random: StdRng,
}

pub(super) fn number(message: &MessageRef<'_>) -> u64 {
    std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap()
}

#[async_trait]
impl Sink for LogSink {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        let down = CallError::Unavailable { reason: "down".into(), retry_after: None, credentials: false };
        let until = self.random.random_range(1..=messages.len());
        let mut die = |share| self.random.random_range(0..100) < share;
        if die(self.temper.outages) {
            return Err(down);
        }
        let until = if die(self.temper.outages) { until } else { messages.len() };
        let mut outcomes = messages[..until].iter().map(|message| {
            if self.temper.partial && die(self.temper.retries) {
                return Outcome::Retry { reason: "try again".into(), after: None };
            }
            if self.temper.partial && die(self.temper.rejects) {
                return Outcome::Reject { code: "refused", reason: "never".into() };
            }
            self.log.lock().unwrap().push(number(message));
            Outcome::Durable
        });
        if until < messages.len() {
            let mut outcomes: Vec<Option<Outcome>> = outcomes.map(Some).collect();
            outcomes.resize(messages.len(), None);
            return Ok(Outcomes::Until(outcomes, down));
        }
        if self.temper.partial {
            return Ok(Outcomes::Each(outcomes.collect()));
        }
        assert!(outcomes.all(|outcome| outcome == Outcome::Durable));
        Ok(Outcomes::AllDurable)
    }
}

/// Drops, doubles, rejects and asks for messages again by their numbers.
#[derive(Clone)]
pub(super) struct NumberStep {
    identity: PluginIdentity,
    /// What all versions of it know.
    asked: Arc<Mutex<HashMap<u64, u32>>>,
    /// Which version rejected a number.
    rejected: Log<(u64, String)>,
    retries: u64,
}

impl NumberStep {
    pub(super) fn new(step: &str, retries: u64) -> NumberStep {
        let identity = PluginIdentity {
            step: step.to_owned(),
            name: step.to_owned(),
            version: String::new(),
            sha256: "0".to_owned(),
        };
        NumberStep { identity, asked: Arc::default(), rejected: Arc::default(), retries }
    }

    /// Another version that does the same.
    fn next_version(&mut self) -> Box<dyn Step> {
        let version: u64 = self.identity.sha256.parse().unwrap();
        self.identity.sha256 = (version + 1).to_string();
        Box::new(self.clone())
    }
}

impl Step for NumberStep {
    fn identity(&self) -> &PluginIdentity {
        &self.identity
    }

    fn process(&mut self, mut batch: Batch, _: &Passage) -> anyhow::Result<Processed> {
        let mut processed = Processed::default();
        let mut rows = Vec::new();
        let numbers: Vec<u64> = batch.messages().map(|message| number(&message)).collect();
        for (parent, row) in batch.take_rows().into_iter().enumerate() {
            let (number, parent) = (numbers[parent], parent as u32);
            let mut fate = |row, verdict| processed.fates.push(Fate { parent, row, verdict });
            let mut asked = self.asked.lock().unwrap();
            let asked = asked.entry(number).or_default();
            if self.retries > 0 && number % 7 < self.retries && *asked < 2 {
                *asked += 1;
                fate(row, FateVerdict::Retry { code: "busy".into(), reason: "later".into() });
                continue;
            }
            match number % 11 {
                3 => fate(row, FateVerdict::Dropped),
                5 => {
                    self.rejected.lock().unwrap().push((number, self.identity.sha256.clone()));
                    fate(row, FateVerdict::Rejected { code: "bad".into(), reason: "no good".into() });
                }
                7 => {
                    rows.extend([row, row]);
                    processed.parents.extend([parent, parent]);
                }
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
        1 << 10
    }
}

/// A native step that refuses and asks for messages again by their numbers.
#[derive(Clone)]
struct NumberCheck {
    retries: u64,
    /// What those of all lanes know.
    asked: Arc<Mutex<HashMap<u64, u32>>>,
}

impl NumberCheck {
    fn refuses(number: u64) -> bool {
        number % 13 == 6
    }
}

impl NativeSpec for NumberCheck {
    fn name(&self) -> &'static str {
        "numbers"
    }

    fn start(&self) -> Box<dyn NativeStep> {
        Box::new(self.clone())
    }
}

impl NativeStep for NumberCheck {
    fn process(&mut self, batch: Batch) -> anyhow::Result<Processed> {
        Ok(native::each(batch, |message, _| {
            let number = number(message);
            let mut asked = self.asked.lock().unwrap();
            let asked = asked.entry(number).or_default();
            if number % 5 < self.retries && *asked < 2 {
                *asked += 1;
                return Verdict::Refuse(FateVerdict::Retry { code: "busy".into(), reason: "later".into() });
            }
            match NumberCheck::refuses(number) {
                true => Verdict::reject("checked", "no good"),
                false => Verdict::Pass,
            }
        }))
    }
}

struct LetterLog {
    log: Log<DeadLetter>,
    failures: u32,
}

#[async_trait]
impl DeadLetterWriter for LetterLog {
    async fn write(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        if self.failures > 0 {
            self.failures -= 1;
            anyhow::bail!("the disk is full");
        }
        self.log.lock().unwrap().extend_from_slice(letters);
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    count: u64,
    keys: u64,
    lanes: usize,
    ordering: Ordering,
    tempers: Vec<Temper>,
    /// Of the first plugin and of the second.
    plugin_retries: (u64, u64),
    /// Of a native step in front of the plugins, if there is one.
    native_retries: Option<u64>,
    /// Replace the plugins all the while.
    swaps: bool,
}

struct World {
    sinks: Vec<Log<u64>>,
    letters: Log<DeadLetter>,
    committed: Arc<Mutex<HashMap<u32, u64>>>,
    /// Those of each lane.
    steps: Vec<Vec<NumberStep>>,
    parts: Parts,
}

fn world(case: &Case) -> World {
    let sinks: Vec<Log<u64>> = case.tempers.iter().map(|_| Log::default()).collect();
    let letters = Log::default();
    let committed = Arc::default();
    let steps: Vec<Vec<NumberStep>> = (0..case.lanes)
        .map(|_| {
            vec![
                NumberStep::new("first", case.plugin_retries.0),
                NumberStep::new("second", case.plugin_retries.1),
            ]
        })
        .collect();
    let boxed = |step: &NumberStep| Box::new(step.clone()) as Box<dyn Step>;
    let parts = Parts {
        name: "test".into(),
        ordering: case.ordering,
        retry: Retry {
            strategy: Strategy::Jittered,
            base_delay: Interval::millis(1),
            max_delay: Interval::millis(4),
            max_attempts: 4,
        },
        settings: Settings { shutdown_timeout: Interval::millis(50), ..Settings::default() },
        dead_letters: DeadLettersCommon::default(),
        source: OpenSource {
            name: "numbers".into(),
            reader: Box::new(NumberSource {
                next: 0,
                count: case.count,
                keys: case.keys,
                random: StdRng::seed_from_u64(case.seed),
                endless: false,
            }),
            committer: Box::new(NumberCommitter(Arc::clone(&committed))),
            describe: Arc::new(|position| format!("number {}", position.offset)),
        },
        source_kind: "numbers",
        rows: 16,
        sinks: (case.tempers.iter().zip(&sinks).enumerate())
            .map(|(index, (&temper, log))| SinkPart {
                name: format!("sink-{index}"),
                common: SinkCommon::default(),
                traits: SinkTraits { partial_failures: temper.partial, ..SinkTraits::with_batch(20) },
                sink: Box::new(LogSink {
                    log: Arc::clone(log),
                    temper,
                    random: StdRng::seed_from_u64(case.seed ^ index as u64),
                }),
            })
            .collect(),
        natives: (case.native_retries.iter())
            .map(|&retries| Arc::new(NumberCheck { retries, asked: Arc::default() }) as Arc<dyn NativeSpec>)
            .collect(),
        lanes: steps.iter().map(|steps| steps.iter().map(boxed).collect()).collect(),
        writer: Box::new(LetterLog { log: Arc::clone(&letters), failures: 2 }),
        states: States::in_memory(),
        positions_last: true,
        letters: None,
        budget: Arc::new(Budget::new(16 << 10)),
        waits: Arc::default(),
        transactions: None,
        tracer: None,
        metrics: Arc::new(Metrics::new()),
    };
    World { sinks, letters, committed, steps, parts }
}

fn cases() -> impl proptest::strategy::Strategy<Value = Case> {
    let temper = (any::<bool>(), 0u32..40, 0u32..10, 0u32..30)
        .prop_map(|(partial, retries, rejects, outages)| Temper { partial, retries, rejects, outages });
    let ordering = prop_oneof![Just(Ordering::Key), Just(Ordering::Partition), Just(Ordering::None)];
    let sizes = (1u64..200, 1u64..12, 1usize..4);
    let plugins = ((0u64..3, 0u64..3), any::<bool>(), proptest::option::of(0u64..3));
    (any::<u64>(), sizes, ordering, proptest::collection::vec(temper, 1..4), plugins).prop_map(
        |(seed, (count, keys, lanes), ordering, tempers, (plugin_retries, swaps, native_retries))| Case {
            seed,
            count,
            keys,
            lanes,
            ordering,
            tempers,
            plugin_retries,
            native_retries,
            swaps,
        },
    )
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// P1, P3, P11: through plugins and sinks that fail in every way, each message is delivered to
    /// each sink, filtered, or dead-lettered; in order; and the source is committed to its end. So it
    /// is while the plugins are replaced, and each dead letter tells the version that rejected it (P5).
    #[test]
    fn p1_p3_p11_everything_arrives_in_order_or_is_dead_lettered(case in cases()) {
        let World { sinks, letters, committed, mut steps, parts } = world(&case);
        let rejected: Vec<Log<(u64, String)>> =
            steps.iter().flatten().map(|step| Arc::clone(&step.rejected)).collect();
        let budget = Arc::clone(&parts.budget);
        let snapshot = runtime().block_on(async {
            let running = start(parts, CancellationToken::new());
            if case.swaps {
                let mailboxes = running.mailboxes.clone();
                tokio::spawn(async move {
                    loop {
                        for (mailbox, steps) in mailboxes.iter().zip(&mut steps) {
                            mailbox.put(steps.iter_mut().map(NumberStep::next_version).enumerate());
                        }
                        tokio::time::sleep(Duration::from_micros(300)).await;
                    }
                });
            }
            let shared = Arc::clone(&running.shared);
            let ended = tokio::time::timeout(Duration::from_secs(60), running.wait()).await;
            ended.unwrap_or_else(|_| panic!("it does not end: {:?} {:?}", shared.ledger.snapshot(), shared.waits))
        }).expect("it does not fail");

        prop_assert!(snapshot.books.balance(), "{snapshot:?}");
        prop_assert!(snapshot.sinks.iter().all(ledger::SinkBooks::balance), "{snapshot:?}");
        prop_assert_eq!(snapshot.books.in_flight, 0);
        prop_assert_eq!(snapshot.books.received, case.count);
        prop_assert_eq!(budget.guests(), 0);

        let rejected: HashMap<u64, String> =
            rejected.iter().flat_map(|log| log.lock().unwrap().clone()).collect();
        let letters = letters.lock().unwrap().clone();
        let failed_at = |stage: &Stage, number: u64| letters.iter().filter(|letter| {
            letter.stage == *stage && letter.position.offset == number
        }).count();
        for number in 0..case.count {
            let first_rejects = failed_at(&Stage::Plugin("first".into()), number);
            let natively = case.native_retries.is_some() && NumberCheck::refuses(number);
            prop_assert_eq!(failed_at(&Stage::SourceStep("numbers".into()), number), usize::from(natively));
            let expected_copies = match number % 11 {
                _ if natively => 0,
                3 | 5 => 0,
                // Doubled by both steps.
                7 => 4,
                _ => 1,
            };
            prop_assert_eq!(first_rejects, usize::from(number % 11 == 5 && !natively));
            for (index, log) in sinks.iter().enumerate() {
                let delivered = log.lock().unwrap().iter().filter(|&&logged| logged == number).count();
                let dead = failed_at(&Stage::Sink(format!("sink-{index}")), number);
                prop_assert_eq!(delivered + dead, expected_copies, "number {} in sink {}", number, index);
            }
        }
        for letter in &letters {
            prop_assert_eq!(letter.message.payload.clone().unwrap(), letter.position.offset.to_string().into_bytes());
            let checked = matches!(letter.stage, Stage::SourceStep(_));
            prop_assert_eq!(checked, letter.code == "checked" && letter.plugin.is_none());
            if letter.code == "bad" {
                let version = letter.plugin.as_ref().map(|plugin| &plugin.sha256);
                prop_assert_eq!(version, rejected.get(&letter.position.offset));
            }
        }
        for log in &sinks {
            let mut last: BTreeMap<String, u64> = BTreeMap::new();
            for &number in log.lock().unwrap().iter() {
                let partition = number % case.keys % PARTITIONS;
                let order = match case.ordering {
                    Ordering::Key if number % 5 > 0 => key_of(number, case.keys),
                    Ordering::Key | Ordering::Partition => format!("partition-{partition}"),
                    Ordering::None => continue,
                };
                let before = last.insert(order, number);
                prop_assert!(before.is_none_or(|before| before <= number), "{number} after {before:?}: {case:?}");
            }
        }
        let mut ends: HashMap<u32, u64> = HashMap::new();
        for number in 0..case.count {
            ends.insert((number % case.keys % PARTITIONS) as u32, number);
        }
        prop_assert_eq!(&*committed.lock().unwrap(), &ends);
    }
}

fn quiet(tempers: Vec<Temper>) -> Case {
    Case {
        seed: 1,
        count: 100,
        keys: 4,
        native_retries: None,
        lanes: 2,
        ordering: Ordering::Key,
        tempers,
        plugin_retries: (0, 0),
        swaps: false,
    }
}

const CALM: Temper = Temper { partial: false, retries: 0, rejects: 0, outages: 0 };

#[test]
fn p8_at_the_deadline_of_a_stop_what_is_in_flight_is_returned_and_not_committed() {
    let case = quiet(vec![CALM, Temper { outages: 100, ..CALM }]);
    let World { committed, mut parts, .. } = world(&case);
    parts.sinks[1].common.on_unavailable = OnUnavailable::Wait;
    let snapshot = runtime().block_on(async {
        let stop = CancellationToken::new();
        let running = start(parts, stop.clone());
        let waiting = async {
            while running.shared.waits.reasons().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it comes to wait for the sink");
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), running.wait()).await
    });
    let snapshot = snapshot.expect("it ends").expect("a stop is no failure");
    assert!(snapshot.books.balance() && snapshot.books.in_flight == 0, "{snapshot:?}");
    assert!(snapshot.books.returned > 0);
    assert_eq!(snapshot.sinks[1].delivered, 0);
    // Numbers 3 and 5 of each partition go to no sink; those before them were not delivered.
    assert!(committed.lock().unwrap().is_empty(), "{:?}", committed.lock().unwrap());
}

#[test]
fn an_outage_dead_letters_nothing_unless_the_pipeline_says_so() {
    for (on_unavailable, dead) in [(OnUnavailable::Wait, false), (OnUnavailable::DeadLetter, true)] {
        let case = quiet(vec![Temper { outages: 90, ..CALM }]);
        let World { letters, mut parts, .. } = world(&case);
        parts.sinks[0].common.on_unavailable = on_unavailable;
        let ended = runtime().block_on(async {
            let running = start(parts, CancellationToken::new());
            let shared = Arc::clone(&running.shared);
            let ended = tokio::time::timeout(Duration::from_secs(10), running.wait()).await;
            ended.unwrap_or_else(|_| {
                panic!("it does not end: {:?} {:?}", shared.ledger.snapshot(), shared.waits)
            })
        });
        ended.expect("it does not fail");
        let of_the_sink =
            letters.lock().unwrap().iter().filter(|letter| matches!(letter.stage, Stage::Sink(_))).count();
        assert_eq!(of_the_sink > 0, dead, "{on_unavailable:?}");
    }
}

/// Says that fewer messages were written than it was given.
struct Miscounting;

#[async_trait]
impl Sink for Miscounting {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        Ok(Outcomes::Each(vec![Outcome::Durable; messages.len() - 1]))
    }
}

#[test]
fn p2_a_sink_that_gives_too_few_outcomes_stops_the_pipeline_and_nothing_is_committed() {
    let World { committed, mut parts, .. } = world(&quiet(vec![CALM]));
    parts.sinks[0].sink = Box::new(Miscounting);
    let ended = runtime().block_on(async {
        tokio::time::timeout(Duration::from_secs(10), start(parts, CancellationToken::new()).wait()).await
    });
    let error = ended.expect("it ends").expect_err("it fails");
    assert!(error.to_string().contains("a defect of the sink"), "{error:#}");
    assert!(committed.lock().unwrap().is_empty());
}

/// A plugin that forgets the last message of every batch.
struct Forgetful(NumberStep);

impl Step for Forgetful {
    fn identity(&self) -> &PluginIdentity {
        self.0.identity()
    }

    fn process(&mut self, mut batch: Batch, _: &Passage) -> anyhow::Result<Processed> {
        let mut rows = batch.take_rows();
        rows.pop();
        let parents = (0..rows.len() as u32).collect();
        batch.set_rows(rows);
        Ok(Processed { batch, parents, ..Processed::default() })
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}

#[test]
fn p2_a_message_that_is_forgotten_stops_the_pipeline_with_an_error_that_names_it() {
    let World { mut parts, .. } = world(&quiet(vec![CALM]));
    parts.lanes = vec![vec![Box::new(Forgetful(NumberStep::new("first", 0)))]];
    let ended = runtime().block_on(async {
        tokio::time::timeout(Duration::from_secs(10), start(parts, CancellationToken::new()).wait()).await
    });
    let error = ended.expect("it ends").expect_err("it fails");
    assert!(error.to_string().contains("read from numbers were dropped without a verdict"), "{error:#}");
}

#[test]
fn a_replay_beside_the_source_ends_when_everything_of_it_is_settled() {
    let World { sinks, mut parts, .. } = world(&quiet(vec![CALM]));
    let endless =
        NumberSource { next: 0, count: 0, keys: 1, random: StdRng::seed_from_u64(0), endless: true };
    let replayed = std::mem::replace(&mut parts.source.reader, Box::new(endless));
    let committer = NumberCommitter(Arc::default());
    runtime().block_on(async {
        let stop = CancellationToken::new();
        let running = start(parts, stop.clone());
        let (done, is_done) = oneshot::channel();
        let source = OpenSource {
            name: "replay".into(),
            reader: replayed,
            committer: Box::new(committer),
            describe: Arc::new(|_| String::new()),
        };
        running.attach.send(Attach { source, done }).await.ok().unwrap();
        tokio::time::timeout(Duration::from_secs(10), is_done).await.expect("it ends").unwrap().unwrap();
        assert_eq!(
            sinks[0].lock().unwrap().len(),
            (0..100)
                .map(|n| match n % 11 {
                    3 | 5 => 0,
                    7 => 4,
                    _ => 1,
                })
                .sum::<usize>()
        );
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), running.wait()).await.expect("it ends").unwrap();
    });
}
