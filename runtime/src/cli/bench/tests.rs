use std::path::Path;

use async_trait::async_trait;

use super::*;
use crate::config::problem::Problem;
use crate::message::{BatchBuilder, Message, MessageRef, Position};
use crate::plugin::test_engine;
use crate::sinks::{CallError, Outcomes, Sink, SinkConfig, SinkContext, SinkTraits};

/// A sink that stands still once, from this message on.
struct Stalling {
    at: u64,
    time: Duration,
}

impl SinkConfig for Stalling {
    fn check(&self, _context: &SinkContext, _problems: &mut Vec<Problem>) {}

    fn traits(&self) -> SinkTraits {
        SinkTraits::with_batch(8)
    }

    fn open(self: Box<Self>, _context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        Ok(self)
    }
}

#[async_trait]
impl Sink for Stalling {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        if messages.iter().any(|message| message.position().offset >= self.at) {
            self.at = u64::MAX;
            tokio::time::sleep(self.time).await;
        }
        Ok(Outcomes::AllDurable)
    }
}

fn pipeline(folder: &Path, sink: Box<dyn SinkConfig>) -> Pipeline {
    let file = folder.join("p.toml");
    let text = "name = \"p\"\nlanes = 1\nsource = { type = \"generate\", batch = 16 }\nsink = [{ type = \"drop\" }]\n\
                plugin = [{ use = \"identity\" }]\n";
    std::fs::write(&file, text).unwrap();
    let mut pipeline = config::load(&file, &Environment::process()).unwrap().pop().unwrap();
    pipeline.sinks[0].config = sink;
    pipeline
}

fn messages() -> Batch {
    let mut out = BatchBuilder::new();
    for number in 0..64 {
        let message = Message { payload: Some(b"{}".to_vec()), ..Message::default() };
        out.push_message(&message, Position { offset: number, ..Position::default() });
    }
    out.finish()
}

fn run(pace: Pace, sink: Stalling) -> Measured {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(folder.path(), Box::new(sink));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let measured = runtime.block_on(measure(pipeline, test_engine(), &messages(), pace, true)).unwrap();
    assert!(!folder.path().join(config::DATA_FOLDER).exists(), "it touched the data folder");
    measured
}

/// With a second of two stood still, a message in two was due in that second, and a quarter of all at
/// least half a second before its end. Were they counted from when they were taken, it would be those
/// that the pipeline holds at that moment: a few in a hundred.
#[test]
fn a_sink_that_stalls_shows_in_the_latency_of_all_that_was_due_then() {
    let stall = Duration::from_secs(1);
    let measured = run(Pace::Rate(1_000.0, stall * 2), Stalling { at: 100, time: stall });
    let stall = stall.as_micros() as u64;
    let latencies = &measured.tally.latencies;
    let Latencies { p99, max, .. } = measured.latencies();
    assert!(p99 * 10 > stall * 9 && max >= p99, "{:?}", measured.latencies());
    let (p80, settled) = (latencies.value_at_quantile(0.8), measured.tally.settled());
    assert!(p80 * 2 > stall, "a fifth of the messages waits for half of the stall: {p80}");
    assert!((1_999..=2_001).contains(&settled), "each of them was given: {settled}");
}

#[test]
fn what_a_pipeline_cannot_take_is_counted_with_the_time_it_waits() {
    let time = Duration::from_millis(200);
    let measured = run(Pace::Rate(10_000.0, time), Stalling { at: 1, time: time * 10 });
    let Tally { not_taken, latencies, .. } = &measured.tally;
    assert!(*not_taken > 0 && (1_999..=2_001).contains(&latencies.len()), "{not_taken} {}", latencies.len());
    assert!(Duration::from_micros(measured.latencies().p50) > time, "{:?}", measured.latencies());
}

#[test]
fn stages_and_copied_bytes_are_of_what_went_through_them() {
    let measured =
        run(Pace::Flat(Duration::from_millis(300)), Stalling { at: u64::MAX, time: Duration::ZERO });
    let settled = measured.tally.settled();
    let (_, stage, metrics) = &measured.plugins[0];
    assert!(settled > 0 && stage.messages() == settled && measured.sinks[0].1.messages() == settled);
    assert!(stage.nanos() > 0.0 && measured.throughput() > 0.0);
    // Two bytes of payload, or what says where they are.
    assert!(metrics.bytes_in.get() >= settled && metrics.bytes_out.get() >= settled);
}

#[test]
fn rates_are_numbers_or_shares() {
    for (text, rate) in
        [("100", Rate::Fixed(100.0)), ("50%", Rate::Share(0.5)), ("0.5 %", Rate::Share(0.005))]
    {
        assert_eq!(text.parse(), Ok(rate));
    }
    for text in ["", "0", "-1%", "fast", "inf"] {
        assert!(text.parse::<Rate>().is_err(), "{text}");
    }
}
