//! `generate`: orders that nobody placed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::frames::Filling;
use super::{
    CommitKind, Committer, OpenSource, Read, ReadLimit, Reader, Replay, SourceConfig, SourceContext,
    SourceSpec, SourceTraits,
};
use crate::codecs::{Decoder, FrameMeta};
use crate::config::problem::Problem;
use crate::config::{Parsed, parse};
use crate::message::{Position, Span};
use crate::store::Checkpoints;

pub const SPEC: SourceSpec = SourceSpec {
    name: "generate",
    schema: || schemars::schema_for!(Generate),
    example: "[source]\ntype = \"generate\"\ncount = 100_000\nrate = 1000",
    default_codec: "raw",
    parse: |value| {
        let config = parse::<Generate>(value)?;
        config.valid().map(|config| Box::new(config) as Box<dyn SourceConfig>)
    },
};

/// Makes up orders in the standard envelope, of about 350 bytes, keyed by customer. Message n
/// depends on `seed`, `keys` and n only, its time too: the first is of 2026-01-01T00:00:00Z, each
/// other a millisecond after the one before. Goes on at its checkpoint.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Generate {
    /// Another seed gives other orders.
    seed: u64,
    /// How many, those before a checkpoint included; without end by default.
    count: Option<u64>,
    /// Messages a second, by a fixed timetable: what could not be read in time is made up for later.
    /// By default as fast as it goes.
    rate: Option<f64>,
    /// Number of different customers.
    keys: u64,
    /// Fills payloads up to so many bytes. Those that are longer by themselves stay so.
    payload_bytes: usize,
}

impl Default for Generate {
    fn default() -> Generate {
        Generate { seed: 0, count: None, rate: None, keys: 1000, payload_bytes: 0 }
    }
}

/// Messages made at once, whatever the pipeline says.
const MAX_BATCH: usize = 65_536;

/// More digits would not fit into a customer's number.
const MAX_KEYS: u64 = 1_000_000_000;

/// One in eleven days, and more than can be made.
const MIN_RATE: f64 = 1e-6;
const MAX_RATE: f64 = 1e9;

const MAX_PAYLOAD_BYTES: usize = 64 << 20;

impl Generate {
    fn valid(self) -> Parsed<Generate> {
        let mut problems = Vec::new();
        if !(1..=MAX_KEYS).contains(&self.keys) {
            problems.push(
                Problem::new("/keys", format!("{} is no number of customers", self.keys))
                    .help(format!("between 1 and {MAX_KEYS}")),
            );
        }
        if let Some(rate) = self.rate
            && !(MIN_RATE..=MAX_RATE).contains(&rate)
        {
            problems.push(
                Problem::new("/rate", format!("{rate} messages a second is no rate"))
                    .help(format!("between {MIN_RATE} and {MAX_RATE}; without `rate` as fast as it goes")),
            );
        }
        if self.payload_bytes > MAX_PAYLOAD_BYTES {
            problems.push(
                Problem::new("/payload_bytes", format!("{} bytes are too many", self.payload_bytes))
                    .help(format!("at most {MAX_PAYLOAD_BYTES}")),
            );
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }
}

impl SourceConfig for Generate {
    fn check(&self, context: &SourceContext, problems: &mut Vec<Problem>) {
        if context.codec.decoder().has_head() {
            problems.push(
                Problem::new("/codec", "what is generated is JSON without a head")
                    .help("remove `codec`, or take \"json\""),
            );
        }
        if self.payload_bytes > context.max_message_bytes {
            problems.push(
                Problem::new(
                    "/payload_bytes",
                    format!("payloads of {} bytes are more than max_message_bytes", self.payload_bytes),
                )
                .help(format!("at most {}, or add a larger `max_message_bytes`", context.max_message_bytes)),
            );
        }
    }

    fn traits(&self) -> SourceTraits {
        SourceTraits { replay: Replay::Yes, unordered: None, partitions: Some(1) }
    }

    fn open(self: Box<Self>, context: SourceContext) -> anyhow::Result<OpenSource> {
        let mut next = 0;
        for (name, saved) in context.checkpoints.load()? {
            if name != CHECKPOINT {
                continue;
            }
            let checkpoint: Checkpoint = serde_json::from_value(saved).context(
                "the checkpoint of the generate source cannot be read; `millstream checkpoint reset` removes it",
            )?;
            if checkpoint.seed == self.seed {
                next = checkpoint.next;
            } else {
                tracing::info!(seed = self.seed, checkpoint.seed, "another seed: generating from the start");
            }
        }
        let seed = self.seed;
        Ok(OpenSource {
            name: "generate".into(),
            reader: Box::new(Generator {
                orders: Orders { seed, keys: self.keys, payload_bytes: self.payload_bytes, second: None },
                count: self.count,
                rate: self.rate,
                next,
                began: None,
                decoder: context.codec.decoder(),
                batch_bytes: 0,
            }),
            committer: Box::new(GenerateCommitter { seed, checkpoints: context.checkpoints }),
            describe: Arc::new(|position| format!("generated message {}", position.record)),
        })
    }
}

/// What the checkpoint is called.
const CHECKPOINT: &str = "generate";

#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint {
    seed: u64,
    /// Number of the next message, from 0.
    next: u64,
}

struct Generator {
    orders: Orders,
    count: Option<u64>,
    rate: Option<f64>,
    next: u64,
    /// When the timetable began, and with which message.
    began: Option<(Instant, u64)>,
    decoder: Box<dyn Decoder>,
    /// Size of the batch before.
    batch_bytes: usize,
}

impl Generator {
    /// Waits until a message is due, and returns the number before which all are.
    async fn due(&mut self) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let (began, first) = *self.began.get_or_insert_with(|| (Instant::now(), self.next));
        tokio::time::sleep_until(began + due_after(self.next - first, rate)).await;
        (first + due_within(began.elapsed(), rate)).max(self.next + 1)
    }
}

/// When message n of a timetable is due, from 0; the first is at once.
fn due_after(n: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(n as f64 / rate)
}

/// How many messages are due within a time.
fn due_within(time: Duration, rate: f64) -> u64 {
    (time.as_secs_f64() * rate) as u64 + 1
}

#[async_trait]
impl Reader for Generator {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        let end = self.count.unwrap_or(u64::MAX);
        if self.next >= end {
            return Ok(Read::End);
        }
        let rows = limit.rows.clamp(1, MAX_BATCH) as u64;
        let end = end.min(self.due().await).min(self.next.saturating_add(rows));
        let mut bytes = Vec::with_capacity(self.batch_bytes + self.batch_bytes / 16);
        let mut messages = Vec::with_capacity((end - self.next) as usize);
        for n in self.next..end {
            if !messages.is_empty() && bytes.len() >= limit.bytes.min(MAX_PAYLOAD_BYTES) {
                break;
            }
            messages.push(self.orders.write(n, &mut bytes));
        }
        self.batch_bytes = bytes.len();
        let bytes = Bytes::from(bytes);
        let mut out = Filling::default();
        let arena = out.rows.builder.arena(bytes.clone());
        let mut start = 0;
        for order in messages {
            let payload = Span::new(arena, start as u32, (order.end - start) as u32);
            let meta = FrameMeta {
                key: Span::new(arena, order.customer as u32, CUSTOMER_BYTES as u32),
                headers: &[],
                timestamp_ms: order.timestamp_ms,
                position: Position { partition: 0, offset: self.next + 1, record: self.next + 1 },
            };
            out.rows.decode(&mut *self.decoder, &bytes[start..order.end], payload, &meta);
            start = order.end;
            self.next += 1;
        }
        Ok(Read::Batch(out.rows.finish()))
    }
}

struct GenerateCommitter {
    seed: u64,
    checkpoints: Arc<dyn Checkpoints>,
}

#[async_trait]
impl Committer for GenerateCommitter {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn up_to(&mut self, positions: &[Position]) -> anyhow::Result<()> {
        let Some(position) = positions.last() else { return Ok(()) };
        let checkpoint = serde_json::to_value(Checkpoint { seed: self.seed, next: position.offset })?;
        let checkpoints = Arc::clone(&self.checkpoints);
        tokio::task::spawn_blocking(move || checkpoints.save(&[(CHECKPOINT.to_owned(), checkpoint)])).await?
    }
}

/// Writes orders by their number.
struct Orders {
    seed: u64,
    keys: u64,
    payload_bytes: usize,
    /// The second of the last order, since 1970 and as text up to its seconds.
    second: Option<(i64, String)>,
}

/// Where in the buffer an order stands.
struct Order {
    end: usize,
    customer: usize,
    timestamp_ms: i64,
}

/// 2026-01-01T00:00:00Z
const FIRST_TIMESTAMP_MS: i64 = 1_767_225_600_000;

/// `cus-` and nine digits.
const CUSTOMER_BYTES: usize = 13;

const CURRENCIES: [&str; 4] = ["EUR", "USD", "GBP", "JPY"];

impl Orders {
    fn write(&mut self, n: u64, out: &mut Vec<u8>) -> Order {
        let start = out.len();
        let mut random = Random(mix(self.seed).wrapping_add(mix(n ^ SECOND_STREAM)));
        // Wraps around after 10,000 years, before the year has five digits.
        let timestamp_ms = FIRST_TIMESTAMP_MS + (n % 250_000_000_000_000) as i64;
        out.extend_from_slice(b"{\"id\":\"");
        random.write_uuid(out);
        out.extend_from_slice(b"\",\"type\":\"order.created\",\"timestamp\":\"");
        self.write_timestamp(timestamp_ms, out);
        out.extend_from_slice(
            b"\",\"source\":\"shop\",\"specversion\":\"1.0\",\"data\":{\"order_id\":\"ord-",
        );
        write_digits(n, 10, out);
        out.extend_from_slice(b"\",\"customer_id\":\"");
        let customer = out.len();
        out.extend_from_slice(b"cus-");
        write_digits(random.below(self.keys), 9, out);
        let quantity = 1 + random.below(9);
        out.extend_from_slice(b"\",\"amount\":");
        write_cents(quantity * (100 + random.below(9_900)), out);
        out.extend_from_slice(b",\"currency\":\"");
        out.extend_from_slice(CURRENCIES[random.below(CURRENCIES.len() as u64) as usize].as_bytes());
        out.extend_from_slice(b"\",\"items\":[{\"sku\":\"sku-");
        write_digits(random.below(10_000), 4, out);
        out.extend_from_slice(b"\",\"quantity\":");
        write_digits(quantity, 1, out);
        out.extend_from_slice(b"}]},\"metadata\":{");
        let rest = b"},\"correlationId\":\"\"}".len() + UUID_BYTES;
        let padding = b"\"padding\":\"\"".len();
        let missing = self.payload_bytes.saturating_sub(out.len() - start + rest);
        if missing >= padding {
            out.extend_from_slice(b"\"padding\":\"");
            out.resize(out.len() + missing - padding, b'x');
            out.push(b'"');
        } else {
            // Too few for a member: white space.
            out.resize(out.len() + missing, b' ');
        }
        out.extend_from_slice(b"},\"correlationId\":\"");
        random.write_uuid(out);
        out.extend_from_slice(b"\"}");
        Order { end: out.len(), customer, timestamp_ms }
    }

    fn write_timestamp(&mut self, ms: i64, out: &mut Vec<u8>) {
        let second = ms.div_euclid(1000);
        let text = match &self.second {
            Some((known, text)) if *known == second => text,
            _ => {
                let timestamp = jiff::Timestamp::from_second(second).unwrap_or_default().to_string();
                &self.second.insert((second, timestamp.trim_end_matches('Z').to_owned())).1
            }
        };
        out.extend_from_slice(text.as_bytes());
        out.push(b'.');
        write_digits(ms.rem_euclid(1000) as u64, 3, out);
        out.push(b'Z');
    }
}

/// At least `width` digits.
fn write_digits(mut number: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 || digits.len() - at < width {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_cents(cents: u64, out: &mut Vec<u8>) {
    write_digits(cents / 100, 1, out);
    out.push(b'.');
    write_digits(cents % 100, 2, out);
}

const UUID_BYTES: usize = 36;

/// SplitMix64 (Steele, Lea, Flood 2014): a generator that starts anywhere at no cost.
struct Random(u64);

/// Keeps the numbers of messages apart from seeds.
const SECOND_STREAM: u64 = 0x5851_f42d_4c95_7f2d;

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        mix(self.0)
    }

    /// A number below `end`, to a good approximation as likely as any other.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A UUID in the form of version 4 (RFC 9562).
    fn write_uuid(&mut self, out: &mut Vec<u8>) {
        let random = (u128::from(self.next()) << 64) | u128::from(self.next());
        let mut text = [0; UUID_BYTES];
        uuid::Builder::from_random_bytes(random.to_be_bytes())
            .as_uuid()
            .as_hyphenated()
            .encode_lower(&mut text);
        out.extend_from_slice(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MemoryCheckpoints, context, limit, rows};
    use super::*;
    use crate::config::Parsed;
    use std::collections::HashSet;

    fn config(json: &str) -> Parsed<Box<dyn SourceConfig>> {
        (SPEC.parse)(serde_json::from_str(json).unwrap())
    }

    fn open(json: &str, checkpoints: &Arc<MemoryCheckpoints>) -> OpenSource {
        config(json).unwrap().open(context("json", "{}", checkpoints)).unwrap()
    }

    async fn read(json: &str, rows_at_once: usize) -> Vec<(Position, String, String, i64)> {
        let mut source = open(json, &Arc::default());
        let mut all = Vec::new();
        while let Read::Batch(read) = source.reader.read(limit(rows_at_once, 1 << 20)).await.unwrap() {
            assert!(read.rejected.is_empty(), "{:?}", read.rejected);
            assert!(read.batch.len() <= rows_at_once);
            for message in read.batch.messages() {
                let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
                all.push((
                    message.position(),
                    text(message.key()),
                    text(message.payload()),
                    message.timestamp_ms(),
                ));
            }
        }
        all
    }

    #[tokio::test]
    async fn orders_stand_in_the_standard_envelope() {
        let orders = read(r#"{"count": 2000, "keys": 7, "seed": 3}"#, 256).await;
        assert_eq!(orders.len(), 2000);
        let (mut ids, mut customers, mut bytes) = (HashSet::new(), HashSet::new(), 0);
        for (n, (position, key, payload, timestamp_ms)) in orders.iter().enumerate() {
            let n = n as u64;
            assert_eq!(*position, Position { partition: 0, offset: n + 1, record: n + 1 });
            bytes += payload.len();
            let order: serde_json::Value = serde_json::from_str(payload).unwrap();
            for id in ["id", "correlationId"] {
                let id: uuid::Uuid = order[id].as_str().unwrap().parse().unwrap();
                assert_eq!((id.get_version_num(), id.get_variant()), (4, uuid::Variant::RFC4122));
                assert!(ids.insert(id), "{id} stands twice");
            }
            assert_eq!((&order["type"], &order["specversion"]), (&"order.created".into(), &"1.0".into()));
            assert!(order["metadata"].is_object() && order["source"].is_string());
            let time: jiff::Timestamp = order["timestamp"].as_str().unwrap().parse().unwrap();
            assert_eq!(time.as_millisecond(), *timestamp_ms);
            let data = &order["data"];
            assert_eq!(data["customer_id"], **key);
            assert_eq!(data["order_id"], format!("ord-{n:010}"));
            customers.insert(key.clone());
            let quantity = data["items"][0]["quantity"].as_u64().unwrap();
            let amount = data["amount"].as_f64().unwrap();
            assert!((quantity as f64..100.0 * quantity as f64).contains(&amount), "{payload}");
        }
        assert_eq!(customers.len(), 7);
        assert!((330..370).contains(&(bytes / orders.len())), "{} bytes", bytes / orders.len());
        assert_eq!(orders[0].3, "2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond());
    }

    #[tokio::test]
    async fn an_order_depends_on_its_number_and_the_seed_only() {
        let orders = read(r#"{"count": 100}"#, 100).await;
        assert_eq!(read(r#"{"count": 100}"#, 7).await, orders);
        let others = read(r#"{"count": 100, "seed": 1}"#, 100).await;
        assert!(others.iter().zip(&orders).all(|(other, order)| other.2 != order.2));
    }

    #[tokio::test]
    async fn payloads_are_filled_up() {
        for bytes in (200..460).chain([5000]) {
            let orders = read(&format!(r#"{{"count": 3, "payload_bytes": {bytes}}}"#), 10).await;
            let plain = read(r#"{"count": 3}"#, 10).await;
            for (order, plain) in orders.iter().zip(&plain) {
                assert_eq!(order.2.len(), bytes.max(plain.2.len()));
                assert!(serde_json::from_str::<serde_json::Value>(&order.2).is_ok(), "{}", order.2);
            }
        }
    }

    #[tokio::test]
    async fn goes_on_at_its_checkpoint_unless_the_seed_is_another() {
        let checkpoints = Arc::default();
        let json = r#"{"count": 10}"#;
        let mut first = open(json, &checkpoints);
        let Read::Batch(read) = first.reader.read(limit(4, 1 << 20)).await.unwrap() else {
            panic!("no batch")
        };
        let position = read.batch.rows()[2].position;
        assert_eq!((first.describe)(position), "generated message 3");
        first.committer.up_to(&[position]).await.unwrap();
        let rest = rows(&mut *open(json, &checkpoints).reader).await;
        assert_eq!(rest.len(), 7);
        assert_eq!(rest[0].position.offset, 4);
        assert_eq!(rows(&mut *open(r#"{"count": 10, "seed": 1}"#, &checkpoints).reader).await.len(), 10);
    }

    #[test]
    fn the_timetable_keeps_the_rate() {
        assert_eq!(due_after(0, 1000.0), Duration::ZERO);
        assert_eq!(due_after(1500, 1000.0), Duration::from_millis(1500));
        assert_eq!(due_within(Duration::ZERO, 1000.0), 1);
        assert_eq!(due_within(Duration::from_millis(1500), 1000.0), 1501);
        assert_eq!(due_within(Duration::from_millis(1500), 0.5), 1);
        assert!(due_after(1, MIN_RATE) > Duration::from_secs(86_400));
    }

    #[tokio::test]
    async fn no_message_comes_before_its_time() {
        let began = std::time::Instant::now();
        assert_eq!(read(r#"{"count": 31, "rate": 1000}"#, 256).await.len(), 31);
        assert!(began.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let problems =
            config(r#"{"keys": 0, "rate": 0, "payload_bytes": 99999999999}"#).err().expect("three mistakes");
        let places: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(places, ["/keys", "/rate", "/payload_bytes"]);
        let mut problems = Vec::new();
        let context = context("csv", "{}", &Arc::default());
        config(r#"{"payload_bytes": 2000000}"#).unwrap().check(&context, &mut problems);
        let places: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(places, ["/codec", "/payload_bytes"]);
    }
}
