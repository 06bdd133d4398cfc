//! What all clients of AWS share: how a service is reached and who we are ([`access`]), what its
//! errors mean ([`failure`]), payloads in S3 ([`claim_check`]),
//! envelopes of SNS ([`notification`]), dead letters in a queue ([`dead_letter_queue`], [`move_task`]),
//! subscriptions ([`fanout`]).

pub mod access;
pub mod claim_check;
pub mod dead_letter_queue;
pub mod failure;
pub mod fanout;
pub mod move_task;
pub mod notification;
pub mod queue;

pub use access::{Access, Connection};
pub use dead_letter_queue::DeadLetterQueue;
pub use failure::{Failure, Kind};

/// A header with this and the name of an attribute says which type that attribute of a message of SQS or
/// SNS has, if it is not `String`: `Number`, `Binary`, or one with a label of its own, as `Number.cents`.
pub const TYPE_HEADER: &str = "millstream-sqs-type-";

/// Whether the body of a message, or the text of an attribute, may have this character:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>.
pub fn is_allowed(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
