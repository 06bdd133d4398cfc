//! Kafka, with the real broker.

mod sink;
