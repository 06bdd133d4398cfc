//! A queue of SQS, by its name or its url.

use aws_sdk_sqs::Client;
use sha2::{Digest, Sha256};

use super::Failure;
use crate::message::Position;

/// Names of queues whose messages are in order end with this
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues.html>).
pub const FIFO: &str = ".fifo";

/// The url of a queue that a pipeline names, or has the url of.
///
/// # Errors
/// There is no such queue, or it cannot be asked for.
pub async fn url(client: &Client, queue: &str) -> Result<String, Failure> {
    if is_url(queue) {
        return Ok(queue.to_owned());
    }
    let found = client.get_queue_url().queue_name(queue).send().await;
    let found = found.map_err(|error| Failure::of(&format!("GetQueueUrl of {queue}"), &error))?;
    Ok(found.queue_url.unwrap_or_default())
}

fn is_url(queue: &str) -> bool {
    queue.starts_with("https://") || queue.starts_with("http://")
}

/// The name of a queue, also of one that is told by its url.
pub fn name(queue: &str) -> &str {
    match is_url(queue) {
        true => queue.trim_end_matches('/').rsplit('/').next().unwrap_or(queue),
        false => queue,
    }
}

/// Whether it is a FIFO queue, which its name tells:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html>.
pub fn is_fifo(queue: &str) -> bool {
    name(queue).ends_with(FIFO)
}

/// Whether it can be the name or the url of a queue (the page above).
pub fn is_queue(queue: &str) -> bool {
    let is_char = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let name = name(queue);
    let plain = name.strip_suffix(FIFO).unwrap_or(name);
    let has_a_good_url = !is_url(queue) || reqwest::Url::parse(queue).is_ok_and(|url| url.path().len() > 1);
    has_a_good_url && !plain.is_empty() && name.len() <= 80 && plain.bytes().all(is_char)
}

/// What positions know a message by: the same whenever it is received. 63 bits of a hash of its id.
pub fn number_of(message_id: &str) -> u64 {
    let hash = Sha256::digest(message_id.as_bytes());
    let (first, _) = hash.split_first_chunk::<8>().expect("a hash of 32 bytes");
    u64::from_be_bytes(*first) >> 1
}

/// The partition is the queue, or a group of a FIFO queue. Its offsets say nothing of the order.
pub fn position_of(queue: &str, group: Option<&str>, number: u64) -> Position {
    let mut partition = crc32fast::Hasher::new();
    partition.update(name(queue).as_bytes());
    if is_fifo(queue) {
        partition.update(b"\0");
        partition.update(group.unwrap_or_default().as_bytes());
    }
    Position { partition: partition.finalize(), offset: number, record: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_the_same_whenever_a_message_is_received_and_groups_are_partitions() {
        let number = number_of("5fea7756-0ea4-451a-a703-a558b933e274");
        assert_eq!(number, number_of("5fea7756-0ea4-451a-a703-a558b933e274"));
        assert!(number < 1 << 63);
        let partition = |name: &str, group| position_of(name, group, number).partition;
        assert_eq!(partition("q", Some("a")), partition("q", Some("b")));
        assert_ne!(partition("q.fifo", Some("a")), partition("q.fifo", Some("b")));
        assert_ne!(partition("q.fifo", Some("a")), partition("r.fifo", Some("a")));
    }

    #[test]
    fn a_queue_is_named_by_its_name_or_url() {
        assert_eq!(name("orders.fifo"), "orders.fifo");
        assert_eq!(name("https://sqs.eu-central-1.amazonaws.com/123456789012/orders"), "orders");
        for queue in ["orders", "orders.fifo", "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"] {
            assert!(is_queue(queue), "{queue}");
        }
        for queue in ["", ".fifo", "a/b", "orders!", "ftp://host/orders", &"q".repeat(81)] {
            assert!(!is_queue(queue), "{queue}");
        }
    }
}
