//! End-to-end tests with the real binary: a folder a promise or a system.

mod authors;
#[cfg(feature = "aws")]
mod aws;
mod backpressure;
mod bench;
mod capabilities;
mod cases;
mod cli;
mod config;
mod dead_letters;
mod deduplicate;
#[cfg(feature = "kafka")]
mod formats;
mod hostile;
#[cfg(feature = "kafka")]
mod kafka;
mod kill;
mod languages;
mod outages;
mod reload;
#[cfg(feature = "kafka")]
mod scaling;
mod schema_suite;
mod services;
mod support;
mod traces;
mod webhooks;
