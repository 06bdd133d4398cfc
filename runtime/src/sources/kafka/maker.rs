//! How a consumer is made, for one group protocol or the other.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::super::SourceContext;
use super::GroupProtocol;
use super::callbacks::Callbacks;
use super::ownership::Ownership;
use super::starts::Start;
use crate::kafka::ClusterContext;

/// What is read, and how the membership is.
pub struct Subscription {
    pub topics: Vec<String>,
    pub protocol: GroupProtocol,
    pub session_timeout: Option<Duration>,
    pub drain_timeout: Duration,
    pub start: Start,
}

/// What a consumer is made of, again where the protocol was the wrong one.
pub struct Maker {
    pub config: ClientConfig,
    pub cluster: ClusterContext,
    pub subscription: Subscription,
    pub ownership: Arc<Ownership>,
    pub context: SourceContext,
}

impl Maker {
    pub fn make(&self, protocol: GroupProtocol) -> anyhow::Result<BaseConsumer<Callbacks>> {
        let mut config = self.config.clone();
        match protocol {
            GroupProtocol::Consumer => {
                config.set("group.protocol", "consumer");
            }
            GroupProtocol::Auto | GroupProtocol::Classic => {
                config.set("partition.assignment.strategy", "cooperative-sticky");
                if let Some(timeout) = self.subscription.session_timeout {
                    let ms = timeout.as_millis();
                    config.set("session.timeout.ms", ms.to_string());
                    config.set("heartbeat.interval.ms", (ms / 3).clamp(1, 3000).to_string());
                }
            }
        }
        let callbacks = Callbacks {
            cluster: self.cluster.clone(),
            rebalances: Mutex::default(),
            closing: AtomicBool::new(false),
            is_steady: AtomicBool::new(false),
            is_connected: AtomicBool::new(false),
            ownership: Arc::clone(&self.ownership),
            lag: self.context.metrics.kafka_lag.clone(),
            pipeline: self.context.pipeline.clone(),
        };
        let consumer = BaseConsumer::from_config_and_context(&config, callbacks)?;
        let topics: Vec<&str> = self.subscription.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).context("cannot subscribe")?;
        Ok(consumer)
    }

    /// The protocol to begin with.
    pub fn first_protocol(&self) -> GroupProtocol {
        match self.subscription.protocol {
            // Only there a member says how long it may be away, and a static one that was killed comes
            // back at once.
            GroupProtocol::Auto if self.subscription.session_timeout.is_some() || self.is_static() => {
                GroupProtocol::Classic
            }
            GroupProtocol::Auto => GroupProtocol::Consumer,
            given => given,
        }
    }

    fn is_static(&self) -> bool {
        self.config.get("group.instance.id").is_some()
    }
}
