//! Random bytes, which the pipeline grants with `grants.random = true`.

use crate::NotGranted;
use crate::bindings::millstream::plugin::random as host;

/// Random bytes, good enough for keys; at most 65,536. One call for a batch costs far less than a
/// call for each message. In tests they are the same each time.
///
/// # Errors
/// They are not granted.
pub fn bytes(count: u32) -> Result<Vec<u8>, NotGranted> {
    from_host(count).map_err(|host::RandomError::NotGranted(text)| NotGranted(text))
}

#[cfg(target_arch = "wasm32")]
fn from_host(count: u32) -> Result<Vec<u8>, host::RandomError> {
    host::bytes(count)
}

#[cfg(not(target_arch = "wasm32"))]
fn from_host(count: u32) -> Result<Vec<u8>, host::RandomError> {
    crate::testing::host::random(count)
}
