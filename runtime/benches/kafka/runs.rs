//! Runs of pipelines and of the control over one topic.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use millstream_bench::{keeps, order};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::control;
use crate::services::kafka::{Kafka, unique};

pub const PARTITIONS: i32 = 12;
pub const BYTES: usize = 304;
const KEYS: u64 = 10_000;
/// Of each way.
const ROUNDS: usize = 3;
/// After that a pipeline with nothing to read is a member and has what it needs.
const IDLE: Duration = Duration::from_secs(5);
/// Measured between these shares of a run: joining the group and the last messages are left out.
const SHARES: (f64, f64) = (0.15, 0.95);

/// How messages go from topic to topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Plain,
    Identity,
    Json,
    /// Exactly once, with an identity plugin.
    Once,
}

/// A broker with a topic full of orders.
pub struct Ground {
    pub kafka: &'static Kafka,
    pub topic: String,
    pub messages: u64,
    /// Of them, those that the filter lets through.
    kept: u64,
    folder: tempfile::TempDir,
}

/// A process that copies.
pub struct Running {
    child: Child,
    pub to: String,
}

impl Ground {
    pub fn prepare() -> anyhow::Result<Ground> {
        let messages = match std::env::var("MILLSTREAM_BENCH_MESSAGES") {
            Ok(text) => text.parse()?,
            Err(_) => 2_000_000,
        };
        let kafka = Kafka::shared();
        let topic = kafka.topic("bench-in", PARTITIONS);
        let producer: BaseProducer =
            kafka.client().set("compression.codec", "lz4").set("linger.ms", "20").create()?;
        let mut kept = 0;
        for number in 0..messages {
            let (order, key) = (order(number), format!("key-{}", number % KEYS));
            kept += u64::from(keeps(&order)?);
            let mut record = BaseRecord::to(&topic).key(&key).payload(&order);
            while let Err((_, back)) = producer.send(record) {
                producer.poll(Duration::from_millis(10));
                record = back;
            }
            if number % 1000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(Duration::from_secs(120))?;
        Ok(Ground { kafka, topic, messages, kept, folder: tempfile::tempdir()? })
    }

    /// Runs two ways in turns, and prints the ratio of their messages a second.
    pub fn pair(&self, name: &str, measured: Way, control: Way) -> anyhow::Result<()> {
        let (mut ratios, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (of_control, of_measured) = (self.rate(control)?, self.rate(measured)?);
            ratios.push(of_measured / of_control);
            rates.push((of_measured, of_control));
        }
        ratios.sort_by(f64::total_cmp);
        let (measured, control) = rates[ROUNDS - 1];
        let median = ratios[ROUNDS / 2];
        let (lowest, highest) = (ratios[0], ratios[ROUNDS - 1]);
        println!(
            "{name:<66} {median:.2} ({lowest:.2} to {highest:.2}); the last round {measured:.0} and {control:.0} messages/s"
        );
        Ok(())
    }

    /// Messages a second that are taken out of the topic.
    pub fn rate(&self, way: Way) -> anyhow::Result<f64> {
        let mut running = self.start(way, &self.topic)?;
        let expected = if way == Way::Json { self.kept } else { self.messages } as f64;
        let mut reached = |share: f64| -> anyhow::Result<(Instant, f64)> {
            loop {
                anyhow::ensure!(running.child.try_wait()?.is_none(), "{way:?} ended by itself");
                let count = self.kafka.count(&running.to) as f64;
                if count >= share * expected {
                    return Ok((Instant::now(), count));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let (begun, first) = reached(SHARES.0)?;
        let (ended, last) = reached(SHARES.1)?;
        self.stop(running)?;
        let of_input = (last - first) / expected * self.messages as f64;
        Ok(of_input / (ended - begun).as_secs_f64())
    }

    /// The most memory that a pipeline had while it copied everything, beside one that has nothing to read.
    pub fn memory(&self, name: &str) -> anyhow::Result<()> {
        let empty = self.kafka.topic("bench-empty", PARTITIONS);
        let idle = self.start(Way::Identity, &empty)?;
        std::thread::sleep(IDLE);
        let at_rest = peak_mib(&idle)?;
        self.stop(idle)?;
        let running = self.start(Way::Identity, &self.topic)?;
        self.kafka
            .wait_for("everything to be copied", || self.kafka.count(&running.to) >= self.messages as i64);
        let peak = peak_mib(&running)?;
        println!(
            "{name:<66} {peak} MiB at its peak, {at_rest} with nothing to read; {} messages",
            self.messages
        );
        self.stop(running)
    }

    pub fn start(&self, way: Way, from: &str) -> anyhow::Result<Running> {
        let (to, group) = (self.kafka.topic("bench-out", PARTITIONS), unique("bench"));
        let child = match way {
            Way::Plain => Command::new(std::env::current_exe()?)
                .args([control::ARGUMENT, self.kafka.bootstrap(), from, &to, &group])
                .spawn()?,
            _ => {
                let file = self.folder.path().join(format!("{group}.toml"));
                std::fs::write(&file, self.pipeline(way, from, &to, &group)?)?;
                Command::new(env!("CARGO_BIN_EXE_millstream"))
                    .args(["run", "--admin", "127.0.0.1:0"])
                    .arg(&file)
                    .env("MILLSTREAM_LOG", "error")
                    .stderr(Stdio::null())
                    .spawn()?
            }
        };
        Ok(Running { child, to })
    }

    pub fn stop(&self, running: Running) -> anyhow::Result<()> {
        let Running { mut child, to } = running;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        child.wait()?;
        self.kafka.delete_topic(&to);
        Ok(())
    }

    fn pipeline(&self, way: Way, from: &str, to: &str, group: &str) -> anyhow::Result<String> {
        let brokers = self.kafka.brokers_toml();
        let mut text = format!("name = {group:?}\n");
        if way == Way::Once {
            text.push_str("delivery = \"exactly-once\"\n");
        }
        write!(text, "[source]\ntype = \"kafka\"\n{brokers}\ntopics = [{from:?}]\ngroup = {group:?}\n")?;
        let plugins: &[(&str, &str)] = match way {
            Way::Json => &[("filter", "filter-json"), ("transform", "transform-json")],
            _ => &[],
        };
        for (name, mode) in plugins {
            let wasm = guest();
            write!(text, "[[plugin]]\nname = {name:?}\nwasm = {wasm:?}\nconfig = {{ mode = {mode:?} }}\n")?;
        }
        if plugins.is_empty() {
            text.push_str("[[plugin]]\nuse = \"identity\"\n");
        }
        write!(text, "[[sink]]\ntype = \"kafka\"\n{brokers}\ntopic = {to:?}\n")?;
        if way == Way::Once {
            let dead = self.kafka.topic("bench-dead", 1);
            write!(text, "[dead_letters]\ntype = \"kafka\"\n{brokers}\ntopic = {dead:?}\n")?;
        }
        Ok(text)
    }
}

fn peak_mib(running: &Running) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    Ok(peak.context("the system does not tell the peak")?.parse::<u64>()? >> 10)
}

/// The plugin of the benchmarks.
fn guest() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("plugins/bench.wasm")
}
