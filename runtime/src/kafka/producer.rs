//! A producer that takes a call of records and tells what became of each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::context::ClusterContext;
use super::on_a_thread;
use super::topics::{self, TopicLimits};

/// How often the thread that serves callbacks looks whether its producer is still needed.
const POLL: Duration = Duration::from_millis(100);

/// librdkafka's own limits stand far beyond what a call can hold: the pipeline bounds it.
const NO_LIMIT_MESSAGES: &str = "0";
const NO_LIMIT_BYTES: &str = "1000000000";

/// `batch.size` of librdkafka where nobody sets it.
const DEFAULT_BATCH_BYTES: u64 = 1_000_000;

/// How carefully records are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Care {
    /// Bytes of a batch of records, at most, where it holds more than one.
    pub batch_bytes: u64,
    /// A batch holds one record, so that a refused one is the fault of that record, and the next one is
    /// sent when it has its answer.
    pub alone: bool,
}

impl Default for Care {
    /// For topics of which nothing is known.
    fn default() -> Care {
        Care { batch_bytes: TopicLimits::UNKNOWN.batch_bytes(), alone: false }
    }
}

/// A record to be sent.
pub struct Record<'a> {
    pub topic: &'a str,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub headers: Option<OwnedHeaders>,
    /// Milliseconds since 1970-01-01T00:00:00Z; at 0 it is when the record is sent.
    pub timestamp_ms: i64,
}

/// What became of the records of a call.
#[derive(Debug)]
pub struct Reports {
    /// One a record, `None` for those of which nothing is known: they may be in the topic or not.
    pub each: Vec<Option<Result<(), RDKafkaErrorCode>>>,
    /// The producer is of no more use: drop it.
    pub broken: Option<Broken>,
}

/// Why a producer is of no more use.
#[derive(Clone, Debug)]
pub enum Broken {
    /// Nothing got through for that long.
    Silence(Duration),
    /// An error that has to do with no record.
    Error(RDKafkaErrorCode, String),
}

/// Sends records, one call after the other. Idempotent: a repetition by librdkafka is in a partition
/// once, and in order. Clones share it.
#[derive(Clone)]
pub struct Producer {
    client: Arc<BaseProducer<ProducerEvents>>,
}

impl Producer {
    /// Starts a producer and the thread that serves its callbacks. A broker that is not there is no
    /// error. What is set in `config` stays but for what order and reports need.
    ///
    /// # Errors
    /// librdkafka refuses the configuration.
    pub fn start(mut config: ClientConfig, care: Care, cluster: ClusterContext) -> anyhow::Result<Producer> {
        configure(&mut config, care);
        let events = ProducerEvents { cluster, call: Mutex::default(), changed: Notify::new() };
        let client = BaseProducer::from_config_and_context(&config, events)
            .context("librdkafka cannot start a producer")?;
        let client = Arc::new(client);
        let polled = Arc::clone(&client);
        // The last owner ends the client, which waits for its threads: never one that serves tasks.
        let serve = move || {
            while Arc::strong_count(&polled) > 1 {
                polled.poll(POLL);
            }
        };
        std::thread::Builder::new().name("kafka-producer".to_owned()).spawn(serve)?;
        Ok(Producer { client })
    }

    /// The client of librdkafka, for what concerns no single call.
    pub fn client(&self) -> &Arc<BaseProducer<ProducerEvents>> {
        &self.client
    }

    /// The last error that has to do with no record.
    pub fn take_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.events().cluster.take_error()
    }

    /// What a topic takes, as [`topics::ask`] says. Asked on a thread of its own: a stop does not wait
    /// for it.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn ask(&self, topic: &str, timeout: Duration) -> Result<Option<TopicLimits>, KafkaError> {
        let (client, topic) = (Arc::clone(&self.client), topic.to_owned());
        let asking = move || topics::ask(client.client(), &topic, timeout);
        on_a_thread("kafka-topic", asking).await.ok().flatten().unwrap_or(Err(KafkaError::Canceled))
    }

    fn events(&self) -> &ProducerEvents {
        self.client.client().context()
    }

    /// Whether a call was not waited for to its end and still has reports to come, which could be taken
    /// for those of another.
    pub fn is_busy(&self) -> bool {
        self.events().lock().left > 0
    }

    /// Why it is of no more use, as soon as that is so. Not to be waited for beside a call.
    pub async fn broken(&self) -> Broken {
        let events = self.events();
        loop {
            let changed = events.changed.notified();
            if let Some(broken) = &events.lock().broken {
                return broken.clone();
            }
            changed.await;
        }
    }

    /// Begins a call of so many records.
    pub fn begin(&self, records: usize) -> Call<'_> {
        let each = vec![None; records];
        self.events().lock().each = each;
        Call { producer: self, begun: Instant::now() }
    }
}

/// Records on their way.
pub struct Call<'p> {
    producer: &'p Producer,
    begun: Instant,
}

impl Call<'_> {
    /// Sends the record of this number. Never waits.
    ///
    /// # Errors
    /// It was not sent, and there will be no report of it.
    pub fn send(&self, number: usize, record: Record<'_>) -> Result<(), RDKafkaErrorCode> {
        let Record { topic, key, payload, headers, timestamp_ms } = record;
        let record = BaseRecord {
            topic,
            partition: None,
            payload,
            key,
            timestamp: Some(timestamp_ms),
            headers,
            delivery_opaque: number,
        };
        // Counted before, for its report may come before this returns.
        self.producer.events().lock().left += 1;
        self.producer.client.send(record).map_err(|(error, _)| {
            self.producer.events().lock().left -= 1;
            error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
        })
    }

    /// Waits until all that was sent has its report, or until the producer turns out to be of no more
    /// use: nothing was reported for `patience`, say.
    pub async fn reports(self, patience: Duration) -> Reports {
        let events = self.producer.events();
        loop {
            // Asked for before looking, or the news could be missed.
            let changed = events.changed.notified();
            let deadline = {
                let mut state = events.lock();
                let broken = state.broken.clone();
                if state.left == 0 || broken.is_some() {
                    return Reports { each: std::mem::take(&mut state.each), broken };
                }
                state.last_report.map_or(self.begun, |last| last.max(self.begun)) + patience
            };
            if deadline <= Instant::now() {
                let broken = Some(Broken::Silence(patience));
                return Reports { each: std::mem::take(&mut events.lock().each), broken };
            }
            let _ = tokio::time::timeout_at(deadline, changed).await;
        }
    }
}

fn configure(config: &mut ClientConfig, care: Care) {
    let of_user = |config: &ClientConfig, name: &str| config.get(name).map(str::to_owned);
    let batch_bytes =
        of_user(config, "batch.size").and_then(|bytes| bytes.parse().ok()).unwrap_or(DEFAULT_BATCH_BYTES);
    config.set("enable.idempotence", "true");
    config.set("acks", "all");
    if let Some(timeout_ms) = of_user(config, "transaction.timeout.ms") {
        // What expires, or is refused, is run again with the whole transaction.
        config.set("message.timeout.ms", timeout_ms);
    } else {
        // When it expires librdkafka lets later records of a partition pass the expired ones.
        config.set("message.timeout.ms", "0");
        // A refused batch ends the producer instead of letting those behind it pass.
        config.set("enable.gapless.guarantee", "true");
    }
    config.set("batch.size", batch_bytes.min(care.batch_bytes).max(1).to_string());
    if care.alone {
        config.set("batch.num.messages", "1");
        config.set("max.in.flight.requests.per.connection", "1");
    }
    config.set("queue.buffering.max.messages", NO_LIMIT_MESSAGES);
    if of_user(config, "message.max.bytes").is_none() {
        config.set("message.max.bytes", NO_LIMIT_BYTES);
    }
}

/// What librdkafka calls back.
pub struct ProducerEvents {
    cluster: ClusterContext,
    call: Mutex<CallState>,
    /// Told when the last report of a call is in, or the producer is of no more use.
    changed: Notify,
}

#[derive(Default)]
struct CallState {
    each: Vec<Option<Result<(), RDKafkaErrorCode>>>,
    /// Records that were sent and have no report yet.
    left: usize,
    last_report: Option<Instant>,
    broken: Option<Broken>,
}

impl ProducerEvents {
    fn lock(&self) -> MutexGuard<'_, CallState> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for ProducerEvents {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.cluster.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        self.cluster.error(error, reason);
        // A fatal error is no end by itself: what is on its way still gets its reports.
        if let Some(code @ (RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed)) =
            code
        {
            self.lock().broken = Some(Broken::Error(code, reason.to_owned()));
            self.changed.notify_one();
        }
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.cluster.generate_oauth_token(config)
    }
}

impl ProducerContext for ProducerEvents {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let report = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        let mut state = self.lock();
        if let Some(known) = state.each.get_mut(number) {
            *known = Some(report);
        }
        state.left = state.left.saturating_sub(1);
        state.last_report = Some(Instant::now());
        if state.left == 0 {
            drop(state);
            self.changed.notify_one();
        }
    }
}
