//! What all clients of a Kafka cluster share: how it is reached and trusted, which properties of
//! librdkafka a pipeline may set, and how librdkafka speaks to our log.

mod context;
pub mod membership;
mod owned;
pub mod producer;
mod properties;
mod security;
mod token;
pub mod topics;
pub mod transactional;
pub mod whole;

use std::path::Path;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

pub use context::ClusterContext;
pub use properties::Role;
pub use security::Security;

use crate::config::problem::Problem;

/// Does what blocks on a thread of its own: a stop does not wait for it. `None` if it panicked.
///
/// # Errors
/// There is no thread for it.
async fn on_a_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<Option<T>> {
    let (done, answered) = oneshot::channel();
    // If nobody waits any more nobody needs it.
    let work = move || drop(done.send(work()));
    std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    Ok(answered.await.ok())
}

/// Keys of a section that say how a cluster is reached.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Brokers to begin with, as `host:port`.
    pub brokers: Vec<String>,
    pub security: Security,
    /// Properties of librdkafka, as they stand in the section `librdkafka`.
    pub properties: Map<String, Value>,
}

impl Cluster {
    /// Adds what is wrong with it. Looks at files, connects to nothing.
    pub fn check(&self, base: &Path, role: Role, problems: &mut Vec<Problem>) {
        if self.brokers.is_empty() {
            problems
                .push(Problem::new("/brokers", "no broker at all").help("brokers = [\"127.0.0.1:9092\"]"));
        }
        for (index, broker) in self.brokers.iter().enumerate() {
            let port =
                broker.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            if port.is_none_or(|(host, _)| host.is_empty()) || broker.contains([',', '/']) {
                problems.push(
                    Problem::new(format!("/brokers/{index}"), format!("{broker:?} is no broker"))
                        .help("a host and a port, like \"kafka-1.example:9092\""),
                );
            }
        }
        let (before, refused) = (problems.len(), properties::check(&self.properties, role));
        problems.extend(refused);
        self.security.check(base, &self.brokers, problems);
        if problems.len() > before {
            return;
        }
        // librdkafka knows best which properties there are and what they can be.
        if let Err(error) = self.config(base).create_native_config() {
            let (at, message) = match &error {
                KafkaError::ClientConfig(_, text, key, _) => {
                    let at = format!("/librdkafka/{}", crate::config::escape(key));
                    let known = self.properties.contains_key(key);
                    (if known { at } else { String::new() }, format!("librdkafka refuses `{key}`: {text}"))
                }
                other => (String::new(), other.to_string()),
            };
            problems.push(Problem::new(at, message));
        }
    }

    /// The properties that every client of it has. Those of its role are added by the caller, after
    /// these, so that nothing a user sets can take their place.
    pub fn config(&self, base: &Path) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers.join(","));
        config.set("client.id", "millstream");
        // Broken connections are told by the pipeline as it waits, once and not by every thread.
        config.set("log.connection.close", "false");
        for (key, value) in &self.properties {
            config.set(key, properties::text(value));
        }
        self.security.configure(base, &mut config);
        config
    }

    /// What it is told from others by.
    pub fn name(&self) -> String {
        self.brokers.join(",")
    }

    /// What callbacks of its clients need.
    ///
    /// # Errors
    /// Tokens cannot be asked for as the section says.
    pub fn context(&self, of: &str) -> anyhow::Result<ClusterContext> {
        let tokens = self.security.tokens().context("[security.sasl]")?;
        Ok(ClusterContext::new(of, tokens))
    }
}
