//! What librdkafka calls back in the thread that polls.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntGaugeVec;
use rdkafka::TopicPartitionList;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;

use super::ownership::Ownership;
use crate::kafka::ClusterContext;

/// What the group decided. It is answered by the thread that polls, which may take its time: until
/// then the other partitions go on.
#[derive(Debug)]
pub enum Rebalance {
    Assign(TopicPartitionList),
    Revoke {
        partitions: TopicPartitionList,
        /// They belong to somebody else already.
        lost: bool,
    },
}

pub struct Callbacks {
    pub cluster: ClusterContext,
    pub rebalances: Mutex<VecDeque<Rebalance>>,
    /// The consumer is being closed: whatever is revoked goes at once.
    pub closing: AtomicBool,
    /// It is a member, and has what it is to have.
    pub is_steady: AtomicBool,
    /// A broker can be reached.
    pub is_connected: AtomicBool,
    pub ownership: Arc<Ownership>,
    pub lag: IntGaugeVec,
    pub pipeline: String,
}

impl Callbacks {
    pub fn next_rebalance(&self) -> Option<Rebalance> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl ClientContext for Callbacks {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.cluster.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.cluster.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.cluster.generate_oauth_token(config)
    }

    fn stats(&self, statistics: Statistics) {
        let is_up = |state: &str| state == "UP";
        let connected = statistics.brokers.values().any(|broker| is_up(&broker.state));
        self.is_connected.store(connected, Ordering::Relaxed);
        let steady = statistics.cgrp.is_some_and(|group| group.state == "up" && group.join_state == "steady");
        self.is_steady.store(steady, Ordering::Relaxed);
        for (topic, partitions) in &statistics.topics {
            for (&partition, stands) in &partitions.partitions {
                let Some(committed) = self.ownership.committed_of(topic, partition) else { continue };
                // Until something was fetched the end is not known.
                let end = stands.ls_offset;
                if end >= 0 {
                    let labels = [self.pipeline.as_str(), topic, &partition.to_string()];
                    self.lag.with_label_values(&labels).set((end - committed).max(0));
                }
            }
        }
    }
}

impl ConsumerContext for Callbacks {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Callbacks>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            match assign {
                true => take_nothing(consumer),
                false => let_go(consumer, partitions),
            }
            return;
        }
        let partitions = partitions.clone();
        let rebalance = match assign {
            true => Rebalance::Assign(partitions),
            false => Rebalance::Revoke { partitions, lost: consumer.assignment_lost() },
        };
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(rebalance);
    }
}

/// Answers an assignment while closing.
pub fn take_nothing(consumer: &BaseConsumer<Callbacks>) {
    if let Err(error) = consumer.incremental_assign(&TopicPartitionList::new()) {
        tracing::debug!(%error, "an assignment could not be answered while closing");
    }
}

/// Answers a revocation while closing.
pub fn let_go(consumer: &BaseConsumer<Callbacks>, partitions: &TopicPartitionList) {
    if let Err(error) = consumer.incremental_unassign(partitions) {
        tracing::debug!(%error, "a partition could not be let go while closing");
    }
}
