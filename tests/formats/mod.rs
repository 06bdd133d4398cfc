//! Formats with schemas, end to end: files, and Kafka with a real registry and Confluent's own serializers.

mod cloudevents;
mod files;
mod references;
mod registry;
mod registry_troubles;
mod serializers;
