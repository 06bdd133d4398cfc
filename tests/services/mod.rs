//! The real servers that tests run against, started by the tests themselves on free ports of this
//! machine. README.md says what each needs.
#![allow(dead_code, reason = "tests of Kafka come to use it")]

pub mod kafka;
mod server;
