//! Leases in a table of DynamoDB, in the layout of the Kinesis Client Library.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::update_item::UpdateItemOutput;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ReturnValue,
    ScalarAttributeType,
};
use tokio::task::JoinSet;

use super::leases::{Checkpoint, Lease, Table};
use super::starts;
use super::troubles::Trouble;
use crate::aws::{Connection, Failure, Kind};

/// Attributes of the library.
const KEY: &str = "leaseKey";
const OWNER: &str = "leaseOwner";
const COUNTER: &str = "leaseCounter";
const CHECKPOINT: &str = "checkpoint";
const SUBSEQUENCE: &str = "checkpointSubSequenceNumber";
const SWITCHES: &str = "ownerSwitchesSinceCheckpoint";
const PARENTS: &str = "parentShardId";

/// Attributes of our own.
const HAND_OVER_TO: &str = "millstreamHandOverTo";
const PARTITION: &str = "millstreamPartition";
const RECORD: &str = "millstreamRecord";
const STREAM: &str = "millstreamStream";
const TIMESTAMP: &str = "millstreamTimestamp";

/// What stands for places in a shard.
const TRIM_HORIZON: &str = "TRIM_HORIZON";
const AT_TIMESTAMP: &str = "AT_TIMESTAMP";
const SHARD_END: &str = "SHARD_END";

pub struct DynamoTable {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection<Client>,
    table: String,
    stream: String,
}

type Item = HashMap<String, AttributeValue>;

impl DynamoTable {
    pub fn new(connection: Connection<Client>, table: &str, stream: &str) -> DynamoTable {
        let (table, stream) = (table.to_owned(), stream.to_owned());
        DynamoTable { inner: Arc::new(Inner { connection, table, stream }) }
    }
}

impl Inner {
    async fn client(&self) -> Result<&Client, Trouble> {
        self.connection.client().await.map_err(Trouble::Stop)
    }

    fn what(&self, call: &str) -> String {
        format!("{call} of the table {}", self.table)
    }

    /// An update of an item, without what it sets and its condition.
    async fn update(&self, shard: &str) -> Result<UpdateItemFluentBuilder, Trouble> {
        let request = self.client().await?.update_item().table_name(&self.table);
        Ok(request.key(KEY, string(shard)).return_values(ReturnValue::AllNew))
    }

    /// The item as it is then; `None` if the condition does not hold.
    async fn send(&self, request: UpdateItemFluentBuilder) -> Result<Option<Item>, Trouble> {
        match request.send().await {
            Ok(UpdateItemOutput { attributes, .. }) => Ok(attributes),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_conditional_check_failed_exception()) =>
            {
                Ok(None)
            }
            Err(error) => Err(Trouble::Wait(Failure::of(&self.what("UpdateItem"), &error))),
        }
    }

    async fn make_table(&self) -> Trouble {
        let client = match self.client().await {
            Ok(client) => client,
            Err(trouble) => return trouble,
        };
        let key = KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash).build();
        let attribute =
            AttributeDefinition::builder().attribute_name(KEY).attribute_type(ScalarAttributeType::S).build();
        let (key, attribute) = match (key, attribute) {
            (Ok(key), Ok(attribute)) => (key, attribute),
            (Err(error), _) | (_, Err(error)) => return Trouble::Stop(error.into()),
        };
        let request = client.create_table().table_name(&self.table).billing_mode(BillingMode::PayPerRequest);
        match request.key_schema(key).attribute_definitions(attribute).send().await {
            Ok(_) => tracing::info!(table = self.table, "a table for leases is made"),
            // It is on its way already.
            Err(error)
                if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) => {}
            Err(error) => return Trouble::Wait(Failure::of(&self.what("CreateTable"), &error)),
        }
        let reason = format!("the table {} is being made", self.table);
        Trouble::Wait(Failure { kind: Kind::Missing, code: String::new(), reason })
    }

    fn lease(&self, item: &Item) -> Result<Lease, Trouble> {
        let lease = text(item, KEY).and_then(|shard| Some((shard, checkpoint(item)?)));
        let Some((shard, checkpoint)) = lease else {
            let error = anyhow::anyhow!("the table {} has items that are no leases", self.table);
            return Err(Trouble::Stop(error));
        };
        if let Some(other) = text(item, STREAM).filter(|stream| *stream != self.stream) {
            let (table, stream) = (&self.table, &self.stream);
            return Err(Trouble::Stop(anyhow::anyhow!(
                "the table {table} has leases of the stream {other}, not of {stream}; each takes a table of its own"
            )));
        }
        Ok(Lease {
            shard: shard.to_owned(),
            owner: text(item, OWNER).map(str::to_owned),
            counter: number(item, COUNTER).unwrap_or_default(),
            checkpoint,
            parents: match item.get(PARENTS) {
                Some(AttributeValue::Ss(parents)) => parents.clone(),
                _ => Vec::new(),
            },
            switches: number(item, SWITCHES).unwrap_or_default(),
            hand_over_to: text(item, HAND_OVER_TO).map(str::to_owned),
            // As a lease of the library has none.
            partition: number(item, PARTITION).unwrap_or_else(|| starts::number(&self.stream, shard)),
        })
    }

    fn item(&self, lease: &Lease) -> Item {
        let mut item = Item::from([
            (KEY.to_owned(), string(&lease.shard)),
            (COUNTER.to_owned(), int(lease.counter)),
            (SWITCHES.to_owned(), int(lease.switches)),
            (PARTITION.to_owned(), int(lease.partition)),
            (STREAM.to_owned(), string(&self.stream)),
        ]);
        if !lease.parents.is_empty() {
            item.insert(PARENTS.to_owned(), AttributeValue::Ss(lease.parents.clone()));
        }
        item.extend(attributes(&lease.checkpoint).map(|(name, value)| (name.to_owned(), value)));
        item
    }

    async fn save(&self, shard: &str, checkpoint: &Checkpoint, member: &str) -> Result<bool, Trouble> {
        let mut request = self.update(shard).await?;
        let mut sets = format!("{COUNTER} = {COUNTER} + :one, {SWITCHES} = :none");
        for (name, value) in attributes(checkpoint) {
            // `checkpoint` and others may be words of the language.
            let (placeholder, key) = (format!(":{name}"), format!("#{name}"));
            sets.push_str(&format!(", {key} = {placeholder}"));
            request =
                request.expression_attribute_names(key, name).expression_attribute_values(placeholder, value);
        }
        let request = request
            .update_expression(format!("SET {sets}"))
            .condition_expression(format!("{OWNER} = :me"))
            .expression_attribute_values(":one", int(1u64))
            .expression_attribute_values(":none", int(0u64))
            .expression_attribute_values(":me", string(member));
        Ok(self.send(request).await?.is_some())
    }
}

#[async_trait]
impl Table for DynamoTable {
    fn is_shared(&self) -> bool {
        true
    }

    async fn list(&self) -> Result<Vec<Lease>, Trouble> {
        let inner = &self.inner;
        let mut leases = Vec::new();
        let mut from: Option<Item> = None;
        loop {
            let request = inner.client().await?.scan().table_name(&inner.table).consistent_read(true);
            let answer = match request.set_exclusive_start_key(from.take()).send().await {
                Ok(answer) => answer,
                Err(error) => match Failure::of(&inner.what("Scan"), &error) {
                    failure if failure.kind == Kind::Missing => return Err(inner.make_table().await),
                    failure => return Err(Trouble::Wait(failure)),
                },
            };
            for item in answer.items() {
                leases.push(inner.lease(item)?);
            }
            from = answer.last_evaluated_key;
            if from.is_none() {
                return Ok(leases);
            }
        }
    }

    async fn create(&self, lease: Lease) -> Result<(), Trouble> {
        let inner = &self.inner;
        let request = inner.client().await?.put_item().table_name(&inner.table);
        let request = request
            .set_item(Some(inner.item(&lease)))
            .condition_expression(format!("attribute_not_exists({KEY})"));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_conditional_check_failed_exception()) =>
            {
                Ok(())
            }
            Err(error) => Err(Trouble::Wait(Failure::of(&inner.what("PutItem"), &error))),
        }
    }

    async fn delete(&self, lease: &Lease) -> Result<(), Trouble> {
        let inner = &self.inner;
        let request = inner.client().await?.delete_item().table_name(&inner.table);
        match request.key(KEY, string(&lease.shard)).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(Trouble::Wait(Failure::of(&inner.what("DeleteItem"), &error))),
        }
    }

    async fn take(&self, lease: &Lease, member: &str) -> Result<Option<Lease>, Trouble> {
        let inner = &self.inner;
        let mut request = inner.update(&lease.shard).await?;
        let condition = match &lease.owner {
            None => format!("attribute_not_exists({OWNER})"),
            Some(owner) => {
                request = request.expression_attribute_values(":owner", string(owner));
                format!("{OWNER} = :owner")
            }
        };
        let request = request
            .update_expression(format!(
                "SET {OWNER} = :me, {COUNTER} = {COUNTER} + :one, {SWITCHES} = {SWITCHES} + :one REMOVE {HAND_OVER_TO}"
            ))
            .condition_expression(format!("{condition} AND {COUNTER} = :counter"))
            .expression_attribute_values(":me", string(member))
            .expression_attribute_values(":one", int(1u64))
            .expression_attribute_values(":counter", int(lease.counter));
        inner.send(request).await?.map(|item| inner.lease(&item)).transpose()
    }

    async fn ask_for(&self, lease: &Lease, member: &str) -> Result<(), Trouble> {
        let Some(owner) = &lease.owner else { return Ok(()) };
        let request = self.inner.update(&lease.shard).await?;
        let request = request
            .update_expression(format!("SET {HAND_OVER_TO} = :me"))
            .condition_expression(format!("{OWNER} = :owner AND attribute_not_exists({HAND_OVER_TO})"))
            .expression_attribute_values(":me", string(member))
            .expression_attribute_values(":owner", string(owner));
        self.inner.send(request).await.map(|_| ())
    }

    async fn renew(&self, shard: &str, member: &str) -> Result<bool, Trouble> {
        let request = self.inner.update(shard).await?;
        let request = request
            .update_expression(format!("SET {COUNTER} = {COUNTER} + :one"))
            .condition_expression(format!("{OWNER} = :me"))
            .expression_attribute_values(":one", int(1u64))
            .expression_attribute_values(":me", string(member));
        Ok(self.inner.send(request).await?.is_some())
    }

    async fn save(&self, checkpoints: &[(String, Checkpoint)], member: &str) -> Result<Vec<String>, Trouble> {
        let mut saves = JoinSet::new();
        for (shard, checkpoint) in checkpoints.iter().cloned() {
            let (inner, member) = (Arc::clone(&self.inner), member.to_owned());
            saves.spawn(async move { (inner.save(&shard, &checkpoint, &member).await, shard) });
        }
        let mut lost = Vec::new();
        while let Some(saved) = saves.join_next().await {
            match saved.map_err(|error| Trouble::Stop(error.into()))? {
                (Ok(true), _) => {}
                (Ok(false), shard) => lost.push(shard),
                (Err(trouble), _) => return Err(trouble),
            }
        }
        Ok(lost)
    }

    async fn release(&self, shard: &str, member: &str, to: Option<&str>) -> Result<(), Trouble> {
        let mut request = self.inner.update(shard).await?;
        let (sets, removes) = match to {
            None => (String::new(), format!("{OWNER}, {HAND_OVER_TO}")),
            Some(to) => {
                request = request.expression_attribute_values(":to", string(to));
                (format!(", {OWNER} = :to, {SWITCHES} = {SWITCHES} + :one"), HAND_OVER_TO.to_owned())
            }
        };
        let request = request
            .update_expression(format!("SET {COUNTER} = {COUNTER} + :one{sets} REMOVE {removes}"))
            .condition_expression(format!("{OWNER} = :me"))
            .expression_attribute_values(":one", int(1u64))
            .expression_attribute_values(":me", string(member));
        // One that is not ours is given up already.
        self.inner.send(request).await.map(|_| ())
    }
}

/// What says how far a shard is settled.
fn attributes(checkpoint: &Checkpoint) -> impl Iterator<Item = (&'static str, AttributeValue)> {
    let (word, more): (&str, Vec<(&str, AttributeValue)>) = match checkpoint {
        Checkpoint::TrimHorizon => (TRIM_HORIZON, vec![(SUBSEQUENCE, int(0u64))]),
        Checkpoint::Timestamp { timestamp_ms } => {
            (AT_TIMESTAMP, vec![(SUBSEQUENCE, int(0u64)), (TIMESTAMP, int(*timestamp_ms))])
        }
        Checkpoint::Record { sequence_number, subsequence_number, record } => {
            (&**sequence_number, vec![(SUBSEQUENCE, int(*subsequence_number)), (RECORD, int(*record))])
        }
        Checkpoint::ShardEnd => (SHARD_END, vec![(SUBSEQUENCE, int(0u64))]),
    };
    [(CHECKPOINT, string(word))].into_iter().chain(more)
}

fn checkpoint(item: &Item) -> Option<Checkpoint> {
    Some(match text(item, CHECKPOINT)? {
        TRIM_HORIZON => Checkpoint::TrimHorizon,
        SHARD_END => Checkpoint::ShardEnd,
        AT_TIMESTAMP => Checkpoint::Timestamp { timestamp_ms: number(item, TIMESTAMP)? },
        sequence_number if sequence_number.bytes().all(|byte| byte.is_ascii_digit()) => Checkpoint::Record {
            sequence_number: sequence_number.to_owned(),
            subsequence_number: number(item, SUBSEQUENCE).unwrap_or_default(),
            record: number(item, RECORD).unwrap_or_default(),
        },
        _ => return None,
    })
}

fn text<'i>(item: &'i Item, name: &str) -> Option<&'i str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

fn number<N: std::str::FromStr>(item: &Item, name: &str) -> Option<N> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

fn string(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn int(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p2_a_lease_is_read_as_it_was_written() {
        let connection =
            || Connection::new(crate::aws::Access::default(), std::path::Path::new(""), Client::new);
        let table = DynamoTable::new(connection(), "leases", "orders");
        let record =
            Checkpoint::Record { sequence_number: "9".repeat(56), subsequence_number: 3, record: 41 };
        let all = [
            Checkpoint::TrimHorizon,
            Checkpoint::Timestamp { timestamp_ms: -1 },
            record,
            Checkpoint::ShardEnd,
        ];
        for checkpoint in all {
            let lease = Lease {
                shard: "shardId-000000000002".to_owned(),
                owner: None,
                counter: 5,
                checkpoint,
                parents: vec!["shardId-000000000000".to_owned(), "shardId-000000000001".to_owned()],
                switches: 2,
                hand_over_to: None,
                partition: 17,
            };
            assert_eq!(table.inner.lease(&table.inner.item(&lease)).unwrap(), lease);
        }
        let other = DynamoTable::new(connection(), "leases", "others");
        let lease = Item::from([
            (KEY.to_owned(), string("shardId-000000000002")),
            (CHECKPOINT.to_owned(), string(TRIM_HORIZON)),
            (STREAM.to_owned(), string("orders")),
        ]);
        assert!(matches!(other.inner.lease(&lease), Err(Trouble::Stop(_))), "of another stream");
    }
}
