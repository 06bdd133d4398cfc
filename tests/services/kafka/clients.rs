//! What tests do with topics and groups, by librdkafka: it starts faster than a JVM. Where a test is
//! about what other clients see, it takes `programs.rs` instead.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::Kafka;
use super::broker::Broker;
use crate::support::DEADLINE;

/// Of one request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A message in a topic.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The producer chooses one if there is none.
    pub partition: Option<i32>,
    /// Of those that were read.
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    pub fn new(key: &str, value: &str) -> Record {
        Record { key: Some(key.into()), value: Some(value.into()), ..Record::default() }
    }

    /// The value of a message that is text.
    pub fn text(&self) -> &str {
        let value = self.value.as_deref().expect("a value");
        std::str::from_utf8(value).expect("the value is UTF-8")
    }
}

/// The first error of a record that was sent.
#[derive(Default)]
struct Reports(Mutex<Option<KafkaError>>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().expect("no panic").get_or_insert_with(|| error.clone());
        }
    }
}

/// A name that no other test has, of any process.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{:016x}", rand::random::<u64>())
}

impl Kafka {
    /// A client of this cluster; more properties can be set.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("log_level", "0");
        config
    }

    /// Asks for a change of one thing until an answer comes; a client that has just got to know the
    /// brokers may drop a request. `is_done` says which error means that it was done before.
    fn admin<T>(
        &self,
        what: &str,
        ask: impl AsyncFn(
            &AdminClient<DefaultClientContext>,
            &AdminOptions,
        ) -> KafkaResult<Vec<Result<T, (T, RDKafkaErrorCode)>>>,
        is_done: impl Fn(RDKafkaErrorCode) -> bool,
    ) {
        let admin = self.client().create().expect("an admin client");
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        self.wait_for(what, || match runtime.block_on(ask(&admin, &options)) {
            Err(_) => false,
            Ok(results) => {
                let refused = results.into_iter().find_map(Result::err).map(|(_, code)| code);
                let refused = refused.filter(|&code| !is_done(code));
                assert_eq!(refused, None, "{what}");
                true
            }
        });
    }

    /// A topic with a name of its own that begins with `prefix`.
    pub fn topic(&self, prefix: &str, partitions: i32) -> String {
        let name = unique(prefix);
        self.create_topic(&name, partitions, &[]);
        name
    }

    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        // As many replicas as the cluster has by default.
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        // Records may have any time, and stay.
        topic = topic.set("retention.ms", "-1");
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let create = async |admin: &AdminClient<_>, options: &_| admin.create_topics([&topic], options).await;
        let exists = |code| code == RDKafkaErrorCode::TopicAlreadyExists;
        self.admin(&format!("{name} is made"), create, exists);
        // Until then a client may be told that it is unknown.
        self.wait_for(&format!("{name} has its leaders"), || {
            self.partitions(name).is_some_and(|known| known == partitions)
        });
    }

    pub fn delete_topic(&self, name: &str) {
        let delete = async |admin: &AdminClient<_>, options: &_| admin.delete_topics(&[name], options).await;
        let is_gone = |code| code == RDKafkaErrorCode::UnknownTopicOrPartition;
        self.admin(&format!("{name} is deleted"), delete, is_gone);
    }

    /// Sets the configuration of a topic; what is not named has its default again.
    pub fn configure_topic(&self, name: &str, config: &[(&str, &str)]) {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in config {
            change = change.set(key, value);
        }
        let alter = async |admin: &AdminClient<_>, options: &_| admin.alter_configs([&change], options).await;
        self.admin(&format!("{name} is configured"), alter, |_| false);
    }

    /// The client that asks for what is in topics.
    fn asking(&self) -> &BaseConsumer {
        // The end of a partition is that of all it has, committed or not.
        let create = || self.client().set("isolation.level", "read_uncommitted").create().expect("a client");
        self.asking.get_or_init(create)
    }

    /// How many partitions a topic has; `None` if there is no such topic, or not all of them have a
    /// leader.
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        let metadata = self.asking().fetch_metadata(Some(topic), TIMEOUT).ok()?;
        let topic = metadata.topics().first().filter(|topic| topic.error().is_none())?;
        let partitions = topic.partitions();
        let led = partitions.iter().all(|partition| partition.error().is_none() && partition.leader() >= 0);
        led.then_some(partitions.len() as i32)
    }

    /// Whether all brokers have all that they are to have.
    pub fn is_in_sync(&self) -> bool {
        let Ok(metadata) = self.asking().fetch_metadata(None, TIMEOUT) else { return false };
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        metadata.brokers().len() == self.brokers.len()
            && partitions.all(|partition| partition.isr().len() == partition.replicas().len())
    }

    /// Writes records one after the other, and waits until all replicas have them.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = Record>) {
        let mut config = self.client();
        // Where keys go is where the Java client would send them.
        config.set("enable.idempotence", "true").set("partitioner", "murmur2_random").set("linger.ms", "5");
        let producer: BaseProducer<Reports> =
            config.create_with_context(Reports::default()).expect("a producer");
        for record in records {
            let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_ref() })
            });
            let mut next = BaseRecord::<[u8], [u8]>::to(topic).headers(headers);
            next.partition = record.partition;
            next.timestamp = record.timestamp_ms;
            next.key = record.key.as_deref();
            next.payload = record.value.as_deref();
            while let Err((error, same)) = producer.send(next) {
                let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
                assert_eq!(error, full, "a record cannot be sent");
                producer.poll(Duration::from_millis(10));
                next = same;
            }
            producer.poll(Duration::ZERO);
        }
        producer.flush(DEADLINE).expect("all records are reported");
        let failed = producer.context().0.lock().expect("no panic").take();
        assert_eq!(failed, None, "a record was not taken by {topic}");
    }

    /// The next offset of each partition.
    pub fn ends(&self, topic: &str) -> Vec<i64> {
        let mut ends = None;
        // For a moment a partition may have no leader.
        self.wait_for(&format!("the ends of {topic}"), || {
            let end = |partition| Some(self.asking().fetch_watermarks(topic, partition, TIMEOUT).ok()?.1);
            ends = self.partitions(topic).and_then(|partitions| (0..partitions).map(end).collect());
            ends.is_some()
        });
        ends.expect("it was waited for")
    }

    /// How many messages a topic has, uncommitted ones and markers of transactions among them.
    pub fn count(&self, topic: &str) -> i64 {
        self.ends(topic).iter().sum()
    }

    /// What a group has committed of each partition; 0 where it has not.
    pub fn committed(&self, group: &str, topic: &str) -> Vec<i64> {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().expect("a consumer");
        let partitions = self.ends(topic).len() as i32;
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(topic, 0, partitions - 1);
        let mut committed = None;
        self.wait_for(&format!("the offsets of {group}"), || {
            committed = consumer.committed_offsets(wanted.clone(), TIMEOUT).ok();
            committed.is_some()
        });
        let committed = committed.expect("it was waited for");
        let offset = |one: Offset| if let Offset::Offset(offset) = one { offset } else { 0 };
        (0..partitions)
            .map(|partition| committed.find_partition(topic, partition).map_or(0, |one| offset(one.offset())))
            .collect()
    }

    /// All committed records that are in a topic now, by partition and offset.
    pub fn consume(&self, topic: &str) -> Vec<Record> {
        let mut config = self.client();
        config.set("group.id", unique("reader")).set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        // By number: the end of one may be told more than once.
        let mut open: HashSet<i32> = (0..self.ends(topic).len() as i32).collect();
        for &partition in &open {
            partitions.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid offset");
        }
        consumer.assign(&partitions).expect("it takes them");
        let mut records = Vec::new();
        let end = Instant::now() + DEADLINE;
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => records.push(record(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                Some(Err(error)) => panic!("{topic} cannot be read: {error}"),
                None => assert!(Instant::now() < end, "{topic} is not read to its end within {DEADLINE:?}"),
            }
        }
        records.sort_by_key(|record: &Record| (record.partition, record.offset));
        records
    }

    /// Waits for something to happen that has to do with this cluster.
    pub fn wait_for(&self, what: &str, mut happened: impl FnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !happened() {
            self.brokers.iter().for_each(Broker::assert_runs_if_started);
            assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until that many brokers take messages and offsets of groups.
    pub fn wait_until_ready(&self, brokers: usize) {
        let consumer: BaseConsumer =
            self.client().set("group.id", unique("ready")).create().expect("a consumer");
        self.wait_for(&format!("{brokers} brokers that answer"), || {
            let metadata = consumer.fetch_metadata(None, Duration::from_secs(1));
            metadata.is_ok_and(|metadata| metadata.brokers().len() >= brokers)
        });
        let topic = self.topic("ready", 1);
        self.produce(&topic, [Record::new("ready", "?")]);
        self.wait_for("a coordinator of groups", || {
            let mut offsets = TopicPartitionList::new();
            offsets.add_partition_offset(&topic, 0, Offset::Offset(1)).expect("a valid offset");
            consumer.commit(&offsets, CommitMode::Sync).is_ok()
        });
        self.delete_topic(&topic);
    }
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        partition: Some(message.partition()),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
    }
}
