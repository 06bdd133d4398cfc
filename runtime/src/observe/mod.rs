//! What one can see of a running process: metrics, logs, the admin server.

pub mod metrics;
