//! Kafka to Kafka beside a plain loop of librdkafka: `cargo bench --bench kafka`.
//!
//! Needs what the tests with Kafka need (Java, Maven, or `MILLSTREAM_TEST_KAFKA`). Every run is a process
//! of its own: the pipeline is `millstream run`, the control is this program, which copies topic to topic
//! with the properties that the pipeline's consumer and producer have. They take turns; what is printed is
//! the median of the ratios, with the lowest and the highest. Broker, pipeline and load share the machine.
//!
//!     cargo bench --bench kafka                     all
//!     cargo bench --bench kafka -- identity once    those whose name holds one of these words
//!     MILLSTREAM_BENCH_MESSAGES=10000000 cargo bench --bench kafka -- memory

mod control;
mod latency;
mod runs;
#[path = "../../../tests/services/mod.rs"]
#[allow(dead_code, unused_imports, reason = "tests use the rest of it")]
mod services;
#[path = "../../../tests/support.rs"]
#[allow(dead_code, reason = "tests use the rest of it")]
mod support;

use runs::{Ground, Way};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [first, rest @ ..] = &arguments[..]
        && first == control::ARGUMENT
    {
        return control::run(rest);
    }
    let wants =
        |name: &str| arguments.is_empty() || arguments.iter().any(|word| name.contains(word.as_str()));
    let ground = Ground::prepare()?;
    println!("{} messages of {} bytes over {} partitions", ground.messages, runs::BYTES, runs::PARTITIONS);
    for (name, measured, control) in [
        ("throughput: identity plugin / plain loop", Way::Identity, Way::Plain),
        ("throughput: JSON filter and transform / plain loop", Way::Json, Way::Plain),
        ("throughput: exactly once, 100 ms / at least once", Way::Once, Way::Identity),
    ] {
        if wants(name) {
            ground.pair(name, measured, control)?;
        }
    }
    if wants("memory: replay") {
        ground.memory("memory: replay with an identity plugin, budget 256 MiB")?;
    }
    if wants("latency: half load") {
        latency::at_half_load(&ground, "latency: half load, p99 of the pipeline beside the plain loop")?;
    }
    Ok(())
}
