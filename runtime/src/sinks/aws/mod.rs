//! Sinks on AWS. They share how messages of a call become requests ([`batches`]), where in a message a key
//! is ([`places`]), how a message becomes body and attributes ([`body`], [`attributes`]), and ids of FIFO
//! queues and topics ([`fifo`]).

mod attributes;
mod batches;
#[cfg(test)]
mod batches_tests;
mod body;
mod fifo;
pub mod kinesis;
mod places;
pub mod sns;
pub mod sqs;
#[cfg(test)]
mod tests;

/// Whether SQS takes this character:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
fn is_allowed(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
