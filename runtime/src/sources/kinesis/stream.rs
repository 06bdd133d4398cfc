//! What is asked of a stream.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::types::{HashKeyRange, ShardIteratorType};
use aws_smithy_types::DateTime;

use super::leases::Checkpoint;
use super::troubles::Trouble;
use crate::aws::{Connection, Failure, Kind};

/// Calls of `GetRecords` in a second, of all that read a shard
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html>).
pub const CALLS_PER_SECOND: u32 = 5;

/// Records of a call of `GetRecords`, at most (same page).
pub const MAX_RECORDS: u32 = 10_000;

/// Bytes of a call of `GetRecords`, at most (same page).
pub const MAX_ANSWER_BYTES: usize = 10 << 20;

/// Bytes that a shard gives in a second, to all that read it (same page). A call that gets more is followed
/// by refusals until that time is over.
pub const BYTES_PER_SECOND: usize = 2 << 20;

/// The shortest time between two calls.
pub const MIN_INTERVAL: Duration = Duration::from_millis(1000 / CALLS_PER_SECOND as u64);

/// A shard as the stream tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardInfo {
    pub id: String,
    pub parents: Vec<String>,
    /// First and last hash key, if they are numbers.
    pub hash_keys: Option<(u128, u128)>,
    /// Whether records may still be added.
    pub is_open: bool,
}

/// Where reading goes on.
#[derive(Clone, Debug)]
pub enum From {
    Checkpoint(Checkpoint),
    /// Behind this record.
    After(String),
}

pub struct Stream {
    connection: Connection<Client>,
    /// Name or ARN.
    named: String,
    name: String,
}

/// The name in an ARN (`arn:aws:kinesis:eu-central-1:123456789012:stream/orders`), or what is none.
pub fn name_of(named: &str) -> &str {
    named.rsplit_once(":stream/").map_or(named, |(_, name)| name)
}

/// Letters, digits, `_`, `.` and `-`, at most 128 of them
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ListShards.html>).
pub fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=128).contains(&name.len()) && name.chars().all(allowed)
}

impl Stream {
    pub fn new(connection: Connection<Client>, named: &str) -> Stream {
        let name = name_of(named).to_owned();
        Stream { connection, named: named.to_owned(), name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn name_and_arn(&self) -> (Option<String>, Option<String>) {
        match self.named == self.name {
            true => (Some(self.name.clone()), None),
            false => (None, Some(self.named.clone())),
        }
    }

    async fn client(&self) -> Result<&Client, Trouble> {
        self.connection.client().await.map_err(Trouble::Stop)
    }

    /// All shards that still have records, parents before children.
    pub async fn shards(&self) -> Result<Vec<ShardInfo>, Trouble> {
        let client = self.client().await?;
        let mut shards = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let (name, arn) = self.name_and_arn();
            let request = match next.take() {
                None => client.list_shards().set_stream_name(name).set_stream_arn(arn),
                Some(token) => client.list_shards().set_stream_arn(arn).next_token(token),
            };
            let what = format!("ListShards of {}", self.name);
            let answer: ListShardsOutput =
                request.send().await.map_err(|error| self.trouble(Failure::of(&what, &error)))?;
            for shard in answer.shards.unwrap_or_default() {
                let parents = [shard.parent_shard_id, shard.adjacent_parent_shard_id];
                let range = shard.sequence_number_range.as_ref();
                shards.push(ShardInfo {
                    id: shard.shard_id,
                    parents: parents.into_iter().flatten().collect(),
                    hash_keys: shard.hash_key_range.as_ref().and_then(numbers),
                    is_open: range.is_none_or(|range| range.ending_sequence_number.is_none()),
                });
            }
            next = answer.next_token;
            if next.is_none() {
                // Ids are numbers in the order in which shards came.
                shards.sort_by(|one, other| one.id.cmp(&other.id));
                return Ok(shards);
            }
        }
    }

    /// Something by which records of a shard can be read, for five minutes
    /// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetShardIterator.html>).
    pub async fn iterator(&self, shard: &str, from: &From) -> Result<Option<String>, Trouble> {
        let (name, arn) = self.name_and_arn();
        let client = self.client().await?;
        let request = client.get_shard_iterator().set_stream_name(name).set_stream_arn(arn).shard_id(shard);
        let request = match from {
            From::After(number) => request
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(number),
            From::Checkpoint(Checkpoint::Record { sequence_number, .. }) => request
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                .starting_sequence_number(sequence_number),
            From::Checkpoint(Checkpoint::Timestamp { timestamp_ms }) => request
                .shard_iterator_type(ShardIteratorType::AtTimestamp)
                .timestamp(DateTime::from_millis(*timestamp_ms)),
            From::Checkpoint(Checkpoint::TrimHorizon | Checkpoint::ShardEnd) => {
                request.shard_iterator_type(ShardIteratorType::TrimHorizon)
            }
        };
        let what = format!("GetShardIterator of {}/{shard}", self.name);
        let answer = request.send().await.map_err(|error| self.trouble(Failure::of(&what, &error)))?;
        Ok(answer.shard_iterator)
    }

    pub async fn records(
        &self,
        shard: &str,
        iterator: &str,
        limit: u32,
    ) -> Result<GetRecordsOutput, Trouble> {
        let (_, arn) = self.name_and_arn();
        let client = self.client().await?;
        let request =
            client.get_records().set_stream_arn(arn).shard_iterator(iterator).limit(limit.cast_signed());
        let what = format!("GetRecords of {}/{shard}", self.name);
        request.send().await.map_err(|error| self.trouble(Failure::of(&what, &error)))
    }

    /// A failure with what helps.
    fn trouble(&self, failure: Failure) -> Trouble {
        let help = match &*failure.code {
            "InvalidArgumentException" if failure.reason.contains("equence") => {
                "; if the stream was deleted and made anew, forget how far the old one was read: \
                 `millstream checkpoint reset`, or another table of leases"
            }
            _ if failure.kind == Kind::Refused => "",
            _ => return Trouble::Wait(failure),
        };
        Trouble::Wait(Failure { reason: format!("{}{help}", failure.reason), ..failure })
    }
}

fn numbers(range: &HashKeyRange) -> Option<(u128, u128)> {
    Some((range.starting_hash_key.parse().ok()?, range.ending_hash_key.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_named_or_has_an_arn() {
        assert_eq!(name_of("orders"), "orders");
        assert_eq!(name_of("arn:aws:kinesis:eu-central-1:123456789012:stream/orders"), "orders");
        assert!(is_name("orders.v1_b-2"));
        for name in ["", "a/b", "a b", &"a".repeat(129)] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
