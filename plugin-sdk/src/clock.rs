//! The time of day, which the pipeline grants with `grants.clock = true`. What every plugin knows
//! without a grant is the time of its batch: [`Message::now_ms`](crate::Message::now_ms).

use crate::NotGranted;
use crate::bindings::millstream::plugin::clock as host;

/// Nanoseconds since 1970-01-01T00:00:00Z. In tests it is the time of the batch.
///
/// # Errors
/// It is not granted.
pub fn now() -> Result<u64, NotGranted> {
    from_host().map_err(|host::ClockError::NotGranted(text)| NotGranted(text))
}

#[cfg(target_arch = "wasm32")]
fn from_host() -> Result<u64, host::ClockError> {
    host::now()
}

#[cfg(not(target_arch = "wasm32"))]
fn from_host() -> Result<u64, host::ClockError> {
    crate::testing::host::now()
}
