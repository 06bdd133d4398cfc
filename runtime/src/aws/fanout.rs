//! Subscriptions of queues to a topic, as a pipeline declares them: compared with those there are, made
//! and mended.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use aws_sdk_sns::Client as Sns;
use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::types::QueueAttributeName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Access, Connection, Failure, queue};
use crate::config::problem::Problem;

/// A queue that gets messages of the topic. `millstream aws fanout` makes and mends what is declared
/// here; `run` does nothing with it.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// The queue: its name, its url, or its ARN (of another account).
    queue: String,
    /// Which messages it gets, as SNS writes a filter policy: `{ type = ["order.created"] }`. By default
    /// all.
    filter: Option<Map<String, Value>>,
    /// Whether the filter is about the attributes of a message or its body, which then is JSON.
    #[serde(default)]
    filter_scope: FilterScope,
    /// Deliver the messages as they are, without an envelope.
    #[serde(default = "yes")]
    raw: bool,
    /// ARN of a queue for what SNS cannot deliver to this one.
    dead_letters: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum FilterScope {
    #[default]
    Attributes,
    Body,
}

fn yes() -> bool {
    true
}

impl Subscription {
    /// Adds what is wrong with it, whose section is `at`.
    pub fn check(&self, at: &str, problems: &mut Vec<Problem>) {
        if self.queue.is_empty() {
            problems.push(Problem::new(format!("{at}/queue"), "it is empty").help("the name of a queue"));
        }
        if self.filter.as_ref().is_some_and(Map::is_empty) {
            problems.push(
                Problem::new(format!("{at}/filter"), "an empty filter lets nothing be told apart")
                    .help("filter = { type = [\"order.created\"] }, or no such key"),
            );
        }
        if self.filter.is_none() && self.filter_scope != FilterScope::default() {
            problems.push(
                Problem::new(format!("{at}/filter_scope"), "there is no filter that it is of")
                    .help("filter = { ... }"),
            );
        }
        if let Some(arn) = self.dead_letters.as_ref().filter(|arn| !arn.starts_with("arn:")) {
            problems.push(
                Problem::new(format!("{at}/dead_letters"), format!("{arn:?} is no ARN"))
                    .help("as in \"arn:aws:sqs:eu-central-1:123456789012:undelivered\""),
            );
        }
    }

    /// Attributes of the subscription, as they should be.
    fn wanted(&self) -> Vec<(&'static str, String)> {
        let scope = match self.filter_scope {
            FilterScope::Attributes => "MessageAttributes",
            FilterScope::Body => "MessageBody",
        };
        let mut wanted = vec![("RawMessageDelivery", self.raw.to_string())];
        if let Some(filter) = &self.filter {
            // Before the policy, which is checked against it.
            wanted.push(("FilterPolicyScope", scope.to_owned()));
            wanted.push(("FilterPolicy", Value::Object(filter.clone()).to_string()));
        }
        if let Some(arn) = &self.dead_letters {
            wanted.push(("RedrivePolicy", json!({ "deadLetterTargetArn": arn }).to_string()));
        }
        wanted
    }
}

/// What a pipeline declares of a topic.
#[derive(Clone, Debug)]
pub struct Fanout {
    /// ARN of the topic.
    pub topic: String,
    pub subscriptions: Vec<Subscription>,
    pub access: Access,
    pub base: PathBuf,
}

/// Something that is not as declared, or that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub queue: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    AsDeclared,
    /// There was no subscription.
    Subscribe,
    /// An attribute of the subscription was otherwise.
    Change {
        attribute: &'static str,
        from: Option<String>,
        to: Option<String>,
    },
    /// The queue does not let the topic send to it.
    Allow,
    /// It may or may not: it is of another account, whose policy cannot be seen.
    PolicyUnknown,
    /// It is subscribed and not declared; it stays.
    NotDeclared,
}

impl What {
    /// Whether something is to be done about it.
    pub fn is_change(&self) -> bool {
        matches!(self, What::Subscribe | What::Change { .. } | What::Allow)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = &self.queue;
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        match &self.what {
            What::AsDeclared => write!(f, "= {queue}: as declared"),
            What::Subscribe => write!(f, "+ {queue}: subscribe"),
            What::Change { attribute, from, to } => {
                write!(f, "~ {queue}: {attribute} from {} to {}", text(from), text(to))
            }
            What::Allow => write!(f, "~ {queue}: let the topic send to it (its policy does not)"),
            What::PolicyUnknown => write!(f, "? {queue}: its policy cannot be seen from here"),
            What::NotDeclared => write!(f, "! {queue}: is subscribed and not declared; it stays"),
        }
    }
}

/// What SNS has of a topic.
struct Existing {
    arn: String,
    attributes: HashMap<String, String>,
}

/// Compares, and mends unless it is a `dry_run`. What was done before an error stays done: it can be
/// run again.
///
/// # Errors
/// SNS or SQS cannot be asked, or refuse something.
pub async fn apply(fanout: &Fanout, dry_run: bool) -> anyhow::Result<Vec<Line>> {
    let both = |config: &_| (Sns::new(config), Sqs::new(config));
    let connection = Connection::new(fanout.access.clone(), &fanout.base, both);
    let (sns, sqs) = connection.client().await?;
    let mut existing = subscriptions(sns, &fanout.topic).await?;
    let mut lines = Vec::new();
    for subscription in &fanout.subscriptions {
        let target = Target::find(sqs, &subscription.queue).await?;
        let mut say = |what| lines.push(Line { queue: target.name.clone(), what });
        let before = existing.remove(&target.arn);
        let allows = target.allows(sqs, &fanout.topic).await?;
        let mut changed = allows == Some(false);
        match allows {
            Some(true) => {}
            Some(false) => say(What::Allow),
            None => say(What::PolicyUnknown),
        }
        // First, for what SNS sends before is lost.
        if changed && !dry_run {
            target.allow(sqs, &fanout.topic).await?;
        }
        match before {
            None => {
                say(What::Subscribe);
                changed = true;
                if !dry_run {
                    subscribe(sns, &fanout.topic, &target.arn, subscription).await?;
                }
            }
            Some(arn) => {
                let existing = attributes(sns, arn).await?;
                for (attribute, from, to) in differences(&existing.attributes, subscription) {
                    changed = true;
                    if !dry_run {
                        set(sns, &existing.arn, attribute, to.as_deref()).await?;
                    }
                    say(What::Change { attribute, from, to });
                }
            }
        }
        if !changed {
            say(What::AsDeclared);
        }
    }
    let mut rest: Vec<String> = existing.into_keys().collect();
    rest.sort();
    lines.extend(rest.into_iter().map(|queue| Line { queue, what: What::NotDeclared }));
    Ok(lines)
}

/// Attributes that are otherwise than declared, as they are and as they should be.
fn differences(
    existing: &HashMap<String, String>,
    subscription: &Subscription,
) -> Vec<(&'static str, Option<String>, Option<String>)> {
    let wanted = subscription.wanted();
    let mut different = Vec::new();
    for (name, to) in &wanted {
        let from = existing.get(*name).filter(|value| !value.is_empty());
        if from.is_none_or(|from| !same(from, to)) {
            different.push((*name, from.cloned(), Some(to.clone())));
        }
    }
    for name in ["FilterPolicy", "RedrivePolicy"] {
        let is_wanted = wanted.iter().any(|(known, _)| *known == name);
        let from = existing.get(name).filter(|value| !value.is_empty() && *value != "{}" && *value != "null");
        if let (false, Some(from)) = (is_wanted, from) {
            different.push((name, Some(from.clone()), None));
        }
    }
    different
}

/// As JSON, if both are: SNS may write it otherwise than it was given.
fn same(one: &str, other: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    match (read(one), read(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// ARNs of the subscriptions of queues to a topic, by those of the queues.
async fn subscriptions(sns: &Sns, topic: &str) -> anyhow::Result<HashMap<String, String>> {
    let mut found = HashMap::new();
    let mut next = None;
    loop {
        let page = sns.list_subscriptions_by_topic().topic_arn(topic).set_next_token(next).send().await;
        let page =
            page.map_err(|error| Failure::of(&format!("ListSubscriptionsByTopic of {topic}"), &error))?;
        for known in page.subscriptions.unwrap_or_default() {
            if known.protocol.as_deref() != Some("sqs") {
                continue;
            }
            if let (Some(endpoint), Some(arn)) = (known.endpoint, known.subscription_arn) {
                found.insert(endpoint, arn);
            }
        }
        next = page.next_token.filter(|token| !token.is_empty());
        if next.is_none() {
            return Ok(found);
        }
    }
}

async fn attributes(sns: &Sns, arn: String) -> anyhow::Result<Existing> {
    if !arn.starts_with("arn:") {
        bail!("a subscription is not confirmed yet ({arn}); confirm it, then try again");
    }
    let answer = sns.get_subscription_attributes().subscription_arn(&arn).send().await;
    let answer =
        answer.map_err(|error| Failure::of(&format!("GetSubscriptionAttributes of {arn}"), &error))?;
    Ok(Existing { arn, attributes: answer.attributes.unwrap_or_default() })
}

async fn subscribe(sns: &Sns, topic: &str, queue: &str, subscription: &Subscription) -> anyhow::Result<()> {
    let mut request = sns.subscribe().topic_arn(topic).protocol("sqs").endpoint(queue);
    for (name, value) in subscription.wanted() {
        request = request.attributes(name, value);
    }
    let done = request.return_subscription_arn(true).send().await;
    done.map_err(|error| Failure::of(&format!("Subscribe of {queue}"), &error))?;
    Ok(())
}

async fn set(sns: &Sns, arn: &str, name: &str, value: Option<&str>) -> anyhow::Result<()> {
    // An empty filter policy removes it, no redrive policy the other.
    let value = value.or((name == "FilterPolicy").then_some("{}"));
    let request = sns.set_subscription_attributes().subscription_arn(arn);
    let done = request.attribute_name(name).set_attribute_value(value.map(str::to_owned)).send().await;
    done.map_err(|error| Failure::of(&format!("SetSubscriptionAttributes of {arn}"), &error))?;
    Ok(())
}

/// A queue that is to be subscribed.
struct Target {
    name: String,
    arn: String,
    /// `None` of a queue that is only known by its ARN.
    url: Option<String>,
}

impl Target {
    async fn find(sqs: &Sqs, named: &str) -> anyhow::Result<Target> {
        if named.starts_with("arn:") {
            let name = named.rsplit(':').next().unwrap_or(named).to_owned();
            return Ok(Target { name, arn: named.to_owned(), url: None });
        }
        let url = queue::url(sqs, named).await?;
        let arn = queue_attribute(sqs, &url, QueueAttributeName::QueueArn).await?;
        let arn = arn.with_context(|| format!("the ARN of queue {named} is not told"))?;
        Ok(Target { name: queue::name(named).to_owned(), arn, url: Some(url) })
    }

    /// Whether its policy lets the topic send to it; `None` if that cannot be seen.
    async fn allows(&self, sqs: &Sqs, topic: &str) -> anyhow::Result<Option<bool>> {
        let Some(url) = &self.url else { return Ok(None) };
        let policy = queue_attribute(sqs, url, QueueAttributeName::Policy).await?;
        Ok(Some(policy.is_some_and(|policy| lets_send(&policy, topic))))
    }

    async fn allow(&self, sqs: &Sqs, topic: &str) -> anyhow::Result<()> {
        let Some(url) = &self.url else { return Ok(()) };
        let policy = queue_attribute(sqs, url, QueueAttributeName::Policy).await?;
        let policy = with_statement(policy.as_deref(), &self.arn, topic)?;
        let request =
            sqs.set_queue_attributes().queue_url(url).attributes(QueueAttributeName::Policy, policy);
        let done = request.send().await;
        done.map_err(|error| Failure::of(&format!("SetQueueAttributes of {}", self.name), &error))?;
        Ok(())
    }
}

async fn queue_attribute(sqs: &Sqs, url: &str, name: QueueAttributeName) -> anyhow::Result<Option<String>> {
    let answer = sqs.get_queue_attributes().queue_url(url).attribute_names(name.clone()).send().await;
    let answer = answer.map_err(|error| Failure::of(&format!("GetQueueAttributes of {url}"), &error))?;
    Ok(answer.attributes.and_then(|mut all| all.remove(&name)).filter(|value| !value.is_empty()))
}

/// Whether a statement of a policy lets SNS send messages of this topic, or of more. Conditions that are
/// not known here are taken for ones that do not.
fn lets_send(policy: &str, topic: &str) -> bool {
    let Ok(policy) = serde_json::from_str::<Value>(policy) else { return false };
    let any = |value: &Value, is_it: &dyn Fn(&str) -> bool| match value {
        Value::String(one) => is_it(one),
        Value::Array(all) => all.iter().filter_map(Value::as_str).any(is_it),
        _ => false,
    };
    let is_sns = |principal: &Value| {
        any(principal, &|who| who == "*")
            || any(&principal["Service"], &|who| who == "sns.amazonaws.com")
            || any(&principal["AWS"], &|who| who == "*")
    };
    let is_send =
        |action: &str| ["sqs:sendmessage", "sqs:*", "*"].contains(&action.to_ascii_lowercase().as_str());
    let covers = |condition: &Value| match condition.as_object() {
        None => true,
        Some(condition) => condition.iter().all(|(operator, keys)| {
            let keys = keys.as_object().cloned().unwrap_or_default();
            let is_like =
                matches!(operator.as_str(), "ArnEquals" | "ArnLike" | "StringEquals" | "StringLike");
            is_like
                && keys.iter().all(|(key, values)| {
                    key.eq_ignore_ascii_case("aws:SourceArn") && any(values, &|arn| matches(arn, topic))
                })
        }),
    };
    let statements = match &policy["Statement"] {
        Value::Array(statements) => statements.clone(),
        one => vec![one.clone()],
    };
    statements.iter().any(|statement| {
        statement["Effect"] == "Allow"
            && is_sns(&statement["Principal"])
            && any(&statement["Action"], &is_send)
            && covers(&statement["Condition"])
    })
}

/// Whether an ARN, in which `*` stands for anything, is this one.
fn matches(pattern: &str, arn: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == arn,
        Some((start, rest)) => arn.strip_prefix(start).is_some_and(|arn| {
            rest.is_empty()
                || (0..=arn.len()).filter(|&at| arn.is_char_boundary(at)).any(|at| matches(rest, &arn[at..]))
        }),
    }
}

/// The policy with a statement more that lets the topic send.
fn with_statement(policy: Option<&str>, queue: &str, topic: &str) -> anyhow::Result<String> {
    let mut policy: Value = match policy {
        Some(text) => serde_json::from_str(text).context("the policy of the queue is no JSON")?,
        None => json!({ "Version": "2012-10-17", "Statement": [] }),
    };
    let statements = match policy["Statement"].take() {
        Value::Array(statements) => statements,
        Value::Null => Vec::new(),
        one => vec![one],
    };
    let ours = json!({
        "Effect": "Allow",
        "Principal": { "Service": "sns.amazonaws.com" },
        "Action": "sqs:SendMessage",
        "Resource": queue,
        "Condition": { "ArnEquals": { "aws:SourceArn": topic } },
    });
    policy["Statement"] = statements.into_iter().chain([ours]).collect();
    Ok(policy.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "arn:aws:sns:eu-central-1:123456789012:orders";
    const QUEUE: &str = "arn:aws:sqs:eu-central-1:123456789012:billing";

    fn subscription(filter: Option<Value>) -> Subscription {
        Subscription {
            queue: "billing".to_owned(),
            filter: filter.map(|filter| filter.as_object().expect("an object").clone()),
            filter_scope: FilterScope::Attributes,
            raw: true,
            dead_letters: None,
        }
    }

    fn known(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_written_otherwise_is_no_difference() {
        let with_filter = subscription(Some(json!({ "a": ["1"], "b": ["2"] })));
        let existing = known(&[
            ("RawMessageDelivery", "true"),
            ("FilterPolicyScope", "MessageAttributes"),
            ("FilterPolicy", "{ \"b\": [\"2\"], \"a\": [\"1\"] }"),
        ]);
        assert_eq!(differences(&existing, &with_filter), []);
        let names = |of: &Subscription| -> Vec<&str> {
            differences(&existing, of).into_iter().map(|(name, ..)| name).collect()
        };
        assert_eq!(names(&subscription(None)), ["FilterPolicy"]);
        assert_eq!(names(&subscription(Some(json!({ "a": ["1"] })))), ["FilterPolicy"]);
        assert_eq!(names(&Subscription { raw: false, ..with_filter }), ["RawMessageDelivery"]);
    }

    #[test]
    fn a_policy_that_was_added_lets_the_topic_send_and_no_other() {
        let other = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"sqs:ReceiveMessage"}}"#;
        assert!(!lets_send(other, TOPIC));
        for before in [None, Some(other)] {
            let policy = with_statement(before, QUEUE, TOPIC).unwrap();
            assert!(lets_send(&policy, TOPIC), "{policy}");
            assert!(!lets_send(&policy, "arn:aws:sns:eu-central-1:123456789012:others"), "{policy}");
            assert_eq!(policy.contains("ReceiveMessage"), before.is_some());
        }
    }

    #[test]
    fn conditions_are_understood_or_taken_for_a_no() {
        let with = |condition: Value| {
            json!({ "Statement": [{
                "Effect": "Allow", "Principal": { "AWS": "*" }, "Action": ["SQS:SendMessage"], "Condition": condition,
            }] })
            .to_string()
        };
        for condition in [
            Value::Null,
            json!({ "ArnLike": { "aws:SourceArn": "arn:aws:sns:*:123456789012:ord*" } }),
            json!({ "StringEquals": { "AWS:SourceArn": ["x", TOPIC] } }),
        ] {
            assert!(lets_send(&with(condition.clone()), TOPIC), "{condition}");
        }
        for condition in [
            json!({ "ArnLike": { "aws:SourceArn": "arn:aws:sns:*:123456789012:x*" } }),
            json!({ "Bool": { "aws:SecureTransport": "true" } }),
            json!({ "ArnEquals": { "aws:SourceArn": TOPIC }, "IpAddress": { "aws:SourceIp": "10.0.0.0/8" } }),
        ] {
            assert!(!lets_send(&with(condition.clone()), TOPIC), "{condition}");
        }
    }
}
