//! Which properties of librdkafka a pipeline may set. Those that would break a promise, or that a key
//! of Millstream sets, are refused with the reason.

use serde_json::{Map, Value};

use crate::config::escape;
use crate::config::problem::Problem;

/// What a client is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Consumer,
    Producer,
}

/// A property that is refused, and why.
struct Refused {
    name: &'static str,
    why: &'static str,
}

const fn refused(name: &'static str, why: &'static str) -> Refused {
    Refused { name, why }
}

const KEY_BROKERS: &str = "the key `brokers` says it";
const KEY_SECURITY: &str = "the section `security` says it";
const EARLY: &str = "it would commit messages before they are delivered (P1)";
const RESTART: &str = "the key `start` says it";
const BUDGET: &str = "the budget of the pipeline decides it (P6)";
const DURABLE: &str = "a message is delivered when all in-sync replicas have it (P1)";
const ORDER: &str = "retries would reorder messages of a key (P3)";
const REPORTS: &str = "every message needs its delivery report (P2)";
const CODE: &str = "it would load native code into the process (P7)";

/// Of every client.
const BOTH: &[Refused] = &[
    refused("bootstrap.servers", KEY_BROKERS),
    refused("metadata.broker.list", KEY_BROKERS),
    refused("plugin.library.paths", CODE),
    refused("ssl.providers", CODE),
    refused("ssl.engine.location", CODE),
    refused("security.protocol", KEY_SECURITY),
    refused("sasl.mechanism", KEY_SECURITY),
    refused("sasl.mechanisms", KEY_SECURITY),
    refused("sasl.username", KEY_SECURITY),
    refused("sasl.password", KEY_SECURITY),
    refused("ssl.ca.location", KEY_SECURITY),
    refused("ssl.certificate.location", KEY_SECURITY),
    refused("ssl.key.location", KEY_SECURITY),
    refused("ssl.key.password", KEY_SECURITY),
    refused("enable.sasl.oauthbearer.unsecure.jwt", "anybody could sign in with such a token"),
    refused("statistics.interval.ms", "the metrics need it"),
];

const OF_CONSUMERS: &[Refused] = &[
    refused("enable.auto.commit", EARLY),
    refused("auto.commit.enable", EARLY),
    refused("auto.commit.interval.ms", EARLY),
    refused("enable.auto.offset.store", EARLY),
    refused("offset.store.method", EARLY),
    refused("offset.store.path", EARLY),
    refused("auto.offset.reset", RESTART),
    refused("enable.partition.eof", "the source counts on it"),
    refused("group.id", "the key `group` says it"),
    refused("group.instance.id", "the key `instance` says it"),
    refused("group.protocol", "the key `group_protocol` says it"),
    refused(
        "partition.assignment.strategy",
        "only `cooperative-sticky` lets a partition drain before it goes",
    ),
    refused("isolation.level", "the key `isolation` says it"),
    refused("queued.max.messages.kbytes", BUDGET),
    refused("queued.min.messages", BUDGET),
    refused("topic.blacklist", "the keys `topics` and `pattern` say it"),
];

const OF_PRODUCERS: &[Refused] = &[
    refused("acks", DURABLE),
    refused("request.required.acks", DURABLE),
    refused("enable.idempotence", ORDER),
    refused("enable.gapless.guarantee", ORDER),
    refused("max.in.flight", ORDER),
    refused("max.in.flight.requests.per.connection", ORDER),
    refused("message.timeout.ms", ORDER),
    refused("delivery.timeout.ms", ORDER),
    refused("message.send.max.retries", ORDER),
    refused("retries", ORDER),
    refused("queuing.strategy", ORDER),
    refused("delivery.report.only.error", REPORTS),
    refused("transactional.id", "the key `transactional_id` of the pipeline says it"),
    refused("transaction.timeout.ms", "the key `transaction_timeout` of the pipeline says it"),
    refused("partitioner", "the key `partitioner` says it"),
    refused("compression.codec", "the key `compression` says it"),
    refused("compression.type", "the key `compression` says it"),
    refused("queue.buffering.max.messages", BUDGET),
    refused("queue.buffering.max.kbytes", BUDGET),
];

/// What is wrong with the properties that a pipeline sets.
pub fn check(properties: &Map<String, Value>, role: Role) -> Vec<Problem> {
    let of_role = match role {
        Role::Consumer => OF_CONSUMERS,
        Role::Producer => OF_PRODUCERS,
    };
    let mut problems = Vec::new();
    for (name, value) in properties {
        let at = format!("/librdkafka/{}", escape(name));
        if let Some(Refused { why, .. }) = BOTH.iter().chain(of_role).find(|refused| refused.name == name) {
            problems.push(Problem::new(at, format!("`{name}` cannot be set here: {why}")).help("remove it"));
        } else if !matches!(value, Value::String(_) | Value::Bool(_) | Value::Number(_)) {
            let message = format!("`{name}` must be a string, a number or a boolean");
            problems.push(Problem::new(at, message).help(format!("librdkafka.\"{name}\" = \"...\"")));
        }
    }
    problems
}

/// A value as librdkafka reads it.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(properties: Value, role: Role) -> Vec<String> {
        let Value::Object(properties) = properties else { panic!("a table") };
        check(&properties, role).into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn p1_a_property_that_would_break_a_promise_is_refused_with_the_reason() {
        let given = json!({ "enable.auto.commit": true, "fetch.min.bytes": 1 });
        let refused = messages(given, Role::Consumer);
        let expected = "`enable.auto.commit` cannot be set here: it would commit messages before they are delivered (P1)";
        assert_eq!(refused, [expected]);
        assert_eq!(messages(json!({ "acks": "1" }), Role::Producer).len(), 1);
        assert_eq!(messages(json!({ "acks": "1" }), Role::Consumer).len(), 0);
        assert_eq!(messages(json!({ "debug": ["all"] }), Role::Producer).len(), 1);
    }
}
