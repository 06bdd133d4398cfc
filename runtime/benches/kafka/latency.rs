//! Latency while messages come at half the rate that the slower of the two can take.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};

use crate::runs::{Ground, PARTITIONS, Way};
use crate::services::kafka::unique;

/// How long messages come, the first part of which does not count.
const TIME: Duration = Duration::from_secs(20);
const WARM_UP: Duration = Duration::from_secs(8);
/// Of each way.
const ROUNDS: usize = 3;

/// What came out while messages were sent.
struct Flow {
    latencies_us: Histogram<u64>,
    per_second: f64,
}

pub fn at_half_load(ground: &Ground, name: &str) -> anyhow::Result<()> {
    // With sender and reader beside it: they share the machine.
    let capacity = |way| anyhow::Ok(flow(ground, way, f64::INFINITY)?.per_second);
    let rate = f64::min(capacity(Way::Plain)?, capacity(Way::Identity)?) / 2.0;
    let (mut added, mut last) = (Vec::new(), (0.0, 0.0));
    for _ in 0..ROUNDS {
        let p99_ms =
            |way| anyhow::Ok(flow(ground, way, rate)?.latencies_us.value_at_quantile(0.99) as f64 / 1e3);
        let (control, measured) = (p99_ms(Way::Plain)?, p99_ms(Way::Identity)?);
        added.push(measured - control);
        last = (measured, control);
    }
    added.sort_by(f64::total_cmp);
    println!(
        "{name:<66} {:+.1} ms ({:+.1} to {:+.1}) at {rate:.0} messages/s; the last round {:.1} and {:.1} ms",
        added[ROUNDS / 2],
        added[0],
        added[ROUNDS - 1],
        last.0,
        last.1
    );
    Ok(())
}

/// Latencies are from the time at which a message was due to be sent to the time at which it is read.
fn flow(ground: &Ground, way: Way, rate: f64) -> anyhow::Result<Flow> {
    let from = ground.kafka.topic("bench-load", PARTITIONS);
    let running = ground.start(way, &from)?;
    let consumer: BaseConsumer = ground
        .kafka
        .client()
        .set("group.id", unique("bench-reader"))
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "10")
        .create()?;
    consumer.subscribe(&[&running.to])?;
    let begun = Instant::now();
    let flow = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&consumer, begun));
        send(ground, &from, rate, begun)?;
        reader.join().expect("the reader does not panic")
    })?;
    ground.stop(running)?;
    ground.kafka.delete_topic(&from);
    Ok(flow)
}

/// Sends messages when they are due; each says when that was, in microseconds since the beginning.
fn send(ground: &Ground, topic: &str, rate: f64, begun: Instant) -> anyhow::Result<()> {
    let producer: BaseProducer =
        ground.kafka.client().set("linger.ms", "5").set("compression.codec", "lz4").create()?;
    let mut number = 0u64;
    while begun.elapsed() < TIME {
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        while number < due && begun.elapsed() < TIME {
            let at = (number as f64 / rate * 1e6) as u64;
            let (payload, key) = (format!("{at:<300}"), format!("key-{}", number % 10_000));
            if producer.send(BaseRecord::to(topic).key(&key).payload(&payload)).is_err() {
                // The queue is full: what is due is then late, and counts as that.
                break;
            }
            number += 1;
        }
        producer.poll(Duration::from_millis(1));
    }
    producer.purge(PurgeConfig::default().queue());
    Ok(producer.flush(Duration::from_secs(60))?)
}

fn read(consumer: &BaseConsumer, begun: Instant) -> anyhow::Result<Flow> {
    let (mut latencies_us, mut count) = (Histogram::new(3)?, 0u64);
    while begun.elapsed() < TIME {
        let Some(message) = consumer.poll(Duration::from_millis(20)) else { continue };
        let message = message?;
        let text = str::from_utf8(message.payload().unwrap_or_default())?;
        let at: u64 = text.trim_end().parse()?;
        let now = begun.elapsed().as_micros() as u64;
        count += u64::from(now > WARM_UP.as_micros() as u64);
        if at > WARM_UP.as_micros() as u64 {
            latencies_us.record(now.saturating_sub(at))?;
        }
    }
    Ok(Flow { latencies_us, per_second: count as f64 / (TIME - WARM_UP).as_secs_f64() })
}
