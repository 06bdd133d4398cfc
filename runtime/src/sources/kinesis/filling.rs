//! Records of a stream made into a batch.

use std::sync::Arc;

use aws_sdk_kinesis::types::Record;
use bytes::Bytes;

use super::super::rows::Rows;
use super::super::{ReadBatch, ReadLimit};
use super::fetch::{Fetched, Shard};
use super::kpl::UserRecords;
use super::ownership::{Opened, Ownership};
use crate::codecs::{Decoder, FrameMeta};
use crate::message::{HeaderSpan, Position, Span};

/// The user record's number in an aggregated record is only in messages that came in one.
const SEQUENCE_NUMBER: &str = "kinesis-sequence-number";
const SUBSEQUENCE_NUMBER: &str = "kinesis-subsequence-number";
const SHARD_ID: &str = "kinesis-shard-id";

/// What was fetched and is not yet all handed over.
pub struct Unread {
    fetched: Fetched,
    /// The aggregated record in the middle of which the last batch was full.
    open: Option<Aggregate>,
}

struct Aggregate {
    sequence_number: String,
    timestamp_ms: i64,
    records: UserRecords,
    opened: Opened,
    next: usize,
}

/// The batch that comes next.
pub struct Filling<'a> {
    rows: Rows,
    pub decoder: &'a mut dyn Decoder,
    pub max_message_bytes: usize,
    pub ownership: &'a Ownership,
    pub limit: ReadLimit,
}

/// A user record, or a plain one.
struct Message<'a> {
    payload: &'a [u8],
    key: Option<&'a str>,
    sequence_number: &'a str,
    subsequence_number: Option<usize>,
    timestamp_ms: i64,
    /// Number in the shard.
    record: u64,
}

impl Unread {
    pub fn new(fetched: Fetched) -> Unread {
        Unread { fetched, open: None }
    }
}

impl<'a> Filling<'a> {
    pub fn new(
        decoder: &'a mut dyn Decoder,
        max_message_bytes: usize,
        ownership: &'a Ownership,
        limit: ReadLimit,
    ) -> Filling<'a> {
        Filling { rows: Rows::default(), decoder, max_message_bytes, ownership, limit }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.builder.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.rows.builder.len() >= self.limit.rows || self.rows.builder.bytes() >= self.limit.bytes
    }

    pub fn finish(self) -> ReadBatch {
        self.rows.finish()
    }

    /// Takes what fits. Returns what does not; nothing if the shard is not read any more.
    pub fn take(&mut self, mut unread: Unread) -> Option<Unread> {
        let shard = Arc::clone(&unread.fetched.shard);
        loop {
            if self.is_full() {
                return Some(unread);
            }
            if let Some(mut aggregate) = unread.open.take() {
                self.take_user_record(&shard, &mut aggregate)?;
                unread.open = (aggregate.next < aggregate.records.len()).then_some(aggregate);
                continue;
            }
            let Some(record) = unread.fetched.records.next() else {
                if unread.fetched.is_end {
                    self.ownership.end(shard.number, shard.term);
                }
                return None;
            };
            unread.open = self.take_record(&shard, record)?;
        }
    }

    /// Takes a plain record, or opens one with user records. `None` if the shard is not read any more.
    fn take_record(&mut self, shard: &Shard, record: Record) -> Option<Option<Aggregate>> {
        let timestamp_ms = record.approximate_arrival_timestamp.and_then(|time| time.to_millis().ok());
        let timestamp_ms = timestamp_ms.unwrap_or_else(|| jiff::Timestamp::now().as_millisecond());
        let (key, sequence_number) = (record.partition_key, record.sequence_number);
        let data = Bytes::from(record.data.into_inner());
        if let Some(records) = UserRecords::of(&data) {
            let opened = self.ownership.open(shard.number, shard.term, &sequence_number, records.len())?;
            let next = opened.skip;
            let is_left = next < records.len();
            return Some(is_left.then_some(Aggregate {
                sequence_number,
                timestamp_ms,
                records,
                opened,
                next,
            }));
        }
        let opened = self.ownership.open(shard.number, shard.term, &sequence_number, 1)?;
        if opened.skip == 0 {
            let message = Message {
                payload: &data,
                key: key.as_deref(),
                sequence_number: &sequence_number,
                subsequence_number: None,
                timestamp_ms,
                record: opened.first,
            };
            self.add(shard, &message)?;
        }
        Some(None)
    }

    /// Takes the next one of an aggregated record. One that does not belong to the shard is passed over: its
    /// producer was told so, and has sent it again to the shard that it belongs to.
    fn take_user_record(&mut self, shard: &Shard, aggregate: &mut Aggregate) -> Option<()> {
        let index = aggregate.next;
        aggregate.next += 1;
        let user = aggregate.records.get(index);
        if let Some((first, last)) = shard.hash_keys
            && !(first..=last).contains(&user.hash_key())
        {
            return Some(());
        }
        let message = Message {
            payload: user.data,
            key: Some(user.partition_key),
            sequence_number: &aggregate.sequence_number,
            subsequence_number: Some(index),
            timestamp_ms: aggregate.timestamp_ms,
            record: aggregate.opened.first + index as u64,
        };
        self.add(shard, &message)
    }

    fn add(&mut self, shard: &Shard, message: &Message<'_>) -> Option<()> {
        if !self.ownership.hand_over(shard.number, shard.term, message.record) {
            return None;
        }
        let position = Position { partition: shard.number, offset: message.record, record: message.record };
        let builder = &mut self.rows.builder;
        let key = message.key.map_or(Span::ABSENT, |key| builder.copy(key.as_bytes()));
        let mut header = |name: &str, value: &str| HeaderSpan {
            name: builder.copy(name.as_bytes()),
            value: builder.copy(value.as_bytes()),
        };
        let mut headers = vec![header(SEQUENCE_NUMBER, message.sequence_number), header(SHARD_ID, &shard.id)];
        if let Some(number) = message.subsequence_number {
            headers.push(header(SUBSEQUENCE_NUMBER, &number.to_string()));
        }
        let meta = FrameMeta { key, headers: &headers, timestamp_ms: message.timestamp_ms, position };
        self.rows.add(self.decoder, message.payload, &meta, self.max_message_bytes);
        Some(())
    }
}

#[cfg(test)]
#[path = "filling_tests.rs"]
mod tests;
