//! What one can see of a running process: metrics, logs, the admin server.

pub mod admin;
pub mod health;
pub mod limiter;
pub mod logs;
pub mod metrics;
pub mod socket;
pub mod terminal;
pub mod waits;
