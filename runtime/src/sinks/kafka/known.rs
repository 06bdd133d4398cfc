//! What is known of the topics that are written to.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::kafka::topics::TopicLimits;

/// Asked anew after that time, while the topic is written to.
const FRESH: Duration = Duration::from_secs(60);

/// That a topic does not exist holds for so long: messages that name such topics are refused without
/// asking for each of them.
const FRESH_UNKNOWN: Duration = Duration::from_secs(10);

/// Names come from headers, so their number has an end: beyond it all are asked anew.
const TOPICS: usize = 1000;

/// What is known of topics, by their names.
#[derive(Default)]
pub struct KnownTopics {
    topics: HashMap<String, Known>,
}

struct Known {
    /// `None` if there is no such topic.
    limits: Option<TopicLimits>,
    at: Instant,
}

impl KnownTopics {
    /// Whether the broker is to be asked.
    pub fn is_due(&self, topic: &str) -> bool {
        self.topics.get(topic).is_none_or(|known| {
            known.at.elapsed() > if known.limits.is_some() { FRESH } else { FRESH_UNKNOWN }
        })
    }

    pub fn set(&mut self, topic: &str, limits: Option<TopicLimits>) {
        if self.topics.len() >= TOPICS && !self.topics.contains_key(topic) {
            self.topics.clear();
        }
        self.topics.insert(topic.to_owned(), Known { limits, at: Instant::now() });
    }

    pub fn forget(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    pub fn get(&self, topic: &str) -> Option<&TopicLimits> {
        self.topics.get(topic)?.limits.as_ref()
    }

    /// Bytes of a batch that all of them take, as far as can be known.
    pub fn batch_bytes(&self) -> u64 {
        let limits = self.topics.values().filter_map(|known| known.limits.as_ref());
        limits.map(TopicLimits::batch_bytes).fold(TopicLimits::UNKNOWN.batch_bytes(), u64::min)
    }
}
