//! Apache Kafka in KRaft mode: one broker that all tests of a process share, or brokers of a test's own
//! that it can kill, pause and secure.

mod broker;
mod clients;
mod install;
mod programs;
mod secured;
mod tests;

use std::sync::OnceLock;

use rdkafka::consumer::BaseConsumer;
use tempfile::TempDir;

use self::broker::{Broker, Plan};
pub use self::clients::{Record, unique};
pub use self::programs::Guarantee;
pub use self::secured::{Secured, Way};
use super::server::Server;

/// A cluster of brokers.
pub struct Kafka {
    /// None if the environment names a broker.
    brokers: Vec<Broker>,
    bootstrap: String,
    asking: OnceLock<BaseConsumer>,
    folder: Option<TempDir>,
}

impl Kafka {
    /// The broker that tests share which neither stop nor configure one: that of
    /// `MILLSTREAM_TEST_KAFKA`, or one that ends with the test process.
    pub fn shared() -> &'static Kafka {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var("MILLSTREAM_TEST_KAFKA") {
            Ok(bootstrap) => {
                let kafka = Kafka { brokers: Vec::new(), bootstrap, asking: OnceLock::new(), folder: None };
                kafka.wait_until_ready(1);
                kafka
            }
            Err(_) => Kafka::start(),
        })
    }

    /// One broker of the test's own.
    pub fn start() -> Kafka {
        Kafka::cluster(1)
    }

    /// That many brokers, all of them controllers, too. From three on, topics have three replicas, and
    /// a message is acknowledged when two have it.
    pub fn cluster(brokers: u32) -> Kafka {
        let kafka = Kafka::prepared(brokers);
        for node in 0..brokers as usize {
            kafka.start_broker(node);
        }
        kafka.wait_until_ready(brokers as usize);
        kafka
    }

    /// Brokers that have their ports and their storage, and do not run yet.
    pub fn prepared(brokers: u32) -> Kafka {
        Kafka::planned(Plan::new(brokers))
    }

    /// One broker that does not know the group protocol of KIP-848, as those before Kafka 4.
    pub fn with_classic_groups() -> Kafka {
        let mut plan = Plan::new(1);
        plan.format = ["--feature", "group.version=0"].map(str::to_owned).to_vec();
        let kafka = Kafka::planned(plan);
        kafka.start_broker(0);
        kafka.wait_until_ready(1);
        kafka
    }

    fn planned(plan: Plan) -> Kafka {
        let folder = tempfile::Builder::new().prefix("kafka-").tempdir().expect("a folder for brokers");
        let brokers = plan.format(folder.path());
        let addresses: Vec<String> = brokers.iter().map(Broker::address).collect();
        Kafka { brokers, bootstrap: addresses.join(","), asking: OnceLock::new(), folder: Some(folder) }
    }

    /// Addresses of its brokers, separated by commas.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Its brokers, as a key of a pipeline.
    pub fn brokers_toml(&self) -> String {
        let quoted: Vec<String> = self.bootstrap.split(',').map(|broker| format!("{broker:?}")).collect();
        format!("brokers = [{}]", quoted.join(", "))
    }

    /// Starts a broker that does not run. Does not wait until it answers.
    pub fn start_broker(&self, node: usize) {
        self.brokers[node].start();
    }

    /// SIGKILL.
    pub fn kill_broker(&self, node: usize) {
        self.brokers[node].take();
    }

    /// SIGTERM, and waits for its end.
    pub fn stop_broker(&self, node: usize) {
        self.brokers[node].take().stop();
    }

    /// SIGSTOP.
    pub fn pause_broker(&self, node: usize) {
        self.brokers[node].with_server(Server::pause);
    }

    /// SIGCONT.
    pub fn resume_broker(&self, node: usize) {
        self.brokers[node].with_server(Server::resume);
    }

    /// How the first batch of a partition is compressed: its number in the format of Kafka. `None` if
    /// the broker is not one of ours, whose files can be read.
    pub fn codec(&self, topic: &str) -> Option<u8> {
        let folder = self.folder.as_ref()?.path();
        let log = folder.join(format!("0/data/{topic}-0/00000000000000000000.log"));
        let batch = std::fs::read(log).expect("the log of the partition");
        // Its attributes, of which the lowest bits are it: https://kafka.apache.org/documentation/#recordbatch
        Some(batch[22] & 7)
    }

    /// What the brokers printed.
    pub fn log(&self) -> String {
        self.brokers.iter().map(Broker::log).collect()
    }
}
