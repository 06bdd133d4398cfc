//! What librdkafka knows of a membership and does not tell in its statistics.

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};

use super::owned::Owned;

/// Whether a group has this client as a member, with partitions or without: its generation, or its epoch
/// with the protocol `consumer`, is above 0.
pub fn is_member<C: ClientContext>(client: &Client<C>) -> bool {
    // SAFETY: the handle lives as long as `client`, which is borrowed until this returns. What is made of it
    // is freed by the function that its header names; it is null for a client without a group, which
    // `Owned` refuses.
    let metadata = unsafe {
        Owned::new(
            rd::rd_kafka_consumer_group_metadata(client.native_ptr()),
            rd::rd_kafka_consumer_group_metadata_destroy,
        )
    };
    // SAFETY: the metadata live until the end of the expression.
    metadata.is_ok_and(|metadata| unsafe {
        rd::rd_kafka_consumer_group_metadata_generation_id(metadata.as_ptr()) > 0
    })
}
